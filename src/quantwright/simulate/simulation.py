"""Simulation: the lowered form of a prepared network, made when it is first needed and again when something changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    Attributes:
        compiled: whether torch.compile makes one kernel of what stands between two convolutions; the first run of every
            input shape then takes long.

    Args:
        graph: the network with its quantizers inserted.
    """

    def __init__(self, graph: Graph, quantizers: Mapping[str, Quantizer], target: Target) -> None:
        self._graph = graph
        self._quantizers = quantizers
        self._target = target
        self.compiled = False
        self._made: tuple[_Key, fx.GraphModule, Callable[..., Any]] | None = None  # only the last one: they are large

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
        return self._lowered(taps)[0]

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the network's output as the target computes it."""
        return self._graph.call(self._lowered(False)[1], args, kwargs)

    def _lowered(self, taps: bool) -> tuple[fx.GraphModule, Callable[..., Any]]:
        key = (taps, self.compiled, *self._key())
        if self._made is None or self._made[0] != key:
            with torch.no_grad():
                module = lower(self._graph.module, self._quantizers, self._target, taps=taps)
            compiled: Callable[..., Any] = torch.compile(module) if self.compiled and not taps else module
            self._made = (key, module, compiled)
        return self._made[1:]

    def _key(self) -> _Key:
        """Returns what changes whenever a parameter or QParams change, in place or not, or move."""
        tensors: list[Tensor | None] = list(self._graph.module.parameters())
        for quantizer in self._quantizers.values():
            tensors += (quantizer.scale, quantizer.zero_point)
        return tuple(None if t is None else (t.data_ptr(), t._version, t.device) for t in tensors)
