"""Grids of the integer machine: how real values become stored integers, and integers are rounded. Nothing of it is
shared with the simulation, which this proves; what is shared is data: the plan, the QParams, the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from quantwright.config.spec import Granularity, QuantSpec
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics.granularity import channel_axis
from quantwright.numerics.qparams import QParams
from quantwright.targets import Target

_VANISHED, _REPLACEMENT = 2.2e-308, 2.0**-18  # vai_q_pytorch 3.2: a scale this small is replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Returns the integers an activation is stored as, in the plan's words.

    Attributes:
        by: what a real value is divided by, or multiplied with when ``multiply``; a float32 number.
        step: float per integer step, a float32 number.
        zero: the integer that means 0.
        moved: what the runtime's stored integers are larger by than these (``Kernels.shift``).
    """

    by: float
    multiply: bool
    step: float
    zero: int
    qmin: int
    qmax: int
    rounding: str
    moved: int = 0

    @property
    def bits(self) -> int:
        """Returns the bits that hold the integers."""
        return (self.qmax - self.qmin).bit_length()

    @property
    def low(self) -> int:
        """Returns the lowest ``q - zero``."""
        return self.qmin - self.zero

    @property
    def high(self) -> int:
        """Returns the highest ``q - zero``."""
        return self.qmax - self.zero

    @property
    def dtype(self) -> torch.dtype:
        """Returns the smallest integer dtype that holds the integers."""
        return storage(self.qmin, self.qmax)

    @property
    def unit(self) -> Fraction:
        """Returns the step as the exact number it is: every float is a fraction of a power of two."""
        return Fraction(self.step)


def storage(low: int, high: int) -> torch.dtype:
    """Returns the smallest integer dtype for ``low`` to ``high``."""
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32):
        info = torch.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return dtype
    return torch.int64


def grid_of(quantizer: Quantizer, target: Target) -> Grid | None:
    """Returns the grid of an activation: integers, one fixed scale; None for values that are not on one."""
    spec, qparams = quantizer.spec, quantizer.qparams
    per_tensor = spec.granularity is None or spec.granularity.kind == "per_tensor"
    if not spec.is_integer or not per_tensor or qparams is None or qparams.scale.numel() != 1:
        return None
    if spec.rounding == "stochastic":
        return None
    by_G, step_G = factors(qparams, per_tensor=True, arithmetic=quantizer.arithmetic)
    return Grid(
        by=float(by_G[0]), multiply=quantizer.arithmetic == "reciprocal", step=float(step_G[0]),
        zero=int(qparams.zero_point), qmin=spec.qmin, qmax=spec.qmax, rounding=spec.rounding or "half_even",
        moved=target.kernels.shift(spec),
    )  # fmt: skip


def factors(qparams: QParams, *, per_tensor: bool, arithmetic: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (what is divided by or multiplied with, step on the way back), float32 [G]; vai_q_pytorch 3.2."""
    scale_G = qparams.scale.detach().cpu().double().numpy().reshape(-1)
    if qparams.super_scale is not None:
        scale_G = scale_G * float(qparams.super_scale)
    if arithmetic == "divide":
        single_G = scale_G.astype(np.float32)
        return single_G, single_G
    scale_G = np.where(scale_G <= _VANISHED, _REPLACEMENT, scale_G)
    one = np.float32(1.0)
    if per_tensor:
        by_G = (1.0 / scale_G).astype(np.float32)
    else:
        by_G = (1.0 / (one / (one / scale_G.astype(np.float32))).astype(np.float64)).astype(np.float32)
    return by_G, (1.0 / by_G.astype(np.float64)).astype(np.float32)


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Returns the stored integers of a real tensor: scaled in float32, rounded, saturated.

    Shapes:
        x: any; the result has the same shape, in ``grid.dtype``.
    """
    scaled = x.float() * grid.by if grid.multiply else x.float() / grid.by
    return round_float(scaled, grid.rounding).clamp_(grid.low, grid.high).add_(grid.zero).to(grid.dtype)


def dequantize(q: Tensor, grid: Grid) -> Tensor:
    """Returns the real values of stored integers, float32."""
    return centred(q, grid.zero).float().mul_(grid.step)


def centred(q: Tensor, zero: int) -> Tensor:
    """Returns ``q - zero``, int32 (int64 for wider integers)."""
    wide = q.to(torch.int64 if q.dtype == torch.int64 else torch.int32)
    if not zero:
        return wide
    return wide - zero if wide is q else wide.sub_(zero)


def round_float(x: Tensor, mode: str) -> Tensor:
    """Returns ``x`` rounded to whole numbers; float64 holds a float32 plus a half exactly."""
    if mode == "half_even":
        return torch.round(x)
    wide = x.double()
    if mode == "half_up":
        wide = torch.floor(wide + 0.5)
    elif mode == "half_away":
        wide = torch.trunc(wide + torch.copysign(torch.full_like(wide, 0.5), wide))
    elif mode == "half_down":  # toward zero: what is beyond a half moves on
        wide = torch.copysign(torch.ceil(wide.abs() - 0.5), wide)
    else:
        wide = {"floor": torch.floor, "ceil": torch.ceil, "toward_zero": torch.trunc}[mode](wide)
    return wide.to(x.dtype)


def round_shift(acc: Tensor, shift: int, mode: str) -> Tensor:
    """Returns ``acc / 2**shift`` rounded, by shifts and additions of integers.

    Shapes:
        acc: any integer tensor with room for a half more; the result has the same shape and dtype.
    """
    if shift <= 0:
        return acc << -shift if shift else acc
    half = 1 << (shift - 1)
    if mode == "half_up":
        return (acc + half).bitwise_right_shift_(shift)
    if mode == "floor":
        return acc >> shift
    if mode == "ceil":
        return -((-acc) >> shift)
    if mode == "half_away":
        return torch.where(acc < 0, -((-acc + half) >> shift), (acc + half) >> shift)
    if mode == "half_down":
        return torch.where(acc < 0, (acc + half) >> shift, -((-acc + half) >> shift))
    if mode == "toward_zero":
        return torch.where(acc < 0, -((-acc) >> shift), acc >> shift)
    whole = acc >> shift
    rest = acc - (whole << shift)
    up = (rest > half) | ((rest == half) & ((whole & 1) == 1))
    return whole + up.to(acc.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Returns a parameter as integers.

    Shapes:
        q: as the parameter, int64. zero_C, step_C: [1] or [C]; step_C float32.
    """

    q: Tensor
    zero_C: Tensor
    step_C: Tensor
    axis: int

    @property
    def centred(self) -> Tensor:
        """Returns ``q - zero point``, int64."""
        if self.zero_C.numel() == 1:
            return self.q - self.zero_C
        return self.q - self.zero_C.reshape(self._lay())

    @property
    def real(self) -> Tensor:
        """Returns the integers times their steps, float32."""
        step = self.step_C.reshape(()) if self.step_C.numel() == 1 else self.step_C.reshape(self._lay())
        return self.centred.float() * step

    def _lay(self) -> list[int]:
        return [-1 if d == self.axis else 1 for d in range(self.q.dim())]


def parameter(quantizer: Quantizer, real: Tensor) -> Fixed | None:
    """Returns a weight or bias as integers; None when it is none (float formats, groups, no QParams)."""
    spec, qparams = quantizer.spec, quantizer.qparams
    g = spec.granularity or Granularity()
    if not spec.is_integer or qparams is None or g.kind not in ("per_tensor", "per_channel") or quantizer.dynamic:
        return None
    if spec.rounding == "stochastic" or qparams.super_scale is not None:
        return None
    single = g.kind == "per_tensor"
    axis = 0 if single else channel_axis(real.shape, g)
    by_G, step_G = factors(qparams, per_tensor=single, arithmetic=quantizer.arithmetic)
    zero_G = qparams.zero_point.detach().cpu().long().reshape(-1)
    lay = [-1 if d == axis and by_G.size > 1 else 1 for d in range(max(real.dim(), 1))]
    by = torch.from_numpy(by_G).reshape(lay if real.dim() else ())
    x = real.detach().cpu().float()
    scaled = x * by if quantizer.arithmetic == "reciprocal" else x / by
    zero = zero_G.reshape(lay if zero_G.numel() > 1 else ())
    q = (round_float(scaled, spec.rounding or "half_even").double() + zero).clamp_(spec.qmin, _top(spec)).long()
    return Fixed(q=q, zero_C=zero_G, step_C=torch.from_numpy(step_G.copy()), axis=axis)


def _top(spec: QuantSpec) -> int:
    """Returns the highest integer a parameter saturates at: the highest float32 that is not beyond the format's end."""
    if spec.qmax < 1 << 24:
        return spec.qmax
    spacing = 1 << (spec.qmax.bit_length() - 24)
    return spec.qmax // spacing * spacing


def dyadic(value: float | Fraction) -> tuple[int, int] | None:
    """Returns (odd or zero m, n) with value = m / 2**n, None when there are none."""
    exact = Fraction(value)
    below = exact.denominator
    if below & (below - 1):
        return None
    m, n = exact.numerator, below.bit_length() - 1
    while m and m % 2 == 0:
        m, n = m // 2, n - 1
    return m, n


def is_power_of_two(step: float) -> bool:
    """Returns whether a step is a power of two."""
    return step > 0 and math.frexp(step)[0] == 0.5
