"""Rounding modes against exact fractions, against the recorded table, and in place."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantwright.config.spec import ROUNDINGS
from quantwright.errors import UnknownNameError
from quantwright.numerics import rounding
from quantwright.numerics.rounding import round_to_integer

TIES = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]
DETERMINISTIC = [mode for mode in ROUNDINGS if mode != "stochastic"]


def exactly(value: float, mode: str) -> int:
    """Returns the rounded value in exact arithmetic, straight from the definitions."""
    x = Fraction(value)
    below = math.floor(x)
    if mode in ("floor", "ceil", "toward_zero"):
        return {"floor": math.floor, "ceil": math.ceil, "toward_zero": math.trunc}[mode](x)
    distance = x - below
    if distance != Fraction(1, 2):
        return below if distance < Fraction(1, 2) else below + 1
    smaller_size, larger_size = sorted((below, below + 1), key=abs)
    even = below if below % 2 == 0 else below + 1
    return {"half_even": even, "half_up": below + 1, "half_down": smaller_size, "half_away": larger_size}[mode]


def docstring_table() -> dict[str, list[float]]:
    """Returns the truth table as the module's docstring prints it."""
    table = {}
    for line in (rounding.__doc__ or "").splitlines():
        words = line.split()
        if words and words[0] in ROUNDINGS and words[0] != "stochastic":
            table[words[0]] = [float(word) for word in words[1:7]]
    return table


def test_the_docstring_shows_every_mode_and_is_true() -> None:
    table = docstring_table()
    assert sorted(table) == sorted(DETERMINISTIC)
    for mode, expected in table.items():
        assert round_to_integer(torch.tensor(TIES), mode).tolist() == expected, mode


def test_every_mode_of_the_config_has_a_line_for_listings() -> None:
    assert set(rounding.SUMMARIES) == set(ROUNDINGS)


@pytest.mark.parametrize("mode", DETERMINISTIC)
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**30), max_value=2.0**30))
@example(value=0.49999997)  # 0.5 - 2**-25: floor(x + 0.5) would say 1
@example(value=-0.49999997)
@example(value=8388607.5)  # the largest float32 that is not an integer
@example(value=4194303.75)
@settings(deadline=None, max_examples=80)
def test_equals_exact_arithmetic_for_float32(mode: str, value: float) -> None:
    assert round_to_integer(torch.tensor([value]), mode).item() == exactly(value, mode)


@pytest.mark.parametrize("mode", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_equals_exact_arithmetic_for_other_dtypes(mode: str, dtype: torch.dtype) -> None:
    x = (torch.arange(-40, 41) / 8).to(dtype)
    assert round_to_integer(x, mode).tolist() == [exactly(float(value), mode) for value in x]


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_in_place_gives_the_same_without_a_copy(mode: str) -> None:
    x = torch.linspace(-5, 5, 201)
    expected, place = round_to_integer(x, mode), x.data_ptr()
    assert torch.equal(x, torch.linspace(-5, 5, 201))  # untouched without out
    result = round_to_integer(x, mode, out=x)
    assert result.data_ptr() == place
    assert torch.equal(x, expected)


def test_stochastic_is_unbiased_and_repeatable() -> None:
    x = torch.full((200_000,), 2.3)
    first = round_to_integer(x, "stochastic", generator=torch.Generator().manual_seed(1))
    again = round_to_integer(x, "stochastic", generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, again)
    assert set(first.tolist()) == {2.0, 3.0}
    assert first.mean().item() == pytest.approx(2.3, abs=0.005)  # five standard deviations


@pytest.mark.parametrize("value", [-3.0, 0.0, 5.0, 2.0**23])
def test_stochastic_leaves_integers_alone(value: float) -> None:
    x = torch.full((100_000,), value)
    assert torch.equal(round_to_integer(x, "stochastic", out=x.clone()), x)


def test_an_unknown_mode_lists_the_modes() -> None:
    with pytest.raises(UnknownNameError, match="half_even") as caught:
        round_to_integer(torch.zeros(1), "halfeven")
    assert "did you mean" in str(caught.value)


RECORDED_NAMES = {"2": "half_up", "3": "half_away", "4": "floor", "6": "half_down", "7": "ceil", "8": "half_even"}


def test_recorded_table_of_vai_q_pytorch(vai: dict[str, Any]) -> None:
    table = vai["round_table"]
    x = torch.tensor(table["x"])
    matching = [code for code, mode in RECORDED_NAMES.items() if round_to_integer(x, mode).tolist() == table["y"][code]]
    assert matching == list(RECORDED_NAMES)
    # code 5, half_even above zero and half_up below, is internal to the tool (spec 3.1): two of our modes compose it
    both = torch.where(x > 0, round_to_integer(x, "half_even"), round_to_integer(x, "half_up"))
    assert both.tolist() == table["y"]["5"]
