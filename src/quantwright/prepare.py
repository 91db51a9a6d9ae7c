"""PreparedModel: the captured graph with a quantizer at every point of the plan."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantwright.config.config import QuantConfig
from quantwright.data import Batch
from quantwright.errors import QuantwrightError
from quantwright.fakequant.fixed import Mode, Quantizer
from quantwright.graph.graph import Graph
from quantwright.numerics.qparams import QParams
from quantwright.passes import Change
from quantwright.plan.plan import Decision, Plan, ProductOf, SameAs
from quantwright.targets import Target


class PreparedModel(nn.Module):
    """Returns a model that computes what the plan decided; call it like the user's model.

    Attributes:
        graph: the graph that is executed, quantizers included; ``graph.module`` is a submodule of this one.
        plan: what was decided.
        config: what was asked.
        target: the device the plan is for.
        quantizers: point name -> Quantizer, in execution order.
        example: one batch the model can be run on.
        changes: what passes and algorithms did.
        float_parameters: the values, before any algorithm, of the parameters an algorithm has changed.
    """

    def __init__(
        self, graph: Graph, plan: Plan, config: QuantConfig, target: Target, example: Batch, changes: list[Change]
    ) -> None:
        super().__init__()
        self.graph = graph
        self.plan = plan
        self.config = config
        self.target = target
        self.example = example
        self.changes = list(changes)
        self.float_parameters: dict[str, Tensor] = {}
        self.quantizers: Mapping[str, Quantizer] = insert(graph, plan, target)
        self.network = graph.module

    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the names of the network's inputs as the user's ``forward`` calls them."""
        return tuple(self.graph.input_names)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the user's model would return, computed as the quantizers' modes say."""
        return self.graph(*args, **kwargs)

    def run(self, batch: Batch) -> Any:
        """Returns the output for one batch, without gradients."""
        with torch.no_grad():
            return self(*batch.args, **batch.kwargs)

    def set_mode(self, mode: Mode) -> None:
        """Sets the mode of every quantizer."""
        for quantizer in self.quantizers.values():
            quantizer.mode = mode

    @contextlib.contextmanager
    def floating(self) -> Iterator[None]:
        """Yields with every quantizer off and every parameter as it was before algorithms; restores both after."""
        modes = {name: quantizer.mode for name, quantizer in self.quantizers.items()}
        changed = {name: self.graph.parameter(name).detach().clone() for name in self.float_parameters}
        try:
            self.set_mode("float")
            for name, value in self.float_parameters.items():
                self.graph.set_parameter(name, value)
            yield
        finally:
            for name, value in changed.items():
                self.graph.set_parameter(name, value)
            for name, mode in modes.items():
                self.quantizers[name].mode = mode

    def change_parameter(self, name: str, value: Tensor) -> None:
        """Sets a parameter and remembers its float value, so that ``floating`` can bring it back."""
        self.float_parameters.setdefault(name, self.graph.parameter(name).detach().clone())
        self.graph.set_parameter(name, value)

    def link(self) -> None:
        """Derives the QParams of every point that is related to another one (shared and bias scales)."""
        for decision in self.plan.decisions:
            quantizer = self.quantizers.get(decision.point.name)
            if quantizer is None:
                continue
            if isinstance(decision.relation, SameAs):
                quantizer.qparams = self.quantizers[self.root(decision.point.name)].qparams
            elif isinstance(decision.relation, ProductOf):
                inputs = self.quantizers[self.root(decision.relation.input)].qparams
                weights = self.quantizers[self.root(decision.relation.weight)].qparams
                if inputs is not None and weights is not None:
                    quantizer.qparams = derive_bias(inputs, weights)

    def root(self, point: str) -> str:
        """Returns the point whose QParams ``point`` uses: itself, or where its SameAs relations lead."""
        seen: set[str] = set()
        while True:
            relation = self.plan[point].relation
            if not isinstance(relation, SameAs) or point in seen:
                return point
            seen.add(point)
            point = relation.point


def derive_bias(inputs: QParams, weights: QParams) -> QParams:
    """Returns the QParams of an int32 bias: scale(input) * scale(weight) in float32, as integer hardware adds it."""
    scale_G = inputs.scale.float() * weights.scale.float()
    return QParams(scale=scale_G, zero_point=torch.zeros_like(scale_G, dtype=torch.int32))


def insert(graph: Graph, plan: Plan, target: Target) -> dict[str, Quantizer]:
    """Returns the quantizers it put into ``graph``: after values and parameters, before the readers each point names.

    Points that stay float, and redundant ones (their value is on the grid already), get none.
    """
    module = graph.module
    made: dict[str, Quantizer] = {}
    ordered = sorted(plan.quantized(), key=lambda d: bool(d.point.consumers))  # whole values first, then single edges
    for decision in ordered:
        if decision.redundant:
            continue
        assert decision.spec is not None  # quantized() leaves out what stays float
        quantizer = Quantizer(decision.point, decision.spec, target.arithmetic.quantize)
        path = f"quantizers.{_attribute(decision.point.name, module)}"
        module.add_submodule(path, quantizer)
        for value in _values(graph, decision):
            _insert_one(module, value, path, decision)
        made[decision.point.name] = quantizer
    module.graph.lint()
    module.recompile()
    order = {d.point.name: index for index, d in enumerate(plan.decisions)}
    return dict(sorted(made.items(), key=lambda item: order[item[0]]))


def _attribute(name: str, module: fx.GraphModule) -> str:
    """Returns a submodule name for a point: its name with everything but letters and digits made ``_``, unique."""
    base = re.sub(r"\W", "_", name)
    taken = getattr(module, "quantizers", None)
    candidate, count = base, 1
    while taken is not None and hasattr(taken, candidate):
        candidate, count = f"{base}_{count}", count + 1
    return candidate


def _values(graph: Graph, decision: Decision) -> list[fx.Node]:
    """Returns the nodes that carry the tensor of a point: get_attr nodes of a parameter, or the producing node."""
    point = decision.point
    nodes = list(graph.module.graph.nodes)
    if point.role in ("weight", "bias"):
        found = [n for n in nodes if n.op == "get_attr" and n.target == point.tensor]
    else:
        found = [n for n in nodes if n.name == point.tensor and n.op != "output"]
    if not found:
        raise QuantwrightError(
            f"the plan names a tensor '{point.tensor}' (point '{point.name}') that the graph does not have",
            fix="prepare the model again: plan and graph belong to different captures",
        )
    return found


def _insert_one(module: fx.GraphModule, value: fx.Node, path: str, decision: Decision) -> None:
    """Puts one quantizer call behind ``value`` (behind its whole-value quantizer for an edge point)."""
    source = value
    if decision.point.consumers:
        source = next((u for u in value.users if u.meta.get("point") and not u.meta.get("edge")), value)
    with module.graph.inserting_after(source):
        node = module.graph.call_module(path, (source,))
    node.meta = {key: value.meta[key] for key in ("shape", "dtype", "origins") if key in value.meta}
    node.meta.update(point=decision.point.name, kind="quantizer", edge=bool(decision.point.consumers))
    wanted = set(decision.point.consumers)
    for user in list(source.users):
        if user is not node and not user.meta.get("point") and (not wanted or user.name in wanted):
            user.replace_input_with(source, node)
