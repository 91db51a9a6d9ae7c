"""Mean plus and minus some standard deviations, and never less than the smallest and largest value.

MQBench's ClipStdObserver (spec mqbench_sophgo 4), whose name says the opposite: it only ever widens a range. Of several
batches the widest range counts; statistic ``last`` takes each alone, as the tool does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.observers import extent
from quantwright.observers._extremes import WidestObserver

PARAMS = {
    "deviations": {"type": "float", "default": 2.6, "min": 0.0, "max": 1000.0, "help": "how many standard deviations"},
}


class ClipStd(WidestObserver):
    """Returns the observer of a range of standard deviations."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch."""
        low_G, high_G = extent(x_GN)
        wide_GN = x_GN.float().contiguous()  # sums of float32 in one order, whatever the layout
        if wide_GN.shape[1] > 1:
            around_G, spread_G = wide_GN.mean(1), wide_GN.std(1) * self.params["deviations"]
            low_G = torch.minimum(low_G, (around_G - spread_G).double())
            high_G = torch.maximum(high_G, (around_G + spread_G).double())
        self.widen(low_G, high_G)


plugin = ClipStd
