"""choose_qparams: its grids hold what they should, and zero ranges, caps and edges are safe."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.errors import InputError
from quantwright.numerics.choose import SMALLEST_SCALE, ZERO_RANGE_SCALE, choose_qparams, fix_position

FORMATS = ("int8", "uint8", "int4", "uint4", "int2", "int16", "uint16")
numbers = st.floats(width=32, min_value=-1e6, max_value=1e6, allow_subnormal=False)


def spec(**fields: object) -> QuantSpec:
    return BASE_SPEC.model_copy(update=fields)


def choose(lo: float, hi: float, what: QuantSpec, **more: bool) -> tuple[float, int]:
    qparams = choose_qparams(torch.tensor([lo]).double(), torch.tensor([hi]).double(), what, **more)
    assert qparams.scale.dtype == torch.float64
    assert qparams.zero_point.dtype == torch.int32
    return float(qparams.scale), int(qparams.zero_point)


def test_symmetric_by_hand() -> None:
    assert choose(-2.0, 1.0, spec()) == (2.0 / 127, 0)
    assert choose(-2.0, 1.0, spec(narrow_range=True)) == (2.0 / 127, 0)
    assert choose(0.0, 3.0, spec(format="uint8")) == (3.0 / 255, 0)
    assert choose(-9.0, 3.0, spec(format="uint8")) == (3.0 / 255, 0)  # below zero is cut


def test_asymmetric_by_hand() -> None:
    assert choose(-1.0, 1.55, spec(format="uint8", symmetric=False)) == (pytest.approx(0.01), 100)
    assert choose(-1.0, 1.55, spec(format="int8", symmetric=False)) == (pytest.approx(0.01), -28)


@given(a=numbers, b=numbers, name=st.sampled_from(FORMATS))
@settings(deadline=None, max_examples=200)
def test_asymmetric_grids_are_legal_and_hold_zero_and_the_range(a: float, b: float, name: str) -> None:
    what = spec(format=name, symmetric=False)
    lo, hi = sorted((a, b))
    scale, zero = choose(lo, hi, what)
    assert what.qmin <= zero <= what.qmax
    lowest, highest = (what.qmin - zero) * scale, (what.qmax - zero) * scale
    assert lowest <= 0.0 <= highest
    assert lowest <= min(lo, 0.0) + scale / 2 * (1 + 1e-6)
    assert highest >= max(hi, 0.0) - scale / 2 * (1 + 1e-6)


@given(a=numbers, b=numbers, name=st.sampled_from(FORMATS))
@settings(deadline=None, max_examples=200)
def test_power_of_two_is_the_finest_that_holds_the_range(a: float, b: float, name: str) -> None:
    what = spec(format=name, scale="power_of_two")
    lo, hi = sorted((a, b))
    scale, zero = choose(lo, hi, what)
    assert zero == 0
    mantissa, _ = math.frexp(scale)
    assert mantissa == 0.5
    lowest = -(2 ** (what.bits - 1)) if what.signed else 0
    needed = max(hi / (what.qmax + 0.5), lo / (lowest - 0.5) if what.signed else 0.0)  # half a step may be rounded
    if needed < SMALLEST_SCALE:
        assert scale == ZERO_RANGE_SCALE
    else:
        assert needed * (1 - 1e-6) <= scale <= 2 * needed * (1 + 1e-6)


@pytest.mark.parametrize("power", range(-30, 31))
def test_power_of_two_is_exact_at_powers_of_two(power: int) -> None:
    hi = 127.5 * 2.0**power  # the last value that still rounds onto the grid
    assert choose(0.0, hi, spec(scale="power_of_two")) == (2.0**power, 0)
    beyond = float(torch.tensor(hi).float() * (1 + 1e-5))
    assert choose(0.0, beyond, spec(scale="power_of_two")) == (2.0 ** (power + 1), 0)


def test_min_scale_is_the_lower_bound() -> None:
    low = {"min_scale": 2.0**-12}
    assert choose(0.0, 1e-6, spec(**low)) == (2.0**-12, 0)
    assert choose(0.0, 1e-6, spec(scale="power_of_two", **low)) == (2.0**-12, 0)
    assert choose(0.0, 1e-6, spec(format="uint8", symmetric=False, **low)) == (2.0**-12, 0)
    assert choose(0.0, 1.0, spec(scale="power_of_two", **low)) == (2.0**-6, 0)


@pytest.mark.parametrize("scale", ["float", "power_of_two"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-44])
def test_ranges_without_extent_get_a_usable_scale(scale: str, symmetric: bool, size: float) -> None:
    value, zero = choose(-size, size, spec(scale=scale, symmetric=symmetric))
    assert value == ZERO_RANGE_SCALE
    assert -128 <= zero <= 127


def test_a_constant_without_zero_falls_back_to_a_legal_grid() -> None:
    assert choose(5.0, 5.0, spec(format="uint8", symmetric=False), include_zero=False) == (5.0 / 255, 0)


def test_without_zero_the_range_stays_but_the_zero_point_is_legal() -> None:
    scale, zero = choose(1.0, 3.0, spec(format="uint8", symmetric=False), include_zero=False)
    assert scale == pytest.approx(2.0 / 255)
    assert zero == 0  # -128 would be outside the grid


def test_groups_are_independent() -> None:
    what = spec(granularity=Granularity(kind="per_channel", axis=0))
    lo_G, hi_G = torch.tensor([-1.0, -4.0, 0.0]), torch.tensor([2.0, 1.0, 0.0])
    together = choose_qparams(lo_G, hi_G, what).scale.tolist()
    assert together == [choose(float(lo), float(hi), what)[0] for lo, hi in zip(lo_G, hi_G, strict=True)]


def test_position_is_an_integer_per_group() -> None:
    what = spec(scale="power_of_two")
    assert fix_position(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]), what).tolist() == [6, 18]


@pytest.mark.parametrize("fields", [{"format": "float16"}, {"format": "int32", "scale": "derived"}])
def test_what_a_range_cannot_decide_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InputError, match="does not decide the scale"):
        choose(0.0, 1.0, spec(**fields))
