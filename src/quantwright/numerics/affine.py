"""The one formula: float <-> integer grid. Round first, then add the zero point, then clamp.

    q = clamp(round(x / scale) + zero_point, qmin, qmax)          y = (q - zero_point) * scale

Everything here goes through ``_centred``, which computes ``q - zero_point``: the zero point is folded into the bounds,
so rounding comes first by construction. ``arithmetic`` says how the division is done:

``divide``      x / float32(scale), as ONNX QuantizeLinear.
``reciprocal``  x * float32(1 / scale), as vai_q_pytorch (spec 3.2), whose step back is float32(1 / float32(1 / scale)).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from quantwright.config.spec import Granularity, QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics.formats import format_of
from quantwright.numerics.granularity import broadcast, group_count, group_view, ungroup
from quantwright.numerics.qparams import QParams
from quantwright.numerics.rounding import round_to_integer

Arithmetic = Literal["divide", "reciprocal"]
_DEFAULT = Granularity()
_VANISHED = 2.2e-308  # spec vai_q_pytorch 3.2: a scale this small is replaced ...
_REPLACEMENT = 2.0**-18  # ... by this one


def quantize(x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns the integers of the grid (int32; int64 for uint32), or the values in a float format's dtype.

    Shapes:
        x: any; the result has the same shape.
    """
    if not spec.is_integer:
        return format_of(spec).quantize(x, qparams, spec, arithmetic=arithmetic)
    qparams = needed(qparams, spec)
    g = spec.granularity or _DEFAULT
    with torch.no_grad():
        view = working_view(x, g)
        factors = _Factors.of(qparams, spec, arithmetic, view, g)
        centred = _centred(view, factors, spec)
        integer = torch.int64 if spec.qmax > 2**31 - 1 else torch.int32
        result = centred.to(integer).add_(_aligned(qparams.zero_point.to(view.device, integer), view, g))
        return ungroup(result, x.shape, g) if g.kind == "per_group" else result


def dequantize(q: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns (q - zero_point) * scale in float32.

    Shapes:
        q: any, integer; the result has the same shape.
    """
    if not spec.is_integer:
        return format_of(spec).dequantize(q, qparams, spec, arithmetic=arithmetic)
    qparams = needed(qparams, spec)
    g = spec.granularity or _DEFAULT
    view = group_view(q, g) if g.kind == "per_group" else q
    qparams = qparams.to(q.device)
    _, step_G = scales(qparams, g, arithmetic)
    result = (view - _aligned(qparams.zero_point, view, g)).float().mul_(_aligned(step_G, view, g))
    return ungroup(result, q.shape, g) if g.kind == "per_group" else result


def fake_quantize(
    x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide", out: Tensor | None = None
) -> Tensor:
    """Returns ``dequantize(quantize(x))`` in the dtype of ``x``, computed in float32 (float64 for float64).

    With gradients enabled the gradient passes straight through where ``x`` is inside the grid's range and is zero
    outside; without, ``out`` takes the result (``out=x`` works in place).

    Shapes:
        x: any; the result has the same shape.
    """
    if not spec.is_integer:
        return format_of(spec).fake_quantize(x, qparams, spec, arithmetic=arithmetic, out=out)
    qparams = needed(qparams, spec)
    if torch.is_grad_enabled() and x.requires_grad:
        if out is not None:
            raise StateError("out= cannot be used while a gradient is recorded", fix="use torch.no_grad(), or no out")
        result: Tensor = _StraightThrough.apply(x, qparams, spec, arithmetic)  # type: ignore[no-untyped-call]
        return result
    with torch.no_grad():
        return _fake_quantize(x, qparams, spec, arithmetic, out)


def _fake_quantize(
    x: Tensor,
    qparams: QParams,
    spec: QuantSpec,
    arithmetic: str,
    out: Tensor | None,
    inside: list[Tensor] | None = None,
) -> Tensor:
    """Returns the fake-quantized tensor; appends the mask of what is inside the range to ``inside`` when given."""
    g = spec.granularity or _DEFAULT
    view = working_view(x, g)
    factors = _Factors.of(qparams, spec, arithmetic, view, g)
    direct = out if out is not None and out.dtype == view.dtype and g.kind != "per_group" else None
    y = factors.back(_centred(view, factors, spec, direct, inside))
    if g.kind == "per_group":
        y = ungroup(y, x.shape, g)
        if inside:
            inside[0] = ungroup(inside[0], x.shape, g)
    if out is None:
        return y.to(x.dtype)
    return out if y is out else out.copy_(y)


class _StraightThrough(torch.autograd.Function):
    """The straight-through estimator: identity inside the range, zero outside (1308.3432, section 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qparams: QParams, spec: QuantSpec, arithmetic: str) -> Tensor:
        inside: list[Tensor] = []
        y = _fake_quantize(x, qparams, spec, arithmetic, None, inside)
        ctx.save_for_backward(inside[0])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


@dataclass(frozen=True, slots=True)
class _Factors:
    """Returns what the formula needs, as numbers (one group, CPU) or as tensors that broadcast against the value.

    Attributes:
        by: what x is divided by, or multiplied with when ``multiply``. step: float per integer step on the way back.
        lo, hi: qmin - zero_point and qmax - zero_point.
    """

    by: Tensor | float
    multiply: bool
    step: Tensor | float
    lo: Tensor | float
    hi: Tensor | float

    @classmethod
    def of(cls, qparams: QParams, spec: QuantSpec, arithmetic: str, x: Tensor, g: Granularity) -> _Factors:
        """Returns the factors for a tensor that ``working_view`` prepared."""
        qparams = _fitting(qparams, x, g)
        by_G, step_G = scales(qparams, g, arithmetic)
        zero_G = qparams.zero_point
        qmin, qmax = _grid(spec.format or "", bool(spec.narrow_range))
        multiply = arithmetic == "reciprocal"
        on_cpu = x.device.type == "cpu"  # elsewhere a number would be divided by as a multiplication, inexactly
        if by_G.numel() == 1 and on_cpu:
            zero = int(zero_G)
            return cls(float(by_G), multiply, float(step_G), _inside(qmin - zero), _inside(qmax - zero))
        by, step = _aligned(by_G, x, g), _aligned(step_G, x, g)
        if on_cpu and not bool(zero_G.any()):
            return cls(by, multiply, step, _inside(qmin), _inside(qmax))
        lo_G, hi_G = (qmin - zero_G.double()).to(x.dtype), (qmax - zero_G.double()).to(x.dtype)
        return cls(by, multiply, step, _aligned(lo_G, x, g), _aligned(hi_G, x, g))

    def back(self, centred: Tensor) -> Tensor:
        """Returns ``centred * step`` in place, with -0.0 made 0.0 as integers have only one zero."""
        if isinstance(self.step, float):
            return torch.add(centred.new_zeros(()), centred, alpha=self.step, out=centred)  # 0 + step * centred
        return centred.mul_(self.step).add_(0.0)


def _centred(
    x: Tensor, factors: _Factors, spec: QuantSpec, out: Tensor | None = None, inside: list[Tensor] | None = None
) -> Tensor:
    """Returns ``q - zero_point`` as floats: THE formula. Divide, round, and only then zero point and bounds."""
    scaled = torch.mul(x, factors.by, out=out) if factors.multiply else torch.div(x, factors.by, out=out)
    rounded = round_to_integer(scaled, spec.rounding or "half_even", out=scaled)
    if inside is not None:
        inside.append((rounded >= factors.lo) & (rounded <= factors.hi))
    lo, hi = factors.lo, factors.hi
    if isinstance(lo, Tensor) or isinstance(hi, Tensor):
        return torch.clamp(rounded, torch.as_tensor(lo), torch.as_tensor(hi), out=rounded)
    return rounded.clamp_(lo, hi)


def aligned_scales(
    qparams: QParams, x: Tensor, g: Granularity, arithmetic: str
) -> tuple[Tensor | float, Tensor | float]:
    """Returns ``scales`` as numbers (one group, CPU) or as tensors that broadcast against a ``working_view``."""
    by_G, step_G = scales(_fitting(qparams, x, g), g, arithmetic)
    if by_G.numel() == 1 and x.device.type == "cpu":
        return float(by_G), float(step_G)
    return _aligned(by_G, x, g), _aligned(step_G, x, g)


def _fitting(qparams: QParams, x: Tensor, g: Granularity) -> QParams:
    """Returns the QParams on the device of a tensor that ``working_view`` prepared.

    Raises:
        InputError: there are neither one nor as many scales as groups.
    """
    groups = x.shape[0] if g.kind == "per_group" else group_count(x.shape, g)
    if qparams.scale.numel() not in (1, groups):
        raise InputError(
            f"{qparams.scale.numel()} scales for a tensor of shape {list(x.shape)}",
            allowed=f"1, or {groups} with granularity {g}",
            fix="measure the QParams on a tensor of this shape and granularity",
        )
    return qparams if qparams.scale.device == x.device else qparams.to(x.device)


def scales(qparams: QParams, g: Granularity, arithmetic: str) -> tuple[Tensor, Tensor]:
    """Returns (what x is divided by or multiplied with, step on the way back), both float32.

    Shapes:
        both [G].
    """
    scale_G = qparams.whole_scale
    if arithmetic == "divide":
        step_G = scale_G.float()
        return step_G, step_G
    if arithmetic != "reciprocal":
        raise InputError(f"unknown arithmetic '{arithmetic}'", allowed="divide, reciprocal")
    scale_G = torch.where(scale_G <= _VANISHED, torch.full_like(scale_G, _REPLACEMENT), scale_G)
    if g.kind == "per_tensor":  # spec vai_q_pytorch 3.2: from the double
        inverse_G = scale_G.double().reciprocal().float()
    else:  # per channel: s -> f32(1/s) -> f32(1/.) -> f32(1/double(.))
        inverse_G = scale_G.float().reciprocal().reciprocal().double().reciprocal().float()
    return inverse_G, inverse_G.double().reciprocal().float()


def working_view(x: Tensor, g: Granularity) -> Tensor:
    """Returns ``x`` in the dtype it is computed in, as ``x_GN`` for groups."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return group_view(wide, g) if g.kind == "per_group" else wide


def _aligned(p_G: Tensor, view: Tensor, g: Granularity) -> Tensor:
    """Returns one number per group, broadcastable against what ``working_view`` returned."""
    if p_G.numel() == 1:
        return p_G.reshape(())
    return p_G.unsqueeze(-1) if g.kind == "per_group" else broadcast(p_G, view.shape, g)


@lru_cache(maxsize=256)
def _grid(format_name: str, narrow_range: bool) -> tuple[int, int]:
    spec = QuantSpec(format=format_name, narrow_range=narrow_range)
    return spec.qmin, spec.qmax


def _inside(bound: int) -> float:
    """Returns the bound as a float32 number that is not beyond it: 2**31 - 1 becomes 2147483520."""
    if abs(bound) <= 2**24:
        return float(bound)
    spacing = 1 << max(0, abs(bound).bit_length() - 24)
    return float((abs(bound) // spacing) * spacing * (1 if bound > 0 else -1))


def needed(qparams: QParams | None, spec: QuantSpec) -> QParams:
    """Returns the QParams, or raises StateError: there are none yet."""
    if qparams is None:
        raise StateError(f"format {spec.format} needs scale and zero point", fix="calibrate first, or pass qparams")
    return qparams
