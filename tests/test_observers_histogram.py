"""percentile, entropy and mse on the streaming histogram: order, shards, numpy, scipy and brute force."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import make, noise, one_thread, spec  # noqa: F401
from torch import Tensor

from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.errors import DataError, InputError, StateError
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.observers import Observer
from quantwright.observers._by_torch import Side
from quantwright.observers._grid_error import GridError
from quantwright.observers._histogram import Streaming

NAMES = ("percentile", "entropy", "mse")
floats = st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100)


ASYMMETRIC = spec(format="uint8", symmetric=False)


def observed(name: str, x_GN: Tensor, what: QuantSpec = BASE_SPEC, **params: Any) -> Observer:
    observer = make(name, what, **params)
    observer.observe(x_GN)
    return observer


# -- the streaming histogram -----------------------------------------------------------------------------------------


def counted(values: list[float], width: float, side: Side) -> dict[int, int]:
    """Returns bin -> count by exact division."""
    counts: dict[int, int] = {}
    for value in values:
        value = abs(value) if side == "size" else max(value, 0.0) if side == "positive" else value
        index = int(Fraction(abs(value)) / Fraction(width))
        index = -1 - index if value < 0 else index
        counts[index] = counts.get(index, 0) + 1
    return counts


@given(
    batches=st.lists(st.lists(floats, min_size=1, max_size=12), min_size=1, max_size=5),
    side=st.sampled_from(["size", "positive", "both"]),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=120)
def test_counts_depend_on_the_values_alone(batches: list[list[float]], side: Side, order: Any) -> None:
    straight, shuffled = Streaming(1, 16, side), Streaming(1, 16, side)
    for batch in batches:
        straight.add(torch.tensor([batch]))
    mixed = [value for batch in batches for value in batch]
    expected = list(mixed)
    order.shuffle(mixed)
    for value in mixed:
        shuffled.add(torch.tensor([[value]]))
    assert torch.equal(straight.counts_GK, shuffled.counts_GK)
    assert torch.equal(straight.exponent_G, shuffled.exponent_G)
    width = float(straight.width_G)
    found = {int(k) + straight.first: int(straight.counts_GK[0, k]) for k in straight.counts_GK[0].nonzero()}
    assert found == counted(expected, width, side)


@given(
    left=st.lists(st.lists(floats, min_size=2, max_size=2), min_size=1, max_size=6),
    right=st.lists(st.lists(floats, min_size=2, max_size=2), min_size=1, max_size=6),
    side=st.sampled_from(["size", "positive", "both"]),
)
@settings(deadline=None, max_examples=80)
def test_merging_is_exact_per_group(left: list[list[float]], right: list[list[float]], side: Side) -> None:
    a, b, both = Streaming(2, 32, side), Streaming(2, 32, side), Streaming(2, 32, side)
    a.add(torch.tensor(left).T)
    b.add(torch.tensor(right).T)
    both.add(torch.tensor(right).T)
    both.add(torch.tensor(left).T)
    before = b.counts_GK.clone()
    a.merge(b)
    assert torch.equal(b.counts_GK, before)  # the other one stays as it was
    assert torch.equal(a.counts_GK, both.counts_GK)
    assert torch.equal(a.exponent_G, both.exponent_G)
    assert (a.low_G.tolist(), a.high_G.tolist()) == (both.low_G.tolist(), both.high_G.tolist())


def test_at_least_the_asked_number_of_bins_is_in_use_and_memory_is_constant() -> None:
    seen = Streaming(1, 100, "size")
    for factor in (1e-6, 1.0, 1e4, 3.0):
        seen.add(noise(0, 1, 5000) * factor)
        assert seen.counts_GK.shape == (1, 256)
        assert float(max(seen.high_G, -seen.low_G)) / float(seen.width_G) >= 100
    assert int(seen.counts_GK.sum()) == 20_000


def test_pieces_do_not_change_the_counts() -> None:
    """A tensor larger than one piece, as one row and as many, against numpy."""
    x = noise(1, 1, 300_001)
    seen = Streaming(1, 1000, "both")
    seen.add(x)
    half, width = seen.half, float(seen.width_G)
    size, negative = np.floor(np.abs(x[0].double().numpy()) / width).astype(int), x[0].numpy() < 0
    expected = np.bincount(np.where(negative, -1 - size, size) + half, minlength=2 * half)
    assert seen.counts_GK[0].tolist() == expected.tolist()
    rows = Streaming(3000, 64, "size")
    rows.add(x[:, :300_000].reshape(3000, 100))
    assert rows.counts_GK.sum(1).tolist() == [100] * 3000


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grid_error_is_that_of_quantizing(bits: int) -> None:
    x, what = noise(3, 1, 20_000), spec(format=f"int{bits}")
    for share in (1.0, 0.6, 0.3):
        low_G, high_G = x.amin(1) * share, x.amax(1) * share
        q = choose_qparams(low_G, high_G, what)
        seen = Streaming(1, 2048, "both")
        seen.add(x)
        bounds = (torch.tensor([[float(what.qmin)]]), torch.tensor([[float(what.qmax)]]))
        found = GridError(seen)(q.scale.unsqueeze(1), *bounds)
        y = affine.fake_quantize(x, q, what)
        assert float(found) == pytest.approx(float((y - x).double().square().sum()), rel=0.02)


@given(
    seed=st.integers(0, 999),
    side=st.sampled_from(["size", "positive", "both"]),
    step=st.floats(0.02, 0.9).map(lambda step: step * math.pi / 3),  # no bin's centre is half-way between two levels
    low=st.integers(-9, 0),
    high=st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_grid_error_is_the_sum_over_bins(seed: int, side: Side, step: float, low: int, high: int) -> None:
    """Running sums against one term per bin, for two groups and several grids at once; coarse and fine steps."""
    seen = Streaming(2, 32, side)
    seen.add(noise(seed, 2, 300) * torch.tensor([[1.0], [3.0]]))
    scale_GC = torch.tensor([[step, step * 0.3], [step * 3, step]], dtype=torch.float64)
    found_GC = GridError(seen)(scale_GC, torch.full((2, 2), low), torch.full((2, 2), high))
    for group in range(2):
        counts, width = seen.counts_GK[group].double().numpy(), float(seen.width_G[group])
        centres = (np.arange(len(counts)) + seen.first + 0.5) * width
        for scale, found in zip(scale_GC[group].tolist(), found_GC[group].tolist(), strict=True):
            rounded = np.round(centres / scale)
            clipped = np.clip(rounded, low, high)
            error = (clipped * scale - centres) ** 2
            if scale < 4 * width:
                error = np.where(clipped == rounded, scale**2 / 12, error)
            assert found == pytest.approx(float((counts * error).sum()), rel=1e-9, abs=1e-9)


# -- all three -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", [BASE_SPEC, ASYMMETRIC, spec(format="uint8")], ids=lambda what: what.format)
def test_the_result_is_independent_of_order_and_batch_size(name: str, what: QuantSpec) -> None:
    x = noise(4, 1, 6000) * torch.linspace(0.01, 2, 6000)
    scales = set()
    for batches in (x.split(6000, 1), x.split(700, 1), tuple(reversed(x.split(1000, 1)))):
        observer = make(name, what)
        for batch in batches:
            observer.observe(batch)
        scales.add(observer.qparams().scale.item())
    assert len(scales) == 1


@pytest.mark.parametrize("name", NAMES)
def test_exact_takes_one_batch_and_says_what_to_do(name: str) -> None:
    observer = observed(name, noise(5, 1, 500), histogram="exact")
    observer.qparams()
    with pytest.raises(StateError, match="takes one batch") as caught:
        observer.observe(noise(6, 1, 500))
    assert "max, mean, median or modal" in str(caught.value)
    assert "streaming" in str(caught.value)
    with pytest.raises(StateError, match="cannot be merged"):
        observer.merge(make(name))
    assert set(observer.state()) == {"low_G", "high_G"}


@pytest.mark.parametrize("name", NAMES)
def test_exact_and_asymmetric_are_refused_together(name: str) -> None:
    with pytest.raises(InputError, match="asymmetric range") as caught:
        make(name, ASYMMETRIC, histogram="exact")
    assert f"observer '{name}'" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_exact_works_per_group_and_refuses_nan(name: str) -> None:
    x = noise(7, 3, 2000) * torch.tensor([[1.0], [5.0], [0.0]])
    scale_G = observed(name, x, histogram="exact").qparams().scale
    for row, scale in zip(x, scale_G, strict=True):
        assert observed(name, row.unsqueeze(0), histogram="exact").qparams().scale.item() == scale.item()
    with pytest.raises(DataError, match="NaN/Inf"):
        make(name, histogram="exact").observe(torch.tensor([[1.0, float("nan")]]))


@pytest.mark.parametrize("name", NAMES)
def test_unsigned_grids_cut_what_is_below_zero(name: str) -> None:
    x = torch.cat([noise(8, 1, 4000).abs(), torch.full((1, 10), -50.0)], 1)
    _, high_G = observed(name, x, spec(format="uint8")).range()
    assert float(high_G) <= float(x.max())


# -- percentile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpys_within_a_bin(percentile: float) -> None:
    x = noise(9, 1, 50_000)
    _, high_G = observed("percentile", x, spec(format="uint8"), percentile=percentile).range()
    expected = np.percentile(x.clamp(min=0).numpy(), percentile)
    assert expected - 1e-6 <= float(high_G) <= expected + float(x.abs().max()) / 2048 * 1.1


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_of_both_tails(percentile: float) -> None:
    x = noise(10, 1, 50_000).exp() - 2.0  # skewed
    low_G, high_G = observed("percentile", x, ASYMMETRIC, percentile=percentile).range()
    width = float(x.abs().max()) / 2048 * 1.1
    assert float(high_G) == pytest.approx(np.percentile(x.numpy(), percentile), abs=width)
    assert float(low_G) == pytest.approx(np.percentile(x.numpy(), 100 - percentile), abs=width)


def test_percentile_100_is_minmax() -> None:
    x = noise(11, 2, 999)
    for what in (BASE_SPEC, ASYMMETRIC):
        everything = observed("percentile", x, what, percentile=100.0).qparams()
        assert torch.equal(everything.scale, observed("minmax", x, what).qparams().scale)


@given(percentile=st.floats(1, 100), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_percentile_holds_at_least_its_share(percentile: float, seed: int) -> None:
    x = noise(seed, 1, 777)
    low_G, high_G = observed("percentile", x, percentile=percentile).range()
    inside = (x.abs() <= max(float(high_G), -float(low_G)) * (1 + 1e-6)).float().mean()
    assert float(inside) >= percentile / 100 - 1e-6


# -- mse -------------------------------------------------------------------------------------------------------------


def true_error(x: Tensor, low: float, high: float, what: QuantSpec) -> float:
    q = choose_qparams(torch.tensor([low]), torch.tensor([high]), what)
    return float((affine.fake_quantize(x, q, what) - x).double().square().mean())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["normal", "laplace", "outlier"])
def test_mse_is_close_to_the_best_threshold_there_is(bits: int, kind: str) -> None:
    x = noise(12, 1, 20_000)
    if kind == "laplace":
        x = x.sign() * noise(13, 1, 20_000).square() / 2 * 1.5
    elif kind == "outlier":
        x[0, 0] = 25.0
    what, largest = spec(format=f"int{bits}", narrow_range=True), float(x.abs().max())
    thresholds = (torch.linspace(0.03, 1, 300) * largest).tolist()
    best = min(true_error(x, -threshold, threshold, what) for threshold in thresholds)
    low_G, high_G = observed("mse", x, what).range()
    assert true_error(x, float(low_G), float(high_G), what) <= best * 1.02


def test_mse_moves_both_ends_of_an_asymmetric_range() -> None:
    x = noise(14, 1, 20_000).abs()
    x[0, :2] = torch.tensor([-30.0, 30.0])
    what = spec(format="uint4", symmetric=False)
    low_G, high_G = observed("mse", x, what).range()
    assert float(low_G) > -1.0  # one value below zero is not worth half of the grid
    assert true_error(x, float(low_G), float(high_G), what) < true_error(x, -30.0, 30.0, what) / 10


def test_clipping_counts_clipped_values_more_often() -> None:
    """The chosen range has the least error of all thresholds when clipped values are counted ``clipping`` times."""
    x = noise(3, 20_000)
    chosen = {}
    for clipping in (1.0, 4.0, 1e6):
        observer = observed("mse", x.reshape(1, -1), spec(format="int4"), clipping=clipping)
        chosen[clipping] = float(observer.qparams().scale)

        def error(scale: float, times: float = clipping) -> float:
            q = torch.round(x.double() / scale)
            inside = (q >= -8) & (q <= 7)
            squares = (q.clamp(-8, 7) * scale - x.double()).square()
            return float(torch.where(inside, squares, squares * times).sum())

        best = min(error(float(x.abs().max()) / 7 * factor) for factor in np.linspace(0.3, 1.0, 200))
        assert error(chosen[clipping]) <= 1.02 * best
    assert chosen[1.0] < chosen[4.0] < chosen[1e6]


def test_mse_with_fine_grids_never_loses_to_minmax() -> None:
    for name in ("int8", "int12", "int16"):
        x, what = noise(15, 1, 5000), spec(format=name, narrow_range=True)
        low_G, high_G = observed("mse", x, what).range()
        full = true_error(x, float(x.min()), float(x.max()), what)
        assert true_error(x, float(low_G), float(high_G), what) <= full * 1.01


def test_mse_chooses_powers_of_two_when_asked() -> None:
    x = noise(16, 1, 10_000)
    x[0, 0] = 9.0
    scale = observed("mse", x, spec(scale="power_of_two")).qparams().scale.item()
    diffs = observed("diffs", x, spec(scale="power_of_two")).qparams().scale.item()
    assert scale == diffs  # the same question, asked of a histogram and of the values


# -- entropy ---------------------------------------------------------------------------------------------------------


def reference_threshold(x: np.ndarray[Any, Any], bins: int, levels: int, first: int, stride: int) -> float:
    """Returns the threshold by loops and scipy, straight from the description (spec vai_q_pytorch 3.3)."""
    stats = pytest.importorskip("scipy.stats")
    counts, edges = np.histogram(np.abs(x), bins=bins, range=(0, np.abs(x).max()))
    counts = counts.astype(np.float64)
    counts[0] = counts[1]
    divergences = []
    for i in range(first, bins + 1, stride):
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        for level in range(levels):
            inside = [k for k in range(i) if math.floor(k * levels / i) == level and counts[k] > 0]
            for k in inside:
                q[k] = sum(counts[j] for j in inside) / len(inside)
        divergences.append(stats.entropy(p, q))
    best = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float(edges[first + best * stride])


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_entropy_equals_scipy(seed: int) -> None:
    x = noise(17 + seed, 1, 3000) ** 3
    found = observed("entropy", x, spec(format="int4"), histogram="exact", bins=256).qparams().scale.item() * 7
    expected = reference_threshold(x.numpy(), 256, 8, first=192, stride=16)
    assert found == pytest.approx(expected, rel=1e-6)


def test_entropy_clips_outliers_and_keeps_the_bulk() -> None:
    x = noise(19, 1, 100_000)
    x[0, 0] = 40.0
    _, high_G = observed("entropy", x).range()
    assert 2.5 < float(high_G) < 8.0


def test_entropy_keeps_the_whole_range_when_the_grid_is_finer_than_the_histogram() -> None:
    x = noise(20, 1, 5000)
    low_G, high_G = observed("entropy", x, spec(format="int16")).range()
    assert (float(low_G), float(high_G)) == (float(x.min()), float(x.max()))


def test_entropy_cuts_an_asymmetric_range_on_the_side_that_is_long() -> None:
    x = noise(21, 1, 50_000).abs()
    x[0, 0] = 30.0
    low_G, high_G = observed("entropy", x, ASYMMETRIC).range()
    assert float(low_G) == float(x.min())
    assert float(high_G) < 10.0


@pytest.mark.parametrize("what", [BASE_SPEC, ASYMMETRIC], ids=lambda what: what.format)
@pytest.mark.parametrize("value", [0.0, 0.3, 1.7])
def test_a_value_that_comes_again_and_again_does_not_move_the_threshold(what: QuantSpec, value: float) -> None:
    """An image background: nine of ten values are the same. Without it, the rest decides; with it, too."""
    rest = noise(22, 1, 50_000).abs()
    limits = []
    for x in (rest, torch.cat([rest, torch.full((1, 450_000), value)], 1)):
        _, high_G = observed("entropy", x, what).range()
        limits.append(float(high_G))
    assert limits[0] > 2.5
    assert limits[1] == pytest.approx(limits[0], rel=0.1)
