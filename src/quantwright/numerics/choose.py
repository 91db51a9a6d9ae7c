"""Choosing scale and zero point for a range: scale policy and zero-point policy, apart from how a range is found.

Units: ranges in the tensor's own unit, scales in float per integer step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError
from quantwright.numerics.qparams import QParams
from quantwright.numerics.scales import POWERS, SMALLEST_SCALE, ZERO_RANGE_SCALE, bounded, element_scale, stored, within

__all__ = ["SMALLEST_SCALE", "ZERO_RANGE_SCALE", "choose_qparams", "fix_position"]


def choose_qparams(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec, *, include_zero: bool = True) -> QParams:
    """Returns scale and zero point of the grid that covers a range.

    Symmetric: the zero point is 0 and the larger side decides. An unsigned symmetric grid starts at 0, so what the
    range has below zero is cut. Asymmetric: the range is widened to hold 0 and the zero point is an integer of the
    grid, so 0.0 is exact and every runtime accepts it. A scaled format has no zero point.

    Args:
        spec: an integer or scaled format; of integers ``symmetric``, ``scale``, ``exponent``, ``fit``,
            ``narrow_range`` and ``min_scale`` are read, of the others ``scale``, ``exponent`` and ``min_scale``.
        include_zero: False leaves an asymmetric range as it is (spec vai_q_pytorch 3.3); the zero point is clamped.

    Shapes:
        lo_G, hi_G: [G] with lo <= hi, any float dtype. The result holds [G]; scale is float64.
    """
    if not spec.has_scale or spec.scale == "derived":
        raise InputError(
            f"a range does not decide the scale of format {spec.format} with scale {spec.scale}",
            allowed="formats that have a scale, and any scale but derived",
        )
    lo_G, hi_G = lo_G.double(), hi_G.double()
    if spec.is_scaled:
        return _symmetric(*element_scale(lo_G, hi_G, spec))
    if spec.symmetric is False:
        return _asymmetric(lo_G, hi_G, spec, include_zero)
    if spec.scale in POWERS and spec.exponent in (None, "cover"):
        return _symmetric(within(torch.exp2(-fix_position(lo_G, hi_G, spec).double()), spec), None)
    return _symmetric(*stored(bounded(_symmetric_step(lo_G, hi_G, spec), spec), spec))


def _symmetric(scale_G: Tensor, super_scale: Tensor | None) -> QParams:
    """Returns QParams without a zero point."""
    zero_G = torch.zeros_like(scale_G, dtype=torch.int32)
    return QParams(scale=scale_G, zero_point=zero_G, super_scale=super_scale)


def fix_position(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns p with scale 2**-p: the finest power of two whose grid, half a step beyond its ends, holds the range.

    Spec vai_q_pytorch 3.4, in float32 as there: step = max(lo / (-A - 0.5), hi / (A - 0.5)), p = floor(log2(1 / step)),
    18 for a range without extent; ``min_scale`` caps it. ``narrow_range`` has no influence.

    Shapes:
        lo_G, hi_G: [G]; result: [G] int32.
    """
    lowest = -(2 ** (spec.bits - 1)) if spec.signed else 0
    step_G = hi_G.float() / (spec.qmax + 0.5)
    if spec.signed:
        step_G = torch.maximum(step_G, lo_G.float() / (lowest - 0.5))
    return _position(step_G, spec)


def _position(step_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns floor(log2(1 / step)) within what float32 and ``min_scale`` allow."""
    safe_G = torch.where(step_G >= SMALLEST_SCALE, step_G, torch.full_like(step_G, ZERO_RANGE_SCALE))
    # log2 in float64, then float32: the correctly rounded float32 logarithm, the same on every machine
    p_G = torch.log2(safe_G.reciprocal().double()).float().floor()
    if spec.min_scale:
        p_G = p_G.clamp(max=float(torch.log2(torch.tensor(1.0 / spec.min_scale, dtype=torch.float64)).floor()))
    return p_G.to(torch.int32)


def _symmetric_step(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns the step of a symmetric grid for a range, by ``spec.fit``.

    ``span`` is Quark's and MQBench's (specs quark 2, mqbench_sophgo 4), ``sides`` vai_q_tensorflow2's (4.3).
    """
    if spec.fit == "span":
        return torch.maximum(-lo_G, hi_G).clamp(min=0.0) / ((spec.qmax - spec.qmin) / 2)
    if spec.fit == "sides" and spec.signed:
        return torch.maximum(lo_G / spec.qmin, hi_G / spec.qmax).clamp(min=0.0)
    return _amax(lo_G, hi_G, spec) / spec.qmax


def _amax(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec) -> Tensor:
    return torch.maximum(lo_G.abs(), hi_G.abs()) if spec.signed else hi_G.clamp(min=0.0)


def _asymmetric(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec, include_zero: bool) -> QParams:
    """Returns scale = (hi - lo) / (qmax - qmin) and zero point = qmin - round_half_even(lo / scale), clamped."""
    if include_zero:
        lo_G, hi_G = lo_G.clamp(max=0.0), hi_G.clamp(min=0.0)
    else:  # a constant has no extent of its own: let 0 in after all
        constant_G = hi_G <= lo_G
        lo_G, hi_G = lo_G.where(~constant_G, lo_G.clamp(max=0.0)), hi_G.where(~constant_G, hi_G.clamp(min=0.0))
        if spec.granularity is not None and spec.granularity.kind == "per_channel":
            lo_G, hi_G = lo_G.float(), hi_G.float()  # as the tool does; per tensor it calculates in double
    if spec.fit == "span":
        lo_G, hi_G = lo_G.float(), hi_G.float()  # as torch's observers do, and those made after them
    step_G = ((hi_G - lo_G) / (spec.qmax - spec.qmin)).double()
    above, anchor_G = None, None
    if spec.scale in POWERS and spec.exponent in (None, "cover"):
        scale_G = within(torch.exp2(-_position(step_G.float(), spec).double()), spec)
    else:
        step_G = bounded(step_G, spec)
        scale_G, above = stored(step_G, spec)
        # a power of two beside the range's own step clips, or leaves room, at both ends alike (spec quark 2)
        anchor_G = step_G if spec.scale in POWERS else None
    if anchor_G is None:
        anchor_G = scale_G if above is None else scale_G * above
    zero_G = (spec.qmin - torch.round(lo_G / anchor_G)).clamp(spec.qmin, spec.qmax)
    return QParams(scale=scale_G, zero_point=zero_G.to(torch.int32), super_scale=above)
