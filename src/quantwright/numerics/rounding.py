"""Rounding: what happens to a value between two integers. Exact for every float, in place when asked.

Truth table of ties (tested); values that are no tie go to the nearest integer in every ``half_*`` mode:

    mode         -2.5  -1.5  -0.5   0.5   1.5   2.5   not a tie
    half_even      -2    -2     0     0     2     2   nearest   (IEEE 754, ONNX)
    half_up        -2    -1     0     1     2     3   nearest   ties toward +infinity
    half_down      -2    -1     0     0     1     2   nearest   ties toward zero
    half_away      -3    -2    -1     1     2     3   nearest   ties away from zero ("std_round")
    floor          -3    -2    -1     0     1     2   down
    ceil           -2    -1     0     1     2     3   up
    toward_zero    -2    -1     0     0     1     2   toward zero
    stochastic   either neighbour, the upper one with probability x - floor(x)

``floor(x + 0.5)`` is not used: in float32 it rounds 0.49999997 to 1. Results may be -0.0; ``affine`` clears that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantwright.config.spec import ROUNDINGS
from quantwright.errors import UnknownNameError, did_you_mean

#: mode -> one line, for listings
SUMMARIES = {
    "half_even": "nearest, ties to the even integer (IEEE 754, ONNX)",
    "half_up": "nearest, ties toward +infinity",
    "half_down": "nearest, ties toward zero",
    "half_away": "nearest, ties away from zero (std_round)",
    "floor": "toward -infinity",
    "ceil": "toward +infinity",
    "toward_zero": "toward zero",
    "stochastic": "up with the probability of the fraction, else down",
}


def round_to_integer(
    x: Tensor, mode: str, *, out: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Returns ``x`` rounded to integers, in the dtype of ``x``.

    Args:
        mode: one of ``config.spec.ROUNDINGS``; see the truth table of this module.
        out: where to write the result; ``out=x`` works in place.
        generator: random numbers of ``stochastic``; torch's default one when None.

    Shapes:
        x: any floating point tensor; the result has the same shape.
    """
    if mode == "stochastic":
        return _stochastic(x, out, generator)
    if mode not in _MODES:
        raise UnknownNameError(f"unknown rounding '{mode}'", allowed=ROUNDINGS, fix=did_you_mean(mode, ROUNDINGS))
    return _MODES[mode](x, out)


def _stochastic(x: Tensor, out: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Returns floor(x), plus one where a uniform number is below the fraction; integers always stay."""
    up = torch.empty_like(x).uniform_(generator=generator) < x - x.floor()
    return torch.floor(x, out=out).add_(up)


def _half_even(x: Tensor, out: Tensor | None) -> Tensor:
    return torch.round(x, out=out)


def _half_up(x: Tensor, out: Tensor | None) -> Tensor:
    """Returns ceil(floor(2x) / 2): doubling and halving are exact, so only a true tie can reach the half."""
    return torch.mul(x, 2.0, out=out).floor_().mul_(0.5).ceil_()


def _half_down(x: Tensor, out: Tensor | None) -> Tensor:
    """Returns floor(ceil(2|x|) / 2) with the sign of x."""
    size = x.abs().mul_(2.0).ceil_().mul_(0.5).floor_()
    return torch.copysign(size, x, out=out)


def _half_away(x: Tensor, out: Tensor | None) -> Tensor:
    """Returns ceil(floor(2|x|) / 2) with the sign of x."""
    size = x.abs().mul_(2.0).floor_().mul_(0.5).ceil_()
    return torch.copysign(size, x, out=out)


def _floor(x: Tensor, out: Tensor | None) -> Tensor:
    return torch.floor(x, out=out)


def _ceil(x: Tensor, out: Tensor | None) -> Tensor:
    return torch.ceil(x, out=out)


def _toward_zero(x: Tensor, out: Tensor | None) -> Tensor:
    return torch.trunc(x, out=out)


_MODES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "half_even": _half_even,
    "half_up": _half_up,
    "half_down": _half_down,
    "half_away": _half_away,
    "floor": _floor,
    "ceil": _ceil,
    "toward_zero": _toward_zero,
}
