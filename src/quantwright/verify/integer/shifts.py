"""Targets that requantize by shifts: every operator with an exact form keeps it, and a point cuts the bits off."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from quantwright.graph import ops
from quantwright.graph.ops import LayerInfo
from quantwright.verify.integer.exact import Exact, rule
from quantwright.verify.integer.grids import Grid, dyadic, is_power_of_two
from quantwright.verify.integer.multiply import layer_name
from quantwright.verify.integer.requantize import ByShift
from quantwright.verify.integer.sums import Product, Sum

if TYPE_CHECKING:
    from quantwright.verify.integer.build import Builder

SHIFTED = "exact sums, shift"
_BITS = 40  # of a float bias in units of its last bit: what is added to 64-bit sums


def point(b: Builder, node: fx.Node, source: fx.Node, grid: Grid) -> bool:
    """Returns whether the point is the exact form of its value, shifted, after adding its task."""
    value = b.exact(source)
    if value is None or not is_power_of_two(grid.step):
        return False
    ratio = value.unit / grid.unit
    if not ByShift.fits(ratio, value.largest):
        return False
    finish = ByShift(ratio, grid, (grid.low, grid.high), largest=value.largest)
    b.whole(node, grid, SHIFTED, ((source, "exact"),), finish)
    return True


def operation(b: Builder, node: fx.Node) -> None:
    """Adds the exact form of an operator's value, where it has one."""
    info = ops.layer_info(node)
    if info is not None:
        _layer(b, node, info)
        return
    made = rule(node, b.exact) if node.op == "call_function" else None
    if made is not None:
        b.exacts[node] = made.result
        b.add(node, "exact", tuple((operand, "exact") for operand in made.operands), made.run)


def _layer(b: Builder, node: fx.Node, info: LayerInfo) -> None:
    x, other = b.grid(info.x), b.grid(info.weight)
    if x is None or not is_power_of_two(x.step):
        return
    name, bits = layer_name(info), b.target.arithmetic.accumulator_bits
    if other is not None:
        if not is_power_of_two(other.step) or info.bias is not None:
            return
        count = ops.shape_of(info.weight)[info.input_axis]
        product = Product(info, name, x, other, count, bits=bits, plain=b.plain)
        largest = product.layer.possible if count > 0 else 1 << 52
        b.program.layers.append(product.layer)
        b.exacts[node] = Exact(unit=x.unit * other.unit, largest=largest)
        b.add(node, "exact", ((info.x, "whole"), (info.weight, "whole")), lambda q, w: product(_same, q, w))
        return
    weight = b.fixed(info.weight)
    if weight is None or weight.step_C.numel() != 1 or not is_power_of_two(float(weight.step_C)):
        return
    unit = x.unit * Fraction(float(weight.step_C))
    bias, shift = None, 0
    if info.bias is not None:
        found = _bias(b, info.bias, unit)
        if found is None:
            return
        bias, shift = found
    total = Sum(info, name, x, weight.centred, bias, bits=bits, shift=shift, plain=b.plain)
    if total.layer.possible >= 1 << 62:
        return
    b.program.layers.append(total.layer)
    b.exacts[node] = Exact(unit=unit / (1 << shift), largest=total.layer.possible)

    def run(q: Tensor) -> Tensor:
        return total(_same, q)

    b.add(node, "exact", ((info.x, "whole"),), run)


def _same(acc: Tensor) -> Tensor:
    return acc


def _bias(b: Builder, node: fx.Node, unit: Fraction) -> tuple[Tensor, int] | None:
    """Returns (integers, shift): a bias in units of the sums, and by how many bits these are finer than the products.

    Nothing is rounded: a bias with more fractional bits than the products makes all of them finer.
    """
    found = b.fixed(node)
    if found is not None and found.step_C.numel() == 1:
        whole, step = found.centred.reshape(-1), Fraction(float(found.step_C))
    else:
        real = b.constant(node)
        exact = None if real is None else _whole(real)
        if exact is None:
            return None
        whole, step = exact
    ratio = dyadic(step / unit)
    if ratio is None or ratio[0] != 1:
        return None
    up, shift = max(-ratio[1], 0), max(ratio[1], 0)
    if shift > 24 or (int(whole.abs().max()) if whole.numel() else 0) << up >= 1 << 62:
        return None
    return whole << up, shift


def _whole(real: Tensor) -> tuple[Tensor, Fraction] | None:
    """Returns a float tensor as integers of one unit, when these are not too long."""
    wide = real.double().reshape(-1)
    for bits in range(_BITS):
        scaled = wide * 2.0**bits
        if bool((scaled == torch.round(scaled)).all()):
            return scaled.long(), Fraction(1, 1 << bits)
    return None
