"""Simulation: the lowered form of a prepared network, made when it is first needed and again when something changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.graph import Graph
from quantwright.simulate.lower import lower
from quantwright.targets import Target


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
        # only the last one is kept, for they are large
        self._made: tuple[_Inputs, fx.GraphModule, Callable[..., Any]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the lowered network, which a copy makes for itself."""
        return {**self.__dict__, "_made": None}

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

    def portable(self) -> fx.GraphModule:
        """Returns the lowered network of operators that every tracer knows; it computes the same values."""
        return lower(self._graph.module, self._quantizers, self._target, kernels=False)

    def run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the network's output as the target computes it."""
        return self._graph.call(self._lowered(False)[1], args, kwargs)

    def _lowered(self, taps: bool) -> tuple[fx.GraphModule, Callable[..., Any]]:
        now = _Inputs.of(self._graph.module, (taps, self.compiled))
        if self._made is None or not self._made[0].same(now):
            with torch.no_grad():
                module = lower(self._graph.module, self._quantizers, self._target, taps=taps)
            compiled: Callable[..., Any] = torch.compile(module) if self.compiled and not taps else module
            self._made = (now, module, compiled)
        return self._made[1:]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Returns what a lowered network was made from: the tensors themselves, so that none passes for a later one."""

    tensors: tuple[Tensor, ...]
    marks: tuple[Any, ...]

    @classmethod
    def of(cls, module: fx.GraphModule, options: tuple[bool, bool]) -> _Inputs:
        """Returns the inputs of this moment: parameters, constants and QParams, and how often each was written to."""
        tensors = (*module.parameters(), *module.buffers())
        return cls(tensors, (options, *(_mark(tensor) for tensor in tensors)))

    def same(self, other: _Inputs) -> bool:
        """Returns whether nothing was replaced, written to or moved since."""
        if len(self.tensors) != len(other.tensors) or self.marks != other.marks:
            return False
        return all(a is b for a, b in zip(self.tensors, other.tensors, strict=True))


def _mark(tensor: Tensor) -> tuple[int, int, torch.device]:
    """Returns what changes when a tensor is written to or moved; tensors of inference mode do not count writes."""
    return 0 if tensor.is_inference() else tensor._version, tensor.data_ptr(), tensor.device
