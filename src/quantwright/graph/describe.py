"""ModelFacts of a graph: what the plan may know about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import fx

from quantwright.config import kinds
from quantwright.graph import masks, ops
from quantwright.graph.einsum import einsum_weight
from quantwright.graph.params import params_of
from quantwright.plan.facts import ModelFacts, NodeFacts, ParamFacts


def describe(module: fx.GraphModule, name: str, module_paths: Iterable[tuple[str, str]]) -> ModelFacts:
    """Returns the facts of ``module`` as it is now, and refreshes ``meta["kind"]`` of every node.

    Only tensors appear. An operator with several outputs is represented by its items (``chunk`` by the ``getitem``
    nodes behind it, each of kind ``chunk`` and reading what the chunk reads); quantizers, parameters and arithmetic on
    sizes do not appear.
    """
    nodes = [node for node in module.graph.nodes if not ops.is_quantizer(node)]
    for node in nodes:
        node.meta["kind"] = ops.kind_of(node)
    for node, kind in masks.held_float(module).items():
        node.meta["kind"] = kind
    shown = [node for node in nodes if _is_shown(node)]
    names = {node.name for node in shown}
    inputs = {node.name: _inputs(node, names) for node in shown}
    users: dict[str, list[str]] = {node.name: [] for node in shown}
    for reader, read in inputs.items():
        for source in dict.fromkeys(read):
            users[source].append(reader)
    last = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    return ModelFacts(
        name=name,
        nodes=tuple(_facts(module, node, inputs[node.name], users[node.name]) for node in shown),
        inputs=tuple(node.name for node in shown if node.op == "placeholder"),
        outputs=tuple(dict.fromkeys(ops.through(n).name for n in last.all_input_nodes if ops.through(n).name in names)),
        module_paths=tuple(module_paths),
    )


def _is_shown(node: fx.Node) -> bool:
    if node.op == "output":
        return True
    return node.op != "get_attr" and ops.is_tensor(node)


def _inputs(node: fx.Node, names: set[str]) -> tuple[str, ...]:
    """Returns the float tensors ``node`` reads, in argument order, a repeated one repeatedly."""
    source = ops.source_of(node)
    found: list[str] = []

    def visit(argument: fx.Node) -> fx.Node:
        read = ops.through(argument)
        if read.name in names and ops.is_float(read) and read is not node:
            found.append(read.name)
        return argument

    fx.node.map_arg((source.args, source.kwargs), visit)
    return tuple(found)


def _facts(module: fx.GraphModule, node: fx.Node, inputs: tuple[str, ...], users: list[str]) -> NodeFacts:
    weight, bias = ops.weight_and_bias(node)
    mask = masks.mask_operand(node)
    info = ops.layer_info(ops.source_of(node))
    axes: dict[str, Any] = {}
    if info is not None:
        axes = {"channel_axis": info.channel_axis, "input_axis": info.input_axis, "groups": info.groups}
    if node.meta["kind"] == "embedding":
        axes = {"channel_axis": 0, "input_axis": 1}
    factor = einsum_weight(node)
    if factor is not None:
        weight, axes = factor.node, {"channel_axis": factor.channel_axis, "input_axis": factor.input_axis}
    return NodeFacts(
        name=node.name,
        kind=node.meta["kind"],
        origins=tuple(node.meta.get("origins", ())),
        inputs=inputs,
        masks=() if mask is None else (mask.name,),
        users=tuple(users),
        weight=_param(module, weight, axes),
        bias=_param(module, bias, {}),
        constants=_constants(module, node, (weight, bias)),
        shape=ops.shape_of(node),
        is_float=ops.is_float(node),
        params=params_of(node),
        keeps_grid=ops.keeps_grid(node),
    )


def _constants(
    module: fx.GraphModule, node: fx.Node, operands: tuple[fx.Node | None, fx.Node | None]
) -> tuple[ParamFacts, ...]:
    """Returns the other float tensors a node reads from the model, but numbers and running statistics.

    An expanded table is a value itself (kind ``constant``) and not listed twice.
    """
    source = ops.source_of(node)
    if node.meta["kind"] in ("batch_norm", kinds.CONSTANT, kinds.OUTPUT):
        return ()
    known = {ops.parameter_of(operand) for operand in operands if operand is not None}
    read = [n for n in source.all_input_nodes if ops.parameter_of(n) not in (None, *known) and ops.is_float(n)]
    found = [_param(module, n, {}) for n in read if math.prod(ops.shape_of(n)) > 1]
    return tuple(param for param in found if param is not None)


def _param(module: fx.GraphModule, node: fx.Node | None, axes: dict[str, Any]) -> ParamFacts | None:
    name = ops.parameter_of(node)
    if name is None:
        return None
    value: Any = ops.attribute(module, name)
    return ParamFacts(name=name, shape=tuple(value.shape), **axes)
