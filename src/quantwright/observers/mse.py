"""The range with the least mean squared quantization error, measured on a histogram.

``histogram: streaming``: thresholds from the whole range down to 1/128 of it, first coarsely, then finely around the
best; an asymmetric grid also moves each end alone. ``histogram: exact``: vai_q_pytorch's own (spec 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantwright.numerics.choose import choose_qparams
from quantwright.observers._histogram import HistogramObserver, Side, Streaming, squared_error

PARAMS = {
    "bins": {"type": "int", "default": 2048, "min": 256, "max": 65536, "help": "histogram bins"},
    "histogram": {
        "type": "str",
        "default": "streaming",
        "choices": ["streaming", "exact"],
        "help": "over all batches, or vai_q_pytorch's of one batch (needs a statistic over batches)",
    },
}
_START = 0.75  # exact: the first candidate is the centre of bin 1536 of 2048 ...
_STRIDE = 16  # ... and every 16th after it
_COARSE = [2.0 ** (-i / 4) for i in range(29)]  # streaming: down to 1/128
_FINE = [2.0 ** (-i / 32) for i in range(-7, 8) if i]  # between two neighbours of that


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
            search.shrink(_FINE, [1.0] * len(_FINE))
            search.shrink([1.0] * len(_FINE), _FINE)
        search.shrink(_FINE, _FINE)
        return search.low_G.maximum(seen.low_G), search.high_G.minimum(seen.high_G)


class _Search:
    """Returns the search for the best range of each group: keeps the best so far, and tries others."""

    def __init__(self, observer: MeanSquaredError, seen: Streaming) -> None:
        self.spec = observer.spec
        self.low_G, self.high_G = seen.low_G.clamp(max=0.0), seen.high_G.clamp(min=0.0)
        if self.spec.symmetric is not False and self.spec.signed:
            self.high_G = torch.maximum(-self.low_G, self.high_G)
            self.low_G = -self.high_G
        self.lowest_G, self.highest_G = self.low_G, self.high_G
        self.width_G = seen.width_G
        self.centres_GM, self.counts_GM = seen.occupied()
        self.least_G = torch.full_like(self.low_G, float("inf"))

    def shrink(self, low_factors: Sequence[float], high_factors: Sequence[float]) -> None:
        """Tries the best range so far with its ends multiplied by each pair of factors."""
        low_G, high_G = self.low_G, self.high_G
        for low_factor, high_factor in zip(low_factors, high_factors, strict=True):
            self._try(low_G * low_factor, high_G * high_factor)

    def move_low(self, factors: Sequence[float]) -> None:
        """Tries every low end, from the smallest value up, with the best high end so far."""
        high_G = self.high_G
        for factor in factors:
            self._try(self.lowest_G * factor, high_G)

    def move_high(self, factors: Sequence[float]) -> None:
        """Tries every high end, from the largest value down, with the best low end so far."""
        low_G = self.low_G
        for factor in factors:
            self._try(low_G, self.highest_G * factor)

    def _try(self, low_G: Tensor, high_G: Tensor) -> None:
        low_G, high_G = low_G.maximum(self.lowest_G), high_G.minimum(self.highest_G)
        error_G = self._error(low_G, high_G)
        better_G = error_G < self.least_G
        self.least_G = torch.where(better_G, error_G, self.least_G)
        self.low_G = torch.where(better_G, low_G, self.low_G)
        self.high_G = torch.where(better_G, high_G, self.high_G)

    def _error(self, low_G: Tensor, high_G: Tensor) -> Tensor:
        """Returns the squared error of the grid that covers a range."""
        qparams = choose_qparams(low_G, high_G, self.spec)
        zero_G = qparams.zero_point.double()
        lo_G, hi_G = self.spec.qmin - zero_G, self.spec.qmax - zero_G
        return squared_error(self.centres_GM, self.counts_GM, self.width_G, qparams.scale, lo_G, hi_G)


plugin = MeanSquaredError
