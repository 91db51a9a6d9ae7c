"""Device: which operation a target's device computes and which falls to the CPU beside it, with the reason. No torch.

What is known is the target's data: kinds of operations, their arguments, widths. Limits on sizes (kernels, channels,
strides) belong to a device's compiler and are not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quantwright.config import kinds
from quantwright.config.spec import FLOAT_FORMATS
from quantwright.plan.context import unique_labels
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.plan.plan import Decision, Plan
from quantwright.plan.values import FUSED
from quantwright.targets import Device, Target

Where = Literal["device", "cpu", "user"]
Cause = Literal["", "kind", "limit", "input", "plan"]
_PASSED = ("fuse", "share", "join")  # computed where their operands are


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Returns where one operation is computed: on the device, on the CPU, or by the user (inputs).

    Attributes:
        cause: what keeps it off the device: its ``kind``, a ``limit`` on its arguments, an ``input`` that is not there,
            or the ``plan``, which leaves it float or gives it a width the device does not compute on.
        reason: the same in a sentence; "" on the device.
        fix: what brings it there, if anything is known to.
    """

    node: str
    label: str
    kind: str
    where: Where
    cause: Cause = ""
    reason: str = ""
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Returns plain values."""
        return {
            "node": self.node, "label": self.label, "kind": self.kind, "where": self.where, "cause": self.cause,
            "reason": self.reason, "fix": self.fix,
        }  # fmt: skip


def place(facts: ModelFacts, target: Target, plan: Plan | None = None) -> tuple[Placed, ...]:
    """Returns where every operation is computed, in execution order.

    Args:
        plan: what is left float, or gets a width of its own; None: as the target would have it.
    """
    labels = unique_labels(facts)
    decided = {} if plan is None else _by_node(plan)
    made: dict[str, Placed] = {}
    for node in facts.nodes:
        if node.kind in (kinds.OUTPUT, kinds.CONSTANT) or not node.is_float:
            continue
        before = [made[name] for name in node.inputs if name in made]
        where, cause, reason = _where(node, target, before, decided.get(node.name, ()))
        fix = target.device.advice.get(node.kind, "") if target.device is not None and cause == "kind" else ""
        made[node.name] = Placed(
            node=node.name, label=labels[node.name], kind=node.kind, where=where, cause=cause, reason=reason, fix=fix
        )
    return tuple(made.values())


def _where(
    node: NodeFacts, target: Target, before: Sequence[Placed], decided: Sequence[Decision]
) -> tuple[Where, Cause, str]:
    if node.kind == kinds.INPUT:
        return "user", "", ""
    handling, device = target.handling(node.kind), target.device or Device()
    if handling == "float" or node.kind in device.host:
        return "cpu", "kind", f"{node.kind} is not computed by the device"
    limit = next((text for text in (limit(node.kind, node.params) for limit in device.limits) if text), None)
    if limit is not None:
        return "cpu", "limit", limit
    why = _not_planned(decided, device.bits, computes=handling == "compute" and node.kind not in target.float_results)
    if why:
        return "cpu", "plan", why
    if handling in _PASSED and before and all(placed.where == "cpu" for placed in before):
        return "cpu", "input", f"what it reads is computed on the CPU: {before[0].label}"
    return "device", "", ""


def _by_node(plan: Plan) -> Mapping[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for decision in plan.decisions:
        found.setdefault(decision.point.node, []).append(decision)
    return found


def _not_planned(decided: Sequence[Decision], bits: Sequence[int], *, computes: bool) -> str:
    """Returns why the plan keeps an operation off the device: a float weight or result, or a width it has not.

    Args:
        computes: the result should be quantized, if not as part of something else.
    """
    for decision in decided:
        spec, point = decision.spec, decision.point
        wanted = point.role == "weight" or (computes and point.role == "output")
        floating = spec is None or spec.format in FLOAT_FORMATS
        if wanted and floating and not decision.why_float.startswith(FUSED):
            return f"{point.name} is float: {decision.why_float or (spec.format if spec is not None else '')}"
        if computes and point.role == "input" and point.tensor == point.node:
            return f"{point.name} is computed in float and quantized behind: a rule excludes it"
        if spec is not None and spec.is_integer and bits and spec.bits not in bits:
            widths = " or ".join(str(width) for width in bits)
            return f"{point.name} has {spec.bits} bits, and the device computes on {widths}"
    return ""


def summary(placed: Sequence[Placed]) -> dict[str, Any]:
    """Returns how many operations are computed where, and in how many pieces the device's part falls."""
    counts = {where: sum(item.where == where for item in placed) for where in ("device", "cpu")}
    pieces, before = 0, ""
    for item in placed:
        if item.where != "user":
            pieces += item.where == "device" and before != "device"
            before = item.where
    return {**counts, "pieces": pieces}


def render(placed: Sequence[Placed], target: Target) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """Returns the head and rows of a table of all operations, and a sentence about them."""
    name = {"device": target.name, "cpu": "cpu", "user": "user"}
    rows: list[tuple[str, ...]] = [
        (item.label, item.kind, name[item.where], "; ".join(part for part in (item.reason, item.fix) if part))
        for item in placed
    ]
    total = summary(placed)
    text = f"{total['device']} operations on {target.name}, {total['cpu']} on the CPU"
    if total["cpu"]:
        text += f"; the device's part falls into {total['pieces']} pieces"
    if target.device is None:
        text += f" (nothing is known of {target.name} but what it quantizes)"
    return ("operation", "kind", "computed by", "why not on the device"), rows, text
