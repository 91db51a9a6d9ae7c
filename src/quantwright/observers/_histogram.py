"""Histograms for the observers: a streaming one whose result depends on no order, and vai_q_pytorch's per-batch one.

The streaming histogram has bins as wide as a power of two, aligned at 0. When a larger value comes, the width doubles
and bins merge in pairs: floor(floor(x / w) / 2) = floor(x / 2w), exactly. So the counts are a function of the values
seen, whatever the order of batches and however they were sharded, and memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics.qparams import QParams
from quantwright.observers import Observer, _kernel, check_groups, extent, nothing_observed, observer_name
from quantwright.observers._by_torch import Side, count_by_torch

_LOWEST_EXPONENT = -100  # values below 2**-100 are zero to us; keeps every factor a normal float32


class Streaming:
    """Returns an empty streaming histogram per group.

    Attributes:
        counts_GK: values per bin. Bin k holds [k w, (k + 1) w); with ``both``, k counts from -K/2, and a negative
            number is put where its mirror image is. The width w is 2**exponent / K (``both``: / (K / 2)).
        exponent_G: every value is smaller than 2**exponent in size, and the largest at least half of that (unless it
            vanishes), so at least half of the bins are in use.
        low_G, high_G: the exact smallest and largest value, float64.

    Args:
        bins: how many bins the occupied side has at least; rounded up to a power of two.
    """

    def __init__(self, groups: int, bins: int, side: Side) -> None:
        self.side = side
        self.half = 2 << max(0, math.ceil(math.log2(bins)))  # bins per side, a power of two
        columns = 2 * self.half if side == "both" else self.half
        self.counts_GK = torch.zeros(groups, columns, dtype=torch.int64)
        self.exponent_G = torch.full((groups,), _LOWEST_EXPONENT, dtype=torch.int64)
        self.low_G = torch.full((groups,), math.inf, dtype=torch.float64)
        self.high_G = torch.full((groups,), -math.inf, dtype=torch.float64)
        self._set_exponent(self.exponent_G)

    @property
    def first(self) -> int:
        """Returns the number of the first bin: 0, or -K/2 when both sides are counted."""
        return -self.half if self.side == "both" else 0

    @property
    def width_G(self) -> Tensor:
        """Returns the width of a bin, float64."""
        return torch.exp2(self.exponent_G.double()) / self.half

    def add(self, x_GN: Tensor) -> tuple[Tensor, Tensor]:
        """Counts one batch and returns its extremes: ``observers.extent(x_GN)``, on the CPU.

        Raises:
            DataError: see ``observers.extent``; or another number of groups.
        """
        extremes = self._add_at_once(x_GN)
        if extremes is not None:
            return extremes
        low_G, high_G = (part.cpu() for part in extent(x_GN))
        check_groups(self.low_G.numel(), low_G.numel())
        self._widen(low_G, high_G)
        counted = self._scan(x_GN)
        if counted is not None:
            self.counts_GK += counted[0]
        else:
            negative = bool((low_G < 0).any())
            self.counts_GK += count_by_torch(x_GN, self.width_G, self.side, self.counts_GK.shape[1], negative)
        return low_G, high_G

    def _add_at_once(self, x_GN: Tensor) -> tuple[Tensor, Tensor] | None:
        """Returns the extremes of a batch, counted in the bins there are; None, and nothing counted, if it needs wider.

        Every batch but the first few fits, and is read once instead of twice.
        """
        if self.low_G.numel() != x_GN.shape[0] or not self._started:
            return None
        counted = self._scan(x_GN)
        if counted is None:
            return None
        counts_GK, low_G, high_G = counted
        if not (bool((high_G < self._limit_G).all()) and bool((low_G > self._lowest_G).all())):  # or NaN
            return None
        self.low_G, self.high_G = torch.minimum(self.low_G, low_G), torch.maximum(self.high_G, high_G)
        self.counts_GK += counts_GK
        return low_G, high_G

    def _scan(self, x_GN: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        return _kernel.count(x_GN, self._factor_G, self.side, self.counts_GK.shape[1])

    def _widen(self, low_G: Tensor, high_G: Tensor) -> None:
        """Makes the histogram cover a range: merges bins in pairs until it does."""
        self.low_G, self.high_G = torch.minimum(self.low_G, low_G), torch.maximum(self.high_G, high_G)
        size_G = torch.maximum(self.low_G.abs(), self.high_G.abs()) if self.side != "positive" else self.high_G
        needed_G = torch.where(size_G > 0, torch.frexp(size_G).exponent.long(), _LOWEST_EXPONENT)
        self._grow(torch.maximum(self.exponent_G, needed_G))

    def _grow(self, exponent_G: Tensor) -> None:
        doublings_G1 = (exponent_G - self.exponent_G).clamp(max=62).unsqueeze(1)
        if bool(doublings_G1.any()):
            bins_K = torch.arange(self.counts_GK.shape[1]) + self.first
            target_GK = (bins_K >> doublings_G1) - self.first
            self.counts_GK = torch.zeros_like(self.counts_GK).scatter_add_(1, target_GK, self.counts_GK)
            self._set_exponent(exponent_G)

    def _set_exponent(self, exponent_G: Tensor) -> None:
        """Sets the width of the bins, and what is made of it for every batch."""
        self.exponent_G = exponent_G
        self._factor_G = self.width_G.reciprocal().float()
        self._limit_G = torch.exp2(exponent_G.double())
        self._lowest_G = torch.full_like(self._limit_G, -math.inf) if self.side == "positive" else -self._limit_G
        self._started = bool((exponent_G > _LOWEST_EXPONENT).all())

    def merge(self, other: Streaming) -> None:
        """Adds what another one counted, exactly."""
        check_groups(self.low_G.numel(), other.low_G.numel())
        self._widen(other.low_G, other.high_G)
        grown = Streaming(self.low_G.numel(), self.half // 2, self.side)
        grown.counts_GK = other.counts_GK
        grown._set_exponent(other.exponent_G)
        grown._grow(self.exponent_G)
        self.counts_GK += grown.counts_GK

    def state(self) -> dict[str, Tensor]:
        """Returns counts, exponents and exact extremes."""
        return {
            "counts_GK": self.counts_GK, "exponent_G": self.exponent_G, "low_G": self.low_G, "high_G": self.high_G
        }  # fmt: skip

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the histogram whose state this was; it must have been made with the same bins and side."""
        self.counts_GK = state["counts_GK"].cpu().clone()  # it is added to in place
        self._set_exponent(state["exponent_G"].cpu())
        self.low_G, self.high_G = state["low_G"].cpu(), state["high_G"].cpu()


class HistogramObserver(Observer):
    """Returns the common part of the observers that choose a range from a histogram.

    ``histogram: streaming`` counts over all batches. ``histogram: exact`` is what vai_q_pytorch does with one batch
    (spec 3.3): |x| in equal bins from 0 to its largest value.
    """

    exact_in_float32 = False  # whether the tool divides the exact threshold by qmax in float32

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        super().__init__(spec, **params)
        self.exact = self.params["histogram"] == "exact"
        if self.exact and spec.symmetric is False:
            raise InputError(
                "histogram 'exact' counts |x|, which says nothing about an asymmetric range",
                where=f"observer '{observer_name(type(self))}'",
                fix="use histogram: streaming, a symmetric spec, or observer minmax",
            )
        self._device = torch.device("cpu")
        self._streaming: Streaming | None = None
        self._one_batch: tuple[Tensor, Tensor] | None = None

    @property
    def side(self) -> Side:
        """Returns what of the values is counted."""
        if self.spec.symmetric is False:
            return "both"
        return "size" if self.spec.signed else "positive"

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Raises:
            StateError: a second batch with ``histogram: exact``.
        """
        self._device = x_GN.device
        if not self.exact:
            if self._streaming is None:
                self._streaming = Streaming(x_GN.shape[0], self.params["bins"], self.side)
            self._streaming.add(x_GN)
            return
        if self._one_batch is not None:
            raise StateError(
                f"observer '{observer_name(type(self))}' with histogram 'exact' takes one batch",
                fix="set statistic to max, mean, median or modal (one observer per batch), or histogram: streaming",
            )
        low_G, high_G = extent(x_GN)
        threshold_G = torch.tensor([self._exact_row(row) for row in x_GN.float()], dtype=torch.float64)
        if self.spec.signed:
            self._one_batch = (low_G.cpu().maximum(-threshold_G), high_G.cpu().minimum(threshold_G))
        else:  # the tool looks at |x| even where the grid has no negative numbers
            self._one_batch = (torch.zeros_like(threshold_G), threshold_G)

    def _exact_row(self, x_N: Tensor) -> float:
        """Returns the threshold for one group: |x| if any value is negative, 2048 bins over [0, largest]."""
        values = x_N.abs() if bool((x_N < 0).any()) else x_N
        largest = values.max().cpu()
        if float(largest) == 0.0:
            return 0.0
        bins = self.params["bins"]
        counts = torch.histc(values, bins, 0, float(largest)).cpu()
        return self.exact_threshold(counts, torch.linspace(0, float(largest), bins + 1))

    @abstractmethod
    def exact_threshold(self, counts_K: Tensor, edges: Tensor) -> float:
        """Returns the largest value to represent, from K counts and their K + 1 edges (float32)."""

    @abstractmethod
    def streaming_range(self, seen: Streaming) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G) for everything counted."""

    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G), float64."""
        if self._one_batch is not None:
            lowest_G, highest_G = self._one_batch
        elif self._streaming is not None:
            lowest_G, highest_G = self.streaming_range(self._streaming)
        else:
            raise nothing_observed(self)
        return lowest_G.to(self._device), highest_G.to(self._device)

    def qparams(self) -> QParams:
        """Returns scale and zero point for the range."""
        chosen = super().qparams()
        if self.exact and self.exact_in_float32:
            return dataclasses.replace(chosen, scale=chosen.scale.float().double())
        return chosen

    def merge(self, other: HistogramObserver) -> None:
        """Takes in what another one counted.

        Raises:
            StateError: an exact histogram, which is of one batch only.
        """
        if self.exact or other.exact:
            super().merge(other)
        if other._streaming is None:
            return
        if self._streaming is None:
            self._device = other._device
            self._streaming = Streaming(other._streaming.low_G.numel(), self.params["bins"], self.side)
        self._streaming.merge(other._streaming)

    def state(self) -> dict[str, Tensor]:
        """Returns counts, exponents and exact extremes, or an exact histogram's range."""
        if self._one_batch is not None:
            return {"low_G": self._one_batch[0], "high_G": self._one_batch[1]}
        return {} if self._streaming is None else self._streaming.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose state this was."""
        self._device = state["low_G"].device
        self._one_batch, self._streaming = None, None
        if self.exact:
            self._one_batch = (state["low_G"].cpu(), state["high_G"].cpu())
        else:
            self._streaming = Streaming(state["low_G"].numel(), self.params["bins"], self.side)
            self._streaming.load_state(state)
