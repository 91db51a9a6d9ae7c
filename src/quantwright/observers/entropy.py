"""The range whose coarse histogram tells most about the fine one: least Kullback-Leibler divergence.

Migacz, "8-bit inference with TensorRT" (GTC 2017), as vai_q_pytorch computes it (spec 3.3). Works on |x|; an asymmetric
grid gets its range cut at plus and minus the threshold. One group after the other, so per_channel takes its time.
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


class Entropy(HistogramObserver):
    """Returns the observer of least divergence."""

    exact_in_float32 = True

    @property
    def side(self) -> Side:
        """Returns what of the values is counted: sizes, except where the grid has no negative numbers."""
        return "positive" if self.spec.symmetric is not False and not self.spec.signed else "size"

    def exact_threshold(self, counts_K: Tensor, edges: Tensor) -> float:
        """Returns the edge of the last best candidate (spec vai_q_pytorch 3.3)."""
        candidates = range(int(self.params["bins"] * _START), self.params["bins"] + 1, _STRIDE)
        return float(edges[_best(counts_K.double(), self._levels(negative=True), candidates)])

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the range cut at the best threshold of each group."""
        limits = []
        for counts_K, low in zip(seen.counts_GK, seen.low_G, strict=True):
            last = int(counts_K.nonzero()[-1]) + 1
            levels = self._levels(negative=bool(low < 0))
            start = min(last, levels + (last - levels) % _STRIDE)  # the uncut range is always a candidate
            limits.append(_best(counts_K[:last].double(), levels, range(start, last + 1, _STRIDE)))
        threshold_G = torch.tensor(limits, dtype=torch.float64) * seen.width_G
        return seen.low_G.maximum(-threshold_G), seen.high_G.minimum(threshold_G)

    def _levels(self, negative: bool) -> int:
        """Returns how many integers of the grid stand for sizes."""
        one_sided = not self.spec.signed if self.spec.symmetric is not False else not negative
        return int(2 ** (self.spec.bits if one_sided else self.spec.bits - 1))


def _best(counts_K: Tensor, levels: int, candidates: range) -> int:
    """Returns the candidate with the least divergence; the last of several equal ones.

    The first bin takes the count of the second: the many exact zeros behind a ReLU would drown everything else.
    """
    counts_K = counts_K.clone()
    if counts_K.numel() > 1:
        counts_K[0] = counts_K[1]
    best, least = candidates[-1], float("inf")
    tails = counts_K.flip(0).cumsum(0).flip(0)
    for count in candidates:
        tail = float(tails[count]) if count < counts_K.numel() else 0.0
        divergence = _divergence(counts_K[:count], tail, levels)
        if divergence <= least:
            best, least = count, divergence
    return best


def _divergence(counts_I: Tensor, tail: float, levels: int) -> float:
    """Returns KL(P || Q): P the histogram cut here with the tail in its last bin, Q what ``levels`` spans leave of it.

    Each span's count is shared evenly by its occupied bins; both are normalised.
    """
    spans = torch.arange(levels + 1, dtype=torch.float64) * (counts_I.numel() / levels)
    bins = torch.arange(counts_I.numel(), dtype=torch.float64)
    span_I = (torch.bucketize(bins, spans, right=True) - 1).clamp_(max=levels - 1)
    used_I = counts_I > 0
    sums = torch.zeros(levels, dtype=torch.float64).index_add_(0, span_I, counts_I)
    users = torch.zeros(levels, dtype=torch.float64).index_add_(0, span_I, used_I.double())
    q_I = (sums / users.clamp(min=1.0))[span_I] * used_I
    p_I = counts_I.clone()
    p_I[-1] += tail
    p_I, q_I = p_I / p_I.sum(), q_I / q_I.sum()
    terms_I = torch.where(p_I > 0, p_I * torch.log(p_I / q_I), torch.zeros_like(p_I))
    divergence = float(terms_I.sum())
    return divergence if divergence == divergence else float("inf")


plugin = Entropy
