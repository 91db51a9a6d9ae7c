"""Grids: the integers an activation is on, as the runtime stores them, and what a clamp leaves of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import fx

from quantwright.config.spec import Granularity
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph import ops
from quantwright.numerics import affine
from quantwright.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Returns a per-tensor integer grid.

    Attributes:
        by: what a value is divided by, or multiplied with when ``multiply``. step: float per integer step.
        zero_point, qmin, qmax: in the integers the runtime stores.
        signed: whether these are stored in a signed type.
    """

    by: float
    multiply: bool
    step: float
    zero_point: int
    qmin: int
    qmax: int
    rounding: str
    signed: bool

    @property
    def bits(self) -> int:
        """Returns the bits that hold the integers."""
        return (self.qmax - self.qmin).bit_length()

    @property
    def low(self) -> int:
        """Returns the lowest ``q - zero_point``."""
        return self.qmin - self.zero_point

    @property
    def high(self) -> int:
        """Returns the highest ``q - zero_point``."""
        return self.qmax - self.zero_point


Bounds = tuple[int, int]
"""The lowest and highest ``q - zero_point`` of a result: the grid's, or those of a clamp within it."""


def grid_of(quantizer: Quantizer, target: Target) -> Grid | None:
    """Returns the grid of an activation's quantizer: integers, one scale, fixed; else None."""
    spec, qparams = quantizer.spec, quantizer.qparams
    per_tensor = spec.granularity is None or spec.granularity.kind == "per_tensor"
    if quantizer.point.role in ("weight", "bias") or not spec.is_integer or not per_tensor or qparams is None:
        return None
    if qparams.scale.numel() != 1 or spec.rounding == "stochastic":
        return None
    by, step = affine.scales(qparams, spec.granularity or Granularity(), quantizer.arithmetic)
    shift = target.kernels.shift(spec)
    return Grid(
        by=float(by), multiply=quantizer.arithmetic == "reciprocal", step=float(step),
        zero_point=int(qparams.zero_point) + shift, qmin=spec.qmin + shift, qmax=spec.qmax + shift,
        rounding=spec.rounding or "half_even", signed=spec.signed and not shift,
    )  # fmt: skip


def shifts(target: Target, *steps: float) -> bool:
    """Returns whether the device requantizes by shifts: every step is a power of two, nothing is rounded twice."""
    return target.arithmetic.requantize == "shift" and all(math.frexp(step)[0] == 0.5 for step in steps)


def clamp_on(node: fx.Node, grid: Grid, target: Target) -> Bounds | None:
    """Returns what a clamp before the rounding leaves of a grid; None when the device does not clamp integers so."""
    low, high = _clamp_range(node)
    if low <= grid.low * grid.step and high >= grid.high * grid.step:
        return grid.low, grid.high  # saturation does it
    step = np.float32(grid.step)
    ends = [min(max(float(np.float32(end) / step), float(grid.low)), float(grid.high)) for end in (low, high)]
    whole = shifts(target, grid.step) and all(end.is_integer() for end in ends)
    if low > high or not (whole or target.kernels.clamp_integers):
        return None
    return int(np.rint(ends[0])), int(np.rint(ends[1]))


def _clamp_range(node: fx.Node) -> tuple[float, float]:
    """Returns the bounds of a ReLU, ReLU6, hardtanh or clamp; (inf, -inf) when they are not numbers."""
    name = ops.op_name(node)
    if name == "relu":
        return 0.0, float("inf")
    if name == "relu6":
        return 0.0, 6.0
    low_name, high_name = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low, high = ops.argument(node, low_name), ops.argument(node, high_name)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return float("inf"), float("-inf")
    return (float("-inf") if low is None else float(low)), (float("inf") if high is None else float(high))
