"""The smallest and the largest value seen: nothing is clipped."""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.qparams import QParams
from quantwright.observers import check_groups, extent
from quantwright.observers._extremes import ExtremesObserver

PARAMS = {
    "include_zero": {
        "type": "bool",
        "default": True,
        "help": "widen an asymmetric range to hold 0; false is how vai_q_pytorch chooses (spec 3.3)",
    },
}


class MinMax(ExtremesObserver):
    """Returns the observer of the full range; merging shards is exact."""

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch."""
        self._widen(*extent(x_GN))

    def _widen(self, low_G: Tensor, high_G: Tensor) -> None:
        if self.low_G is None or self.high_G is None:
            self.low_G, self.high_G = low_G, high_G
            return
        check_groups(self.low_G.numel(), low_G.numel())
        self.low_G, self.high_G = torch.minimum(self.low_G, low_G), torch.maximum(self.high_G, high_G)

    def qparams(self) -> QParams:
        """Returns scale and zero point for the range."""
        return choose_qparams(*self.range(), self.spec, include_zero=self.params["include_zero"])

    def merge(self, other: MinMax) -> None:
        """Takes in what another one saw."""
        if other.low_G is not None and other.high_G is not None:
            self._widen(other.low_G, other.high_G)


plugin = MinMax
