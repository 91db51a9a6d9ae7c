"""One view of every weight: ``w_GOIK``, so that no pass asks whether a layer is grouped, depthwise or transposed.

    G  groups that share no channels (1 for an ordinary layer, C for a depthwise one)
    O  output channels per group        I  input channels per group        K  everything else (kernel positions)

Output channel ``g * O + o`` of the layer is row (g, o) and input channel ``g * I + i`` is column (g, i).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Returns how a weight is laid out in memory.

    Attributes:
        transposed: [in, out / groups, *kernel] (transposed convolutions) instead of [out, in / groups, *kernel].
        groups: groups of channels that do not see each other.
        repeat: neighbouring inputs that carry one channel (a linear layer behind a flatten reads H * W of them).
    """

    transposed: bool = False
    groups: int = 1
    repeat: int = 1

    def view(self, w: Tensor) -> Tensor:
        """Returns ``w`` as [G, O, I, K], a view: writing into it writes into ``w``.

        Shapes:
            w: [out, in / groups, *kernel], or [in, out / groups, *kernel] when transposed; contiguous.
        """
        kernel = math.prod(w.shape[2:])
        if self.transposed:
            return w.view(self.groups, w.shape[0] // self.groups, w.shape[1], kernel).transpose(1, 2)
        inputs = w.shape[1] // self.repeat
        return w.view(self.groups, w.shape[0] // self.groups, inputs, self.repeat * kernel)


def output_range(w_GOIK: Tensor) -> Tensor:
    """Returns the largest magnitude of each output channel, [G * O]."""
    return w_GOIK.abs().amax((2, 3)).flatten()


def input_range(w_GOIK: Tensor) -> Tensor:
    """Returns the largest magnitude of what each input channel is multiplied with, [G * I]."""
    return w_GOIK.abs().amax((1, 3)).flatten()


def per_output(value: Tensor, w_GOIK: Tensor) -> Tensor:
    """Returns one value per output channel in the shape that broadcasts over ``w_GOIK``.

    Shapes:
        value: [G * O]; result: [G, O, 1, 1].
    """
    return value.view(w_GOIK.shape[0], w_GOIK.shape[1], 1, 1)


def per_input(value: Tensor, w_GOIK: Tensor) -> Tensor:
    """Returns one value per input channel in the shape that broadcasts over ``w_GOIK``.

    Shapes:
        value: [G * I]; result: [G, 1, I, 1].
    """
    return value.view(w_GOIK.shape[0], 1, w_GOIK.shape[2], 1)
