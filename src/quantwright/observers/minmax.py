"""The smallest and the largest value seen: nothing is clipped."""

from __future__ import annotations

from torch import Tensor

from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.qparams import QParams
from quantwright.observers import extent
from quantwright.observers._extremes import WidestObserver

PARAMS = {
    "include_zero": {
        "type": "bool",
        "default": True,
        "help": "widen an asymmetric range to hold 0; false is how vai_q_pytorch chooses (spec 3.3)",
    },
}


class MinMax(WidestObserver):
    """Returns the observer of the full range; merging shards is exact."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch."""
        self.widen(*extent(x_GN))

    def qparams_of(self, low_G: Tensor, high_G: Tensor) -> QParams:
        """Returns scale and zero point for a range."""
        return choose_qparams(low_G, high_G, self.spec, include_zero=self.params["include_zero"])


plugin = MinMax
