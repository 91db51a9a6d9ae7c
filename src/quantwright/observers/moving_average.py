"""An exponential moving average of each batch's smallest and largest value: outlier batches fade.

Jacob et al., 1712.05877, section 3.1. The result depends on the order of the batches.
"""

from __future__ import annotations

from torch import Tensor

from quantwright.observers import check_groups, extent
from quantwright.observers._extremes import ExtremesObserver

PARAMS = {
    "constant": {
        "type": "float",
        "default": 0.01,
        "min": 0.0,
        "max": 1.0,
        "help": "weight of a new batch; 1 keeps the last batch only, 0 the first",
    },
}


class MovingAverage(ExtremesObserver):
    """Returns the observer of a smoothed range."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch: range += constant * (range of the batch - range)."""
        low_G, high_G = extent(x_GN)
        if self.low_G is None or self.high_G is None:
            self.low_G, self.high_G = low_G, high_G
            return
        check_groups(self.low_G.numel(), low_G.numel())
        self.low_G = self.low_G.lerp(low_G, self.params["constant"])
        self.high_G = self.high_G.lerp(high_G, self.params["constant"])


plugin = MovingAverage
