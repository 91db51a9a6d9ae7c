"""Observers: watch ``x_GN`` and choose a range.

To add one: write ``observers/<name>.py`` whose docstring's first line says what it does, with a literal ``PARAMS``
(see ``registry.parameters``) and ``plugin = YourObserver``, a subclass of ``Observer``. Nothing else is edited. An
observer never sees an axis: granularity is already in the view (G groups that share a scale, N elements each).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.qparams import QParams


class Observer(ABC):
    """Returns a range chooser for one point: ``observe`` any number of times, then ``range`` or ``qparams``."""

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        self.spec = spec
        self.params = params

    @abstractmethod
    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Shapes:
            x_GN: [G, N] floating point, G constant over calls. May be a non-contiguous view; must not be modified.
        """

    @abstractmethod
    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G): the range the grid should cover, float64.

        Raises:
            StateError: nothing was observed.
        """

    def qparams(self) -> QParams:
        """Returns scale and zero point for the range, by the spec's scale policy and symmetry."""
        return choose_qparams(*self.range(), self.spec)
