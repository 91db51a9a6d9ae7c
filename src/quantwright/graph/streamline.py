"""The graph as calibration runs it: the same operators, with less memory traffic around them.

Three rewrites, none of which an observer can see: modules that only pass their input on are left out; an elementwise
operator whose input nobody else reads writes its result over it (the same bits); and, on a CPU, convolutions work on
channels-last memory, which their kernels otherwise make and undo around every call (float32 sums may run in another
order, so the last bits may differ). Parameters are shared with the graph, not copied.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.graph import ops
from quantwright.graph.graph import Graph, copied

_FRESH = {  # operators whose result is new memory that nothing else points to
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "addmm", "mm", "bmm", "baddbmm", "batch_norm", "layer_norm", "group_norm", "cat", "stack", "max_pool2d",
    "avg_pool2d", "softmax",
}  # fmt: skip
_UNARY = {
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu", "elu", "celu", "silu", "mish",
    "hardswish", "hardsigmoid", "sigmoid", "tanh",
}  # fmt: skip
_BINARY: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "add.Tensor": torch.Tensor.add_,
    "sub.Tensor": torch.Tensor.sub_,
    "mul.Tensor": torch.Tensor.mul_,
    "div.Tensor": torch.Tensor.div_,
}
_STRIDED = {"as_strided", "as_strided_", "view_as_real", "view_as_complex", "resize_", "set_"}


def streamlined(module: fx.GraphModule, passes_on: Callable[[str], bool]) -> tuple[fx.GraphModule, bool]:
    """Returns (a module that computes what ``module`` does, whether it wants 4-d inputs in channels-last memory).

    Args:
        passes_on: whether the submodule of that name returns its input untouched and unseen.
    """
    graph = copied(module.graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and passes_on(str(node.target)):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    channels_last = _gains_from_channels_last(graph) and _on_cpu(module) and layout_is_free(graph)
    if channels_last:
        free_views(graph)
    _write_over(graph)
    graph.lint()
    return fx.GraphModule(module, graph), channels_last


class Streamlined:
    """Returns the streamlined form of a graph, to be run on batches.

    Args:
        passes_on: whether the submodule of that name returns its input untouched and unseen.
    """

    def __init__(self, graph: Graph, passes_on: Callable[[str], bool]) -> None:
        self._graph = graph
        self._module, self._channels_last = streamlined(graph.module, passes_on)

    def run(self, batch: Batch) -> Any:
        """Returns the network's output for one batch, in ordinary memory."""
        if not self._channels_last:
            return self._graph.call(self._module, batch.args, batch.kwargs)
        args, kwargs = pytree.tree_map(_channels_last, (batch.args, dict(batch.kwargs)))
        output = self._graph.call(self._module, args, kwargs)
        return pytree.tree_map(lambda y: y.contiguous() if isinstance(y, Tensor) else y, output)


def _channels_last(x: Any) -> Any:
    if isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point():
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _on_cpu(module: fx.GraphModule) -> bool:
    return all(parameter.device.type == "cpu" for parameter in module.parameters())


def _gains_from_channels_last(graph: fx.Graph) -> bool:
    return any(ops.op_name(node) == "conv2d" for node in graph.nodes)


def layout_is_free(graph: fx.Graph) -> bool:
    """Returns whether no operator of the graph means something else, or fails, in another memory layout."""
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = ops.op_name(node)
            if node.target.namespace != "aten" or name in _STRIDED or ops.aten_name(node) == "aten.view.dtype":
                return False
        elif node.op == "call_method" or (node.op == "call_function" and not _is_plain(node.target)):
            return False
    return True


def free_views(graph: fx.Graph) -> None:
    """Lets views, which want one memory layout, copy where they meet another."""
    for node in graph.nodes:
        if ops.aten_name(node) in ("aten.view.default", "aten._unsafe_view.default"):
            node.target = torch.ops.aten.reshape.default


def _is_plain(target: Any) -> bool:
    """Returns whether a function that is no operator looks at sizes and tuples only."""
    return getattr(target, "__module__", "") in (operator.__name__, "_operator", "builtins", "math")


def _write_over(graph: fx.Graph) -> None:
    """Lets elementwise operators write over an input that is new memory and that nobody else reads."""
    fresh: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_module" and len(node.args) == 1 and node.args[0] in fresh:
            if len(node.args[0].users) == 1:
                fresh.add(node)  # a watcher hands on what it saw
            continue
        name, aten = ops.op_name(node), ops.aten_name(node).removeprefix("aten.")
        if name in _FRESH:
            fresh.add(node)
        elif name in _UNARY or aten in _BINARY:
            _write_over_one(node, name, aten, fresh)
            fresh.add(node)


def _write_over_one(node: fx.Node, name: str, aten: str, fresh: set[fx.Node]) -> None:
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node) or first not in fresh or len(first.users) > 1:
        return
    dtype = first.meta.get("dtype")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return  # what becomes another dtype cannot be written over
    if name in _UNARY:
        overload = aten.partition(".")[2]
        packet = getattr(torch.ops.aten, f"{name}_", None)
        if packet is not None and overload in packet.overloads():
            node.target = getattr(packet, overload)
    elif not node.kwargs:
        node.target = _INTO[aten]


def _into(aten: str, write: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    plain = getattr(getattr(torch.ops.aten, aten.partition(".")[0]), aten.partition(".")[2])

    def into(a: Tensor, b: Any) -> Tensor:
        """Returns the result in the memory of ``a`` where shape and dtype allow it, else in new memory."""
        if isinstance(b, Tensor) and (a.shape != b.shape or a.dtype != b.dtype or not a.is_floating_point()):
            result: Tensor = plain(a, b)
            return result
        return write(a, b) if a.is_floating_point() else plain(a, b)

    into.__name__ = into.__qualname__ = f"{aten.partition('.')[0]}_into"
    return into


_INTO = {aten: _into(aten, write) for aten, write in _BINARY.items()}
