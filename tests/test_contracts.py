"""One contract per plug-in folder, kept by every file in it; a new file is covered without being named here."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import quantwright
from quantwright import registry
from quantwright.algorithms import Algorithm
from quantwright.config import kinds
from quantwright.config.config import QuantConfig
from quantwright.config.document import read_document
from quantwright.config.spec import BASE_SPEC, FLOAT_FORMATS, ROLES, QuantSpec
from quantwright.dialects import Dialect
from quantwright.errors import DataError, InputError, QuantwrightError, StateError
from quantwright.graph.capture import capture
from quantwright.numerics.formats import Format
from quantwright.observers import Observer
from quantwright.passes import Change
from quantwright.plan.plan import Point
from quantwright.targets import Handling, Target

MEMBERS = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
TYPES = {"float": (float, int), "int": int, "bool": bool, "str": str, "list": list}
HANDLINGS = set(Handling.__args__)


def members(kind: str) -> Any:
    """Returns the decorator that runs a test over every member of a folder."""
    return pytest.mark.parametrize("name", registry.names(kind))


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Returns the same normal numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- every plug-in --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_a_plugin_describes_itself(kind: str, name: str) -> None:
    (entry,) = [entry for entry in registry.describe(kind) if entry.name == name]
    assert re.search(r"[.:;]$", entry.summary), f"the first docstring line is no sentence: {entry.summary!r}"
    assert (ROOT / "src" / entry.file).exists()
    assert registry.load(kind, name) is not None


@pytest.mark.parametrize(("kind", "name"), MEMBERS)
def test_declared_parameters_are_well_formed(kind: str, name: str) -> None:
    for parameter, about in registry.parameters(kind, name).items():
        assert set(about) <= {"type", "default", "min", "max", "choices", "help"}, parameter
        assert about["help"] and about["type"] in TYPES, parameter
        default = about["default"]
        assert default is None or isinstance(default, TYPES[about["type"]]), parameter
        if default is not None and "choices" in about:
            assert default in about["choices"], parameter
        if isinstance(default, int | float):
            assert about.get("min", default) <= default <= about.get("max", default), parameter


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_page_says_how_to_add_one(kind: str) -> None:
    page = (ROOT / "src" / "quantwright" / registry.KINDS[kind] / "__init__.py").read_text(encoding="utf-8")
    assert "To add one:" in (ast.get_docstring(ast.parse(page)) or "")


# -- formats --------------------------------------------------------------------------------------------------------
@members("formats")
def test_a_format_family_serves_names_and_has_three_functions(name: str) -> None:
    family = registry.load("formats", name)
    assert isinstance(family, Format)
    assert all(callable(f) for f in (family.quantize, family.dequantize, family.fake_quantize))


@pytest.mark.parametrize("word", [f"{u}int{bits}" for u in ("", "u") for bits in (2, 4, 8, 16, 32)] + [*FLOAT_FORMATS])
def test_every_format_has_exactly_one_family(word: str) -> None:
    serving = [name for name in registry.names("formats") if registry.load("formats", name).serves(word)]
    assert len(serving) == 1


@pytest.mark.parametrize("word", ["int2", "int4", "uint8", "int8", "int16", "float16", "bfloat16", "float32"])
def test_fake_quantization_is_idempotent_and_keeps_shape_and_dtype(word: str) -> None:
    x = rand(3, 5, 7)
    spec = QuantSpec(format=word, symmetric=not word.startswith("u"))
    qparams = quantwright.observe(x, spec) if spec.is_integer else None
    once = quantwright.fake_quantize(x, spec, qparams)
    assert once.shape == x.shape and once.dtype == x.dtype
    assert torch.equal(quantwright.fake_quantize(once, spec, qparams), once)
    assert not spec.is_integer or once.unique().numel() <= 2**spec.bits


# -- observers ------------------------------------------------------------------------------------------------------
def make(name: str, **fields: Any) -> Observer:
    """Returns an observer for a complete spec that it can be used with: ``diffs`` needs power-of-two scales."""
    if name == "diffs":
        fields = {"scale": "power_of_two", **fields}
    spec = QuantSpec(observer={"name": name}, **fields).over(BASE_SPEC)
    observer: Observer = registry.load("observers", name)(spec)
    return observer


def fits(observer: Observer, x_GN: Tensor) -> bool:
    """Returns whether the range is finite, ordered, and not beyond the largest magnitude seen in each group."""
    low_G, high_G = observer.range()
    bound_G = x_GN.double().abs().amax(1) * (1 + 1e-6) + 1e-12
    if observer.spec.scale == "power_of_two":
        bound_G = bound_G * 4  # the range is that of the next power-of-two grid
    return bool(
        low_G.isfinite().all()
        and high_G.isfinite().all()
        and (low_G <= high_G).all()
        and (low_G >= -bound_G).all()
        and (high_G <= bound_G).all()
    )


@members("observers")
@pytest.mark.parametrize("groups", [1, 5])
def test_an_observer_gives_a_range_per_group_inside_the_data(name: str, groups: int) -> None:
    observer = make(name)
    x_GN = rand(groups, 4000) * (2.0 ** torch.arange(groups))[:, None]
    before = x_GN.clone()
    observer.observe(x_GN)
    low_G, high_G = observer.range()
    assert low_G.shape == high_G.shape == (groups,) and low_G.dtype == high_G.dtype == torch.float64
    assert torch.equal(x_GN, before), "observing changed the tensor"
    assert fits(observer, x_GN)
    qparams = observer.qparams()
    assert qparams.scale.shape == qparams.zero_point.shape == (groups,)
    assert bool((qparams.scale > 0).all() & qparams.scale.isfinite().all())
    assert qparams.zero_point.dtype == torch.int32
    assert torch.equal(qparams.scale.sort().values, qparams.scale), "wider groups need larger scales"


@members("observers")
def test_an_observer_of_several_groups_is_that_of_each(name: str) -> None:
    x_GN = torch.stack([rand(3000, seed=s) * 3**s for s in range(4)])
    together = make(name)
    together.observe(x_GN)
    alone = []
    for row in x_GN:
        observer = make(name)
        observer.observe(row[None])
        alone.append(observer.qparams().scale)
    torch.testing.assert_close(together.qparams().scale, torch.cat(alone), rtol=1e-6, atol=0)


@members("observers")
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30, 1e30])
def test_an_observer_survives_a_constant(name: str, value: float) -> None:
    observer = make(name)
    x_GN = torch.full((2, 300), value)
    observer.observe(x_GN)
    qparams = observer.qparams()
    assert bool((qparams.scale > 0).all() & qparams.scale.isfinite().all())
    if abs(value) == 1.0 or abs(value) == 3.0:
        back = quantwright.fake_quantize(x_GN, observer.spec.model_copy(update={"granularity": channel()}), qparams)
        assert float((back - x_GN).abs().max()) <= float(qparams.scale.max())


def channel() -> Any:
    """Returns the granularity of one scale per row."""
    return QuantSpec(granularity={"kind": "per_channel", "axis": 0}).granularity


@members("observers")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_observer_refuses_nan_and_inf(name: str, bad: float) -> None:
    x_GN = rand(1, 100)
    x_GN[0, 50] = bad
    with pytest.raises(DataError, match=r"NaN|Inf"):
        make(name).observe(x_GN)


@members("observers")
def test_an_observer_without_data_or_with_unknown_parameters_says_so(name: str) -> None:
    with pytest.raises(StateError, match=name):
        make(name).range()
    with pytest.raises(InputError, match="no_such_parameter"):
        registry.load("observers", name)(make(name).spec, no_such_parameter=1)
    with pytest.raises(DataError):
        make(name).observe(torch.zeros(1, 0))
    with pytest.raises(DataError):
        make(name).observe(torch.zeros(1, 3, dtype=torch.int32))


@members("observers")
def test_merging_two_shards_is_watching_both_or_is_refused(name: str) -> None:
    first, second, both = make(name), make(name), make(name)
    a, b = rand(2, 2000, seed=1), 4 * rand(2, 3000, seed=2)
    first.observe(a)
    second.observe(b)
    both.observe(a)
    both.observe(b)
    try:
        first.merge(second)
    except StateError as error:
        assert "fix:" in str(error)
        return
    torch.testing.assert_close(first.qparams().scale, both.qparams().scale, rtol=1e-9, atol=0)
    assert torch.equal(first.qparams().zero_point, both.qparams().zero_point)


@members("observers")
def test_asymmetric_ranges_work_or_are_refused_clearly(name: str) -> None:
    try:
        observer = make(name, format="uint8", symmetric=False, scale="float")
        observer.observe(rand(1, 5000) + 2)
        qparams = observer.qparams()
    except QuantwrightError as error:
        assert "symmetric" in str(error) or "power" in str(error)
        return
    assert 0 <= int(qparams.zero_point) <= 255
    assert fits(observer, rand(1, 5000) + 2)


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(registry.names("observers")), seed=st.integers(0, 99), power=st.integers(-8, 8))
def test_scaling_the_data_by_a_power_of_two_scales_the_result(name: str, seed: int, power: int) -> None:
    x_GN = rand(1, 2000, seed=seed)
    plain, scaled = make(name), make(name)
    plain.observe(x_GN)
    scaled.observe(x_GN * 2.0**power)
    torch.testing.assert_close(scaled.qparams().scale, plain.qparams().scale * 2.0**power, rtol=1e-9, atol=0)


# -- fakequant ------------------------------------------------------------------------------------------------------
@members("fakequant")
def test_a_quantizer_passes_watches_and_quantizes(name: str) -> None:
    point = Point(name="x:output", role="output", node="x", tensor="x")
    quantizer = registry.load("fakequant", name)(point, BASE_SPEC)
    assert isinstance(quantizer, nn.Module) and quantizer.point is point and quantizer.spec is BASE_SPEC
    x = rand(4, 6)
    quantizer.mode = "float"
    assert quantizer(x) is x
    quantizer.mode = "quantize"
    with pytest.raises(StateError, match="x:output"):
        quantizer(x)
    quantizer.qparams = quantwright.observe(x, BASE_SPEC)
    assert torch.equal(quantizer(x), quantwright.fake_quantize(x, BASE_SPEC, quantizer.qparams))
    quantizer.mode, quantizer.watch = "observe", lambda value: value + 1
    assert torch.equal(quantizer(x), x + 1)


# -- passes ---------------------------------------------------------------------------------------------------------
class Passable(nn.Module):
    """Has something for every pass: batch normalizations, ReLU6 far from its bound, SiLU, two convolutions in a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(6, 4)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.1, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


APPROXIMATE = {"silu_to_hardswish": 0.2}  # relative; these passes change the function and say so


@members("passes")
def test_a_pass_keeps_the_function_and_reports_what_it_did(name: str) -> None:
    model, x = Passable().eval(), rand(2, 3, 8, 8)
    graph = capture(model, (x,))
    with torch.no_grad():
        before = model(x)
    changes = registry.load("passes", name)(graph)
    assert isinstance(changes, list) and all(isinstance(change, Change) for change in changes)
    assert all(change.by and change.text for change in changes)
    with torch.no_grad():
        after = graph(x)
    error = float((after - before).abs().max() / before.abs().max())
    assert error <= APPROXIMATE.get(name, 1e-4)
    assert error == 0 or changes, "the function changed but nothing was reported"
    with torch.no_grad():
        assert torch.equal(model(x), before), "the user's model was changed"


@members("passes")
def test_a_pass_leaves_alone_what_it_is_not_about(name: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).eval(), rand(2, 4)
    graph = capture(model, (x,))
    with torch.no_grad():
        before = graph(x)
        assert registry.load("passes", name)(graph) == []
        assert torch.equal(graph(x), before)


# -- algorithms -----------------------------------------------------------------------------------------------------
@members("algorithms")
def test_an_algorithm_runs_on_a_calibrated_model_and_does_not_make_it_worse(name: str) -> None:
    algorithm = registry.load("algorithms", name)
    assert isinstance(algorithm, Algorithm)
    model = Passable().eval()
    batches = [rand(8, 3, 8, 8, seed=s) for s in range(4)]
    config: dict[str, Any] = {
        "version": 1, "optimize": ["fold_batchnorm"],
        "default": {"weight": {"format": "int4", "granularity": "per_tensor"}},
    }  # fmt: skip
    errors = {}
    for refine in ([], [name]):
        prepared = quantwright.prepare(model, {**config, "refine": refine}, batches[0])
        prepared.calibrate(batches)
        prepared.refine(batches)
        with torch.no_grad():
            errors[len(refine)] = sum(float((prepared(x) - model(x)).square().mean()) for x in batches)
        assert all(isinstance(change, Change) for change in prepared.changes)
    assert errors[1] <= errors[0] * 1.01


# -- targets --------------------------------------------------------------------------------------------------------
@members("targets")
def test_a_target_says_something_sensible_about_every_kind(name: str) -> None:
    target = registry.load("targets", name)
    assert isinstance(target, Target) and target.name == name and target.summary
    assert set(target.kinds) <= set(kinds.ALL), "a kind nobody knows"
    assert set(target.kinds.values()) <= HANDLINGS
    assert set(target.parameters) <= set(kinds.WEIGHTED)
    for kind in (*kinds.CONV, *kinds.LINEAR):
        assert target.handling(kind) == "compute" and kind in target.parameters, kind
    for kind in ("relu", "flatten"):
        assert target.handling(kind) in ("fuse", "share"), kind
    assert target.handling("norm_part") == "float"
    assert all(target.handling(kind) == "float" or kind in target.kinds for kind in kinds.ALL)


@members("targets")
def test_the_defaults_of_a_target_are_legal_on_it(name: str) -> None:
    target = registry.load("targets", name)
    for role in ROLES:
        partial = target.defaults.get(role)
        spec = (partial or QuantSpec()).over(BASE_SPEC)
        assert [check(spec, role, "conv2d") for check in target.checks if check(spec, role, "conv2d")] == [], role
        assert spec.observer is not None and spec.observer.name in registry.names("observers")
    for step in target.optimize:
        assert step.name in registry.names("passes")
        assert set(step.params) <= set(registry.parameters("passes", step.name))


# -- dialects -------------------------------------------------------------------------------------------------------
@members("dialects")
def test_a_dialect_writes_and_reads_a_config_back(name: str) -> None:
    dialect = registry.load("dialects", name)
    assert isinstance(dialect, Dialect) and dialect.name == name and dialect.tool
    text, _ = dialect.write(QuantConfig(target="generic"))
    first, _ = dialect.read(read_document(text))
    again, unmapped = dialect.write(first)
    second, _ = dialect.read(read_document(again))
    assert unmapped == []
    assert meaning(first) == meaning(second)
    assert dialect.write(second)[0] == again


@members("dialects")
def test_a_dialect_knows_its_own_files_and_only_those(name: str) -> None:
    written = {other: registry.load("dialects", other).write(QuantConfig())[0] for other in registry.names("dialects")}
    for other, text in written.items():
        reason = registry.load("dialects", name).detect(read_document(text))
        assert (reason is not None) == (other == name), f"{name} about a file of {other}: {reason}"
    assert registry.load("dialects", name).detect(read_document('{"something": "else"}')) is None


def meaning(config: QuantConfig) -> dict[str, Any]:
    """Returns a config without where its values came from and what was said about them."""
    plain = config.model_dump(exclude={"source", "default_sources", "notes"})
    for rule in plain["rules"]:
        rule.pop("source"), rule.pop("field_sources")
    return plain


# -- exporters ------------------------------------------------------------------------------------------------------
@members("exporters")
def test_an_exporter_writes_a_whole_file_twice_the_same(name: str, tmp_path: Path) -> None:
    export = registry.load("exporters", name)
    assert {"prepared", "path"} <= set(inspect.signature(export).parameters)
    x = rand(4, 3, 8, 8)
    prepared = quantwright.prepare(Passable().eval(), {"version": 1, "target": "onnxruntime"}, x)
    prepared.calibrate([x])
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        record = export(prepared, folder / "model.out")
        assert os.listdir(folder) == ["model.out"], "temporary files were left"
        contents.append((folder / "model.out").read_bytes())
        assert record is not None
    assert contents[0] == contents[1]


# -- adding one takes one file --------------------------------------------------------------------------------------
def test_adding_an_observer_takes_one_file(tmp_path: Path) -> None:
    """The file on docs/add-an-observer.md, dropped into a copy of the package, passes this page's contract."""
    page = (ROOT / "docs" / "add-an-observer.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- file: quantwright/observers/(\w+)\.py -->\n```python\n(.*?)\n```", page, re.DOTALL)
    assert match is not None
    name, text = match.groups()
    assert name not in registry.names("observers")
    ignored = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(ROOT / "src" / "quantwright", tmp_path / "src" / "quantwright", ignore=ignored)
    before = {path: path.read_bytes() for path in package.rglob("*.py")}
    (package / "observers" / f"{name}.py").write_text(text + "\n", encoding="utf-8")
    (tmp_path / "tests").mkdir()
    for file in ("conftest.py", "test_contracts.py"):
        shutil.copy(ROOT / "tests" / file, tmp_path / "tests")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = run("-m", "quantwright", "list", "observers")
    assert re.search(rf"\b{name}\b.*{re.escape(text[3:40])}", listed)
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contracts.py", "-k", f"{name} and not one_file")
    code = f"import quantwright, torch; x = torch.randn(8, 99); s = {{'format': 'int4', 'observer': {name!r}}}\n"
    code += "q = quantwright.observe(x, s); print(quantwright.fake_quantize(x, s, q).unique().numel() <= 16)"
    assert run("-c", code).strip() == "True"
    assert all(path.read_bytes() == content for path, content in before.items()), "another file had to change"
