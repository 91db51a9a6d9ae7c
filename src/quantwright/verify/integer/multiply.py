"""Targets that requantize with a multiplier: what ONNX Runtime's integer kernels take, and what stays float.

A kernel covers an operator with the clamps behind it, up to the point, where nobody else reads what is in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph.ops import LayerInfo
from quantwright.targets import Target
from quantwright.verify.integer.exact import clamp_ends
from quantwright.verify.integer.grids import Fixed, Grid, centred
from quantwright.verify.integer.requantize import Bounds, ByMultiplier, global_average, products_table, sums_table
from quantwright.verify.integer.sums import Product, Sum

if TYPE_CHECKING:
    from quantwright.verify.integer.build import Builder

MULTIPLIED, TABLE, AVERAGE = "int32 sums, multiplier", "table of all pairs", "sum, multiplier"
FLOAT_AVERAGE = "average in float, as the runtime's kernel"


def point(b: Builder, node: fx.Node, source: fx.Node, grid: Grid) -> bool:
    """Returns whether an integer kernel computes the point, after adding its task."""
    inner, bounds = source, (grid.low, grid.high)
    while ops.kind_of(inner) in kinds.CLAMP and len(inner.users) == 1:
        within, first = _clamped(inner, grid, b.target), inner.args[0]
        if within is None or not isinstance(first, fx.Node):
            return False
        inner, bounds = first, (max(bounds[0], within[0]), min(bounds[1], within[1]))
    if len(inner.users) != 1 or inner.op != "call_function" or inner in b.settled:
        return False
    if grid.rounding != "half_even" or grid.multiply or grid.bits > 8:
        return False
    info = ops.layer_info(inner)
    if info is not None:
        return _layer(b, node, info, grid, bounds)
    kind = ops.kind_of(inner)
    if kind in ("add", "mul"):
        return _pair(b, node, inner, grid, bounds)
    if kind in ("avg_pool", "adaptive_avg_pool"):
        return _average(b, node, inner, grid, bounds)
    return False


def operation(b: Builder, node: fx.Node) -> None:
    """Replaces the real value of a layer by its integer sums where the runtime's kernel gives these as float.

    Where nothing quantizes the result; and on more than two axes, where the file has a product and an addition, of
    which the product alone is computed in integers.
    """
    info = ops.layer_info(node)
    if info is None or ops.kind_of(node) not in b.target.float_results:
        return
    apart = info.bias is not None and len(ops.shape_of(node)) != 2
    if not apart and _read_by_a_point(node):
        return
    made = _sums(b, info, None if apart else info.bias)
    if made is None:
        return
    total, step_C, needs = made
    bias = b.constant(info.bias) if apart else None
    factor = torch.from_numpy(step_C)

    def run(*values: Tensor) -> Tensor:
        real = total(lambda acc: acc.to(torch.float32).mul_(factor), *values)
        return real if bias is None else real + bias

    b.add(node, "real", needs, run)
    b.settled.add(node)


def _read_by_a_point(node: fx.Node) -> bool:
    """Returns whether a quantizer is the only reader of the value, behind clamps maybe."""
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if ops.is_quantizer(reader):
            return True
        if ops.kind_of(reader) not in kinds.CLAMP:
            return False
        node = reader
    return False


def _clamped(node: fx.Node, grid: Grid, target: Target) -> Bounds | None:
    """Returns what a clamp leaves of the grid; None where it keeps the operation before it in float."""
    ends = clamp_ends(node)
    if ends is None:
        return None
    if ends[0] <= grid.low * grid.step and ends[1] >= grid.high * grid.step:
        return grid.low, grid.high
    if ends[0] > ends[1] or not target.kernels.clamp_integers:
        return None
    low, high = (min(max(float(np.float32(end) / np.float32(grid.step)), grid.low), grid.high) for end in ends)
    return int(np.rint(low)), int(np.rint(high))


# -- products ---------------------------------------------------------------------------------------------------------
def _layer(b: Builder, node: fx.Node, info: LayerInfo, grid: Grid, bounds: Bounds) -> bool:
    made = _sums(b, info, info.bias)
    if made is None:
        return False
    total, step_C, needs = made
    finish = ByMultiplier(step_C / np.float32(grid.step), grid, bounds, axes=0 if _last(total, info) else info.spatial)
    b.whole(node, grid, MULTIPLIED, needs, lambda *values: total(finish, *values))
    return True


def _last(total: Sum | Product, info: LayerInfo) -> bool:
    return isinstance(total, Product) or total.last


def _sums(
    b: Builder, info: LayerInfo, bias: fx.Node | None
) -> tuple[Sum | Product, np.ndarray, tuple[tuple[fx.Node, str], ...]] | None:
    """Returns (sums of products, float32 step of each channel, what they read); None where no kernel adds integers.

    Kernels take 8-bit activations of one scale; weights of up to 8 bits with one scale, or one per output channel; and
    a bias in units of the accumulator.
    """
    x, other = b.grid(info.x), b.grid(info.weight)
    if x is None or x.bits > 8 or info.transposed:
        return None
    name, bits = layer_name(info), b.target.arithmetic.accumulator_bits
    if other is not None:
        if other.bits > 8:
            return None
        count = ops.shape_of(info.weight)[info.input_axis]
        product = Product(info, name, x, other, count, bits=bits, plain=b.plain)
        step_C = np.asarray([np.float32(other.step) * np.float32(x.step)], np.float32)
        b.program.layers.append(product.layer)
        return product, step_C, ((info.x, "whole"), (info.weight, "whole"))
    weight = weight_of(b, info)
    if weight is None:
        return None
    step_C = (weight.step_C.numpy() * np.float32(x.step)).astype(np.float32)
    whole = None
    if bias is not None:
        whole = _bias(b, bias, step_C)
        if whole is None:
            return None
    total = Sum(info, name, x, weight.centred, whole, bits=bits, plain=b.plain)
    b.program.layers.append(total.layer)
    return total, step_C, ((info.x, "whole"),)


def weight_of(b: Builder, info: LayerInfo) -> Fixed | None:
    """Returns the weight as integers an integer kernel takes."""
    weight, quantizer = b.fixed(info.weight), b.quantizer(info.weight)
    if weight is None or quantizer is None or quantizer.spec.bits > 8:
        return None
    if weight.step_C.numel() > 1:
        rows = not info.spatial and info.node.args[0] is info.weight  # channels are rows of the product then
        if weight.axis != info.channel_axis or rows:
            return None
    return weight


def layer_name(info: LayerInfo) -> str:
    """Returns the name of a layer: the module its weight belongs to, or the node."""
    return (ops.parameter_of(info.weight) or "").rpartition(".")[0] or info.node.name


def _bias(b: Builder, node: fx.Node, step_C: np.ndarray) -> Tensor | None:
    """Returns a bias as integers of the accumulator's units; None where it is in others (a reused layer's)."""
    found, quantizer = b.fixed(node), b.quantizer(node)
    if found is None or quantizer is None or quantizer.spec.scale != "derived":
        return None
    if not np.array_equal(found.step_C.numpy(), step_C):
        return None
    return found.q.reshape(-1)


# -- elementwise ------------------------------------------------------------------------------------------------------
def _pair(b: Builder, node: fx.Node, inner: fx.Node, grid: Grid, bounds: Bounds) -> bool:
    """Adds a sum or product of two 8-bit values of one shape, stored with the same sign."""
    pair = inner.args[:2]
    grids = [b.grid(item) for item in pair]
    a, c = grids if len(grids) == 2 else (None, None)
    if a is None or c is None or len(inner.args) != 2 or ops.argument(inner, "alpha", 1) != 1:
        return False
    shapes = {ops.shape_of(item) for item in pair if isinstance(item, fx.Node)}
    if len(shapes) != 1 or a.bits > 8 or c.bits > 8 or len({_signed(g) for g in (a, c, grid)}) != 1:
        return False
    make = sums_table if ops.kind_of(inner) == "add" else products_table
    run: Callable[..., Tensor] = make(a, c, grid, bounds)
    b.whole(node, grid, TABLE, tuple((item, "whole") for item in pair), run)
    return True


def _signed(grid: Grid) -> bool:
    """Returns whether the runtime stores the integers in a signed type."""
    return grid.qmin + grid.moved < 0


def _average(b: Builder, node: fx.Node, inner: fx.Node, grid: Grid, bounds: Bounds) -> bool:
    """Adds an average as QLinearGlobalAveragePool or QLinearAveragePool computes it."""
    source = inner.args[0]
    x = b.grid(source)
    if x is None or not isinstance(source, fx.Node) or x.bits > 8 or _signed(x) != _signed(grid):
        return False
    if ops.kind_of(inner) == "avg_pool":
        zero, by = grid.zero + grid.moved, np.float32(grid.by)

        def pooled(real: Tensor) -> Tensor:
            whole = torch.round(real.div(float(by)).add_(zero)).sub_(zero)
            return whole.clamp_(*bounds).add_(grid.zero).to(grid.dtype)

        b.whole(node, grid, FLOAT_AVERAGE, ((inner, "real"),), pooled)
        return True
    if any(size != 1 for size in ops.shape_of(inner)[2:]) or _signed(grid):
        return False

    def averaged(q: Tensor) -> Tensor:
        axes = tuple(range(2, q.dim()))
        count = int(np.prod(q.shape[2:]))
        sums = centred(q.sum(axes, keepdim=True, dtype=torch.int64), x.zero * count)
        by = float(global_average(x, grid, count))
        scaled = sums.to(torch.float32).mul_(by).round_()
        return scaled.clamp_(*bounds).add_(grid.zero).to(grid.dtype)

    b.whole(node, grid, AVERAGE, ((source, "whole"),), averaged)
    return True
