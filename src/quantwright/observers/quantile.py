"""A quantile of |x| in one batch's histogram, at the centre of its bin; neither end lies beyond the values.

MQBench's EMAQuantileObserver (spec mqbench_sophgo 4), which averages over batches: statistic ``ema``. Of several
batches under one range the widest counts. ``percentile`` counts all batches in one histogram instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.observers import extent
from quantwright.observers._extremes import WidestObserver

PARAMS = {
    "quantile": {
        "type": "float",
        "default": 0.99999,
        "min": 0.0,
        "max": 1.0,
        "help": "how much of the data lies inside, as a share",
    },
    "bins": {"type": "int", "default": 2048, "min": 16, "max": 1048576, "help": "histogram bins"},
}


class Quantile(WidestObserver):
    """Returns the observer of a quantile of |x|."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch."""
        low_G, high_G = extent(x_GN)
        reach_G = torch.maximum(-low_G, high_G)
        cut_G = torch.stack([self._cut(row_N, float(reach)) for row_N, reach in zip(x_GN, reach_G, strict=True)])
        cut_G = cut_G.to(low_G.device)
        self.widen(torch.maximum(low_G, -cut_G), torch.minimum(high_G, cut_G))

    def _cut(self, row_N: Tensor, reach: float) -> Tensor:
        """Returns the centre of the first bin of [0, reach] up to which the quantile of the values was counted."""
        bins = self.params["bins"]
        counts_K = torch.histc(row_N.detach().abs().float(), bins=bins, min=0.0, max=reach)
        needed = self.params["quantile"] * row_N.numel()
        reached_K = counts_K.double().cumsum(0) >= needed
        if reach <= 0.0 or not bool(reached_K.any()):
            return torch.tensor(reach, dtype=torch.float64)
        return torch.tensor((int(reached_K.int().argmax()) + 0.5) * (reach / bins), dtype=torch.float32).double()


plugin = Quantile
