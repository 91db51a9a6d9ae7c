"""Values no grid of 256 steps can hold: masks near minus infinity, angles that sine and cosine read, small divisors.

A mask sets the scores of forbidden places to the lowest float, to -1e9 or to -100 before a softmax. One step of a grid
that reaches that far is larger than every score, so rounding a value that holds a mask destroys what is beside it. A
rounding error of an angle is a shift of the phase, however many turns the angle has made. A number like 1e-5 that is
added so that nothing is divided by zero is rounded to the zero it shall keep away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from quantwright.config import kinds
from quantwright.graph import ops

_FAR = 1e4  # no activation of a working network; masks written as -1e4 are the smallest ones
_FAR_BEFORE_SOFTMAX = 50.0  # exp(-50) is nothing in float32
_SELECTING = ("where", "masked_fill", "full", "full_like", "new_full", "scalar_tensor", "fill")
_MIXING = ("add", "sub", "mul", "div", "maximum", "minimum")  # kinds that pass a mask on
_STEPS = ("to", "_to_copy", "copy", "neg", "remainder", "pow", "select_scatter", "slice_scatter")  # without a kind
_PERIODIC = ("sin", "cos")
_TINY = 1e-2
_SINGULAR_AT_ZERO = ("rsqrt", "sqrt", "log", "reciprocal")


def held_float(module: fx.GraphModule) -> dict[fx.Node, str]:
    """Returns node -> ``mask``, ``angle`` or ``divisor``; inputs, and what moves values, keep the kind they have."""
    nodes = [node for node in module.graph.nodes if not ops.is_quantizer(node)]
    words = {"divisor": _divisors(nodes), "angle": _angles(nodes), "mask": _masks(module, nodes)}
    found = {node: word for word, members in words.items() for node in members}
    return {node: word for node, word in found.items() if _is_computed(node)}


def mask_operand(node: fx.Node) -> fx.Node | None:
    """Returns what an attention operator adds to its scores, or None."""
    mask = ops.argument(node, "attn_mask") if ops.kind_of(node) == "attention" else None
    return ops.through(mask) if isinstance(mask, fx.Node) else None


def _is_computed(node: fx.Node) -> bool:
    return node.op == "call_function" and ops.kind_of(node) not in kinds.MOVEMENT


def _masks(module: fx.GraphModule, nodes: list[fx.Node]) -> set[fx.Node]:
    """Returns what holds a mask: where one is made, and what it is added to up to the softmax."""
    region, found = _before_softmax(nodes), set[fx.Node]()
    for node in nodes:
        limit = _FAR_BEFORE_SOFTMAX if node in region else _FAR
        if not ops.is_float(node):
            continue
        if node.op == "get_attr":
            read = any(_passes(user) for user in node.users)
            holds = read and _reaches(ops.attribute(module, str(node.target)), limit)
        else:
            inherits = any(ops.through(source) in found for source in node.all_input_nodes)
            holds = _passes(node) and (inherits or _is_far(node, limit))
        if holds:
            found.add(node)
    return found


def _before_softmax(nodes: list[fx.Node]) -> set[fx.Node]:
    """Returns the arithmetic on scores that a softmax reads, its operands included."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        mask = mask_operand(node)
        if mask is not None:
            found.add(mask)
        if ops.kind_of(node) in ("softmax", "log_softmax") or (node in found and _passes(node)):
            found.update(ops.through(source) for source in node.all_input_nodes)
    return found


def _passes(node: fx.Node) -> bool:
    """Returns whether a mask in an operand is a mask in the result."""
    kind = ops.kind_of(node)
    if node.op != "call_function":
        return False
    return kind in (*_MIXING, *kinds.MOVEMENT, kinds.CONSTANT) or ops.op_name(node) in (*_SELECTING, "to", "_to_copy")


def _is_far(node: fx.Node, limit: float) -> bool:
    """Returns whether an operator writes a number beyond ``limit``: any it selects, a negative one it adds."""
    given = (*node.args, *node.kwargs.values())
    numbers = [value for value in given if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if ops.op_name(node) in _SELECTING:
        return any(abs(value) >= limit for value in numbers)
    return ops.kind_of(node) in _MIXING and any(value <= -limit for value in numbers)


def _reaches(value: Any, limit: float) -> bool:
    """Returns whether a constant holds a value at or below ``-limit``."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return False
    return bool(value.min() <= -limit)


def _divisors(nodes: list[fx.Node]) -> set[fx.Node]:
    """Returns sums with a tiny number that are only divided by, or read by what has no value at zero."""
    return {node for node in nodes if _adds_tiny(node) and node.users and all(_divides(n, node) for n in node.users)}


def _adds_tiny(node: fx.Node) -> bool:
    numbers = [v for v in node.args if isinstance(v, float)]
    return ops.kind_of(node) == "add" and any(0 < number <= _TINY for number in numbers)


def _divides(user: fx.Node, node: fx.Node) -> bool:
    """Returns whether ``user`` has no value where ``node`` is zero; a quantizer between them is looked through."""
    if ops.is_quantizer(user):
        return bool(user.users) and all(_divides(reader, user) for reader in user.users)
    if ops.kind_of(user) == "div":
        return user.args[1] is node and user.args[0] is not node
    return ops.op_name(user) in _SINGULAR_AT_ZERO


def _angles(nodes: list[fx.Node]) -> set[fx.Node]:
    """Returns what is computed only to be read by sine and cosine, back to where it comes out of a layer."""
    found: set[fx.Node] = set()
    for node in reversed(nodes):
        readers = [reader for user in node.users for reader in _readers(user)]
        if readers and all(ops.op_name(r) in _PERIODIC or r in found for r in readers) and _makes_angle(node):
            found.add(node)
    return found


def _readers(user: fx.Node) -> list[fx.Node]:
    """Returns the user, or behind a quantizer those of the quantizer."""
    return [r for u in user.users for r in _readers(u)] if ops.is_quantizer(user) else [user]


def _makes_angle(node: fx.Node) -> bool:
    """Returns whether a node is arithmetic; layers are quantized also before a sine."""
    kind = ops.kind_of(node)
    known = (*kinds.ELEMENTWISE, *kinds.MOVEMENT, *kinds.JOIN, "matmul")
    return node.op == "call_function" and (kind in known or ops.op_name(node) in _STEPS)
