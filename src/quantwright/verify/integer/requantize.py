"""From accumulators to stored integers, in the targets' own forms: a multiplier, shifts, or a table of all pairs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from quantwright.verify.integer.grids import Grid, dyadic, round_float, round_shift

Bounds = tuple[int, int]
"""The lowest and highest ``q - zero`` that may come out: the grid's, or those of a clamp within it."""

_WIDE = (1 << 31) - 1


class ByMultiplier:
    """Returns accumulators times one float32 number per channel, rounded, with the zero point, saturated.

    The form of ONNX Runtime's kernels (MLAS): int32 to float32, one multiplication, half to even.

    Shapes:
        multiplier_C: [1] or [C], float32, on the last axis, or on axis 1 with ``axes`` axes behind it.
    """

    def __init__(self, multiplier_C: np.ndarray, grid: Grid, bounds: Bounds, *, axes: int = 0) -> None:
        factor = torch.from_numpy(np.ascontiguousarray(multiplier_C, dtype=np.float32))
        self.multiplier = factor.reshape(-1, *(1,) * axes) if factor.numel() > 1 else factor.reshape(())
        self.grid, self.bounds = grid, bounds

    def __call__(self, acc: Tensor) -> Tensor:
        """Returns stored integers.

        Shapes:
            acc: any integer; the result has the same shape.
        """
        scaled = acc.to(torch.float32).mul_(self.multiplier)
        scaled = scaled.round_() if self.grid.rounding == "half_even" else round_float(scaled, self.grid.rounding)
        return scaled.clamp_(*self.bounds).add_(self.grid.zero).to(self.grid.dtype)


class ByShift:
    """Returns accumulators shifted, after a multiplication by a small whole number where there is one.

    Args:
        ratio: unit of the accumulator / step of the grid: m / 2**n.
        largest: the largest size of an accumulator.
    """

    def __init__(self, ratio: Fraction, grid: Grid, bounds: Bounds, *, largest: int) -> None:
        found = dyadic(ratio)
        if found is None:
            raise ValueError(f"{ratio} is no whole number over a power of two")
        self.factor, self.shift = found
        room = largest * abs(self.factor) + (1 << max(self.shift - 1, 0))
        self.wide = (room << max(-self.shift, 0)) > _WIDE
        self.grid, self.bounds = grid, bounds

    @staticmethod
    def fits(ratio: Fraction, largest: int) -> bool:
        """Returns whether 64-bit integers hold what comes up on the way."""
        found = dyadic(ratio)
        if found is None:
            return False
        factor, shift = found
        return (largest * abs(factor) + (1 << max(shift - 1, 0))) << max(-shift, 0) < 1 << 63 and shift < 63

    def __call__(self, acc: Tensor) -> Tensor:
        """Returns stored integers.

        Shapes:
            acc: any integer; the result has the same shape.
        """
        acc = acc.to(torch.int64 if self.wide else torch.int32)
        if self.factor != 1:
            acc = acc * self.factor
        whole = round_shift(acc, self.shift, self.grid.rounding)
        whole = whole.clamp(*self.bounds) if whole is acc else whole.clamp_(*self.bounds)
        return (whole.add_(self.grid.zero) if self.grid.zero else whole).to(self.grid.dtype)


class Table:
    """Returns what an operation on two stored 8-bit integers gives, looked up in a table of all 65,536 pairs."""

    def __init__(self, entries: np.ndarray, a: Grid, b: Grid) -> None:
        self.entries = torch.from_numpy(np.ascontiguousarray(entries).reshape(-1))
        self.a, self.b = a, b

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns stored integers of the result.

        Shapes:
            a, b: of one shape; so is the result.
        """
        if b.stride() != a.stride():
            b = torch.empty_like(a, dtype=b.dtype).copy_(b)
        index = (a.to(torch.int32) - self.a.qmin).mul_(self.b.qmax - self.b.qmin + 1)
        index.add_(b.to(torch.int32) - self.b.qmin)
        return torch.take(self.entries, index.long())


def sums_table(a: Grid, b: Grid, out: Grid, bounds: Bounds) -> Table:
    """Returns the table of a + b as ONNX Runtime adds (MLAS QLinearAdd): two fused multiply-adds in float32.

    The zero points are those of the stored integers, which may be 128 higher than the plan's.
    """
    single = np.float32
    by = single(out.step)
    ratio_a, ratio_b = single(a.step) / by, single(b.step) / by
    za, zb, zo = (single(g.zero + g.moved) for g in (a, b, out))
    offset = fused(ratio_a, za, ratio_b * zb)
    fixed = single(zo - offset)
    column, row = _stored(a)[:, None], _stored(b)[None]
    sums = fused(ratio_a, column, fused(ratio_b, row, fixed))
    return Table(_rounded(sums, out, bounds), a, b)


def products_table(a: Grid, b: Grid, out: Grid, bounds: Bounds) -> Table:
    """Returns the table of a * b as ONNX Runtime multiplies (QLinearMul): exact product, one float32 multiplier."""
    single = np.float32
    ratio = single(single(a.step) * single(b.step)) / single(out.step)
    left, right = _stored(a)[:, None] - single(a.zero + a.moved), _stored(b)[None] - single(b.zero + b.moved)
    scaled = (left * right) * ratio + single(out.zero + out.moved)
    return Table(_rounded(scaled, out, bounds), a, b)


def _stored(grid: Grid) -> np.ndarray:
    """Returns every integer of a grid as the runtime stores it, float32."""
    return np.arange(grid.qmin + grid.moved, grid.qmax + grid.moved + 1).astype(np.float32)


def _rounded(sums: np.ndarray, out: Grid, bounds: Bounds) -> np.ndarray:
    """Returns stored integers of the plan for real integers with the runtime's zero point in them."""
    centred = np.rint(sums.astype(np.float64)) - (out.zero + out.moved)
    made: np.ndarray = torch.from_numpy(np.clip(centred, *bounds) + out.zero).to(out.dtype).numpy()
    return made


def fused(a: np.ndarray | np.float32, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """Returns a * b + c rounded to float32 once, whatever the processor.

    The product of two float32 is exact in float64. Its sum with c is rounded to odd before it is rounded to float32,
    which is as good as rounding the exact sum (Boldo and Melquiond, Emulation of FMA, IEEE TC 2008, theorem 3).
    """
    p, q = np.broadcast_arrays(np.float64(a) * np.float64(b), np.float64(c))
    s = p + q
    back = s - p
    error = (p - (s - back)) + (q - back)
    bits = np.atleast_1d(s).view(np.int64)
    even = (bits & 1) == 0
    away = (np.atleast_1d(error) > 0) == (np.atleast_1d(s) > 0)
    odd = np.where((np.atleast_1d(error) != 0) & even, np.where(away, bits + 1, bits - 1), bits)
    result: np.ndarray = odd.view(np.float64).reshape(s.shape).astype(np.float32)
    return result


def global_average(x: Grid, out: Grid, count: int) -> np.float32:
    """Returns what a channel's sum is multiplied by (QLinearGlobalAveragePool): scale(x) / (scale(y) * count)."""
    return np.float32(np.float32(x.step) / (np.float32(out.step) * np.float32(count)))
