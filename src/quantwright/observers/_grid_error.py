"""The squared quantization error of a histogram, for many grids at once.

Values stand at the centre of their bin. All that a level q of a grid holds is n values with sum s1 and sum of squares
s2, so its error is s2 - 2 q step s1 + (q step)**2 n: with running sums over the bins, two look-ups per level instead of
one term per bin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.observers._histogram import Streaming

_AT_ONCE = 1 << 20  # look-ups
_FINE = 4.0  # a step of fewer bins than this ...


class GridError:
    """Returns the error of grids on what a histogram has seen.

    Where a step is not wider than four bins, what happens inside a bin matters, and rounding errors inside the range
    are taken as uniform: step**2 / 12 each.

    Args:
        clipping: how many times the error of a value outside the range counts.
    """

    def __init__(self, seen: Streaming, clipping: float = 1.0) -> None:
        self._more = clipping - 1.0
        counts_GK = seen.counts_GK.double()
        self._first, self._bins = seen.first, counts_GK.shape[1]
        centre_K = torch.arange(self._bins, dtype=torch.float64) + (seen.first + 0.5)  # in bins, as everything here
        self._width_G1 = seen.width_G.unsqueeze(1)
        self._number_GK = _running(counts_GK)
        self._sum_GK = _running(counts_GK * centre_K)
        self._square_GK = _running(counts_GK * centre_K.square())

    def __call__(self, scale_GC: Tensor, low_GC: Tensor, high_GC: Tensor) -> Tensor:
        """Returns the sum of squared errors, float64.

        Shapes:
            scale_GC: [G, C], float per integer step. low_GC, high_GC: [G, C], the least and greatest q - zero_point.
            Result: [G, C].
        """
        step_GC = scale_GC.double() / self._width_G1
        low_GC, high_GC = low_GC.double(), high_GC.double()
        fine_GC = step_GC < _FINE
        inside_GC, outside_GC = self._uniform(step_GC, low_GC, high_GC)
        error_GC = inside_GC + outside_GC
        if not bool(fine_GC.all()):
            coarse_GC = step_GC.clamp(min=_FINE)  # so that no fine grid asks for more levels than there can be
            error_GC = torch.where(fine_GC, error_GC, self._exact(coarse_GC, low_GC, high_GC))
        if self._more:
            error_GC = error_GC + self._more * outside_GC
        return error_GC * self._width_G1.square()

    def _uniform(self, step_GC: Tensor, low_GC: Tensor, high_GC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (the error when it is uniform inside the range, that of the ends outside)."""
        below_GC, above_GC = self._index((low_GC - 0.5) * step_GC), self._index((high_GC + 0.5) * step_GC)
        last_GC = torch.full_like(below_GC, self._bins)
        inside_GC = self._number_GK.gather(1, above_GC) - self._number_GK.gather(1, below_GC)
        low_error_GC = self._to_level(torch.zeros_like(below_GC), below_GC, low_GC * step_GC)
        high_error_GC = self._to_level(above_GC, last_GC, high_GC * step_GC)
        return inside_GC * step_GC.square() / 12, low_error_GC + high_error_GC

    def _to_level(self, from_GC: Tensor, to_GC: Tensor, level_GC: Tensor) -> Tensor:
        """Returns the squared distance of the bins ``from`` up to ``to`` to one value."""
        number, total, square = (
            part_GK.gather(1, to_GC) - part_GK.gather(1, from_GC)
            for part_GK in (self._number_GK, self._sum_GK, self._square_GK)
        )
        return square - 2 * level_GC * total + level_GC.square() * number

    def _exact(self, step_GC: Tensor, low_GC: Tensor, high_GC: Tensor) -> Tensor:
        """Returns the error with every bin rounded to its level."""
        levels = int((high_GC - low_GC).amax()) + 1
        levels = min(levels, int(self._bins / float(step_GC.min())) + 2)
        rows = max(1, _AT_ONCE // (levels * step_GC.shape[1]))
        parts = [
            self._exact_rows(slice(top, top + rows), levels, step_GC, low_GC, high_GC)
            for top in range(0, step_GC.shape[0], rows)
        ]
        return torch.cat(parts)

    def _exact_rows(self, rows: slice, levels: int, step_GC: Tensor, low_GC: Tensor, high_GC: Tensor) -> Tensor:
        step_RC1, low_RC1, high_RC1 = (part[rows].unsqueeze(2) for part in (step_GC, low_GC, high_GC))
        lowest_RC1 = torch.maximum(low_RC1, torch.floor(self._first / step_RC1))  # no bin is rounded further down
        level_RCL = lowest_RC1 + torch.arange(levels, dtype=torch.float64)
        border_RCL = (level_RCL + 0.5).mul_(step_RC1)
        border_RCL.masked_fill_(level_RCL >= high_RC1, float("inf"))  # the last level takes everything beyond
        border_RCL[..., -1] = float("inf")
        flat_RM = self._index(border_RCL).flatten(1)
        number_RCL, sum_RCL = (
            part_GK[rows].gather(1, flat_RM).reshape(level_RCL.shape) for part_GK in (self._number_GK, self._sum_GK)
        )
        number_RCL = number_RCL.diff(dim=2, prepend=number_RCL.new_zeros(()).expand_as(step_RC1))
        sum_RCL = sum_RCL.diff(dim=2, prepend=sum_RCL.new_zeros(()).expand_as(step_RC1))
        value_RCL = level_RCL.mul_(step_RC1)
        moved_RC = (value_RCL * (value_RCL * number_RCL - 2 * sum_RCL)).sum(2)
        return self._square_GK[rows, -1:] + moved_RC

    def _index(self, border: Tensor) -> Tensor:
        """Returns how many bins have their centre below a border."""
        return (border - (self._first + 0.5)).ceil_().clamp_(0, self._bins).long()


def _running(values_GK: Tensor) -> Tensor:
    """Returns the running sums, from 0: [G, K + 1]."""
    return torch.nn.functional.pad(values_GK.cumsum(1), (1, 0))
