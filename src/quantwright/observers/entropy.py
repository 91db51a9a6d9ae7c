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

from quantwright.observers._by_torch import Side
from quantwright.observers._divergence import best, running
from quantwright.observers._histogram import HistogramObserver, Streaming

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
        return float(edges[best(counts_K, ends_C, self._levels(negative=True))])

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the range cut at the best threshold of each group."""
        limits = []
        for counts_K, low in zip(seen.counts_GK, seen.low_G, strict=True):
            last = int(counts_K.nonzero()[-1]) + 1
            levels = self._levels(negative=bool(low < 0))
            stride = max(1, -(-(last - levels) // _MOST))
            ends_C = torch.arange(last, min(levels, last) - 1, -stride).flip(0)  # the uncut range is always among them
            limits.append(best(_levelled(counts_K), ends_C, levels, fold=True))
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
    sums_K = running(counts_K)
    around_K = (sums_K[last_K] - sums_K[first_K] - counts_K) / (last_K - first_K - 1)
    return counts_K.minimum(around_K.clamp_(min=1.0))


plugin = Entropy
