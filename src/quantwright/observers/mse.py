"""The range with the least mean squared quantization error, measured on a histogram.

``histogram: streaming``: thresholds from the whole range down to 1/128 of it, first coarsely, then finely around the
best; an asymmetric grid also moves each end alone. ``histogram: exact``: vai_q_pytorch's own (spec 3.3).

``clipping`` counts the error of what is clipped more often. Rounding errors have no direction and cancel in the sums
that the next layer makes; clipped values all err inward and add up. At 1 it is the plain mean squared error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.numerics.choose import choose_qparams
from quantwright.observers._by_torch import Side
from quantwright.observers._grid_error import GridError
from quantwright.observers._histogram import HistogramObserver, Streaming

PARAMS = {
    "bins": {"type": "int", "default": 2048, "min": 256, "max": 65536, "help": "histogram bins"},
    "histogram": {
        "type": "str",
        "default": "streaming",
        "choices": ["streaming", "exact"],
        "help": "over all batches, or vai_q_pytorch's of one batch (needs a statistic over batches)",
    },
    "clipping": {
        "type": "float", "default": 1.0, "min": 1.0, "max": 1e6,
        "help": "streaming: how many times a clipped value's error counts",
    },
}  # fmt: skip
_START = 0.75  # exact: the first candidate is the centre of bin 1536 of 2048 ...
_STRIDE = 16  # ... and every 16th after it
_COARSE = torch.exp2(-torch.arange(29, dtype=torch.float64) / 4)  # streaming: down to 1/128
_STEPS = torch.arange(-7, 8, dtype=torch.float64)
_FINE = torch.exp2(-_STEPS[_STEPS != 0] / 32)  # between two neighbours of that


class MeanSquaredError(HistogramObserver):
    """Returns the observer of least squared error."""

    def exact_threshold(self, counts_K: Tensor, edges: Tensor) -> float:
        """Returns the bin centre that, as the largest value, leaves the least error (spec vai_q_pytorch 3.3)."""
        centres_K = (edges[1:] + edges[:-1]) / 2
        limit_I = centres_K[int(self.params["bins"] * _START) :: _STRIDE].unsqueeze(1)
        scale_I = self.spec.qmax / limit_I  # float32: integer steps per float
        y_IK = torch.round(centres_K * scale_I).clamp_(self.spec.qmin, self.spec.qmax).div_(scale_I)
        error_I = y_IK.sub_(centres_K).square_().mul_(counts_K).mean(1)
        return float(limit_I[int(error_I.argmin())])

    @property
    def side(self) -> Side:
        """Returns what of the values is counted: both sides, for -128 is one step further out than 127."""
        return "positive" if self.spec.symmetric is not False and not self.spec.signed else "both"

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the best range of each group."""
        search = _Search(self, seen)
        search.shrink(_COARSE, _COARSE)
        if self.spec.symmetric is False:
            for _ in range(2):
                search.move_low(_COARSE)
                search.move_high(_COARSE)
            search.shrink(_FINE, torch.ones_like(_FINE))
            search.shrink(torch.ones_like(_FINE), _FINE)
        search.shrink(_FINE, _FINE)
        low_G, high_G = search.low_G.maximum(seen.low_G), search.high_G.minimum(seen.high_G)
        few_G = (seen.counts_GK > 0).sum(1) <= 2**self.spec.bits
        if self.spec.bits > 8 or not bool(few_G.any()):  # wider grids meet few values anyway, after a long search
            return low_G, high_G
        better_G = search.widen() & few_G
        return torch.where(better_G, search.low_G, low_G), torch.where(better_G, search.high_G, high_G)


class _Search:
    """Returns the search for the best range of each group: keeps the best so far, and tries others."""

    def __init__(self, observer: MeanSquaredError, seen: Streaming) -> None:
        self.spec = observer.spec
        self.low_G, self.high_G = seen.low_G.clamp(max=0.0), seen.high_G.clamp(min=0.0)
        if self.spec.symmetric is not False and self.spec.signed:
            self.high_G = torch.maximum(-self.low_G, self.high_G)
            self.low_G = -self.high_G
        self.lowest_G, self.highest_G = self.low_G, self.high_G
        self.error_of = GridError(seen, observer.params["clipping"])
        self.least_G = torch.full_like(self.low_G, float("inf"))

    def shrink(self, low_factor_C: Tensor, high_factor_C: Tensor) -> None:
        """Tries the best range so far with its ends multiplied by each pair of factors."""
        self._try(self.low_G.unsqueeze(1) * low_factor_C, self.high_G.unsqueeze(1) * high_factor_C)

    def move_low(self, factor_C: Tensor) -> None:
        """Tries every low end, from the smallest value up, with the best high end so far."""
        low_GC = self.lowest_G.unsqueeze(1) * factor_C
        self._try(low_GC, self.high_G.unsqueeze(1).expand_as(low_GC))

    def move_high(self, factor_C: Tensor) -> None:
        """Tries every high end, from the largest value down, with the best low end so far."""
        high_GC = self.highest_G.unsqueeze(1) * factor_C
        self._try(self.low_G.unsqueeze(1).expand_as(high_GC), high_GC)

    def widen(self) -> Tensor:
        """Tries ranges wider than the values, that cut what these span into whole steps, and returns where one is best.

        Few different values are often equally far apart (grey levels, counts): some number of steps meets them all.
        """
        if self.spec.symmetric is False:
            levels = self.spec.qmax - self.spec.qmin
            step_GC = (self.highest_G - self.lowest_G).unsqueeze(1) / _fewer(levels)
            low_GC = torch.round(self.lowest_G.unsqueeze(1) / step_GC) * step_GC
            return self._take(low_GC, low_GC + levels * step_GC)
        high_GC = self.highest_G.unsqueeze(1) * (self.spec.qmax / _fewer(self.spec.qmax))
        return self._take(-high_GC if self.spec.signed else torch.zeros_like(high_GC), high_GC)

    def _try(self, low_GC: Tensor, high_GC: Tensor) -> None:
        """Takes the best of some ranges within that of the values, if it is better than the best so far."""
        self._take(low_GC.maximum(self.lowest_G.unsqueeze(1)), high_GC.minimum(self.highest_G.unsqueeze(1)))

    def _take(self, low_GC: Tensor, high_GC: Tensor) -> Tensor:
        """Takes the best of some ranges, the first of equal ones, where it is better, and returns where that is."""
        error_GC = self._error(low_GC, high_GC)
        at_G1 = error_GC.argmin(1, keepdim=True)
        found_G, low_G, high_G = (part.gather(1, at_G1).squeeze(1) for part in (error_GC, low_GC, high_GC))
        better_G = found_G < self.least_G
        self.least_G = torch.where(better_G, found_G, self.least_G)
        self.low_G = torch.where(better_G, low_G, self.low_G)
        self.high_G = torch.where(better_G, high_G, self.high_G)
        return better_G

    def _error(self, low_GC: Tensor, high_GC: Tensor) -> Tensor:
        """Returns the squared error of the grids that cover some ranges."""
        qparams = choose_qparams(low_GC.reshape(-1), high_GC.reshape(-1), self.spec)
        scale_GC = qparams.scale.reshape(low_GC.shape)
        zero_GC = qparams.zero_point.double().reshape(low_GC.shape)
        return self.error_of(scale_GC, self.spec.qmin - zero_GC, self.spec.qmax - zero_GC)


def _fewer(steps: int) -> Tensor:
    """Returns the numbers of steps below a number, down to half of it: fewer would leave every other one unused."""
    return torch.arange(steps - 1, steps // 2, -1, dtype=torch.float64)


plugin = MeanSquaredError
