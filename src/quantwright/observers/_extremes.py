"""What the observers share whose whole memory is a smallest and a largest value per group."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import Self

from quantwright.observers import Observer, check_groups, nothing_observed


class ExtremesObserver(Observer):
    """Returns the common part of the observers that keep ``low_G`` and ``high_G``, and nothing else."""

    low_G: Tensor | None = None
    high_G: Tensor | None = None

    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G), float64."""
        if self.low_G is None or self.high_G is None:
            raise nothing_observed(self)
        return self.low_G, self.high_G

    def state(self) -> dict[str, Tensor]:
        """Returns the range so far."""
        return {} if self.low_G is None or self.high_G is None else {"low_G": self.low_G, "high_G": self.high_G}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose state this was."""
        self.low_G, self.high_G = state["low_G"], state["high_G"]


class WidestObserver(ExtremesObserver):
    """Returns the common part of the observers that find a range in each batch and keep the widest ends."""

    def widen(self, low_G: Tensor, high_G: Tensor) -> None:
        """Takes in the range of one batch."""
        if self.low_G is not None and self.high_G is not None:
            check_groups(self.low_G.numel(), low_G.numel())
            low_G, high_G = torch.minimum(self.low_G, low_G), torch.maximum(self.high_G, high_G)
        self.low_G, self.high_G = low_G, high_G

    def merge(self, other: Self) -> None:
        """Takes in what another one saw; exact."""
        if other.low_G is not None and other.high_G is not None:
            self.widen(other.low_G, other.high_G)
