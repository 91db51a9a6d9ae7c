"""Scale policies: in what a scale is stored, and how a range becomes one of those. Both for integers and other grids.

float             as it is
float16, bfloat16 rounded to that (spec quark 1.6)
power_of_two      2**e by the spec's ``exponent``
e8m0              2**e, -127 <= e <= 127 (OCP MX 5.4.1); here not below 2**-126, where float32's normal numbers end
e5m3              rounded to the unsigned 8-bit float; never 0
e4m3              two levels: one float32 scale of the whole tensor, so that the largest scale of a group is 448, and
                  below it the scales of groups as 8-bit floats, never 0 (spec quark 2: amax / (largest * 448))

Units: scales in float per integer step, or per unit of an element.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.numerics.grids import Grid, grid_of

ZERO_RANGE_SCALE = 2.0**-18  # what a range without extent gets (spec vai_q_pytorch 3.2 and 3.4)
SMALLEST_SCALE = 2.0**-126  # below float32's normal numbers 1/scale and x/scale lose their meaning
POWERS = ("power_of_two", "e8m0")
_E8M0 = (-126, 127)


def element_scale(low_G: Tensor, high_G: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor | None]:
    """Returns (scale, super scale or None) of a scaled format for a range: its larger side lies at the largest element.

    Shapes:
        low_G, high_G: [G] float64. Results: [G] float64, [] float32.
    """
    grid = grid_of(spec.format or "")
    size_G = torch.maximum(low_G.abs(), high_G.abs()) if grid.signed else high_G.clamp(min=0.0)
    if spec.scale in POWERS:
        return within(bounded(_power(size_G, spec.exponent or "cover", grid), spec), spec), None
    return stored(bounded(size_G / grid.largest, spec), spec)


def stored(scale_G: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor | None]:
    """Returns (scale, super scale or None): a positive scale as its policy stores it."""
    if spec.scale in ("float16", "bfloat16"):
        return scale_G.to(getattr(torch, spec.scale)).double(), None
    if spec.scale == "e5m3":
        return _rounded(scale_G, "fp8_e5m3"), None
    if spec.scale == "e4m3":
        above = (scale_G.amax() / grid_of("fp8_e4m3").largest).clamp(min=SMALLEST_SCALE).float()
        return _rounded(scale_G / above.double(), "fp8_e4m3"), above
    if spec.scale not in POWERS:
        return scale_G, None
    exponent_G = torch.log2(scale_G.float().double())
    rounded_G = {"nearest": torch.round, "ceil": torch.ceil, "floor": torch.floor}[spec.exponent or ""](exponent_G)
    return within(bounded(torch.exp2(rounded_G), spec), spec), None


def within(scale_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns powers of two that an e8m0 can be."""
    return scale_G.clamp(2.0 ** _E8M0[0], 2.0 ** _E8M0[1]) if spec.scale == "e8m0" else scale_G


def bounded(scale_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns the scale with ``min_scale`` as the lower bound, or without one with vanishing ones replaced."""
    if spec.min_scale:
        return scale_G.clamp(min=spec.min_scale)
    return torch.where(scale_G >= SMALLEST_SCALE, scale_G, torch.full_like(scale_G, ZERO_RANGE_SCALE))


def _rounded(scale_G: Tensor, name: str) -> Tensor:
    """Returns scales rounded to an 8-bit float, its smallest element where they would be 0."""
    grid = grid_of(name)
    smallest = float(grid.step(torch.zeros(1)))
    return grid.round_(scale_G.float(), "half_even").clamp_(min=smallest).double()


def _power(size_G: Tensor, rule: str, grid: Grid) -> Tensor:
    """Returns 2**e for the largest magnitude of each group (spec quark 2, OCP MX 6.3); 0 for none.

    ``frexp`` is exact: size = m * 2**e with 0.5 <= m < 1.
    """
    m_G, e_G = torch.frexp(size_G / grid.largest if rule in ("cover", "nearest") else size_G)
    e_G = e_G - 1  # floor(log2(size))
    if rule in ("cover", "ceil"):
        e_G = e_G + (m_G > 0.5)
    elif rule == "nearest":
        e_G = torch.round(torch.log2(m_G * 2.0) + e_G)
    elif rule == "even":  # half a step of the mantissa more, then the exponent: 1.75 of fp4 becomes 2
        e_G = e_G + (m_G + 2.0 ** -(grid.mantissa_bits + 2) >= 1.0)
    if rule not in ("cover", "nearest"):
        e_G = e_G - int(torch.frexp(torch.tensor(grid.largest)).exponent) + 1
    return torch.where(size_G > 0, torch.exp2(e_G.double()), torch.zeros_like(size_G))
