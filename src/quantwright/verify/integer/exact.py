"""Exact arithmetic of devices that shift: every value is a whole number times a fixed unit.

What convolutions, additions, averages, clamps and products by constants make of such values are such values again.
Nothing is rounded before a quantizer, and there by a shift. An operation that has no rule here is computed in float.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, fx

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.verify.integer.averages import sums_of
from quantwright.verify.integer.grids import dyadic, round_shift
from quantwright.verify.integer.movement import ANY_DTYPE, call

_ROOM = 1 << 62
_GATE, _GATE_DOWN = 2731, 16384  # the sixth of a hard sigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Returns what is known of an exact value: ``value = integers * unit``.

    Attributes:
        largest: no integer is larger in size.
    """

    unit: Fraction
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Returns how a node's integers come from those of ``operands``, and what is known of them."""

    operands: tuple[fx.Node, ...]
    run: Callable[..., Tensor]
    result: Exact


Known = Callable[[fx.Node], "Exact | None"]


def rule(node: fx.Node, known: Known) -> Rule | None:
    """Returns the rule for a node; None when the operation, or an operand of it, has no exact form."""
    made = _rule(node, known)
    return made if made is not None and made.result.largest < _ROOM else None


def _rule(node: fx.Node, known: Known) -> Rule | None:
    kind = ops.kind_of(node)
    if kind in ("add", "sub", "mul"):
        return _pair(node, ops.op_name(node), known)
    if kind in kinds.JOIN:
        return _joined(node, known)
    first = node.args[0] if node.args else None
    value = known(first) if isinstance(first, fx.Node) else None
    if not isinstance(first, fx.Node) or value is None:
        return None
    if ops.keeps_grid(node):
        return _moved(node, first, value, kind)
    if kind in ("relu", "relu6", "clamp", "hardtanh"):
        return _clamp(node, first, value)
    if kind == "leaky_relu":
        return _leaky(node, first, value)
    if kind in ("avg_pool", "adaptive_avg_pool", "mean"):
        return _average(node, first, value)
    if ops.op_name(node) in ("dpu_hardsigmoid", "dpu_hardswish"):
        return _gate(first, value, times_x=ops.op_name(node) == "dpu_hardswish")
    if ops.op_name(node) == "neg":
        return Rule(operands=(first,), run=torch.neg, result=value)
    return None


def _pair(node: fx.Node, name: str, known: Known) -> Rule | None:
    """Returns the rule of a sum, difference or product, of two values or of one and a number."""
    if len(node.args) < 2 or ops.argument(node, "alpha", 1) != 1:
        return None
    a, b = node.args[0], node.args[1]
    if isinstance(a, fx.Node) and isinstance(b, fx.Node):
        first, second = known(a), known(b)
        return None if first is None or second is None else _of_two(name, (a, b), first, second)
    if isinstance(a, fx.Node) and isinstance(b, (int, float)) and not isinstance(b, bool):
        value = known(a)
        return None if value is None or not math.isfinite(b) else _with_number(name, a, value, float(b))
    return None


def _of_two(name: str, operands: tuple[fx.Node, fx.Node], a: Exact, b: Exact) -> Rule | None:
    if name in ("mul", "multiply"):
        known = Exact(unit=a.unit * b.unit, largest=a.largest * b.largest)
        return Rule(operands=operands, run=lambda x, y: x.long() * y.long(), result=known)
    ratio = dyadic(a.unit / b.unit)
    if ratio is None or ratio[0] != 1:
        return None
    up_a, up_b = max(-ratio[1], 0), max(ratio[1], 0)
    known = Exact(unit=min(a.unit, b.unit), largest=(a.largest << up_a) + (b.largest << up_b))
    wide = torch.int32 if known.largest < 1 << 31 else torch.int64
    sign = {"add": (1, 1), "sub": (1, -1), "subtract": (1, -1), "rsub": (-1, 1)}.get(name)
    if sign is None:
        return None

    def run(x: Tensor, y: Tensor) -> Tensor:
        left, right = _raised(x.to(wide), up_a), _raised(y.to(wide), up_b)
        return torch.add(left, right) if sign == (1, 1) else left * sign[0] + right * sign[1]

    return Rule(operands=operands, run=run, result=known)


def _with_number(name: str, node: fx.Node, value: Exact, number: float) -> Rule | None:
    found = dyadic(number)
    if found is None:
        return None
    if name in ("mul", "multiply"):
        factor = found[0]
        unit = value.unit / Fraction(2) ** found[1]
        known = Exact(unit=unit, largest=value.largest * abs(factor))
        return Rule(operands=(node,), run=lambda x: x.long() * factor, result=known)
    sign = {"add": (1, 1), "sub": (1, -1), "subtract": (1, -1), "rsub": (-1, 1)}.get(name)
    offset = Fraction(number) / value.unit
    below = offset.denominator
    if sign is None or below & (below - 1):
        return None
    up = below.bit_length() - 1
    whole = offset.numerator
    known = Exact(unit=value.unit / below, largest=(value.largest << up) + abs(whole))
    return Rule(operands=(node,), run=lambda x: (x.long() << up) * sign[0] + whole * sign[1], result=known)


def _raised(x: Tensor, up: int) -> Tensor:
    return x << up if up else x


def _joined(node: fx.Node, known: Known) -> Rule | None:
    """Returns the rule of a concatenation: all parts in the finest of their units."""
    parts = node.args[0]
    nodes = [part for part in parts if isinstance(part, fx.Node)] if isinstance(parts, (list, tuple)) else []
    values = [value for value in map(known, nodes) if value is not None]
    if not nodes or len(values) != len(nodes) or len(nodes) != len(parts):  # type: ignore[arg-type]
        return None
    unit = min(value.unit for value in values)
    ratios = [dyadic(value.unit / unit) for value in values]
    if any(ratio is None or ratio[0] != 1 for ratio in ratios):
        return None
    ups = {node: -ratio[1] for node, ratio in zip(nodes, ratios, strict=True) if ratio is not None}
    distinct = tuple(node.all_input_nodes)
    run = call(node)
    known_of = Exact(unit=unit, largest=max(v.largest << ups[n] for n, v in zip(nodes, values, strict=True)))
    wide = torch.int32 if known_of.largest < 1 << 31 else torch.int64

    def join(*found: Tensor) -> Tensor:
        joined: Tensor = run(*(_raised(x.to(wide), ups[n]) for n, x in zip(distinct, found, strict=True)))
        return joined

    return Rule(operands=distinct, run=join, result=known_of)


def _moved(node: fx.Node, first: fx.Node, value: Exact, kind: str) -> Rule | None:
    """Returns the rule of what moves or chooses values: kernels that want floats get whole numbers below 2**53."""
    if node.all_input_nodes != [first] or ops.dtype_of(node) != torch.float32:
        return None
    run = call(node)
    if kind in ANY_DTYPE:
        return Rule(operands=(first,), run=run, result=value)
    if value.largest >= 1 << 53:
        return None
    return Rule(operands=(first,), run=lambda x: run(x.double()).to(x.dtype), result=value)


def _clamp(node: fx.Node, first: fx.Node, value: Exact) -> Rule | None:
    """Returns the rule of a clamp whose ends are whole numbers of units, or beyond every value."""
    ends = clamp_ends(node)
    if ends is None:
        return None
    low, high = (_end(end, value, sign) for end, sign in zip(ends, (-1, 1), strict=True))
    if isinstance(low, Fraction) or isinstance(high, Fraction):
        return None
    if low is None and high is None:
        return Rule(operands=(first,), run=lambda x: x, result=value)
    return Rule(operands=(first,), run=lambda x: x.clamp(low, high), result=value)


def _end(end: float, value: Exact, sign: int) -> int | Fraction | None:
    """Returns one end in units: a whole number, None where no value gets there, a Fraction where it is not whole."""
    if math.isinf(end):
        return None
    exact = Fraction(end) / value.unit
    if exact * sign >= value.largest:
        return None
    return exact.numerator if exact.denominator == 1 else exact


def clamp_ends(node: fx.Node) -> tuple[float, float] | None:
    """Returns the ends of a ReLU, ReLU6, hardtanh or clamp; None when they are no numbers."""
    name = ops.op_name(node)
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else math.inf
    names = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low, high = (ops.argument(node, key) for key in names)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return None
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _leaky(node: fx.Node, first: fx.Node, value: Exact) -> Rule | None:
    found = dyadic(float(ops.argument(node, "negative_slope", 0.01)))
    if found is None or found[1] < 0 or found[1] > 30:
        return None
    factor, shift = found
    known = Exact(unit=value.unit / (1 << shift), largest=value.largest * max(1 << shift, abs(factor)))

    def run(x: Tensor) -> Tensor:
        x = x.long()
        return torch.where(x < 0, x * factor, x << shift)

    return Rule(operands=(first,), run=run, result=known)


def _gate(first: fx.Node, value: Exact, *, times_x: bool) -> Rule | None:
    """Returns the rule of a hard sigmoid, relu6(x + 3) * 2731 / 16384, and of x times one of 8 bits at position 7.

    vai_q_pytorch 4.6.
    """
    steps = 1 / value.unit
    if steps.denominator != 1 or value.unit > 1 or dyadic(steps) is None:
        return None
    three, six = 3 * int(steps), 6 * int(steps)
    unit = value.unit / _GATE_DOWN
    if not times_x:
        known = Exact(unit=unit, largest=six * _GATE)
        return Rule(operands=(first,), run=lambda x: (x.long() + three).clamp(0, six) * _GATE, result=known)
    found = dyadic(unit / Fraction(1, 128))
    if found is None:
        return None
    known = Exact(unit=value.unit / 128, largest=value.largest * 128)

    def run(x: Tensor) -> Tensor:
        x = x.long()
        gate = round_shift((x + three).clamp(0, six) * _GATE, found[1], "half_up").clamp(-128, 127)
        return x * gate

    return Rule(operands=(first,), run=run, result=known)


def _average(node: fx.Node, first: fx.Node, value: Exact) -> Rule | None:
    """Returns the rule of an average over a fixed number of values: their sum, in units that much smaller.

    A device that multiplies by m / 2**n in place of dividing has its factor beside the average: count * m / 2**n.
    """
    made = sums_of(node, ops.shape_of(first))
    if made is None:
        return None
    run, count = made
    factor = Fraction(float(ops.argument(node, "factor", 1.0)))
    found = dyadic(factor / count)
    if found is None or found[0] < 1:
        return None
    whole, down = found
    known = Exact(unit=value.unit / Fraction(2) ** down, largest=value.largest * count * whole)
    return Rule(operands=(first,), run=lambda x: run(x) * whole, result=known)
