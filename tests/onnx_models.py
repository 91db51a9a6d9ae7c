"""Small networks and hand-made plans for the export and verify tests: every decision is written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from quantwright.calibrate import calibrate
from quantwright.config import kinds
from quantwright.config.config import QuantConfig, RoleSpecs
from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.data import Batch, as_batch
from quantwright.graph.capture import capture
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.plan.plan import Decision, Plan, Point, ProductOf, SameAs
from quantwright.prepare import PreparedModel
from quantwright.targets import Arithmetic, Target

COMPUTE = {*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.POOL_AVERAGE, *kinds.ELEMENTWISE,
           *kinds.RESIZE, *kinds.JOIN, "softmax", "layer_norm", "gelu"}  # fmt: skip
WEIGHT = BASE_SPEC.model_copy(update={"granularity": Granularity(kind="per_channel", axis=0)})
ACTIVATION = BASE_SPEC.model_copy(update={"format": "uint8", "symmetric": False})
BIAS = BASE_SPEC.model_copy(
    update={"format": "int32", "scale": "derived", "granularity": Granularity(kind="per_channel", axis=0)}
)


def spec(base: QuantSpec = BASE_SPEC, **fields: Any) -> QuantSpec:
    """Returns ``base`` with some fields changed."""
    return QuantSpec(**fields).over(base)


Choice = QuantSpec | None | Callable[[NodeFacts], "QuantSpec | None"]
"""One spec for all, or one per node; None leaves float."""


def choose(choice: Choice, node: NodeFacts) -> QuantSpec | None:
    """Returns the spec of a node."""
    return choice(node) if callable(choice) else choice


def plan_for(facts: ModelFacts, weight: Choice, activation: Choice, bias: Choice) -> Plan:
    """Returns a plan: inputs, compute outputs (at a following relu), parameters; movement and max pools redundant."""
    decisions: dict[str, Decision] = {}
    placed: dict[str, str] = {}  # node -> point whose grid its value is on
    by_name = {node.name: node for node in facts.nodes}
    for node in facts.nodes:
        chosen = choose(activation, node) if node.is_float else None
        if chosen is None:
            continue
        feeding = placed.get(node.inputs[0]) if node.inputs else None
        point = Point(name=f"{node.name}:output", role="output", node=node.name, tensor=node.name)
        fused = len(node.users) == 1 and by_name[node.users[0]].kind in ("relu", "relu6")
        if node.kind == "input" or (node.kind in COMPUTE and not fused) or (node.kind in ("relu", "relu6")):
            decisions[point.name] = Decision(point=point, spec=chosen)
            placed[node.name] = point.name
        elif node.keeps_grid and feeding is not None:
            same = decisions[feeding].spec
            relation = SameAs(point=feeding)
            decisions[point.name] = Decision(point=point, spec=same, relation=relation, redundant=True)
            placed[node.name] = point.name
    for node in facts.nodes:
        if node.weight is not None:
            _parameters(node, placed, decisions, choose(weight, node), choose(bias, node))
    return Plan(model=facts.name, target="hand", decisions=tuple(decisions.values()))


def _parameters(
    node: NodeFacts, placed: dict[str, str], decisions: dict[str, Decision], weight: QuantSpec | None,
    bias: QuantSpec | None,
) -> None:  # fmt: skip
    if weight is None or node.weight is None or node.kind not in COMPUTE or node.kind == "layer_norm":
        return
    fixed = weight
    if weight.granularity is not None and weight.granularity.kind == "per_channel":
        axis = Granularity(kind="per_channel", axis=node.weight.channel_axis)
        fixed = weight.model_copy(update={"granularity": axis})
    point = Point(name=node.weight.name, role="weight", node=node.name, tensor=node.weight.name)
    decisions[point.name] = Decision(point=point, spec=fixed)
    if bias is None or node.bias is None:
        return
    relation = None
    if bias.scale == "derived":
        if node.inputs[0] not in placed or node.weight.channel_axis:
            return
        relation = ProductOf(input=placed[node.inputs[0]], weight=point.name)
    where = Point(name=node.bias.name, role="bias", node=node.name, tensor=node.bias.name)
    decisions[where.name] = Decision(point=where, spec=bias, relation=relation)


def prepared(
    model: nn.Module,
    example: Any,
    *,
    weight: Choice = WEIGHT,
    activation: Choice = ACTIVATION,
    bias: Choice = BIAS,
    arithmetic: str = "divide",
) -> PreparedModel:
    """Returns the model, captured, planned by hand and calibrated on ``example``."""
    batch = as_batch(example) if not isinstance(example, Batch) else example
    graph = capture(model.eval(), batch)
    plan = plan_for(graph.facts(), weight, activation, bias)
    rules = Arithmetic(quantize=arithmetic)  # type: ignore[arg-type]
    target = Target(name="hand", summary="", defaults=RoleSpecs(), kinds={}, parameters=(), arithmetic=rules)
    made = PreparedModel(graph, plan, QuantConfig(), target, batch, [])
    calibrate(made, [batch])
    return made


class Residual(nn.Module):
    """Convolutions, a residual add, a concat, pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns class scores."""
        y = self.stem(x).relu()
        z = self.point(self.depthwise(y).relu()) + y
        z = torch.cat([z, torch.nn.functional.max_pool2d(y, 3, 1, 1)], 1)
        return self.head(z.mean((2, 3)))


class Branches(nn.Module):
    """Independent networks side by side: a dict of inputs gives a dict of outputs with the same keys."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branch = nn.ModuleDict(branches)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Returns the output of every branch."""
        return {name: branch(inputs[name]) for name, branch in self.branch.items()}


class Call(nn.Module):
    """A network that is one function of its input, with modules as its attributes."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        """Returns what the function returns."""
        return self.function(self, x)
