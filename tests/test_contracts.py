"""One contract per plug-in folder, kept by every file in it; a new file is covered without being named here."""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn

import quantwright
from quantwright import registry
from quantwright.algorithms import Algorithm
from quantwright.config import kinds
from quantwright.config.config import QuantConfig
from quantwright.config.document import read_document
from quantwright.config.spec import BASE_SPEC, FLOAT_FORMATS, ROLES, QuantSpec
from quantwright.dialects import Dialect
from quantwright.errors import StateError
from quantwright.graph.capture import capture
from quantwright.numerics.formats import Format
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
    computed = ("compute", "consume")
    layers = [kind for kind in (*kinds.CONV, *kinds.LINEAR, "matmul") if target.handling(kind) in computed]
    assert layers and set(target.parameters) & {*kinds.CONV, *kinds.LINEAR}
    if not name.startswith(("mqbench_", "sophgo_", "quark_", "vitis_keras_")):  # placed as by their tools
        assert set(layers) >= {*kinds.CONV, *kinds.LINEAR}
        assert all(target.handling(kind) in ("fuse", "share") for kind in ("relu", "flatten"))
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
