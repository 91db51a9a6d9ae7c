"""Chains: which layers follow each other with nothing between them that scaling by channel would disturb."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, fx

from quantwright.config import kinds
from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.passes._channels import Layout

ELEMENTWISE = ("relu", "leaky_relu", "prelu", "contiguous", "clone", "dropout", "identity")
POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool")
COLLAPSE = ("flatten", "reshape", "squeeze")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Returns a convolution or linear layer whose weight is a parameter: its names and how its weight is laid out."""

    node: fx.Node
    kind: str
    weight: str
    bias: str | None
    layout: Layout
    outputs: int
    inputs: int

    def weight_view(self, graph: Graph) -> Tensor:
        """Returns the weight as [G, O, I, K]; a view of a contiguous copy when the parameter is not contiguous."""
        return self.layout.view(graph.parameter(self.weight).detach().contiguous())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Returns two layers in a row and what stands between them; only the second reads what the first makes."""

    first: Layer
    second: Layer
    between: tuple[fx.Node, ...]


def layer_of(node: fx.Node, repeat: int = 1) -> Layer | None:
    """Returns the layer ``node`` is, or None; matrix products and layers with computed weights are none.

    Args:
        repeat: neighbouring inputs that carry one channel; see ``Layout``.
    """
    info = ops.conv_info(node) or ops.linear_info(node)
    if info is None:
        return None
    weight, bias = ops.parameter_of(info.weight), ops.parameter_of(info.bias)
    if weight is None or (info.bias is not None and bias is None):
        return None
    shape = ops.shape_of(info.weight)
    first, second = shape[0], shape[1] * info.groups
    return Layer(
        node=node,
        kind=ops.kind_of(node),
        weight=weight,
        bias=bias,
        layout=Layout(transposed=info.transposed, groups=info.groups, repeat=repeat),
        outputs=second if info.transposed else first,
        inputs=(first if info.transposed else second) // repeat,
    )


def find_pairs(graph: Graph, *, members: Collection[str], through: Collection[str]) -> list[Pair]:
    """Returns every pair of layers of the kinds ``members`` with only ``through`` between them, in execution order.

    A value with more than one reader, or a parameter with more than one reader, ends a chain.
    """
    found = []
    for node in graph.module.graph.nodes:
        first = layer_of(node)
        if first is not None and first.kind in members and not is_shared(graph, first):
            pair = _follow(graph, first, members, through)
            if pair is not None:
                found.append(pair)
    return found


def is_shared(graph: Graph, layer: Layer) -> bool:
    """Returns whether another node reads the weight or the bias of ``layer`` too."""
    return any(len(parameter_readers(graph, name)) > 1 for name in (layer.weight, layer.bias) if name)


def parameter_readers(graph: Graph, name: str) -> list[fx.Node]:
    """Returns the nodes that compute with the parameter ``name``, in execution order."""
    return list(dict.fromkeys(user for reader in graph.readers(name) for user in reader.users))


def _follow(graph: Graph, first: Layer, members: Collection[str], through: Collection[str]) -> Pair | None:
    node, repeat = first.node, 1
    between: list[fx.Node] = []
    rank = len(ops.shape_of(first.node))
    axis = rank - 1 if first.kind in kinds.LINEAR else 1
    while (user := edit.only_user(node)) is not None:
        second = layer_of(user, repeat)
        if second is not None:
            return _pair(graph, first, second, between, axis=axis, members=members)
        if ops.kind_of(user) not in through:
            return None
        step = _channels_per_value(user, node, axis)
        if step is None:
            return None
        repeat, between, node = repeat * step, [*between, user], user
    return None


def _pair(
    graph: Graph, first: Layer, second: Layer, between: list[fx.Node], *, axis: int, members: Collection[str]
) -> Pair | None:
    """Returns the pair, unless the second layer mixes another axis than the channels of the first."""
    info = ops.layer_info(second.node)
    source = between[-1] if between else first.node
    if info is None or info.x is not source or second.kind not in members or is_shared(graph, second):
        return None
    rank = len(ops.shape_of(source))
    fits = axis == rank - 1 if second.kind in kinds.LINEAR else (axis == 1 and rank == info.spatial + 2)
    if not fits or second.inputs != first.outputs:
        return None
    return Pair(first=first, second=second, between=tuple(between))


def _channels_per_value(node: fx.Node, source: fx.Node, axis: int) -> int | None:
    """Returns how many neighbours of the output carry one channel of the input (1, but for a flatten), else None.

    None says that ``node`` does not treat every channel (``axis`` of its input) on its own.
    """
    kind, shape, out = ops.kind_of(node), ops.shape_of(source), ops.shape_of(node)
    if kind in ELEMENTWISE:
        per_axis_one = kind == "prelu" and axis != 1  # its slopes lie along axis 1
        return None if per_axis_one else 1
    if axis != 1 or len(shape) < 3:
        return None
    if kind in POOLS:
        return 1 if ops.op_name(node).removesuffix("_with_indices").endswith(f"{len(shape) - 2}d") else None
    if kind in kinds.RESIZE:
        return 1 if out[:2] == shape[:2] else None
    if kind == "mean":
        dims = {dim % len(shape) for dim in ops.argument(node, "dim") or range(len(shape))}
        return 1 if not dims & {0, 1} else None
    if kind == "pad":
        return 1 if ops.keeps_grid(node) and len(ops.argument(node, "pad") or ()) <= 2 * (len(shape) - 2) else None
    if kind in COLLAPSE and len(out) == 2 and out[0] == shape[0] and -1 not in (*shape[1:], out[1]):
        each = 1
        for size in shape[2:]:
            each *= size
        return each if out[1] == shape[1] * each else None
    return None
