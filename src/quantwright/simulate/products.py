"""Weights and biases as whole numbers, and what keeps their sums of products exact in float32.

A sum of whole numbers is exact in float32, in any order, while no partial sum can reach 2**24. The bound is worked out
per output channel from the weights that are there. Where it is not kept, the input channels are cut in two: the sum of
two exact numbers is rounded once, just as a runtime rounds its int32 accumulator to float32. Where that is not enough
either, float64 holds the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantwright.config.spec import Granularity
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.ops import LayerInfo
from quantwright.numerics import affine
from quantwright.numerics.granularity import broadcast, channel_axis
from quantwright.simulate.grids import Grid
from quantwright.simulate.kernels import EXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Returns a weight on its grid.

    Shapes:
        whole: as the weight, ``q - zero_point`` in float32. step_C: [C] or [1], float per integer step.
    """

    whole: Tensor
    step_C: Tensor


def weight_of(quantizer: Quantizer, real: Tensor, axis: int) -> Weight | None:
    """Returns the weight as whole numbers; None when integer kernels do not take it.

    They take at most 8 bits and one scale, or one per output channel (``axis``).
    """
    spec, qparams = quantizer.spec, quantizer.qparams
    if not spec.is_integer or spec.bits > 8 or quantizer.dynamic or qparams is None:
        return None
    g = spec.granularity or Granularity()
    if g.kind != "per_tensor" and not (g.kind == "per_channel" and channel_axis(real.shape, g) == axis):
        return None
    q = affine.quantize(real, qparams, spec, arithmetic=quantizer.arithmetic)
    whole = (q - broadcast(qparams.zero_point.to(q.device), q.shape, g)).float()
    return Weight(whole=whole, step_C=affine.scales(qparams, g, quantizer.arithmetic)[1].to(q.device))


def bias_of(quantizer: Quantizer | None, real: Tensor, step_C: Tensor) -> Tensor | None:
    """Returns a bias as integers in units of the accumulator; None when it is in others (a reused layer's).

    Shapes:
        real: [C]. step_C: [C] or [1], float32. Result: [C], float64.
    """
    if quantizer is None or quantizer.spec.scale != "derived" or quantizer.qparams is None:
        return None
    if not torch.equal(quantizer.qparams.scale.float().to(step_C.device), step_C.reshape(-1)):
        return None
    return affine.quantize(real, quantizer.qparams, quantizer.spec, arithmetic=quantizer.arithmetic).double()


def largest_sum(whole: Tensor, channel: int, x: Grid, bias: Tensor | None) -> float:
    """Returns a bound that no partial sum of products can exceed in size.

    Shapes:
        whole: a weight, or the part of it that is summed up; bias: [C] or None.
    """
    rows = whole.double().movedim(channel, 0).flatten(1)
    up, down = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1).neg()
    sums = torch.maximum(up * x.high - down * x.low, down * x.high - up * x.low)
    if bias is None:
        return float(sums.max())
    return float((sums + bias.abs()).max() if bias.shape == sums.shape else sums.max() + bias.abs().max())


def cut(info: LayerInfo, whole: Tensor, x: Grid, bias: Tensor | None) -> int | None:
    """Returns how many input channels the first of two exact halves has; None when halves are not exact either."""
    count = whole.shape[info.input_axis]
    if info.groups > 1 or info.transposed or count < 2:
        return None
    head = count // 2
    first = whole.narrow(info.input_axis, 0, head)
    second = whole.narrow(info.input_axis, head, count - head)
    sums = largest_sum(first, info.channel_axis, x, None), largest_sum(second, info.channel_axis, x, bias)
    return head if max(sums) < EXACT else None


def beside(per_channel: Tensor, info: LayerInfo) -> Tensor:
    """Returns one number per output channel, shaped to broadcast against the layer's output."""
    return per_channel.reshape(-1, *(1,) * info.spatial) if per_channel.numel() > 1 and info.spatial else per_channel
