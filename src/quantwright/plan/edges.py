"""Edges: an operation that asks for another spec of its input than the value has requantizes it, for itself only."""

from __future__ import annotations

from quantwright.plan.chain import Chained
from quantwright.plan.context import Context, fill_axis, float_format
from quantwright.plan.facts import NodeFacts
from quantwright.plan.plan import Decision, Point


def edges(context: Context, node: NodeFacts) -> Decision | None:
    """Returns the decision about what ``node`` reads as its first input, after deciding its edge points."""
    if context.groups.handling(node) not in ("compute", "consume") or not node.inputs:
        return context.of_value.get(node.inputs[0]) if node.inputs else None
    steps = context.chains.steps(context.rules(node.name), "input")
    read: dict[str, Decision | None] = {}
    for index, name in enumerate(node.inputs):
        if name not in read:
            read[name] = context.of_value.get(name)
            if (steps or context.target.placement.own_inputs) and name not in node.masks:
                read[name] = _edge(context, node, index, read[name]) or read[name]
    return read[node.inputs[0]]


def _edge(context: Context, node: NodeFacts, index: int, value: Decision | None) -> Decision | None:
    """Returns the decision about one edge when its rules ask for something else than the value has, else None."""
    chains = context.chains
    steps = chains.steps(context.rules(node.name), "input")
    if value is not None and value.spec is not None and not context.target.placement.own_inputs:
        chained = chains.over(Chained(spec=value.spec, reasons=value.reasons), steps)
    else:
        chained = chains.chain("input", steps)
    chained = fill_axis(chains, chained, "input", 1, "the channel axis of an activation")
    same = value is not None and value.spec is not None and chained.spec == value.spec
    if same or float_format(chained):
        if same:
            chains.used.update(steps)
        return None
    chains.used.update(steps)
    suffix = f".{index}" if index else ""
    point = Point(
        name=context.unique(f"{context.labels[node.name]}:input{suffix}"),
        role="input",
        node=node.name,
        tensor=node.inputs[index],
        consumers=(node.name,),
    )
    _note_finer(context, point, chained, value)
    context.legality.check(point.name, chained, "input", node.kind, context.facts.node(point.tensor).shape or None)
    return context.quantize(point, chained)


def _note_finer(context: Context, point: Point, chained: Chained, value: Decision | None) -> None:
    """Notes an edge that is finer than the value it reads: the precision is gone already."""
    if value is None or value.spec is None or not (value.spec.is_integer and chained.spec.is_integer):
        return
    if chained.spec.bits > value.spec.bits:
        context.note(
            f"'{point.name}' is {chained.spec.format}, but '{value.point.name}' made it {value.spec.format} before: "
            f"set the output there to gain precision"
        )
