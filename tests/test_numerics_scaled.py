"""Scaled formats: element grids by brute force, against torch's and ml_dtypes' casts, scales, gradients, layouts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import noise, spec
from torch import Tensor

from quantwright import registry
from quantwright.config.consistency import conflicts
from quantwright.config.formats import named_formats, scaled_formats
from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.errors import InputError, StateError, UnknownNameError
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.formats import format_of
from quantwright.numerics.granularity import ends, group_view
from quantwright.numerics.grids import Codebook, Fixed, Minifloat, grid_of
from quantwright.numerics.qparams import QParams
from quantwright.numerics.scales import element_scale

ALL = tuple(scaled_formats())
PAIRED = tuple(name for name, about in scaled_formats().items() if about.get("pair"))
PLAIN = tuple(name for name in ALL if name not in PAIRED)
CASTS = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
ML = {"fp8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2", "fp6_e3m2": "float6_e3m2fn", "fp6_e2m3": "float6_e2m3fn",
      "fp4_e2m1": "float4_e2m1fn"}  # fmt: skip
GROUPS = Granularity(kind="per_group", axis=-1, group_size=16)


def elements(name: str) -> np.ndarray[Any, Any]:
    """Returns every element of a grid, rising, counted out from what its file says."""
    grid = grid_of(name)
    if isinstance(grid, Codebook):
        return np.asarray(np.asarray(grid.values, np.float32), np.float64)
    if isinstance(grid, Fixed):
        most = 2 ** (grid.bits - 1) - 1
        return np.arange(-most, most + 1) / 2.0**grid.fraction_bits
    assert isinstance(grid, Minifloat)
    low, found = grid.smallest_exponent, {0.0}
    for exponent in range(low, low + 2**grid.exponent_bits):
        for mantissa in range(2**grid.mantissa_bits):
            found.add((1 + mantissa / 2**grid.mantissa_bits) * 2.0**exponent)
            found.add(mantissa / 2**grid.mantissa_bits * 2.0**low)
    positive = sorted(value for value in found if value <= grid.largest)
    assert positive[-1] == grid.largest
    return np.asarray([*(-v for v in reversed(positive[1:]) if grid.signed), *positive])


def nearest(values: np.ndarray[Any, Any], x: np.ndarray[Any, Any], lower: bool) -> np.ndarray[Any, Any]:
    """Returns the nearest elements by search; a tie goes to the lower one, or to the one with the even last bit."""
    clipped = np.clip(x.astype(np.float64), values[0], values[-1])
    above = np.searchsorted(values, clipped).clip(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    down, up = clipped - low, high - clipped
    ties = np.full(x.shape, True) if lower else _even(values, above - 1)
    return np.where((down < up) | ((down == up) & ties), low, high)


def _even(values: np.ndarray[Any, Any], index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns whether the elements have an even last bit: every second one, counted from zero."""
    zero = int(np.flatnonzero(values == 0)[0])
    return (index - zero) % 2 == 0


def sample(name: str) -> np.ndarray[Any, Any]:
    """Returns values around every element and every tie, and random ones."""
    values = elements(name)
    ties = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, ties, [values[-1] * 2, values[0] * 3 - 1, 1e30, -1e30, 1e-30]]).astype(np.float32)
    around = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
    random = (
        np.random.default_rng(3).standard_normal(20_000)
        * values[-1]
        * np.exp2(np.random.default_rng(4).integers(-9, 2, 20_000))
    )
    return np.concatenate([*around, random]).astype(np.float32)


# -- grids -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PLAIN)
def test_every_value_goes_to_the_nearest_element(name: str) -> None:
    x = sample(name)
    grid = grid_of(name)
    y = grid.round_(torch.from_numpy(x.copy()), "half_even").numpy()
    if isinstance(grid, Codebook):  # its midpoints are rounded to float32 once
        codes = np.asarray(grid.values)
        between = ((codes[1:] + codes[:-1]) / 2).astype(np.float32)
        assert np.array_equal(y, elements(name)[np.searchsorted(between, x)].astype(np.float32))
    else:
        assert np.array_equal(y.astype(np.float64), nearest(elements(name), x, lower=False))


@pytest.mark.parametrize("name", ALL)
def test_elements_are_counted_and_stay_what_they_are(name: str) -> None:
    values, grid = elements(name), grid_of(name)
    assert grid.levels() == len(values)
    assert grid.largest == pytest.approx(values[-1], rel=1e-7)
    assert (values[0] < 0) == grid.signed
    assert grid.bits >= math.log2(len(values))
    if name in PLAIN:
        x = torch.from_numpy(values.astype(np.float32))
        assert torch.equal(grid.round_(x.clone(), "half_even"), x)


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_down", "half_away", "floor", "ceil", "toward_zero"])
@pytest.mark.parametrize("name", [name for name in PLAIN if not isinstance(grid_of(name), Codebook)])
def test_every_rounding_lands_on_the_grid_between_its_neighbours(name: str, rounding: str) -> None:
    x, values = sample(name), elements(name)
    y = grid_of(name).round_(torch.from_numpy(x.copy()), rounding).double().numpy()
    assert np.isin(y, values).all()
    clipped = np.clip(x.astype(np.float64), values[0], values[-1])
    above = np.searchsorted(values, clipped).clip(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    assert ((y == low) | (y == high)).all()
    if rounding == "floor":
        assert np.array_equal(y, np.where(clipped == high, high, low))
    if rounding == "ceil":
        assert np.array_equal(y, np.where(clipped == low, low, high))
    if rounding == "half_up":
        assert np.array_equal(y, np.where(clipped - low < high - clipped, low, high))


@pytest.mark.parametrize("name", CASTS)
def test_8_bit_floats_are_torchs(name: str) -> None:
    x = torch.from_numpy(sample(name))
    largest = grid_of(name).largest
    cast = x.clamp(-largest, largest).to(CASTS[name]).float()
    assert torch.equal(grid_of(name).round_(x.clone(), "half_even"), cast)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.sampled_from(sorted(CASTS)))
def test_8_bit_floats_are_torchs_for_any_number(numbers: list[float], name: str) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)
    largest = grid_of(name).largest
    assert torch.equal(grid_of(name).round_(x.clone(), "half_even"), x.clamp(-largest, largest).to(CASTS[name]).float())


@pytest.mark.parametrize("name", ML)
def test_minifloats_are_those_of_ml_dtypes(name: str) -> None:
    ml = pytest.importorskip("ml_dtypes")
    if not hasattr(ml, ML[name]):
        pytest.skip(f"this ml_dtypes has no {ML[name]}")
    x = np.clip(sample(name), -grid_of(name).largest, grid_of(name).largest)
    assert np.array_equal(
        grid_of(name).round_(torch.from_numpy(x.copy()), "half_even").numpy(),
        x.astype(getattr(ml, ML[name])).astype(np.float32),
    )


@pytest.mark.parametrize("name", PLAIN)
def test_not_a_number_stays_and_infinity_saturates(name: str) -> None:
    y = grid_of(name).round_(torch.tensor([math.nan, math.inf, -math.inf]), "half_even")
    assert math.isnan(float(y[0]))
    assert y[1:].tolist() == [np.float32(elements(name)[-1]), np.float32(elements(name)[0])]


@pytest.mark.parametrize("name", ALL)
def test_the_step_is_the_distance_of_neighbours(name: str) -> None:
    values = elements(name)
    inside = (values[1:] + values[:-1]) / 2
    step = grid_of(name).step(torch.from_numpy(inside.astype(np.float32))).double().numpy()
    assert step == pytest.approx(np.diff(values), rel=1e-6)


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_share_a_half_step(name: str) -> None:
    grid = grid_of(name)
    assert isinstance(grid, Fixed)
    whole, half = 2.0**-grid.fraction_bits, 2.0 ** -(grid.fraction_bits + 1)
    x = torch.tensor([[1.0 + half, half, half, half / 2 + half]])
    y = grid.round_(x.clone(), "half_even")
    assert float(y[0, 1]) in (0.0, whole)  # its neighbour is large: the whole step
    assert y[0, 2:].tolist() == [half, 2 * half]
    edge = grid.round_(torch.tensor([[1.0 - half / 4, 0.0]]), "half_even")
    assert float(edge[0, 0]) == (1.0 if grid.pair_top == "block" else 1.0 - half)


# -- values with a scale -----------------------------------------------------------------------------------------------
LAYOUTS = (
    Granularity(),
    Granularity(kind="per_channel", axis=1),
    Granularity(kind="per_group", axis=1, group_size=4),
    Granularity(kind="per_group", axis=-1, group_size=4),
    Granularity(kind="per_token"),
)


def measured(x: Tensor, what: QuantSpec) -> QParams:
    return choose_qparams(*ends(group_view(x, what.granularity or Granularity())), what)


def by_hand(x: Tensor, qparams: QParams, what: QuantSpec) -> Tensor:
    """Returns element times scale with everything spread out, one number at a time."""
    view = group_view(x, what.granularity or Granularity())
    scale = qparams.whole_scale.float().reshape(-1, 1)
    rounded = grid_of(what.format or "").round_((view / scale).contiguous(), what.rounding or "half_even")
    from quantwright.numerics.granularity import ungroup

    return ungroup(rounded * scale, x.shape, what.granularity or Granularity())


@pytest.mark.parametrize("g", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m3", "fp4_e2m1", "nf4", "bfp13", "mxint8"])
def test_layout_is_the_one_of_integers(name: str, g: Granularity) -> None:
    what = spec(format=name, granularity=g, scale="e8m0")
    x = noise(1, 3, 10, 6)
    qparams = measured(x, what)
    y = affine.fake_quantize(x, qparams, what)
    assert torch.equal(y, by_hand(x, qparams, what))
    assert torch.equal(affine.dequantize(affine.quantize(x, qparams, what), qparams, what), y)
    assert torch.equal(affine.fake_quantize(y, qparams, what), y)
    channels_last = noise(2, 2, 8, 4, 4).to(memory_format=torch.channels_last)
    what = spec(format=name, granularity=Granularity(kind="per_channel", axis=1), scale="e8m0")
    qparams = measured(channels_last, what)
    same = affine.fake_quantize(channels_last, qparams, what)
    assert torch.equal(same, affine.fake_quantize(channels_last.contiguous(), qparams, what))


@pytest.mark.parametrize("name", PAIRED)
def test_pairs_in_groups_whose_last_one_is_short(name: str) -> None:
    what = spec(
        format=name, granularity=Granularity(kind="per_group", axis=1, group_size=4), scale="e8m0", exponent="floor"
    )
    x = noise(5, 2, 7, 3)
    qparams = measured(x, what)
    y = affine.fake_quantize(x, qparams, what)
    assert torch.equal(y, by_hand(x, qparams, what))
    assert bool(((y - x).abs() <= qparams.scale.max() * 2.0 ** -grid_of(name).mantissa_bits).all())


@pytest.mark.parametrize("name", PLAIN)
def test_out_dtype_and_gradient(name: str) -> None:
    what = spec(format=name, scale="power_of_two" if name.startswith(("bfp", "mx")) else "float")
    x = noise(3, 4, 5) + 0.1
    qparams = measured(x, what)
    expected = affine.fake_quantize(x, qparams, what)
    inplace = x.clone()
    assert affine.fake_quantize(inplace, qparams, what, out=inplace) is inplace
    assert torch.equal(inplace, expected)
    assert affine.fake_quantize(x.half(), qparams, what).dtype == torch.float16
    assert affine.fake_quantize(x.double(), qparams, what).dtype == torch.float64
    leaf = torch.cat([x, x * 100]).requires_grad_(True)
    affine.fake_quantize(leaf, qparams, what).sum().backward()
    bound = grid_of(name).largest * float(qparams.scale)
    low = -bound if grid_of(name).signed else 0.0
    inside = (leaf.detach() <= bound * (1 + 1e-6)) & (leaf.detach() >= low * (1 + 1e-6))
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, inside.float())
    with pytest.raises(StateError, match="out="):
        affine.fake_quantize(leaf, qparams, what, out=torch.empty_like(leaf))


def test_float64_is_computed_in_float64() -> None:
    x = torch.tensor([1.0625 + 2.0**-40], dtype=torch.float64)
    one = QParams(scale=torch.ones(1), zero_point=torch.zeros(1, dtype=torch.int32))
    assert affine.fake_quantize(x, one, spec(format="fp8_e4m3")).item() == 1.125
    assert affine.fake_quantize(x.float(), one, spec(format="fp8_e4m3")).item() == 1.0


def test_reciprocal_multiplies() -> None:
    x, what = noise(4, 100), spec(format="fp8_e4m3")
    qparams = measured(x, what)
    inverse = float((1 / qparams.scale).float())
    expected = grid_of("fp8_e4m3").round_(x * inverse, "half_even") * float(torch.tensor(1 / inverse).float())
    assert torch.allclose(affine.fake_quantize(x, qparams, what, arithmetic="reciprocal"), expected, rtol=1e-6, atol=0)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(StateError, match="needs scale"):
        affine.fake_quantize(torch.ones(2), None, spec(format="nf4"))
    three = QParams(scale=torch.ones(3), zero_point=torch.zeros(3, dtype=torch.int32))
    with pytest.raises(InputError, match="3 scales"):
        affine.fake_quantize(torch.ones(2, 2), three, spec(format="nf4"))
    with pytest.raises(UnknownNameError, match="did you mean 'fp8_e4m3'"):
        grid_of("fp8_e4m4")


# -- scales ------------------------------------------------------------------------------------------------------------
def scale_of(amax: float, name: str, **fields: Any) -> float:
    what = spec(format=name, **fields)
    size = torch.tensor([amax], dtype=torch.float64)
    return float(element_scale(-size, size, what)[0])


@settings(max_examples=300, deadline=None)
@given(
    st.floats(min_value=2.0**-100, max_value=2.0**100, width=32),
    st.sampled_from(["fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "mxint8", "bfp13"]),
)
def test_powers_of_two(amax: float, name: str) -> None:
    grid = grid_of(name)
    whole = math.floor(math.log2(grid.largest))
    mantissa, exponent = math.frexp(amax)
    assert scale_of(amax, name, scale="e8m0", exponent="floor") == 2.0 ** (exponent - 1 - whole)
    assert scale_of(amax, name, scale="e8m0", exponent="ceil") == 2.0 ** (exponent - (mantissa == 0.5) - whole)
    cover = scale_of(amax, name, scale="e8m0", exponent="cover")
    assert cover * grid.largest >= amax * (1 - 1e-15) > cover / 2 * grid.largest * (1 - 1e-15)
    even = scale_of(amax, name, scale="e8m0", exponent="even")
    rounded = math.floor(mantissa * 2 * 2**grid.mantissa_bits + 0.5) / 2**grid.mantissa_bits
    assert even == 2.0 ** (exponent - 1 - whole + (rounded >= 2))
    near = scale_of(amax, name, scale="power_of_two", exponent="nearest")
    assert abs(math.log2(near) - math.log2(amax / grid.largest)) <= 0.5 + 1e-12


def test_scales_that_are_stored_narrowly() -> None:
    x = noise(6, 4, 64) * torch.tensor([[0.01], [1.0], [30.0], [0.0]])
    two = spec(format="fp4_e2m1", granularity=GROUPS, scale="e4m3")
    qparams = measured(x, two)
    assert qparams.super_scale is not None
    assert float(qparams.super_scale) == pytest.approx(float(x.abs().max()) / (6 * 448), rel=1e-6)  # spec quark 2
    assert float(qparams.scale.max()) == 448.0
    assert torch.equal(qparams.scale.float().to(torch.float8_e4m3fn).float(), qparams.scale.float())
    assert bool((qparams.scale > 0).all())
    y = affine.fake_quantize(x, qparams, two)
    # an element is off by a sixth of the largest, its scale by a sixteenth of itself
    assert bool(((y - x).abs() <= group_view(x, GROUPS).abs().amax(1).max() / 4).all())
    one = measured(x, spec(format="fp4_e2m1", granularity=GROUPS, scale="e5m3"))
    assert one.super_scale is None
    assert torch.equal(grid_of("fp8_e5m3").round_(one.scale.float(), "half_even").double(), one.scale)
    half = measured(x, spec(format="fp4_e2m1", granularity=GROUPS, scale="float16"))
    assert torch.equal(half.scale.half().double(), half.scale)


def test_integers_take_the_same_scales() -> None:
    x = noise(7, 8, 32)
    for scale, exponent in (("e8m0", "ceil"), ("e8m0", "cover"), ("e4m3", "cover"), ("e5m3", "cover")):
        what = spec(format="int8", granularity=GROUPS, scale=scale, exponent=exponent)
        qparams = measured(x, what)
        y = affine.fake_quantize(x, qparams, what)
        assert float((y - x).abs().max()) <= float(qparams.whole_scale.max()) * (8 if scale != "e8m0" else 0.51)
        if scale == "e8m0":
            assert bool((qparams.scale.log2() % 1 == 0).all())
    assert measured(x, spec(format="int4", granularity=GROUPS, scale="e4m3")).super_scale is not None


def test_extremes() -> None:
    assert scale_of(0.0, "fp8_e4m3") == scale_of(0.0, "fp4_e2m1", scale="e8m0") == 2.0**-18
    assert scale_of(1e-44, "fp4_e2m1", scale="e8m0", exponent="floor") >= 2.0**-126
    assert scale_of(3e38, "mxint8", scale="e8m0", exponent="ceil") == 2.0**127
    assert scale_of(1e-9, "bfp16", scale="e8m0", exponent="floor", min_scale=2.0**-23) == 2.0**-23
    only_negative = element_scale(torch.tensor([-5.0]), torch.tensor([-1.0]), spec(format="fp8_e5m3"))
    assert float(only_negative[0]) == 2.0**-18


# -- vocabulary ------------------------------------------------------------------------------------------------------
def test_a_format_is_its_file() -> None:
    assert set(ALL) <= set(named_formats())
    for plugin in registry.names("formats"):
        grids = registry.literal("formats", plugin, "GRIDS", {})
        family = registry.load("formats", plugin)
        assert all(family.serves(name) for name in grids)
        assert plugin in grids or plugin in ("int", "fp", "bfp", "msfp")
        assert all(format_of(QuantSpec(format=name)) is family for name in grids)


@pytest.mark.parametrize("name", ALL)
def test_what_a_spec_says_about_itself(name: str) -> None:
    what = QuantSpec(format=name)
    assert what.is_scaled and what.has_scale and not what.is_integer
    assert what.element_bits == grid_of(name).bits
    assert what.signed == grid_of(name).signed


def codes(**fields: Any) -> set[tuple[str, str]]:
    role = fields.pop("role", "weight")
    return {(conflict.field, conflict.code) for conflict in conflicts(QuantSpec(**fields), role)}


def test_contradictions() -> None:
    assert codes(format="fp8_e4m3", symmetric=False) == {("symmetric", "no_effect")}
    assert codes(format="fp8_e4m3", narrow_range=True, fit="span") == {
        ("narrow_range", "no_effect"),
        ("fit", "no_effect"),
    }
    assert codes(format="nf4", rounding="floor") == {("rounding", "no_effect")}
    assert codes(format="nf4", scale="e8m0", exponent="even") == {("exponent", "exponent")}
    assert codes(format="int8", scale="e8m0", exponent="even") == {("exponent", "exponent")}
    assert codes(format="bfp16", scale="float") == {("scale", "shared_exponent")}
    assert codes(format="mx9", granularity={"kind": "per_channel"}) == {("granularity", "pairs")}
    assert codes(format="mx9", granularity={"kind": "per_group", "group_size": 15}) == {("granularity", "pairs")}
    assert codes(format="mx9", granularity={"kind": "per_group", "group_size": 16}) == set()
    assert codes(format="fp8_e4m3", observer={"name": "mse"}) == {("observer", "observer_grid")}
    assert codes(format="fp8_e4m3", scale="e4m3", statistic="max", role="output") == {("statistic", "two_levels")}
    assert codes(scale="e4m3", exponent="ceil") == {("exponent", "no_effect")}
    group = {"kind": "per_group", "group_size": 32}
    assert codes(format="fp8_e4m3", granularity=group, role="input") == {("granularity", "granularity")}
    assert codes(format="fp8_e4m3", granularity=group, dynamic=True, role="input") == set()
    assert codes(format="fp8_e4m3", granularity=group, role="bias") == {("granularity", "granularity")}


def test_every_format_completed_has_no_fault_of_its_own() -> None:
    for name in ALL:
        group = 12 if name.startswith("msfp") else 16
        what = QuantSpec(format=name, granularity={"kind": "per_group", "group_size": group}, scale="e8m0").over(
            BASE_SPEC
        )  # type: ignore[arg-type]
        assert [c for c in conflicts(what, "weight") if c.code != "no_effect"] == []
