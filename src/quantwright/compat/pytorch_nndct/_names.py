"""The original's names of operations: ``Net::nndct_conv2d_1`` in its files, ``Net::Net/Conv2d[c1]/...`` for people.

The first counts the operations in execution order, after batch norms are folded and dropout is gone. Both follow the
recorded runs; where the original's own trace holds operations ours does not have (arithmetic on sizes, constants), the
numbers after them differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph._optable import KIND_OF
from quantwright.graph.graph import Graph
from quantwright.plan.facts import ModelFacts, NodeFacts

LEFT_OUT = (kinds.OUTPUT, kinds.CONSTANT, "dropout", "identity")  # the original's graph has no node for them
_SAME = ("conv1d", "conv2d", "conv3d", "depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d", "matmul",
         "batch_norm", "layer_norm", "group_norm", "instance_norm", "mean", "sum", "max", "min", "relu", "relu6",
         "clamp", "hardtanh", "leaky_relu", "prelu", "mish", "sigmoid", "tanh", "softmax", "log_softmax", "reshape",
         "flatten", "squeeze", "unsqueeze", "transpose", "permute", "expand", "select", "split", "chunk", "contiguous",
         "pixel_shuffle", "pixel_unshuffle", "repeat", "gather", "pad", "resize", "stack", "embedding", "input",
         "index", "lstm", "gru")  # fmt: skip
#: kind -> the original's word, where it is another one
WORDS = {
    **{kind: kind for kind in _SAME},
    "conv_transpose1d": "conv_transpose_1d", "conv_transpose2d": "conv_transpose_2d",
    "conv_transpose3d": "conv_transpose_3d", "linear": "dense", "avg_pool": "avgpool", "max_pool": "maxpool",
    "adaptive_avg_pool": "adaptive_avg_pool2d", "add": "elemwise_add", "mul": "elemwise_mul", "div": "elemwise_div",
    "sub": "elemwise_sub", "maximum": "max", "minimum": "min", "gelu": "GELU", "hardswish": "hswish",
    "hardsigmoid": "hsigmoid", "resize_nearest": "resize", "cat": "concat", "slice": "strided_slice",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Returns one operation under the original's names.

    Attributes:
        number: its place in the order of execution.
        type: ``nndct_conv2d``; ``aten_elu`` for what the original has no operation of its own for.
        name: ``Net::nndct_conv2d_1``. path: ``Net::Net/Conv2d[c1]/conv2d``.
        nodes: our nodes; several for an operator with several outputs.
    """

    number: int
    type: str
    name: str
    path: str
    nodes: tuple[NodeFacts, ...]


def operations(graph: Graph) -> tuple[Operation, ...]:
    """Returns the operations of a prepared network in execution order."""
    facts = graph.facts()
    types = dict(facts.module_paths)
    inputs = iter(range(len(facts.inputs)))
    found = []
    for number, (source, nodes) in enumerate(_grouped(graph, facts)):
        kind = nodes[0].kind
        plain = kind if kind in WORDS else KIND_OF.get(ops.op_name(source), kind)  # the steps of a hand-written norm
        word = f"nndct_{_word(source, plain)}" if plain in WORDS else f"aten_{ops.op_name(source) or kind}"
        path = f"input_{next(inputs)}" if kind == kinds.INPUT else _path(facts.name, source, nodes[0], types)
        found.append(
            Operation(
                number=number, type=word, name=f"{facts.name}::{word}_{number}", path=f"{facts.name}::{path}",
                nodes=nodes,
            )
        )  # fmt: skip
    return tuple(found)


def by_node(found: tuple[Operation, ...]) -> dict[str, Operation]:
    """Returns our node name -> the operation it belongs to."""
    return {node.name: operation for operation in found for node in operation.nodes}


def _grouped(graph: Graph, facts: ModelFacts) -> Iterator[tuple[fx.Node, tuple[NodeFacts, ...]]]:
    """Yields (operator, its nodes): one operation are the items of an operator, and slices that only slices read."""
    groups: dict[fx.Node, list[NodeFacts]] = {}
    first: dict[str, fx.Node] = {}  # slice -> the slice it goes on from
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for node in facts.nodes:
        if node.kind in LEFT_OUT:
            continue
        source = ops.source_of(nodes[node.name])
        if node.kind == "slice":
            before = facts.node(node.inputs[0]) if node.inputs else None
            if before is not None and before.kind == "slice" and before.users == (node.name,):
                source = first[before.name]
            first[node.name] = source
        groups.setdefault(source, []).append(node)
    for source, members in groups.items():
        yield source, tuple(members)


def _word(source: fx.Node, kind: str) -> str:
    """Returns the original's word for an operation."""
    if kind == "max_pool" and ops.op_name(source).startswith("max_pool1d"):
        return "maxpool1d"
    if kind == "conv_transpose2d":
        info = ops.layer_info(source)
        depthwise = info is not None and info.groups > 1 and ops.shape_of(info.weight)[1:2] == (1,)
        return "depthwise_conv_transpose_2d" if depthwise else WORDS[kind]
    return WORDS[kind]


def _path(model: str, source: fx.Node, node: NodeFacts, types: dict[str, str]) -> str:
    """Returns ``Net/Sequential[stem]/Conv2d[0]/conv2d``: the modules around an operation, and our name of it."""
    origin = node.origins[0] if node.origins else None
    inner = "" if origin is None else origin.module_path or (origin.parents[-1][0] if origin.parents else "")
    parts = inner.split(".") if inner else []
    scopes = []
    for index, part in enumerate(parts):
        kind = types.get(".".join(parts[: index + 1]), "Module")
        scopes.append(f"{kind.rpartition('.')[2]}[{part}]")
    return "/".join([model, *scopes, source.name])
