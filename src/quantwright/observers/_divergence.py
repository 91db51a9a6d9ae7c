"""The Kullback-Leibler divergence of a histogram from what a coarser grid leaves of it, for many cuts at once."""

from __future__ import annotations

import torch
from torch import Tensor


def best(counts_K: Tensor, ends_C: Tensor, levels: int, fold: bool = False) -> int:
    """Returns the candidate end with the least divergence; the last of several equal ones.

    The first bin takes the count of the second: the many exact zeros behind a ReLU would drown everything else.
    """
    counts_K = counts_K.double()
    if counts_K.numel() > 1:
        counts_K[0] = counts_K[1]
    divergence_C = divergences(counts_K, ends_C, levels, fold)
    return int(ends_C[(divergence_C <= divergence_C.min()).nonzero()[-1]])


def divergences(counts_K: Tensor, ends_C: Tensor, levels: int, fold: bool) -> Tensor:
    """Returns KL(P || Q) for every candidate end; infinite where P has something and Q nothing.

    P: the histogram before the end, with everything behind it added to its last bin (``fold``: to its last occupied
    one). Q: what ``levels`` equal spans leave of it, each span's count shared evenly by its occupied bins. With running
    sums over the bins, sum p log p and sum p log q need one term per span, not one per bin.

    Shapes:
        counts_K: [K], float64. ends_C: [C], bins before the end. Result: [C].
    """
    used_K, bins_K = counts_K > 0, torch.arange(counts_K.numel())
    ends_C1 = ends_C.unsqueeze(1)
    borders_CL = (torch.arange(levels + 1) * ends_C1 + levels - 1) // levels  # bin k is in span floor(k levels / end)
    sums_CL = running(counts_K)[borders_CL].diff(dim=1)
    shares_CL = sums_CL / running(used_K.double())[borders_CL].diff(dim=1).clamp_(min=1.0)
    total, head_C = counts_K.sum(), running(counts_K)[ends_C]
    tail_C = total - head_C
    last_C = ends_C - 1
    if fold:
        last_C = torch.where(used_K, bins_K, torch.zeros_like(bins_K)).cummax(0).values[last_C]
    count_C = counts_K[last_C]
    share_C = shares_CL.gather(1, (last_C * levels // ends_C).unsqueeze(1)).squeeze(1) * (count_C > 0)
    with_tail_C = torch.xlogy(count_C + tail_C, count_C + tail_C) - torch.xlogy(count_C, count_C)
    p_log_p_C = running(torch.xlogy(counts_K, counts_K))[ends_C] + with_tail_C
    p_log_q_C = torch.xlogy(sums_CL, shares_CL).sum(1) + torch.xlogy(tail_C, share_C)
    divergence_C = (p_log_p_C - p_log_q_C) / total - torch.log(total / head_C)
    return divergence_C.nan_to_num(nan=float("inf"))


def running(values_K: Tensor) -> Tensor:
    """Returns the running sum, from 0: [K + 1]."""
    return torch.cat([values_K.new_zeros(1), values_K.cumsum(0)])
