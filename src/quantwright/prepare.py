"""PreparedModel: the captured graph with a quantizer at every point of the plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from quantwright.config.config import QuantConfig
from quantwright.data import Batch
from quantwright.errors import QuantwrightError
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.graph import Graph
from quantwright.graph.streamline import Streamlined
from quantwright.passes import Change
from quantwright.plan.plan import Decision, Plan
from quantwright.quantized import QuantizedModel, Tap
from quantwright.simulate.simulation import Simulation
from quantwright.targets import Target


class PreparedModel(QuantizedModel):
    """Returns a model that computes what the plan decided; call it like the user's model.

    Attributes:
        graph: the graph that is executed, quantizers included; ``graph.module`` is a submodule of this one.
    """

    def __init__(
        self, graph: Graph, plan: Plan, config: QuantConfig, target: Target, example: Batch, changes: list[Change]
    ) -> None:
        super().__init__(plan, config, target, example, changes)
        self.graph = graph
        self.quantizers = insert(graph, plan, target)
        self.network = graph.module
        self.simulation = Simulation(graph, self.quantizers, target)

    @property
    def config(self) -> QuantConfig:
        """Returns what was asked."""
        return self.asked

    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the names of the network's inputs as the user's ``forward`` calls them."""
        return tuple(self.graph.input_names)

    @property
    def capture_notes(self) -> tuple[str, ...]:
        """Returns what capture had to do or could not keep, in sentences."""
        return tuple(self.graph.notes)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the user's model would return, computed as the quantizers' modes say.

        When all of them quantize and no gradient is recorded, what the target computes in integers is computed in
        integers (``simulate/``), bit for bit; otherwise in float32 with fake quantization.
        """
        if self.simulation.applies():
            return self.simulation.run(args, kwargs)
        return self.graph(*args, **kwargs)

    def compile(self, *_args: Any, **_options: Any) -> None:
        """Makes simulated runs faster with torch.compile, which takes its time at the first run of every input shape.

        It changes no value: whole numbers stay whole. Needs a C++ compiler.
        """
        self.simulation.compiled = True

    def compute(self, batch: Batch, taps: Mapping[str, Tap]) -> Any:
        """Returns the output for one batch; each tap saw the value of the node it is for."""
        if not taps:
            return self(*batch.args, **batch.kwargs)
        module = self.simulation.module(taps=True) if self.simulation.applies() else None
        return self.graph.run(batch.args, dict(batch.kwargs), taps, module)

    def watching(self) -> Callable[[Batch], Any]:
        """Returns how to run batches in float while quantizers watch: on a streamlined form of the graph."""
        silent = {id(q) for q in self.quantizers.values() if q.mode == "float"}
        return Streamlined(self.graph, lambda path: id(self.network.get_submodule(path)) in silent).run

    def parameter(self, name: str) -> Tensor:
        """Returns the parameter that the plan calls ``name``."""
        return self.graph.parameter(name)

    def set_parameter(self, name: str, value: Tensor) -> None:
        """Sets the parameter that the plan calls ``name``."""
        self.graph.set_parameter(name, value)


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
