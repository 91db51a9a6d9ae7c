"""Simulation: the lowered form of a prepared network, made when it is first needed and again when something changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.graph import Graph
from quantwright.simulate.lower import lower
from quantwright.targets import Target

_Key = tuple[Any, ...]


class Simulation:
    """Returns what runs a prepared network as its target computes it.

    Args:
        graph: the network with its quantizers inserted.
    """

    def __init__(self, graph: Graph, quantizers: Mapping[str, Quantizer], target: Target) -> None:
        self._graph = graph
        self._quantizers = quantizers
        self._target = target
        self._made: dict[bool, tuple[_Key, fx.GraphModule]] = {}

    def applies(self) -> bool:
        """Returns whether values now are what the target computes: everything quantizes and no gradient is recorded.

        With gradients the network runs in float32 with fake quantization, which has one; results then differ from the
        target's by roundings at ties.
        """
        if self._target.arithmetic.requantize == "none" or torch.is_grad_enabled():
            return False
        return all(quantizer.mode == "quantize" and quantizer.ready for quantizer in self._quantizers.values())

    def module(self, *, taps: bool = False) -> fx.GraphModule:
        """Returns the lowered network for the parameters and QParams of this moment; see ``lower``."""
        key = self._key()
        made = self._made.get(taps)
        if made is None or made[0] != key:
            with torch.no_grad():
                lowered = lower(self._graph.module, self._quantizers, self._target, taps=taps)
            made = self._made[taps] = (key, lowered)
        return made[1]

    def _key(self) -> _Key:
        """Returns what changes whenever a parameter or QParams change, in place or not, or move."""
        tensors: list[Tensor | None] = list(self._graph.module.parameters())
        for quantizer in self._quantizers.values():
            tensors += (quantizer.scale, quantizer.zero_point)
        return tuple(None if t is None else (t.data_ptr(), t._version, t.device) for t in tensors)
