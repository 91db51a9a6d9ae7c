"""The range with the least mean squared quantization error, measured on a histogram.

``histogram: streaming``: thresholds from the whole range down to a sixteenth of it, first coarsely, then finely around
the best; an asymmetric grid then moves each end alone. ``histogram: exact``: vai_q_pytorch's own (spec 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from quantwright.numerics.choose import choose_qparams
from quantwright.observers._histogram import HistogramObserver, Streaming, squared_error

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
_COARSE = [2.0 ** (-i / 8) for i in range(33)]
_FINE = [2.0 ** (-i / 64) for i in range(-7, 8) if i]


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

    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns the best range of each group."""
        search = _Search(self, seen)
        search.try_all(_COARSE, _COARSE)
        search.try_all(_FINE, _FINE)
        if seen.side == "both":
            for _ in range(2):
                search.try_all([1.0] * len(_FINE), _FINE)
                search.try_all(_FINE, [1.0] * len(_FINE))
        return search.low_G.maximum(seen.low_G), search.high_G.minimum(seen.high_G)


class _Search:
    """Returns the search for the best range: keeps the best so far and tries multiples of it."""

    def __init__(self, observer: MeanSquaredError, seen: Streaming) -> None:
        self.spec = observer.spec
        self.low_G, self.high_G = seen.low_G, seen.high_G
        if seen.side == "size":
            self.high_G = torch.maximum(seen.high_G.abs(), seen.low_G.abs())
            self.low_G = -self.high_G
        self.limits = (self.low_G, self.high_G)
        self.width_G = seen.width_G
        self.centres_GM, self.counts_GM = seen.occupied()
        self.least_G = torch.full_like(self.low_G, float("inf"))

    def try_all(self, low_factors: Iterable[float], high_factors: Iterable[float]) -> None:
        """Tries the best range so far with its ends multiplied by each pair of factors."""
        start_low_G, start_high_G = self.low_G, self.high_G
        for low_factor, high_factor in zip(low_factors, high_factors, strict=True):
            low_G = (start_low_G * low_factor).maximum(self.limits[0])
            high_G = (start_high_G * high_factor).minimum(self.limits[1])
            error_G = self._error(low_G, high_G)
            better_G = error_G < self.least_G
            self.least_G = torch.where(better_G, error_G, self.least_G)
            self.low_G = torch.where(better_G, low_G, self.low_G)
            self.high_G = torch.where(better_G, high_G, self.high_G)

    def _error(self, low_G: Tensor, high_G: Tensor) -> Tensor:
        qparams = choose_qparams(low_G, high_G, self.spec)
        zero_G = qparams.zero_point.double()
        return squared_error(
            self.centres_GM,
            self.counts_GM,
            self.width_G,
            qparams.scale,
            self.spec.qmin - zero_G,
            self.spec.qmax - zero_G,
        )


plugin = MeanSquaredError
