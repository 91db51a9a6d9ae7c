"""vai_q_tensorflow2's histogram of |x|, cut at a percentile or where the divergence is least (spec 4.5).

The first batch makes equal bins from its least to its largest size; later batches are counted in the same bins, and
more of that width are appended when they hold larger values. The divergence compares with 128 levels whatever the width
of the grid. The result depends on the first batch; observers ``entropy`` and ``percentile`` depend on no order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import DataError
from quantwright.observers import Observer, check_groups, extent, nothing_observed
from quantwright.observers._divergence import best

PARAMS = {
    "criterion": {
        "type": "str",
        "default": "divergence",
        "choices": ["divergence", "percentile"],
        "help": "what decides where the range is cut",
    },
    "percentile": {
        "type": "float",
        "default": 99.9999,
        "min": 0.0,
        "max": 100.0,
        "help": "criterion percentile: how much of the data the range holds, in percent",
    },
    "bins": {"type": "int", "default": 2048, "min": 128, "max": 65536, "help": "bins of the first batch"},
}
Histogram = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Values per bin, and the edges of the bins: one more."""
_LEVELS = 128
_GROWTH = 1 << 20  # bins: a first batch of almost equal values would need any number of them


class GrowingHistogram(Observer):
    """Returns the observer of one range for everything."""

    passes_through = True

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        super().__init__(spec, **params)
        self._groups: list[Histogram] = []
        self._device = torch.device("cpu")

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Raises:
            DataError: no elements, no floating point, NaN/Inf; or values far beyond those of the first batch.
        """
        extent(x_GN)
        self._device = x_GN.device
        sizes_GN = x_GN.detach().abs().float().cpu().numpy()
        if not self._groups:
            self._groups = [_begun(sizes_N, self.params["bins"]) for sizes_N in sizes_GN]
            return
        check_groups(len(self._groups), len(sizes_GN))
        self._groups = [_counted(seen, sizes_N) for seen, sizes_N in zip(self._groups, sizes_GN, strict=True)]

    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G): plus and minus the threshold, float64."""
        if not self._groups:
            raise nothing_observed(self)
        thresholds = [self._threshold(*seen) for seen in self._groups]
        high_G = torch.tensor(thresholds, dtype=torch.float64, device=self._device)
        return -high_G, high_G

    def _threshold(self, counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float32]) -> float:
        if edges[0] < 0:  # all values are alike: numpy takes bins from half a unit below to half a unit above
            return float(max(0.0, (edges[0] + edges[-1]) / 2))
        if self.params["criterion"] == "percentile":
            shares = np.cumsum(counts / counts.sum())
            return float(edges[np.searchsorted(shares, self.params["percentile"] / 100)])
        ends_C = torch.arange(_LEVELS, len(counts) + 1)
        return float(edges[best(torch.from_numpy(counts), ends_C, _LEVELS)])

    def state(self) -> dict[str, Tensor]:
        """Returns the counts and the edges of the bins, one pair for each group."""
        found = {}
        for number, (counts, edges) in enumerate(self._groups):
            found[f"counts{number}"], found[f"edges{number}"] = torch.from_numpy(counts), torch.from_numpy(edges)
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose state this was."""
        self._device = state["counts0"].device
        self._groups = [
            (state[f"counts{number}"].cpu().numpy().copy(), state[f"edges{number}"].cpu().numpy().copy())
            for number in range(len(state) // 2)
        ]


def _begun(sizes: npt.NDArray[np.float32], bins: int) -> Histogram:
    try:
        counts, edges = np.histogram(sizes, bins=bins)
    except ValueError:  # values so large and alike that their range cannot be divided: bins begin at zero
        counts, edges = np.histogram(sizes, bins=np.linspace(0, sizes.max(), bins + 1))
    return counts.astype(np.int64), edges.astype(np.float32)


def _counted(seen: Histogram, sizes: npt.NDArray[np.float32]) -> Histogram:
    """Returns a histogram with one more batch, which may need more bins; edges are float32, as the tool's."""
    counts, edges = seen
    largest, last, width = sizes.max(), edges[-1], edges[1] - edges[0]
    if largest > last:
        if width <= 0 or (largest - last) / width > _GROWTH:
            raise DataError(
                f"a value of {largest:.3g} does not fit a histogram that began with bins of {width:.3g}",
                fix="shuffle the batches, or use observer entropy or percentile",
            )
        more = np.arange(last + width, largest + width, width, dtype=np.float32)
        edges = np.concatenate([edges, more])
        counts = np.concatenate([counts, np.zeros(len(more), dtype=np.int64)])
    return counts + np.histogram(sizes, bins=edges)[0].astype(np.int64), edges


plugin = GrowingHistogram
