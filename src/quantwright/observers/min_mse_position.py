"""Power-of-two search from the range's own position: of ``scope`` positions the one with the least squared error.

Spec vai_q_tensorflow2 4.4 (Pof2S, method 1). p0 is what ``exponent`` and ``fit`` of the spec make of the range; p0 to
p0 + scope - 1 are tried with the tensor's own rounding and zero point, and the smallest wins ties. With ``together``,
as the tool does, the error is that of the whole tensor: every group has its own p0, and all move by one offset. Each
batch is measured exactly; where several are one range (statistic ``all``), values are counted in a streaming histogram.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.qparams import QParams
from quantwright.numerics.rounding import round_to_integer
from quantwright.observers import Observer, check_groups, extent, nothing_observed
from quantwright.observers._grid_error import GridError
from quantwright.observers._histogram import Streaming

PARAMS = {
    "scope": {"type": "int", "default": 5, "min": 1, "max": 16, "help": "how many positions are tried"},
    "together": {
        "type": "bool",
        "default": False,
        "help": "one offset for all groups, by the error of the whole tensor",
    },
    "lowest": {"type": "int", "default": -126, "min": -126, "max": 126, "help": "the smallest position"},
    "bins": {"type": "int", "default": 2048, "min": 256, "max": 65536, "help": "histogram bins, for statistic all"},
}
_PIECE = 1 << 16  # elements measured at a time


class MinMsePosition(Observer):
    """Returns the observer of the position with the least error."""

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        super().__init__(spec, **params)
        if spec.scale != "power_of_two":
            raise InputError(
                f"min_mse_position searches a power of two, not scale {spec.scale}",
                where="observer 'min_mse_position'",
                fix="set scale: power_of_two, or use observer mse",
            )
        self._low_G: Tensor | None = None
        self._high_G: Tensor | None = None
        self._offset_G: Tensor | None = None  # of the only batch, where each is measured alone
        self._seen: Streaming | None = None

    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Raises:
            StateError: a second batch where each was to be measured alone (statistic is not ``all``).
        """
        low_G, high_G = extent(x_GN)
        if self._low_G is None or self._high_G is None:
            self._low_G, self._high_G = low_G, high_G
            if self.params["scope"] > 1:
                self._offset_G = self._search(x_GN)
        elif self.spec.statistic != "all":
            raise StateError(
                f"observer 'min_mse_position' with statistic '{self.spec.statistic}' takes one batch",
                fix="use one observer per batch, or statistic: all",
            )
        else:
            check_groups(self._low_G.numel(), low_G.numel())
            self._low_G, self._high_G = torch.minimum(self._low_G, low_G), torch.maximum(self._high_G, high_G)
            self._offset_G = None
        if self.spec.statistic == "all" and self.params["scope"] > 1:
            if self._seen is None:
                self._seen = Streaming(x_GN.shape[0], self.params["bins"], "both")
            self._seen.add(x_GN)

    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G): what the grid of the best position holds of the values seen, float64."""
        qparams = self.qparams()
        low_G, high_G = self._ends()
        zero_G, scale_G = qparams.zero_point.double(), qparams.scale.double()
        return low_G.maximum((self.spec.qmin - zero_G) * scale_G), high_G.minimum((self.spec.qmax - zero_G) * scale_G)

    def qparams(self) -> QParams:
        """Returns scale and zero point of the best position."""
        self._ends()
        return self._candidate(self._best_offset())

    def _ends(self) -> tuple[Tensor, Tensor]:
        if self._low_G is None or self._high_G is None:
            raise nothing_observed(self)
        return self._low_G, self._high_G

    def _candidate(self, offset: int | Tensor) -> QParams:
        """Returns the QParams of the range's own positions plus ``offset``, one or one per group."""
        low_G, high_G = self._ends()
        first = choose_qparams(low_G, high_G, self.spec)
        floor = max(self.spec.min_scale or 0.0, 2.0**-126)
        scale_G = (first.scale * 2.0 ** (-1.0 * offset)).clamp(min=floor, max=2.0 ** -self.params["lowest"])
        if self.spec.symmetric is not False:
            return QParams(scale=scale_G, zero_point=first.zero_point)
        zero_G = (self.spec.qmin - torch.round(low_G.clamp(max=0.0) / scale_G)).clamp(self.spec.qmin, self.spec.qmax)
        return QParams(scale=scale_G, zero_point=zero_G.to(torch.int32))

    def _best_offset(self) -> int | Tensor:
        if self.params["scope"] == 1:
            return 0
        if self._offset_G is not None:
            return self._offset_G
        if self._seen is None:
            raise nothing_observed(self)
        candidates = [self._candidate(offset) for offset in range(self.params["scope"])]
        step_GS = torch.stack([c.scale.cpu() for c in candidates], 1)
        zero_GS = torch.stack([c.zero_point.cpu().double() for c in candidates], 1)
        error_GS = GridError(self._seen)(step_GS, self.spec.qmin - zero_GS, self.spec.qmax - zero_GS)
        return self._least(error_GS.T).to(self._ends()[0].device)

    def _least(self, error_SG: Tensor) -> Tensor:
        """Returns the offset of the least error per group, the first of equal ones."""
        if self.params["together"]:
            error_SG = error_SG.sum(1, keepdim=True).expand_as(error_SG)
        return error_SG.argmin(0)

    def _search(self, x_GN: Tensor) -> Tensor:
        """Returns the best offset per group, by the values themselves."""
        errors = [self._error(x_GN, self._candidate(offset)) for offset in range(self.params["scope"])]
        return self._least(torch.stack(errors))

    def _error(self, x_GN: Tensor, qparams: QParams) -> Tensor:
        """Returns the sum of squared errors per group, float64."""
        scale_G1, zero_G1 = qparams.scale.unsqueeze(1), qparams.zero_point.unsqueeze(1)
        total_G = torch.zeros(x_GN.shape[0], dtype=torch.float64, device=x_GN.device)
        rows = max(1, _PIECE // x_GN.shape[1])
        for top in range(0, x_GN.shape[0], rows):
            step_R1, zero_R1 = scale_G1[top : top + rows].float(), zero_G1[top : top + rows].float()
            for piece_RN in torch.split(x_GN[top : top + rows], _PIECE, dim=1):
                y_RN = piece_RN.float() / step_R1
                error_RN = round_to_integer(y_RN, self.spec.rounding or "half_even").add_(zero_R1)
                error_RN = error_RN.clamp_(self.spec.qmin, self.spec.qmax).sub_(zero_R1).sub_(y_RN).mul_(step_R1)
                total_G[top : top + rows] += error_RN.square_().sum(1, dtype=torch.float64)
        return total_G

    def merge(self, other: MinMsePosition) -> None:
        """Takes in what another one saw; needs statistic ``all``.

        Raises:
            StateError: each batch was to be measured alone.
        """
        if other._low_G is None or other._high_G is None:
            return
        if self._low_G is None or self._high_G is None:
            self._low_G, self._high_G, self._offset_G = other._low_G, other._high_G, other._offset_G
            self._seen = copy.deepcopy(other._seen)
            return
        if self.spec.statistic != "all":
            super().merge(other)
        self._low_G, self._high_G = self._low_G.minimum(other._low_G), self._high_G.maximum(other._high_G)
        self._offset_G = None
        if self._seen is not None and other._seen is not None:
            self._seen.merge(other._seen)

    def state(self) -> dict[str, Tensor]:
        """Returns the extremes so far, and what the position is found by: itself, or the counts."""
        if self._low_G is None or self._high_G is None:
            return {}
        found = {} if self._offset_G is None else {"offset_G": self._offset_G}
        seen = {} if self._seen is None else self._seen.state()
        return {**seen, "low_G": self._low_G, "high_G": self._high_G, **found}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose state this was."""
        self._low_G, self._high_G = state["low_G"], state["high_G"]
        self._offset_G = state.get("offset_G")
        self._seen = None
        if "counts_GK" in state:
            self._seen = Streaming(self._low_G.numel(), self.params["bins"], "both")
            self._seen.load_state(state)


plugin = MinMsePosition
