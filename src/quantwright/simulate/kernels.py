"""The steps between integer tensors: quantize, requantize, add, multiply, average, as a runtime's kernels compute them.

A value on the grid is a float32 tensor that holds ``q - zero_point``: whole numbers, so sums of products are exact
below 2**24 in any order, and convolutions run on the fast float kernels. The formulas are those of ONNX Runtime's
CPU kernels (MLAS: requantization of int32 accumulators, QLinearAdd, QLinearMul, QLinearGlobalAveragePool), measured
against it in the tests.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from quantwright.numerics.rounding import round_to_integer
from quantwright.simulate.grids import Bounds, Grid

EXACT = 1 << 24  # float32 holds every whole number up to here


class ToGrid(nn.Module):
    """Returns ``q - zero_point`` of a real tensor: divide, round, clamp."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            x: any; the result has the same shape.
        """
        grid = self.grid
        scaled = x * grid.by if grid.multiply else x / grid.by
        return rounded(scaled, grid.rounding).clamp_(grid.low, grid.high)


class ToReal(nn.Module):
    """Returns the real values of a tensor on the grid: times the step, with no negative zero."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.step = grid.step

    def forward(self, x: Tensor) -> Tensor:
        """Returns real values.

        Shapes:
            x: any; the result has the same shape.
        """
        return torch.add(x.new_zeros(()), x, alpha=self.step)


class Requantize(nn.Module):
    """Returns accumulators on the output's grid: times one float32 multiplier per channel, rounded, clamped.

    The multiplier is scale(x) * scale(w) / scale(y), each operation rounded to float32, in this order.

    Shapes:
        multiplier: a number, or [C, 1 ...] that broadcasts against the accumulators.
    """

    multiplier: Tensor

    def __init__(self, multiplier: Tensor, grid: Grid, bounds: Bounds) -> None:
        super().__init__()
        self.register_buffer("multiplier", multiplier, persistent=False)
        self.rounding, self.bounds = grid.rounding, bounds

    def forward(self, acc: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            acc: [B, C ...], whole numbers in float32 or float64; overwritten.
        """
        scaled = acc.float().mul_(self.multiplier)
        return rounded(scaled, self.rounding).clamp_(*self.bounds)


class Scaled(nn.Module):
    """Returns accumulators as real values: times the step of each channel, for a layer whose result stays float.

    Shapes:
        step: [1] or [C], float32.
    """

    step: Tensor

    def __init__(self, step: Tensor) -> None:
        super().__init__()
        self.register_buffer("step", step, persistent=False)

    def forward(self, acc: Tensor) -> Tensor:
        """Returns real values.

        Shapes:
            acc: [B, C], whole numbers in float32 or float64; overwritten.
        """
        return acc.float().mul_(self.step)


class AddOnGrid(nn.Module):
    """Returns a + b on the output's grid: two fused multiply-adds in float32, and the zero point *before* rounding."""

    def __init__(self, a: Grid, b: Grid, out: Grid, bounds: Bounds) -> None:
        super().__init__()
        self.a, self.b, self.out, self.bounds = a, b, out, bounds
        self.fused = add_is_fused()
        by = np.float32(out.step)
        ratio_a, ratio_b = np.float32(a.step) / by, np.float32(b.step) / by
        offset = _fma(float(ratio_a), float(a.zero_point), float(ratio_b * np.float32(b.zero_point)))
        self.ratio_a, self.ratio_b = float(ratio_a), float(ratio_b)
        self.fixed = float(np.float32(out.zero_point) - offset)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            a, b: any, the same; so is the result.
        """
        a, b = _stored(a, self.a), _stored(b, self.b)
        sums = fused_multiply_add(b.new_full((), self.fixed), b, self.ratio_b, self.fused)
        sums = fused_multiply_add(sums, a, self.ratio_a, self.fused).round_()
        return sums.sub_(self.out.zero_point).clamp_(*self.bounds)


class MulOnGrid(nn.Module):
    """Returns a * b on the output's grid: exact product, one float32 multiplier, the zero point before rounding."""

    def __init__(self, a: Grid, b: Grid, out: Grid, bounds: Bounds) -> None:
        super().__init__()
        self.out, self.bounds = out, bounds
        self.ratio = float(np.float32(a.step) * np.float32(b.step) / np.float32(out.step))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            a, b: any, the same; so is the result.
        """
        zero = self.out.zero_point
        return (a * b).mul_(self.ratio).add_(zero).round_().sub_(zero).clamp_(*self.bounds)


class GlobalAverage(nn.Module):
    """Returns the average of each channel on the output's grid: exact sum, scale(x) / (scale(y) * count), rounded."""

    def __init__(self, x: Grid, out: Grid, bounds: Bounds) -> None:
        super().__init__()
        self.x, self.out, self.bounds = x, out, bounds

    def forward(self, x: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            x: [B, C, spatial ...]; the result is [B, C, 1 ...].
        """
        axes = list(range(2, x.dim()))
        count = np.float32(x[0, 0].numel())
        by = float(np.float32(self.x.step) / (np.float32(self.out.step) * count))
        sums = x.sum(axes, keepdim=True, dtype=torch.float64).float().mul_(by)
        return sums.round_().clamp_(*self.bounds)


class AveragePooled(nn.Module):
    """Returns averages on the output's grid: divided by the step, the zero point added before rounding."""

    def __init__(self, out: Grid, bounds: Bounds) -> None:
        super().__init__()
        self.out, self.bounds = out, bounds

    def forward(self, x: Tensor) -> Tensor:
        """Returns whole numbers in float32.

        Shapes:
            x: real averages, any shape; so is the result.
        """
        zero = self.out.zero_point
        return (x / self.out.by).add_(zero).round_().sub_(zero).clamp_(*self.bounds)


def rounded(x: Tensor, mode: str) -> Tensor:
    """Returns ``x`` rounded, in place; ``out=`` would cut what torch.compile compiles in pieces."""
    if mode == "half_even":
        return x.round_()
    return round_to_integer(x, mode, out=None if torch.compiler.is_compiling() else x)


def fused_multiply_add(c: Tensor, a: Tensor, factor: float, fused: bool) -> Tensor:
    """Returns ``c + a * factor`` rounded to float32 once.

    Args:
        fused: what ``add_is_fused`` says of the CPU; elsewhere, and in compiled code, the sum is made in float64.

    Shapes:
        c: [] or as a; the result is as a.
    """
    if fused and c.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.add(c, a, alpha=factor)
    return (c.double() + a.double() * factor).float()


@lru_cache(maxsize=1)
def add_is_fused() -> bool:
    """Returns whether ``torch.add(c, a, alpha)`` rounds once here: it does where the CPU has the instruction."""
    generator = torch.Generator().manual_seed(0)
    for size in (4099, 7):
        a = torch.randint(-255, 256, (size,), generator=generator).float()
        c = torch.rand(size, generator=generator) * 100 - 50
        factor = float(torch.rand((), generator=generator))
        if not torch.equal(torch.add(c, a, alpha=factor), (c.double() + a.double() * factor).float()):
            return False
    return True


def _fma(a: float, b: float, c: float) -> np.float32:
    """Returns a * b + c rounded to float32 once (float64 holds the product of a float32 and a small integer)."""
    return np.float32(a * b + c)


def _stored(x: Tensor, grid: Grid) -> Tensor:
    """Returns the stored integers of a tensor on the grid."""
    return x + grid.zero_point if grid.zero_point else x
