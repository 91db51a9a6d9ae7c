"""Power-of-two search: of ``scope`` neighbouring scales the one with the least squared error (scope 1: minmax).

Spec vai_q_pytorch 3.4: p0 is the finest position whose grid holds the range; p0 to p0 + scope - 1 are tried with the
tensor's own rounding, and the smallest p wins ties. A weight, and each batch where a statistic is made of several, is
measured exactly. With statistic ``all`` the error comes from a streaming histogram, so that it does not matter how the
values were divided into batches, nor their order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics.choose import SMALLEST_SCALE, fix_position
from quantwright.numerics.rounding import round_to_integer
from quantwright.observers import Observer, check_groups, extent, nothing_observed
from quantwright.observers._grid_error import GridError
from quantwright.observers._histogram import Streaming

PARAMS = {
    "scope": {"type": "int", "default": 5, "min": 1, "max": 16, "help": "how many positions are tried; 1 is minmax"},
    "bins": {"type": "int", "default": 2048, "min": 256, "max": 65536, "help": "histogram bins, for statistic all"},
}
_PIECE = 1 << 16  # elements measured at a time: they and two temporaries fit the cache
_SHORT = 1024  # a row of no more than this is not cut


class Diffs(Observer):
    """Returns the power-of-two observer."""

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        super().__init__(spec, **params)
        if spec.scale != "power_of_two" or spec.symmetric is False:
            raise InputError(
                f"diffs searches a power of two for a symmetric grid, not scale {spec.scale}",
                where="observer 'diffs'",
                fix="set scale: power_of_two and symmetric: true, or use observer mse",
            )
        self._free = spec.model_copy(update={"min_scale": 0.0})  # the search knows no cap; choose_qparams applies it
        self._lowest = -(2 ** (spec.bits - 1)) if spec.signed else 0  # narrow_range has no influence either
        self._highest = spec.qmax
        self._low_G: Tensor | None = None
        self._high_G: Tensor | None = None
        self._found_G: Tensor | None = None  # the position of the only batch, where each is measured alone
        self._seen: Streaming | None = None

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Raises:
            StateError: a second batch where each was to be measured alone (statistic is not ``all``).
        """
        if self.spec.statistic == "all" and self.params["scope"] > 1:
            if self._seen is None:
                self._seen = self._empty(x_GN.shape[0])
            low_G, high_G = (part.to(x_GN.device) for part in self._seen.add(x_GN))
        else:
            low_G, high_G = extent(x_GN)
        if self._low_G is None or self._high_G is None:
            self._low_G, self._high_G = low_G, high_G
        elif self.spec.statistic == "all":
            check_groups(self._low_G.numel(), low_G.numel())
            self._low_G, self._high_G = torch.minimum(self._low_G, low_G), torch.maximum(self._high_G, high_G)
        else:
            raise StateError(
                f"observer 'diffs' with statistic '{self.spec.statistic}' takes one batch",
                fix="use one observer per batch, or statistic: all",
            )
        if self.params["scope"] > 1 and self.spec.statistic != "all":
            self._found_G = self._search(x_GN, fix_position(low_G, high_G, self._free))

    def _empty(self, groups: int) -> Streaming:
        return Streaming(groups, self.params["bins"], "both" if self.spec.signed else "positive")

    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G): what the grid of the best position holds of the values seen, float64."""
        if self._low_G is None or self._high_G is None:
            raise nothing_observed(self)
        if self._found_G is not None:
            position_G = self._found_G
        else:
            position_G = fix_position(self._low_G, self._high_G, self._free)
            if self._seen is not None:
                position_G = self._search_counts(self._seen, position_G.cpu()).to(position_G.device)
        scale_G = torch.exp2(-position_G.double())
        return self._low_G.maximum(self._lowest * scale_G), self._high_G.minimum(self.spec.qmax * scale_G)

    def _search(self, x_GN: Tensor, position_G: Tensor) -> Tensor:
        """Returns the best position of each group, by the values themselves."""
        width = min(x_GN.shape[1], max(x_GN.shape[1] // 4, _SHORT), _PIECE)  # often a part tells that a row is behind
        rows = _PIECE // width
        blocks = zip(torch.split(x_GN, rows), torch.split(position_G, rows), strict=True)
        return torch.cat([self._search_rows(x_RN, position_R, width) for x_RN, position_R in blocks])

    def _search_rows(self, x_RN: Tensor, position_R: Tensor, width: int) -> Tensor:
        """Returns the best position of some rows; of equal ones the first.

        Errors only add up, so a candidate is given up as soon as it is behind in every row.
        """
        best_R, least_R = position_R, torch.full_like(position_R, math.inf, dtype=torch.float64)
        for offset in range(self.params["scope"]):
            step_R = _steps(position_R, offset)
            error_R = torch.zeros_like(least_R)
            for piece in torch.split(x_RN, width, dim=1):
                error_R += self._error(piece.float(), step_R)
                if not bool((error_R < least_R).any()):
                    break
            better_R = error_R < least_R
            best_R, least_R = torch.where(better_R, position_R + offset, best_R), least_R.minimum(error_R)
        return best_R

    def _error(self, x_RN: Tensor, step_R: Tensor) -> Tensor:
        """Returns the sum of squared errors of some rows, float64; measured in steps: a power of two scales exactly."""
        y_RN = x_RN * step_R.reciprocal().float().unsqueeze(1)
        error_RN = round_to_integer(y_RN, self.spec.rounding or "half_even").clamp_(self._lowest, self._highest)
        return error_RN.sub_(y_RN).square_().sum(1, dtype=torch.float64).mul_(step_R.square())

    def _search_counts(self, seen: Streaming, position_G: Tensor) -> Tensor:
        """Returns the best position of each group, by the histogram of all batches."""
        step_GS = torch.stack([_steps(position_G, offset) for offset in range(self.params["scope"])], 1)
        low_GS, high_GS = torch.full_like(step_GS, self._lowest), torch.full_like(step_GS, self.spec.qmax)
        return _best(position_G, GridError(seen)(step_GS, low_GS, high_GS).T)

    def merge(self, other: Diffs) -> None:
        """Takes in what another one saw; needs statistic ``all``.

        Raises:
            StateError: each batch was to be measured alone.
        """
        if other._low_G is None or other._high_G is None:
            return
        if self._low_G is None or self._high_G is None:
            self._low_G, self._high_G = other._low_G, other._high_G
            self._found_G, self._seen = other._found_G, copy.deepcopy(other._seen)
            return
        if self.spec.statistic != "all":
            super().merge(other)
        self._low_G, self._high_G = self._low_G.minimum(other._low_G), self._high_G.maximum(other._high_G)
        if self._seen is not None and other._seen is not None:
            self._seen.merge(other._seen)

    def state(self) -> dict[str, Tensor]:
        """Returns the extremes so far, and what the position is found by: itself, or the counts."""
        if self._low_G is None or self._high_G is None:
            return {}
        found = {} if self._found_G is None else {"found_G": self._found_G}
        seen = {} if self._seen is None else self._seen.state()
        return {**seen, "low_G": self._low_G, "high_G": self._high_G, **found}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose state this was."""
        self._low_G, self._high_G, self._found_G = state["low_G"], state["high_G"], state.get("found_G")
        self._seen = None
        if "counts_GK" in state:
            self._seen = self._empty(self._low_G.numel())
            self._seen.load_state(state)


def _steps(position_G: Tensor, offset: int) -> Tensor:
    """Returns 2 ** -(position + offset) in float64, not below what float32 holds."""
    return torch.exp2(-(position_G.double() + offset)).clamp(min=SMALLEST_SCALE)


def _best(position_G: Tensor, error_SG: Tensor) -> Tensor:
    """Returns the position with the least error, the smallest of several equal ones."""
    return position_G + error_SG.argmin(0).to(position_G.dtype)


plugin = Diffs
