"""Choosing scale and zero point for a range: scale policy and zero-point policy, apart from how a range is found.

Units: ranges in the tensor's own unit, scales in float per integer step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError
from quantwright.numerics.qparams import QParams

ZERO_RANGE_SCALE = 2.0**-18  # what a range without extent gets (spec vai_q_pytorch 3.2 and 3.4)
SMALLEST_SCALE = 2.0**-126  # below float32's normal numbers 1/scale and x/scale lose their meaning


def choose_qparams(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec, *, include_zero: bool = True) -> QParams:
    """Returns scale and zero point of the grid that covers a range.

    Symmetric: the zero point is 0 and the larger side decides. An unsigned symmetric grid starts at 0, so what the
    range has below zero is cut. Asymmetric: the range is widened to hold 0 and the zero point is an integer of the
    grid, so 0.0 is exact and every runtime accepts it.

    Args:
        spec: an integer format; ``symmetric``, ``scale``, ``exponent``, ``fit``, ``narrow_range`` and ``min_scale`` are
            read.
        include_zero: False leaves an asymmetric range as it is (spec vai_q_pytorch 3.3); the zero point is clamped.

    Shapes:
        lo_G, hi_G: [G] with lo <= hi, any float dtype. The result holds [G]; scale is float64.
    """
    if not spec.is_integer or spec.scale == "derived":
        raise InputError(
            f"a range does not decide the scale of format {spec.format} with scale {spec.scale}",
            allowed="integer formats with scale float or power_of_two",
        )
    lo_G, hi_G = lo_G.double(), hi_G.double()
    if spec.symmetric is False:
        return _asymmetric(lo_G, hi_G, spec, include_zero)
    if spec.scale == "power_of_two" and spec.exponent in (None, "cover"):
        scale_G = torch.exp2(-fix_position(lo_G, hi_G, spec).double())
    else:
        scale_G = _stored(_bounded(_symmetric_step(lo_G, hi_G, spec), spec), spec)
    return QParams(scale=scale_G, zero_point=torch.zeros_like(scale_G, dtype=torch.int32))


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


def _stored(scale_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns what may be stored as scale: a power of two near it (``QuantSpec.exponent``), or its narrower float."""
    if spec.scale in ("float16", "bfloat16"):  # spec quark 1.6
        return scale_G.to(getattr(torch, spec.scale)).double()
    if spec.scale != "power_of_two":
        return scale_G
    exponent_G = torch.log2(scale_G.float().double())
    rounded_G = {"nearest": torch.round, "ceil": torch.ceil, "floor": torch.floor}[spec.exponent or ""](exponent_G)
    return _bounded(torch.exp2(rounded_G), spec)


def _amax(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec) -> Tensor:
    return torch.maximum(lo_G.abs(), hi_G.abs()) if spec.signed else hi_G.clamp(min=0.0)


def _bounded(scale_G: Tensor, spec: QuantSpec) -> Tensor:
    """Returns the scale with vanishing ones replaced and ``min_scale`` as the lower bound."""
    scale_G = torch.where(scale_G >= SMALLEST_SCALE, scale_G, torch.full_like(scale_G, ZERO_RANGE_SCALE))
    return scale_G.clamp(min=spec.min_scale) if spec.min_scale else scale_G


def _asymmetric(lo_G: Tensor, hi_G: Tensor, spec: QuantSpec, include_zero: bool) -> QParams:
    """Returns scale = (hi - lo) / (qmax - qmin) and zero point = qmin - round_half_even(lo / scale), clamped."""
    if include_zero:
        lo_G, hi_G = lo_G.clamp(max=0.0), hi_G.clamp(min=0.0)
    else:  # a constant has no extent of its own: let 0 in after all
        constant_G = hi_G <= lo_G
        lo_G, hi_G = lo_G.where(~constant_G, lo_G.clamp(max=0.0)), hi_G.where(~constant_G, hi_G.clamp(min=0.0))
        if spec.granularity is not None and spec.granularity.kind == "per_channel":
            lo_G, hi_G = lo_G.float(), hi_G.float()  # as the tool does; per tensor it calculates in double
    step_G = ((hi_G - lo_G) / (spec.qmax - spec.qmin)).double()
    if spec.scale == "power_of_two" and spec.exponent in (None, "cover"):
        scale_G = torch.exp2(-_position(step_G.float(), spec).double())
    else:
        scale_G = _stored(_bounded(step_G, spec), spec)
    zero_G = (spec.qmin - torch.round(lo_G / scale_G)).clamp(spec.qmin, spec.qmax)
    return QParams(scale=scale_G, zero_point=zero_G.to(torch.int32))
