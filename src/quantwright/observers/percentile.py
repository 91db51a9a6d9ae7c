"""The range that holds a percentage of all values; the rest is clipped.

``histogram: streaming``: the smallest bin edge that has at least ``percentile`` % of the values below it. Symmetric
grids count |x|; asymmetric ones clip at most 100 - percentile at either end.
``histogram: exact``: vai_q_pytorch's own (spec 3.3), the left edge of that bin in one batch's histogram.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.observers._histogram import HistogramObserver, Streaming

PARAMS = {
    "percentile": {
        "type": "float",
        "default": 99.99,
        "min": 0.0,
        "max": 100.0,
        "help": "how much of the data the range holds, in percent",
    },
    "bins": {"type": "int", "default": 2048, "min": 16, "max": 1048576, "help": "histogram bins"},
    "histogram": {
        "type": "str",
        "default": "streaming",
        "choices": ["streaming", "exact"],
        "help": "over all batches, or vai_q_pytorch's of one batch (needs a statistic over batches)",
    },
}


class Percentile(HistogramObserver):
    """Returns the observer of a percentile."""

    exact_in_float32 = True

    def exact_threshold(self, counts_K: Tensor, edges: Tensor) -> float:
        """Returns the left edge of the first bin that the percentage is reached in (spec vai_q_pytorch 3.3)."""
        if self.params["percentile"] >= 100.0:
            return float(edges[-1])
        share_K = (counts_K / counts_K.sum()).double().cumsum(0)
        index = int(torch.searchsorted(share_K, self.params["percentile"] / 100))
        return float(edges[index])

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the range, never wider than the values seen."""
        needed_G = seen.counts_GK.sum(1).double() * (self.params["percentile"] / 100)
        highest_G = _edge(seen.counts_GK, needed_G, seen).minimum(seen.high_G.maximum(-seen.low_G))
        if seen.side != "both":
            return seen.low_G.maximum(-highest_G), seen.high_G.minimum(highest_G)
        from_below_G = -_edge(seen.counts_GK.flip(1), needed_G, seen)
        return from_below_G.clamp(min=seen.low_G), highest_G.minimum(seen.high_G)


def _edge(counts_GK: Tensor, needed_G: Tensor, seen: Streaming) -> Tensor:
    """Returns the right edge of the first bin up to which ``needed`` values were counted."""
    below_GK = counts_GK.cumsum(1).double()
    # 100 % of n values is n values, whatever the rounding of the product
    index_G = (below_GK < needed_G.unsqueeze(1) * (1 - 1e-12)).sum(1)
    return (index_G + seen.first + 1) * seen.width_G


plugin = Percentile
