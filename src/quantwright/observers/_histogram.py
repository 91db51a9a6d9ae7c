"""Histograms for the observers: a streaming one whose result depends on no order, and vai_q_pytorch's per-batch one.

The streaming histogram has bins as wide as a power of two, aligned at 0. When a larger value comes, the width doubles
and bins merge in pairs: floor(floor(x / w) / 2) = floor(x / 2w), exactly. So the counts are a function of the values
seen, whatever the order of batches and however they were sharded, and memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics.qparams import QParams
from quantwright.observers import Observer, check_groups, extent, nothing_observed, observer_name

Side = Literal["size", "positive", "both"]
"""What is counted: |x|; x with everything below zero as zero; or both sides."""

_PIECE = 1 << 17  # elements binned at a time: fits the cache, and no full-size temporary is made
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

    @property
    def first(self) -> int:
        """Returns the number of the first bin: 0, or -K/2 when both sides are counted."""
        return -self.half if self.side == "both" else 0

    @property
    def width_G(self) -> Tensor:
        """Returns the width of a bin, float64."""
        return torch.exp2(self.exponent_G.double()) / self.half

    def add(self, x_GN: Tensor) -> None:
        """Counts one batch.

        Raises:
            DataError: see ``observers.extent``; or another number of groups.
        """
        low_G, high_G = (part.cpu() for part in extent(x_GN))
        check_groups(self.low_G.numel(), low_G.numel())
        self._widen(low_G, high_G)
        dtype = torch.float64 if x_GN.dtype == torch.float64 else torch.float32
        factor_G1 = self.width_G.reciprocal().to(dtype).unsqueeze(1).to(x_GN.device)
        rows = max(1, _PIECE // x_GN.shape[1])
        for top in range(0, x_GN.shape[0], rows):
            for piece in torch.split(x_GN[top : top + rows], _PIECE, dim=1):
                counts = self._count(piece.to(dtype), factor_G1[top : top + rows])
                self.counts_GK[top : top + rows] += counts.cpu()

    def _count(self, piece_RN: Tensor, factor_R1: Tensor) -> Tensor:
        """Returns the counts of some rows: [R, K]."""
        scaled = piece_RN.abs().mul_(factor_R1) if self.side == "size" else piece_RN * factor_R1
        if self.side == "positive":
            scaled.clamp_(min=0.0)
        flat = scaled.to(torch.int32)  # toward zero
        if self.side == "both":
            flat.add_(piece_RN >= 0).sub_(self.first + 1)
        rows, columns = flat.shape[0], self.counts_GK.shape[1]
        flat += torch.arange(0, rows * columns, columns, dtype=torch.int32, device=flat.device).unsqueeze(1)
        return torch.bincount(flat.reshape(-1), minlength=rows * columns).reshape(rows, columns)

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
        self.exponent_G = exponent_G

    def merge(self, other: Streaming) -> None:
        """Adds what another one counted, exactly."""
        check_groups(self.low_G.numel(), other.low_G.numel())
        self._widen(other.low_G, other.high_G)
        grown = Streaming(self.low_G.numel(), self.half // 2, self.side)
        grown.counts_GK, grown.exponent_G = other.counts_GK, other.exponent_G
        grown._grow(self.exponent_G)
        self.counts_GK += grown.counts_GK

    def occupied(self) -> tuple[Tensor, Tensor]:
        """Returns (centres_GM, counts_GM) of the occupied bins, float32, filled up with empty ones to a common M.

        Units:
            centres: the tensor's own.
        """
        most = int((self.counts_GK > 0).sum(1).amax())
        order_GM = (self.counts_GK == 0).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
        centres_GM = (order_GM + self.first + 0.5) * self.width_G.unsqueeze(1)
        return centres_GM.float(), self.counts_GK.gather(1, order_GM).float()


def squared_error(
    centres_GM: Tensor, counts_GM: Tensor, width_G: Tensor, scale_G: Tensor, lo_G: Tensor, hi_G: Tensor
) -> Tensor:
    """Returns the sum of squared quantization errors of a histogram, float64.

    Values are taken at the centre of their bin. Where a step is not wider than four bins, what happens inside a bin
    matters and rounding errors inside the range are taken as uniform: step**2 / 12 each.

    Shapes:
        centres_GM, counts_GM: [G, M]. The others [G]: scale, and the lowest and highest ``q - zero_point``.
    """
    scale_G1 = scale_G.float().unsqueeze(1)
    y_GM = torch.round(centres_GM / scale_G1)
    low_G1, high_G1 = lo_G.float().unsqueeze(1), hi_G.float().unsqueeze(1)
    clipped_GM = torch.clamp(y_GM, low_G1, high_G1)
    error_GM = (clipped_GM * scale_G1).sub_(centres_GM).square_()
    fine_G1 = (scale_G < 4 * width_G).unsqueeze(1)
    if bool(fine_G1.any()):
        error_GM = torch.where(fine_G1 & (clipped_GM == y_GM), scale_G1.square() / 12, error_GM)
    return error_GM.mul_(counts_GM).sum(1, dtype=torch.float64)


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
            self._streaming = Streaming(other._streaming.low_G.numel(), self.params["bins"], self.side)
        self._streaming.merge(other._streaming)

    def state(self) -> dict[str, Tensor]:
        """Returns counts, exponents and exact extremes, or an exact histogram's range."""
        if self._one_batch is not None:
            return {"low_G": self._one_batch[0], "high_G": self._one_batch[1]}
        seen = self._streaming
        if seen is None:
            return {}
        return {"counts_GK": seen.counts_GK, "exponent_G": seen.exponent_G, "low_G": seen.low_G, "high_G": seen.high_G}
