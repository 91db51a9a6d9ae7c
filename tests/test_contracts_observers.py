"""The contract of the observers folder, kept by every file in it, and the proof that adding one takes one file."""

from __future__ import annotations

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
from safetensors.torch import load_file, save_file
from torch import Tensor

import quantwright
from quantwright import registry
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.errors import DataError, InputError, QuantwrightError, StateError
from quantwright.observers import Observer


def members(kind: str) -> Any:
    """Returns the decorator that runs a test over every member of a folder."""
    return pytest.mark.parametrize("name", registry.names(kind))


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Returns the same normal numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(name: str, **fields: Any) -> Observer:
    """Returns an observer for a complete spec that it can be used with: ``diffs`` needs power-of-two scales."""
    if name in ("diffs", "min_mse_position"):
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
@pytest.mark.parametrize("statistic", ["all", "max"])
def test_a_saved_state_goes_on_exactly(name: str, statistic: str, tmp_path: Path) -> None:
    whole = make(name, statistic=statistic)
    whole.observe(rand(3, 1500, seed=1))
    save_file({key: value.contiguous() for key, value in whole.state().items()}, tmp_path / "state.safetensors")
    loaded = make(name, statistic=statistic)
    loaded.load_state(load_file(tmp_path / "state.safetensors"))
    assert same(loaded, whole)
    copied = make(name, statistic=statistic)
    copied.load_state(whole.state())
    if statistic == "all":
        for observer in (whole, loaded):
            observer.observe(9 * rand(3, 700, seed=2))
        assert same(loaded, whole) and not same(copied, whole), "what one sees later must not reach the other"


def same(first: Observer, second: Observer) -> bool:
    """Returns whether two observers have the same state and QParams, bit for bit."""
    a, b = first.state(), second.state()
    p, q = first.qparams(), second.qparams()
    equal = set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)
    return equal and torch.equal(p.scale, q.scale) and torch.equal(p.zero_point, q.zero_point)


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
    for file in ("conftest.py", "test_contracts.py", "test_contracts_observers.py"):
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
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", f"{name} and not one_file")
    code = f"import quantwright, torch; x = torch.randn(8, 99); s = {{'format': 'int4', 'observer': {name!r}}}\n"
    code += "q = quantwright.observe(x, s); print(quantwright.fake_quantize(x, s, q).unique().numel() <= 16)"
    assert run("-c", code).strip() == "True"
    assert all(path.read_bytes() == content for path, content in before.items()), "another file had to change"
