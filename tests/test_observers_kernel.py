"""The native kernel against torch: the same counts and extremes, bit for bit, and torch where it does not apply."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import make, spec
from torch import Tensor

from quantwright.config.spec import BASE_SPEC
from quantwright.errors import DataError
from quantwright.observers import _kernel, extent
from quantwright.observers._by_torch import Side
from quantwright.observers._histogram import Streaming

ROOT = Path(__file__).parents[1]
built = pytest.mark.skipif(_kernel.library() is None, reason="the native kernel was not built: no compiler")
SIDES: tuple[Side, ...] = ("size", "positive", "both")
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)  # with subnormals, -0.0 and the largest of all


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kernel, "library", lambda: None)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def counted(batches: list[Tensor], side: Side, bins: int = 64) -> Streaming:
    seen = Streaming(batches[0].shape[0], bins, side)
    for x_GN in batches:
        seen.add(x_GN)
    return seen


def assert_same(batches: list[Tensor], side: Side, bins: int = 64) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernel, "library", lambda: None)
        by_torch = counted(batches, side, bins).state()
    for key, value in counted(batches, side, bins).state().items():
        assert value.dtype == by_torch[key].dtype and torch.equal(value, by_torch[key]), key
        if value.is_floating_point():
            assert torch.equal(value.signbit(), by_torch[key].signbit()), key


# -- the same ---------------------------------------------------------------------------------------------------------


@built
@given(
    batches=st.lists(st.lists(floats, min_size=6, max_size=6), min_size=1, max_size=5),
    rows=st.sampled_from([1, 2, 3]),
    side=st.sampled_from(SIDES),
)
@settings(deadline=None, max_examples=200)
def test_any_values_are_counted_as_torch_counts_them(batches: list[list[float]], rows: int, side: Side) -> None:
    assert_same([torch.tensor(batch).reshape(rows, -1) for batch in batches], side)


@built
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(1, 300_001), (3, 70_000), (64, 1153), (2, 1)], ids=str)
def test_long_rows_many_rows_and_threads(side: Side, shape: tuple[int, int], two_threads: None) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) * 2.0**power for power in (-3, 1, 0, 0, 4, -20)]
    batches[3] = batches[3].relu()  # many equal ones
    assert_same(batches, side, bins=2048)


@built
@pytest.mark.parametrize("side", SIDES)
def test_subnormal_numbers_edges_of_bins_and_signed_zeros(side: Side) -> None:
    edges = torch.arange(-64, 65) / 64
    near = torch.stack([edges, edges.nextafter(edges + 1), edges.nextafter(edges - 1)]).flatten()
    odd = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 2.0**-126, -(2.0**-126), 2.0**-100, -(2.0**-101)])
    largest = torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min])
    for values in (near, odd, torch.cat([near, odd]), -odd.abs(), torch.cat([odd, largest]), torch.tensor([-0.0])):
        assert_same([values.reshape(1, -1)] * 2, side)


@built
def test_rows_apart_in_memory_are_read_where_they_are() -> None:
    wide = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    for part in (wide[:, 100:300], wide[::2], wide[:1].expand(3, 500), wide[:, :1]):
        assert _kernel.extent(part) is not None
        assert_same([part, part], "both")


@built
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=40))
@settings(deadline=None, max_examples=150)
def test_extremes_or_the_same_refusal(values: list[float]) -> None:
    x_GN = torch.tensor([values])
    found = _kernel.extent(x_GN)
    assert found is not None
    if bool(x_GN.isfinite().all()):
        assert float(found[0]) == min(values) and float(found[1]) == max(values)
    else:
        assert not all(bool(part.isfinite().all()) for part in found)
        with pytest.raises(DataError, match="NaN/Inf"):
            extent(x_GN)


@built
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), "-nan"])
def test_what_is_not_finite_is_refused_and_leaves_nothing(side: Side, bad: float | str) -> None:
    x_GN = torch.linspace(-1, 1, 5000).reshape(1, -1)
    wrong = x_GN.clone()
    wrong[0, 77] = -torch.tensor(float("nan")) if bad == "-nan" else float(bad)
    seen = counted([x_GN], side)
    before = {key: value.clone() for key, value in seen.state().items()}
    with pytest.raises(DataError, match="NaN/Inf"):
        seen.add(wrong)
    assert all(torch.equal(value, before[key]) for key, value in seen.state().items())


@built
@pytest.mark.parametrize("name", ["minmax", "percentile", "entropy", "mse", "diffs"])
def test_observers_choose_the_same_with_and_without(name: str) -> None:
    what = spec(scale="power_of_two", statistic="all") if name == "diffs" else BASE_SPEC
    batches = [torch.randn(1, 90_000, generator=torch.Generator().manual_seed(seed)).relu() for seed in range(3)]
    observer, plain = make(name, what), make(name, what)
    for x_GN in batches:
        observer.observe(x_GN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernel, "library", lambda: None)
        for x_GN in batches:
            plain.observe(x_GN)
    assert torch.equal(observer.qparams().scale, plain.qparams().scale)


# -- where it does not apply ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x_GN",
    [
        torch.ones(1, 8, dtype=torch.float64), torch.ones(1, 8, dtype=torch.float16), torch.ones(1, 0),
        torch.ones(1, 8, dtype=torch.bfloat16), torch.ones(8, 2).T, torch.ones(1, 8, device="meta"),
        torch.zeros(1, 8, dtype=torch.complex64).conj().imag,
    ],
    ids=["double", "half", "empty", "bfloat16", "strided", "elsewhere", "negated"],
)  # fmt: skip
def test_other_tensors_are_left_to_torch(x_GN: Tensor) -> None:
    assert _kernel.extent(x_GN) is None
    assert _kernel.count(x_GN, torch.ones(len(x_GN)), "size", 64) is None


def test_more_bins_than_the_cache_holds_are_left_to_torch() -> None:
    assert _kernel.count(torch.ones(1, 8), torch.ones(1), "size", 1 << 15) is None


@pytest.mark.parametrize("side", SIDES)
def test_without_the_kernel_everything_goes_on(side: Side, without: None) -> None:
    x_GN = torch.tensor([[0.0, 0.5, -1.0, 3.0]])
    assert _kernel.extent(x_GN) is None
    assert int(counted([x_GN, x_GN], side).counts_GK.sum()) == 8


# -- the build --------------------------------------------------------------------------------------------------------


def build(folder: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "t")]
    environment = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared"}
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="CC is a thing of Unix")
def test_a_machine_without_a_compiler_installs_all_the_same(tmp_path: Path) -> None:
    done = build(tmp_path, "/bin/false")
    assert done.returncode == 0, done.stderr
    assert "failed" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("_native*.so"))


@built
def test_the_source_compiles_without_openmp(tmp_path: Path) -> None:
    """As where the compiler has no OpenMP: a compiler that refuses the flag."""
    refusing = tmp_path / "cc"
    refusing.write_text('#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec cc "$@"\n')
    refusing.chmod(0o755)
    done = build(tmp_path / "out", str(refusing))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").rglob("_native*.so"))
