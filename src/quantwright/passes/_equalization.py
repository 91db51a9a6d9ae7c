"""The formulas of cross-layer equalization: which factor makes the ranges of two layers in a row alike.

Scaling output channel c of one layer by 1 / s_c and input channel c of the next by s_c keeps the function of the pair
when what stands between them is positively homogeneous, f(s x) = s f(x) for s > 0 (ReLU, pooling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantwright.numerics.roots import sqrt
from quantwright.passes._channels import input_range, output_range, per_output

# vai_q_pytorch (spec vai_q_pytorch 4.2). By how much a bias is shrunk before it counts as part of its channel's range:
# rows are (median above, or mean above, k), the first that holds wins; the last number is k when none does.
SMALL_BIAS = 10.0  # "small" means: the largest |bias| is below this ...
SMALL_RATIO = 20.0  # ... and below this many times the largest |weight|
SHRINK_SMALL: tuple[tuple[tuple[float, float, float], ...], float] = (((100.0, 1000.0, 5.0),), 2.0)
SHRINK_LARGE: tuple[tuple[tuple[float, float, float], ...], float] = (((30.0, 500.0, 20.0), (15.0, 100.0, 10.0)), 5.0)
TINY_WEIGHT = 1e-7  # weights count as at least this when biases are compared with them
MIN_RANGE_SUM = 0.5  # channels whose two ranges sum to less than this are left alone

KERAS_LIMIT = 10.0  # vai_q_tensorflow2 (spec vai_q_tensorflow2 5.1): no channel is scaled by more in one step

# Published DFQ (Nagel et al. 2019, arXiv 1906.04721, section 4.1)
MAX_SWEEPS = 200  # sweeps over all pairs
TOLERANCE = 1e-3  # converged when no factor of a sweep is further than this from 1


def _median(values: Tensor) -> float:
    """Returns the median; of an even count the mean of the two in the middle."""
    flat = values.flatten()
    upper = flat.kthvalue(flat.numel() // 2 + 1).values
    lower = flat.kthvalue((flat.numel() - 1) // 2 + 1).values
    return float((lower + upper) / 2)


def bias_shrink(w_GOIK: Tensor, bias: Tensor) -> float:
    """Returns k: biases count as ``|bias| / k`` in the range of their channel (spec vai_q_pytorch 4.2).

    Shapes:
        w_GOIK: [G, O, I, K]. bias: [G * O].
    """
    magnitude = w_GOIK.abs()
    largest = float(bias.abs().max())
    zero = magnitude == 0
    if zero.any():  # an exact zero counts as its channel's smallest other weight
        least_GO11 = magnitude.masked_fill(zero, torch.inf).amin((2, 3), keepdim=True)
        bias = bias.masked_fill(torch.isinf(least_GO11).flatten(), 0.0)
        magnitude = torch.where(zero, least_GO11.nan_to_num(posinf=TINY_WEIGHT), magnitude)
    magnitude = magnitude.clamp_min(TINY_WEIGHT)
    ratio = per_output(bias.abs(), w_GOIK) / magnitude
    median, mean = _median(ratio), float(ratio.mean())
    small = largest < SMALL_BIAS and largest / float(magnitude.max()) < SMALL_RATIO
    rows, otherwise = SHRINK_SMALL if small else SHRINK_LARGE
    return next((k for over_median, over_mean, k in rows if median > over_median or mean > over_mean), otherwise)


def vitis_factors(first_GOIK: Tensor, bias: Tensor | None, second_GOIK: Tensor) -> Tensor:
    """Returns s of one pair as vai_q_pytorch computes it: first / s, bias / s, second * s (spec vai_q_pytorch 4.2).

    Shapes:
        first_GOIK, second_GOIK: the two weights; bias: [C] of the first; result: [C], C = outputs of the first.
    """
    r0 = output_range(first_GOIK)
    if bias is not None:
        alive = r0 != 0  # a channel without weights has no range, whatever its bias
        r0 = torch.maximum(r0, bias.abs() / bias_shrink(first_GOIK, bias) * alive)
    r1 = input_range(second_GOIK)
    middle = sqrt(r0 * r1)
    ones = torch.ones_like(r0)
    factors = torch.where(middle != 0, r0 / middle, ones)
    return torch.where(r0 + r1 < MIN_RANGE_SUM, ones, factors)


def keras_factors(
    first_GOIK: Tensor, bias: Tensor | None, second_GOIK: Tensor, *, balance: str, threshold: float
) -> Tensor:
    """Returns s of one pair as vai_q_tensorflow2 computes it (spec vai_q_tensorflow2 5.1); it multiplies by 1 / s.

    Args:
        balance: ``max`` or ``avg``: what of a channel's magnitudes is its range; the bias is one of them.
        threshold: channels whose two largest magnitudes sum to less are left alone.

    Shapes:
        first_GOIK, second_GOIK: the two weights; bias: [C] of the first; result: [C], C = outputs of the first.
    """
    head_CN = first_GOIK.abs().flatten(0, 1).flatten(1)
    if bias is not None:
        head_CN = torch.cat([head_CN, bias.abs().unsqueeze(1)], 1)
    tail_CN = second_GOIK.abs().transpose(1, 2).flatten(0, 1).flatten(1)
    largest_C = head_CN.amax(1) + tail_CN.amax(1)
    head_C, tail_C = (n.amax(1) if balance == "max" else n.mean(1) for n in (head_CN, tail_CN))
    scale_C = sqrt(tail_C / head_C.clamp(min=1e-30)).clamp(1.0 / KERAS_LIMIT, KERAS_LIMIT)
    return torch.where(largest_C < threshold, torch.ones_like(scale_C), scale_C).reciprocal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalized:
    """Returns what the iteration found: one tensor of factors per pair, the sweeps it took, and the last step."""

    factors: tuple[Tensor, ...]
    sweeps: int
    last_step: float


def dfq_factors(
    ranges_GOI: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    *,
    sweeps: int = MAX_SWEEPS,
    tolerance: float = TOLERANCE,
) -> Equalized:
    """Returns the factors s of all pairs, iterated until they no longer change (arXiv 1906.04721, eq. 11).

    Only the ranges are iterated; the weights are scaled once, by the result. A depthwise layer in the middle of three
    needs no formula of its own: the two pairs converge to r1 = r2 = r3 per channel.

    Args:
        ranges_GOI: per layer the largest magnitude over kernel positions; scaled in place.
        pairs: (index of the first layer, index of the second), in the order of execution.
    """
    totals = [torch.ones(ranges_GOI[i].shape[0] * ranges_GOI[i].shape[1], dtype=torch.float64) for i, _ in pairs]
    step, done = 0.0, 0
    while done < sweeps and (done == 0 or step > tolerance):
        step, done = 0.0, done + 1
        for total, (i, j) in zip(totals, pairs, strict=True):
            first, second = ranges_GOI[i], ranges_GOI[j]
            r1, r2 = first.amax(2).flatten(), second.amax(1).flatten()
            # s = sqrt(r1 r2) / r2, so that r1 / s = r2 s; a channel that is dead on one side stays as it is
            s = torch.where((r1 > 0) & (r2 > 0), sqrt(r1) / sqrt(r2), torch.ones_like(r1))
            first.div_(s.view(first.shape[0], first.shape[1], 1))
            second.mul_(s.view(second.shape[0], 1, second.shape[2]))
            total.mul_(s)
            step = max(step, float((s - 1).abs().max()))
    return Equalized(factors=tuple(totals), sweeps=done, last_step=step)
