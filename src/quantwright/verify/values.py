"""Where values of activation points are seen: at the nodes of a graph, or by the quantizers of the user's modules."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from quantwright.data import Batch
from quantwright.fakequant.fixed import Quantizer
from quantwright.hooks import HookedModel
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Decision
from quantwright.prepare import PreparedModel
from quantwright.quantized import QuantizedModel
from quantwright.verify.places import point_nodes, portions, sample_bytes

See = Callable[[str, Tensor], None]
"""Called with the key of a point and each value that passes it."""


class Values(ABC):
    """Returns how to watch the points of a model; ``points`` are key -> decision, in execution order."""

    points: Mapping[str, Decision]

    @abstractmethod
    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns the batches in portions whose values fit into memory, as far as that is known."""

    @abstractmethod
    def run(self, batch: Batch, see: See) -> None:
        """Runs one batch as the quantizers' modes say and shows the value of every point."""

    @abstractmethod
    def facts(self) -> ModelFacts:
        """Returns the facts the plan was made for."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Returns every parameter and buffer, by the names the plan uses."""


def values_of(model: QuantizedModel) -> Values:
    """Returns how to watch ``model``."""
    if isinstance(model, HookedModel):
        return ModuleValues(model)
    if not isinstance(model, PreparedModel):
        raise TypeError(f"the points of a {type(model).__name__} cannot be watched")
    return GraphValues(model)


def quantizer_of(model: QuantizedModel, point: str) -> Quantizer | None:
    """Returns the quantizer of a point, or the one whose grid its values are on already."""
    return model.quantizers.get(point) or model.quantizers.get(model.root(point))


class GraphValues(Values):
    """Returns the points of a graph; keys are nodes, one point each."""

    def __init__(self, model: PreparedModel) -> None:
        self.model = model
        where, order = point_nodes(model), _order(node.name for node in model.graph.module.graph.nodes)
        found: dict[str, Decision] = {}
        for decision in _activations(model):
            if decision.point.name in where:
                found.setdefault(where[decision.point.name], decision)
        self.points = dict(sorted(found.items(), key=lambda item: order[item[0]]))

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns portions within the memory budget of ``verify``."""
        return portions(self.model, batches, sample_bytes(self.model, self.points))

    def run(self, batch: Batch, see: See) -> None:
        """Runs one batch with a tap at every node."""

        def tap(node: str) -> Callable[[Tensor], None]:
            return lambda value: see(node, value)

        self.model.compute(batch, {node: tap(node) for node in self.points})

    def facts(self) -> ModelFacts:
        """Returns the facts of the graph as it is."""
        return self.model.graph.facts()

    def tensors(self) -> Mapping[str, Tensor]:
        """Returns what the graph reads."""
        return self.model.graph.tensors()


class ModuleValues(Values):
    """Returns the points of the user's own modules; keys are points, those with a quantizer of their own."""

    def __init__(self, model: HookedModel) -> None:
        self.model = model
        self.points = {d.point.name: d for d in _activations(model) if d.point.name in model.quantizers}

    def batches(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns the batches as they are: a user's code says nothing about the sizes of its values."""
        return batches

    def run(self, batch: Batch, see: See) -> None:
        """Runs one batch with a hook on every quantizer; one that is called repeatedly is seen repeatedly."""

        def hook(point: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda _, __, value: see(point, value)

        with contextlib.ExitStack() as stack:
            for point in self.points:
                handle = self.model.quantizers[point].register_forward_hook(hook(point))
                stack.callback(handle.remove)
            self.model.compute(batch, {})

    def facts(self) -> ModelFacts:
        """Returns the facts of the run that was written down."""
        return self.model.captured.facts

    def tensors(self) -> Mapping[str, Tensor]:
        """Returns parameters and buffers of the user's model, tied ones once."""
        return dict(_named(self.model.network))


def _activations(model: QuantizedModel) -> Iterator[Decision]:
    """Yields the decisions about quantized activations that a quantizer applies."""
    for decision in model.plan.quantized():
        if decision.point.role in ("input", "output") and quantizer_of(model, decision.point.name) is not None:
            yield decision


def _named(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _order(names: Iterable[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}
