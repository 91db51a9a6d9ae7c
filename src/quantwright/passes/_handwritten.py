"""Activations written out by hand, recognised by what they compute."""

from __future__ import annotations

from typing import Any

from torch import fx

from quantwright.graph import ops

_CLOSE = 1e-6


def hard_sigmoid_input(node: fx.Node) -> fx.Node | None:
    """Returns x where ``node`` computes relu6(x + 3) / 6 (or times 1 / 6) and nobody reads the parts; else None."""
    name = ops.op_name(node)
    by = _number(node, 6.0 if name == "div" else 1.0 / 6.0) if name in ("mul", "div") else None
    if by is None or ops.op_name(by) not in ("relu6", "hardtanh", "clamp") or not _is_relu6(by) or len(by.users) != 1:
        return None
    shifted = by.args[0]
    if not isinstance(shifted, fx.Node) or ops.op_name(shifted) != "add" or len(shifted.users) != 1:
        return None
    return _number(shifted, 3.0)


def _is_relu6(node: fx.Node) -> bool:
    low, high = ("min_val", "max_val") if ops.op_name(node) == "hardtanh" else ("min", "max")
    return ops.op_name(node) == "relu6" or (ops.argument(node, low) == 0 and ops.argument(node, high) == 6)


def _number(node: fx.Node, number: float) -> fx.Node | None:
    """Returns the operand of a sum, product or quotient whose other operand is ``number``."""
    operands: list[Any] = list(node.args[:2])
    if ops.argument(node, "alpha", 1) != 1 or len(operands) != 2:
        return None
    if ops.op_name(node) != "div" and not isinstance(operands[0], fx.Node):
        operands.reverse()
    value, other = operands
    if not isinstance(value, fx.Node) or not isinstance(other, (int, float)):
        return None
    return value if abs(other - number) <= _CLOSE else None
