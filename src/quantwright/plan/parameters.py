"""Weights and biases: one point per parameter, however many operations read it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from quantwright.config.spec import Granularity, Role
from quantwright.plan.chain import Chained
from quantwright.plan.context import Context, fill_axis, float_format
from quantwright.plan.facts import NodeFacts, ParamFacts
from quantwright.plan.groups import is_torch_layer
from quantwright.plan.plan import Decision, Point, ProductOf


@dataclass(slots=True)
class Parameters:
    """Returns the decisions about weights and biases; call ``weight`` and ``bias`` for nodes in execution order."""

    context: Context
    _readers: dict[str, list[NodeFacts]] = field(default_factory=lambda: defaultdict(list))
    _decided: dict[str, Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.context.facts.nodes:
            for parameter in (node.weight, node.bias):
                if parameter is not None:
                    self._readers[parameter.name].append(node)

    def weight(self, node: NodeFacts) -> None:
        """Decides the weight of a node, unless a node before it has the same one."""
        parameter = node.weight
        if parameter is None or parameter.name in self._decided:
            return
        point = Point(name=self.context.unique(parameter.name), role="weight", node=node.name, tensor=parameter.name)
        why = self._why_float(node, parameter)
        if why:
            self._decided[parameter.name] = self.context.leave_float(point, why)
            return
        chained = self._chain("weight", parameter)
        chained = self._axis(chained, parameter)
        why = float_format(chained)
        if why:
            self._decided[parameter.name] = self.context.leave_float(point, why, chained)
            return
        self.context.legality.check(point.name, chained, "weight", node.kind, parameter.shape)
        self._decided[parameter.name] = self.context.quantize(point, chained)

    def bias(self, node: NodeFacts, read: Decision | None) -> None:
        """Decides the bias of a node.

        Args:
            read: the decision about what the node reads as its first input.
        """
        parameter = node.bias
        if parameter is None or parameter.name in self._decided:
            return
        point = Point(name=self.context.unique(parameter.name), role="bias", node=node.name, tensor=parameter.name)
        why = self._why_float(node, parameter)
        if why:
            self._decided[parameter.name] = self.context.leave_float(point, why)
            return
        chained = self._chain("bias", parameter)
        why = float_format(chained)
        if not why and chained.spec.is_integer and chained.spec.scale == "derived":
            self._decided[parameter.name] = self._derived(node, parameter, point, chained, read)
            return
        if why:
            self._decided[parameter.name] = self.context.leave_float(point, why, chained)
            return
        chained = fill_axis(self.context.chains, chained, "bias", 0, "the channel axis of a bias")
        self.context.legality.check(point.name, chained, "bias", node.kind, parameter.shape)
        self._decided[parameter.name] = self.context.quantize(point, chained)

    def constants(self, node: NodeFacts) -> None:
        """Records that what a node reads from the model beside weight and bias is float, unless it is one elsewhere."""
        for constant in node.constants:
            if constant.name in self._decided or constant.name in self._readers:
                continue
            why = self._why_constant(node)
            point = Point(
                name=self.context.unique(constant.name), role="weight", node=node.name, tensor=constant.name
            )
            self._decided[constant.name] = self.context.leave_float(point, why)

    def _why_constant(self, node: NodeFacts) -> str:
        context = self.context
        if node.name in context.excluded:
            return context.why_excluded(node.name)
        if context.target.handling(node.kind) == "float":
            return context.why_kind(node)
        return f"a constant that {node.kind} reads as it is"

    def _why_float(self, node: NodeFacts, parameter: ParamFacts) -> str | None:
        """Returns why a parameter is not quantized: excluding one of the operations that share it excludes it."""
        context = self.context
        readers = self._readers[parameter.name]
        for reader in readers:
            if reader.name in context.excluded:
                shared = "" if reader is node else f" (shared with '{context.labels[reader.name]}')"
                return context.why_excluded(reader.name) + shared
        if not any(self._quantizes(reader) for reader in readers):
            return context.why_kind(node)
        return None

    def _quantizes(self, reader: NodeFacts) -> bool:
        """Returns whether an operation wants its parameters quantized: by its kind, or because a rule includes it."""
        if reader.name in self.context.included:
            return True
        target, placement = self.context.target, self.context.target.placement
        layer = reader.kind not in placement.layers_only or is_torch_layer(reader, placement.layer_types)
        return reader.kind in target.parameters and layer

    def _chain(self, role: Role, parameter: ParamFacts) -> Chained:
        """Returns the spec of a parameter; of several operations that share it the last one decides."""
        context = self.context
        readers = [r for r in self._readers[parameter.name] if self._quantizes(r)]
        chains = [
            context.ends.chain(context.chains, role, context.chains.steps(context.rules(r.name), role), (r.name,))
            for r in readers
        ]
        if any(chained.spec != chains[-1].spec for chained in chains):
            names = ", ".join(f"'{context.labels[reader.name]}'" for reader in readers)
            last = context.labels[readers[-1].name]
            context.note(f"'{parameter.name}' is shared by {names} and asked to be different things; '{last}' decides")
        return chains[-1]

    def _axis(self, chained: Chained, parameter: ParamFacts) -> Chained:
        """Returns the spec of a weight with its channel or group axis filled in."""
        granularity, chains = chained.spec.granularity, self.context.chains
        rank = len(parameter.shape)
        if granularity is None or granularity.kind == "per_tensor":
            return chained
        if not rank:
            return chains.set(chained, "granularity", Granularity(), "a single number has no axis")
        if granularity.axis is not None and -rank <= granularity.axis < 0:
            positive = granularity.model_copy(update={"axis": granularity.axis + rank})
            return chains.set(chained, "granularity", positive, "counted from the front")
        if granularity.kind == "per_group":
            axis = parameter.input_axis if parameter.input_axis is not None else rank - 1
            return fill_axis(chains, chained, "weight", axis, "the input-channel axis")
        return fill_axis(chains, chained, "weight", parameter.channel_axis, "the output-channel axis")

    def _derived(
        self, node: NodeFacts, parameter: ParamFacts, point: Point, chained: Chained, read: Decision | None
    ) -> Decision:
        """Returns the decision about a bias whose scale is input scale times weight scale."""
        weight = self._decided.get(node.weight.name) if node.weight is not None else None
        why = _no_product(node, parameter, read, weight)
        if why or read is None or weight is None or weight.spec is None:
            return self.context.leave_float(point, why or "it has no input or weight to derive a scale from", chained)
        granularity = weight.spec.granularity or Granularity()
        if granularity.kind == "per_channel":
            granularity = Granularity(kind="per_channel", axis=0)
        chained = self.context.chains.set(chained, "granularity", granularity, "as its weight")
        self.context.legality.check(point.name, chained, "bias", node.kind, parameter.shape)
        return self.context.quantize(point, chained, ProductOf(input=read.point.name, weight=weight.point.name))


def _no_product(node: NodeFacts, parameter: ParamFacts, read: Decision | None, weight: Decision | None) -> str | None:
    """Returns why no scale can be derived for a bias, or None."""
    if read is None or read.spec is None or not read.spec.is_integer:
        return f"its scale would be derived from the input's, and the input is {_format(read)}"
    if weight is None or weight.spec is None or not weight.spec.is_integer or node.weight is None:
        return f"its scale would be derived from the weight's, and the weight is {_format(weight)}"
    inputs, weights = read.spec.granularity, weight.spec.granularity
    if inputs is not None and inputs.kind != "per_tensor":
        return f"its scale would be derived from the input's, and that is {inputs.kind}"
    if weights is None or weights.kind == "per_tensor":
        return None
    if weights.kind != "per_channel":
        return f"its scale would be derived from the weight's, and that is {weights.kind}"
    axis = weights.axis or 0
    if axis != node.weight.channel_axis or node.weight.shape[axis : axis + 1] != parameter.shape:
        return "its scale would be derived from the weight's, and the weight's scales are not one per output channel"
    return None


def _format(decision: Decision | None) -> str:
    """Returns what a tensor is whose integers a product would need: the format, or ``float``."""
    return "float" if decision is None or decision.spec is None else decision.spec.format or "float"
