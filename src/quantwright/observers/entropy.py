"""The range whose coarse histogram tells most about the fine one: least Kullback-Leibler divergence.

Migacz, "8-bit inference with TensorRT" (GTC 2017), as vai_q_pytorch computes it (spec 3.3). Works on |x|; an asymmetric
grid gets its range cut at plus and minus the threshold.

A value that comes again and again (the background of an image, behind a layer one number per channel) is no density,
and a divergence that has to tell it from its neighbours cuts everything else away. TensorRT's practice is to ignore
the one at zero. ``histogram: streaming`` does so wherever it stands: no bin counts more than its neighbours on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.observers._histogram import HistogramObserver, Side, Streaming

PARAMS = {
    "bins": {"type": "int", "default": 2048, "min": 256, "max": 65536, "help": "histogram bins"},
    "histogram": {
        "type": "str",
        "default": "streaming",
        "choices": ["streaming", "exact"],
        "help": "over all batches, or vai_q_pytorch's of one batch (needs a statistic over batches)",
    },
}
_START = 0.75  # exact: the first candidate is bin 1536 of 2048 ...
_STRIDE = 16  # ... and every 16th after it
_MOST = 256  # streaming: how many candidates are tried
_NEIGHBOURS = 256  # streaming: this share of all bins, on either side, are a bin's neighbours


class Entropy(HistogramObserver):
    """Returns the observer of least divergence."""

    exact_in_float32 = True

    @property
    def side(self) -> Side:
        """Returns what of the values is counted: sizes, except where the grid has no negative numbers."""
        return "positive" if self.spec.symmetric is not False and not self.spec.signed else "size"

    def exact_threshold(self, counts_K: Tensor, edges: Tensor) -> float:
        """Returns the edge of the last of the best candidates (spec vai_q_pytorch 3.3)."""
        bins = self.params["bins"]
        ends_C = torch.arange(int(bins * _START), bins + 1, _STRIDE)
        return float(edges[_best(counts_K, ends_C, self._levels(negative=True))])

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the range cut at the best threshold of each group."""
        limits = []
        for counts_K, low in zip(seen.counts_GK, seen.low_G, strict=True):
            last = int(counts_K.nonzero()[-1]) + 1
            levels = self._levels(negative=bool(low < 0))
            stride = max(1, -(-(last - levels) // _MOST))
            ends_C = torch.arange(last, min(levels, last) - 1, -stride).flip(0)  # the uncut range is always among them
            limits.append(_best(_levelled(counts_K), ends_C, levels, fold=True))
        threshold_G = torch.tensor(limits, dtype=torch.float64) * seen.width_G
        return seen.low_G.maximum(-threshold_G), seen.high_G.minimum(threshold_G)

    def _levels(self, negative: bool) -> int:
        """Returns how many integers of the grid stand for sizes."""
        one_sided = not self.spec.signed if self.spec.symmetric is not False else not negative
        return int(2 ** (self.spec.bits if one_sided else self.spec.bits - 1))


def _levelled(counts_K: Tensor) -> Tensor:
    """Returns the counts, none larger than the average of its neighbours; what was counted at all keeps at least 1."""
    counts_K = counts_K.double()
    bins, reach = counts_K.numel(), max(1, counts_K.numel() // _NEIGHBOURS)
    at_K = torch.arange(bins)
    first_K, last_K = (at_K - reach).clamp_(min=0), (at_K + reach + 1).clamp_(max=bins)
    sums_K = _running(counts_K)
    around_K = (sums_K[last_K] - sums_K[first_K] - counts_K) / (last_K - first_K - 1)
    return counts_K.minimum(around_K.clamp_(min=1.0))


def _best(counts_K: Tensor, ends_C: Tensor, levels: int, fold: bool = False) -> int:
    """Returns the candidate end with the least divergence; the last of several equal ones.

    The first bin takes the count of the second: the many exact zeros behind a ReLU would drown everything else.
    """
    counts_K = counts_K.double()
    if counts_K.numel() > 1:
        counts_K[0] = counts_K[1]
    divergence_C = _divergences(counts_K, ends_C, levels, fold)
    return int(ends_C[(divergence_C <= divergence_C.min()).nonzero()[-1]])


def _divergences(counts_K: Tensor, ends_C: Tensor, levels: int, fold: bool) -> Tensor:
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
    sums_CL = _running(counts_K)[borders_CL].diff(dim=1)
    shares_CL = sums_CL / _running(used_K.double())[borders_CL].diff(dim=1).clamp_(min=1.0)
    total, head_C = counts_K.sum(), _running(counts_K)[ends_C]
    tail_C = total - head_C
    last_C = ends_C - 1
    if fold:
        last_C = torch.where(used_K, bins_K, torch.zeros_like(bins_K)).cummax(0).values[last_C]
    count_C = counts_K[last_C]
    share_C = shares_CL.gather(1, (last_C * levels // ends_C).unsqueeze(1)).squeeze(1) * (count_C > 0)
    with_tail_C = torch.xlogy(count_C + tail_C, count_C + tail_C) - torch.xlogy(count_C, count_C)
    p_log_p_C = _running(torch.xlogy(counts_K, counts_K))[ends_C] + with_tail_C
    p_log_q_C = torch.xlogy(sums_CL, shares_CL).sum(1) + torch.xlogy(tail_C, share_C)
    divergence_C = (p_log_p_C - p_log_q_C) / total - torch.log(total / head_C)
    return divergence_C.nan_to_num(nan=float("inf"))


def _running(values_K: Tensor) -> Tensor:
    """Returns the running sum, from 0: [K + 1]."""
    return torch.cat([values_K.new_zeros(1), values_K.cumsum(0)])


plugin = Entropy
