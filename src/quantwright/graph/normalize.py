"""From what torch.export gives to a graph that quantizers can be inserted into: functional, no checks, no no-ops."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from quantwright.graph import ops
from quantwright.graph._optable import KIND_OF, PARAMETERS

_CHECKS = frozenset(
    ("_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range",
     "sym_constrain_range_for_size", "_functional_assert_scalar", "_functional_assert_async")
)  # fmt: skip
_INLINED = ("wrap_with_set_grad_enabled", "tag_activation_checkpoint", "wrap_activation_checkpoint", "checkpoint")
_ALWAYS_SAME = frozenset(("alias", "detach", "lift", "lift_fresh", "lift_fresh_copy", "clone", "contiguous"))
_WHOLE = 2**63 - 1


def remove_checks(module: fx.GraphModule) -> None:
    """Removes the guards and assertions that export adds; inputs are checked before the graph runs."""
    for node in reversed(list(module.graph.nodes)):
        guard = node.op == "call_module" and str(node.target) == "_guards_fn"
        if guard or (ops.op_name(node) in _CHECKS and not node.users):
            module.graph.erase_node(node)


def inline_wrappers(module: fx.GraphModule) -> list[str]:
    """Returns the names of wrappers it could not inline; ``torch.no_grad`` and checkpoint blocks become plain nodes."""
    left = []
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = str(node.target)
        inner = _inner_module(module, node)
        if _is_plain_wrapper(node, name.rpartition("::")[2]) and inner is not None:
            _inline(module.graph, node, *inner)
        else:
            left.append(name)
    return left


def _is_plain_wrapper(node: fx.Node, name: str) -> bool:
    """Returns whether a wrapper changes nothing in inference; autocast does unless it is switched off."""
    return name in _INLINED or (name == "wrap_with_autocast" and node.args[2] is False)  # (device, dtype, enabled ...)


def functionalize(graph: fx.Graph) -> tuple[bool, list[str]]:
    """Returns whether every in-place operator could be made functional, and the state the model changes.

    A later reader of the changed tensor reads the result instead. When another view of the same memory is read later,
    that is not enough: the answer is False and the graph is half done.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    root: dict[fx.Node, fx.Node] = {}
    state: list[str] = []
    for node in list(graph.nodes):
        first = next(iter(node.all_input_nodes), None) if node.op == "call_function" else None
        root[node] = root[first] if first is not None and _is_view(node) else node
        if not _mutates(node):
            continue
        changed, target = node.args[0] if node.args else None, _functional(node)
        if not isinstance(changed, fx.Node) or target is None:
            return False, state
        shared = [n for n in root if root[n] is root[changed] and n not in (changed, node)]
        if any(order[user] > order[node] for view in shared for user in view.users):
            return False, state
        if root[changed].op == "get_attr":
            state.append(str(root[changed].target))
        new = _replace_inplace(graph, node, target, changed, order)
        root[new] = root.pop(node)
    return True, state


def remove_noops(graph: fx.Graph) -> None:
    """Removes what returns its input (dropout in eval mode, identity, copies, whole slices, casts); view -> reshape."""
    for node in list(graph.nodes):
        if not ops.op_name(node) or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        if _is_noop(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif str(node.target) in ("aten.view.default", "aten._unsafe_view.default"):
            node.target = torch.ops.aten.reshape.default  # does not depend on strides, which quantizers may change


def fold_constants(graph: fx.Graph, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Returns notes; what depends on parameters alone is computed now and becomes an entry of its own in ``tensors``.

    The name is the one the consumer's weight or bias would have, when that is free.
    """
    attributes = [n for n in graph.nodes if n.op == "get_attr" and n.target in tensors]
    values: dict[fx.Node, Any] = {n: tensors[str(n.target)] for n in attributes}
    kept = set(values)
    for node in graph.nodes:
        if node not in kept and _is_foldable(node, values):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = node.target(*args, **kwargs)
    frontier = [
        n for n in values
        if n not in kept and isinstance(values[n], torch.Tensor) and any(user not in values for user in n.users)
    ]  # fmt: skip
    folded = {n: _folded_name(n) for n in frontier}
    used = {str(n.target) for n in kept if any(u not in values for u in n.users)}
    notes = []
    for node, wanted in folded.items():
        name = _unique(wanted, used)
        used.add(name)
        tensors[name] = values[node].detach().clone()
        if _is_operand(node):
            notes.append(f"{name} is computed from other parameters; the graph keeps the result")
        _become_attribute(graph, node, name)
    return notes


def remove_dead(graph: fx.Graph) -> None:
    """Removes nodes nobody reads, but no inputs."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def _is_noop(node: fx.Node) -> bool:
    name, source = ops.op_name(node), node.args[0]
    if not isinstance(source, fx.Node):
        return False
    if name in _ALWAYS_SAME:
        return True
    if "dropout" in name and KIND_OF.get(name) == "dropout":
        return not ops.argument(node, "train", False) and ops.is_tensor(node)
    if name == "slice":
        start, end, step = (ops.argument(node, key) for key in ("start", "end", "step"))
        return bool(start in (0, None) and end in (_WHOLE, None) and step == 1)
    if name in ("to", "_to_copy", "type_as"):
        return _same_place(node, source)
    return False


def _same_place(node: fx.Node, source: fx.Node) -> bool:
    """Returns whether a conversion changes neither dtype nor device."""
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    return before.dtype == after.dtype and before.device == after.device


def _mutates(node: fx.Node) -> bool:
    if not ops.op_name(node):
        return False
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)  # op_name says so
    return bool(target._schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    """Returns whether the output may share memory with the first input."""
    if node.target is operator.getitem:
        return True
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return any(argument.alias_info is not None for argument in target._schema.arguments)


def _functional(node: fx.Node) -> Callable[..., Any] | None:
    """Returns the operator without the trailing underscore, or None when there is none with the same arguments."""
    name, target = ops.op_name(node), node.target
    assert isinstance(target, torch._ops.OpOverload)  # op_name says so
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    if packet is None or target._overloadname not in packet.overloads():
        return None
    found: Callable[..., Any] = getattr(packet, target._overloadname)
    return found


def _replace_inplace(
    graph: fx.Graph, node: fx.Node, target: Callable[..., Any], changed: fx.Node, order: dict[fx.Node, int]
) -> fx.Node:
    with graph.inserting_before(node):
        new = graph.call_function(target, node.args, dict(node.kwargs))
    new.meta = dict(node.meta)
    order[new] = order[node]
    for user in list(changed.users):
        if order[user] > order[node]:
            user.replace_input_with(changed, new)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _inner_module(module: fx.GraphModule, node: fx.Node) -> tuple[fx.GraphModule, list[Any]] | None:
    """Returns the wrapped graph and its arguments."""
    for index, argument in enumerate(node.args):
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            inner = getattr(module, str(argument.target), None)
            if isinstance(inner, fx.GraphModule):
                return inner, list(node.args[index + 1 :])
    return None


def _inline(graph: fx.Graph, node: fx.Node, inner: fx.GraphModule, arguments: list[Any]) -> None:
    """Puts the nodes of ``inner`` in the place of ``node``."""
    inputs = [n for n in inner.graph.nodes if n.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(inputs, arguments, strict=True))
    with graph.inserting_before(node):
        for source in inner.graph.nodes:
            if source.op not in ("placeholder", "output"):
                copies[source] = graph.node_copy(source, lambda n: copies[n])
    output = next(n for n in inner.graph.nodes if n.op == "output").args[0]
    if isinstance(output, fx.Node):
        node.replace_all_uses_with(copies[output])
    else:
        results = [copies[item] if isinstance(item, fx.Node) else item for item in output]  # type: ignore[union-attr]
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
    graph.erase_node(node)


def _is_foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or any(source not in values for source in node.all_input_nodes):
        return False
    if node.target is operator.getitem:
        return True
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded in target.tags:
        return False
    made = node.meta.get("val")
    if not isinstance(made, torch.Tensor):
        return isinstance(made, (list, tuple))
    if any(not isinstance(size, int) for size in made.shape):
        return False
    read = sum(values[n].numel() for n in node.all_input_nodes if isinstance(values[n], torch.Tensor))
    return bool(made.numel() <= max(4 * read, 1 << 20))  # an expanded constant is cheaper than its copy


def _is_operand(node: fx.Node) -> bool:
    return any(_operand(user, node) for user in node.users)


def _operand(user: fx.Node, node: fx.Node) -> str:
    """Returns ``weight`` or ``bias`` when ``user`` reads ``node`` as such."""
    info = ops.layer_info(user)
    if info is not None:
        pair = (info.weight, info.bias)
    elif ops.op_name(user) in PARAMETERS:
        weight, bias = PARAMETERS[ops.op_name(user)]
        pair = (ops.argument(user, weight), ops.argument(user, bias) if bias else None)
    else:
        return ""
    return "weight" if pair[0] is node else "bias" if pair[1] is node else ""


def _folded_name(node: fx.Node) -> str:
    for user in node.users:
        role = _operand(user, node)
        origins = user.meta.get("origins", ())
        if role and origins and origins[0].module_path:
            return f"{origins[0].module_path}.{role}"
    taken = hasattr(torch.nn.Module, node.name)  # a module has methods of its own: to, float, type ...
    return f"constants.{node.name}{'_' * taken}"


def _unique(name: str, used: set[str]) -> str:
    candidate, count = name, 1
    while candidate in used:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def _become_attribute(graph: fx.Graph, node: fx.Node, name: str) -> None:
    with graph.inserting_before(node):
        new = graph.create_node("get_attr", name)
    new.meta = {key: node.meta[key] for key in ("val", "shape", "dtype") if key in node.meta}
    node.replace_all_uses_with(new)
