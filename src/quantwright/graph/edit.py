"""Edits of a graph that keep what the rest relies on: origins, kinds, shapes, the user's parameter names.

A pass edits with these functions and calls ``clean`` once at its end. Quantizers are inserted later, so passes never
meet one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, fx, nn

from quantwright.errors import QuantwrightError
from quantwright.graph import normalize, ops
from quantwright.graph.graph import Graph
from quantwright.plan.facts import Origin


def users_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """Returns the nodes that read the *values* of ``node`` (not just its size), in execution order."""
    return tuple(sorted(user for user in node.users if ops.op_name(user) not in ("sym_size", "size")))


def only_user(node: fx.Node) -> fx.Node | None:
    """Returns the one node that reads ``node``; None when there are several, or when it is an output of the network."""
    users = users_of(node)
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def read(graph: Graph, name: str, before: fx.Node) -> fx.Node:
    """Returns a node that reads the parameter ``name`` and can be used by ``before``: an existing one or a new one."""
    for node in graph.readers(name):
        if node < before:
            return node
    value = graph.parameter(name)
    with graph.module.graph.inserting_before(before):
        node = graph.module.graph.create_node("get_attr", graph.aliases.get(name, name))
    node.meta.update(kind="constant", shape=tuple(value.shape), dtype=value.dtype)
    return node


def replace_node(
    graph: Graph, node: fx.Node, target: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any] | None = None
) -> fx.Node:
    """Returns a new call of ``target`` in the place of ``node``: same readers, origins and output shape."""
    with graph.module.graph.inserting_before(node):
        new = graph.module.graph.call_function(target, tuple(args), kwargs or {})
    new.meta = dict(node.meta)
    new.meta["kind"] = ops.kind_of(new)
    node.replace_all_uses_with(new)
    graph.module.graph.erase_node(node)
    return new


def erase(graph: Graph, node: fx.Node, by: fx.Node) -> None:
    """Removes ``node``; its readers read ``by`` instead."""
    node.replace_all_uses_with(by)
    graph.module.graph.erase_node(node)


def insert_after(
    graph: Graph,
    value: fx.Node,
    call: str | Callable[..., Any],
    consumers: Iterable[fx.Node] | None = None,
    *,
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
) -> fx.Node:
    """Returns a new node ``call(value, *args)`` that ``consumers`` (None: all readers of ``value``) read instead.

    Args:
        call: a function, or the path of a submodule of ``graph.module``.
    """
    readers = list(value.users if consumers is None else consumers)
    with graph.module.graph.inserting_after(value):
        op = "call_module" if isinstance(call, str) else "call_function"
        node = graph.module.graph.create_node(op, call, (value, *args), kwargs or {})
    node.meta = {key: value.meta[key] for key in ("shape", "dtype") if key in value.meta}
    node.meta["origins"] = ()
    node.meta["kind"] = ops.kind_of(node)
    for reader in readers:
        reader.replace_input_with(value, node)
    return node


def set_parameter_of(graph: Graph, node: fx.Node, argument: str, name: str) -> None:
    """Makes ``node`` read the parameter ``name`` as its ``argument`` ("weight", "bias")."""
    ops.set_argument(node, argument, read(graph, name, node))


def set_bias(graph: Graph, node: fx.Node, tensor: Tensor, *, name: str | None = None) -> str:
    """Returns the name of the bias of a convolution or linear layer after setting it to ``tensor``.

    A layer without bias gets the argument and a parameter called after its weight: ``conv1.weight`` -> ``conv1.bias``.
    A bias that other layers read too is not changed: this layer gets its own.

    Raises:
        QuantwrightError: the node takes no bias.
    """
    info = ops.layer_info(node)
    if info is None or ops.op_name(node) not in _TAKE_BIAS:
        what = f"node '{node.name}' ({ops.kind_of(node)}) takes no bias"
        raise QuantwrightError(what, allowed="convolutions, linear")
    current = ops.parameter_of(info.bias)
    if current is not None and not _shared(graph, current, node):
        graph.set_parameter(current, tensor)
        return current
    fresh = graph.add_parameter(graph.free_name(name or _bias_name(graph, info, current)), tensor)
    set_parameter_of(graph, node, _TAKE_BIAS[ops.op_name(node)], fresh)
    return fresh


def own_weight(graph: Graph, node: fx.Node) -> str:
    """Returns the name of the weight of ``node``, after giving it a copy of its own if other nodes read it too.

    Raises:
        QuantwrightError: the node has no weight parameter.
    """
    info = ops.layer_info(node)
    name = ops.parameter_of(info.weight) if info is not None else None
    if info is None or name is None:
        raise QuantwrightError(f"node '{node.name}' ({ops.kind_of(node)}) has no weight parameter")
    if not _shared(graph, name, node):
        return name
    fresh = graph.add_parameter(graph.free_name(name), graph.parameter(name))
    node.replace_input_with(info.weight, read(graph, fresh, node))
    return fresh


def merge_origins(destination: fx.Node, source: fx.Node) -> None:
    """Adds the origins of ``source`` to ``destination``: rules that name what was folded away still find it."""
    old: tuple[Origin, ...] = tuple(destination.meta.get("origins", ()))
    new: tuple[Origin, ...] = tuple(source.meta.get("origins", ()))
    destination.meta["origins"] = tuple(dict.fromkeys(old + new))


def clean(graph: Graph) -> None:
    """Removes what nobody reads, drops parameters nobody reads any more, and makes the module ready to run."""
    normalize.remove_dead(graph.module.graph)
    for node in graph.module.graph.nodes:
        node.meta["kind"] = ops.kind_of(node)
    _drop_unread(graph)
    graph.module.graph.lint()
    graph.module.recompile()


_TAKE_BIAS = {
    "conv1d": "bias", "conv2d": "bias", "conv3d": "bias", "conv_transpose1d": "bias", "conv_transpose2d": "bias",
    "conv_transpose3d": "bias", "convolution": "bias", "linear": "bias", "addmm": "self",
}  # fmt: skip


def _shared(graph: Graph, name: str, node: fx.Node) -> bool:
    """Returns whether anything but ``node`` reads the parameter ``name``."""
    return any(user is not node for reader in graph.readers(name) for user in reader.users)


def _bias_name(graph: Graph, info: ops.LayerInfo, current: str | None) -> str:
    """Returns the name a new bias should have: next to the weight, else next to the module, else after the node."""
    weight = ops.parameter_of(info.weight)
    if current is not None:
        return current
    if weight is not None and weight.endswith("weight"):
        return f"{weight.removesuffix('weight')}bias"
    origins = info.node.meta.get("origins", ())
    path = origins[0].module_path if origins else ""
    return f"{path or info.node.name}.bias"


def _drop_unread(graph: Graph) -> None:
    """Deletes parameters and buffers that no node reads; the state of called submodules (quantizers) stays."""
    read_names = {str(n.target) for n in graph.module.graph.nodes if n.op == "get_attr"}
    called = tuple(f"{n.target}." for n in graph.module.graph.nodes if n.op == "call_module")
    modules: dict[str, nn.Module] = dict(graph.module.named_modules())
    names = [*dict(graph.module.named_parameters()), *dict(graph.module.named_buffers())]
    for name in names:
        if name not in read_names and not name.startswith(called or ("\0",)):
            path, _, leaf = name.rpartition(".")
            delattr(modules[path], leaf)
