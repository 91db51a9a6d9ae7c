"""Lowering: the prepared network with every part that a runtime computes in integers computed in integers.

Each value can be *real* or *on the grid* (see ``simulate.kernels``). A quantizer gives the value on the grid; a
convolution, linear layer or matrix product between grids runs on whole numbers and is requantized; data movement and
max pools run on the grid as they are. What the runtime computes in float (the target says so) stays as
it was: real values in, a quantizer behind.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from quantwright.config import kinds
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph import ops
from quantwright.graph.device_ops import OPERATORS
from quantwright.graph.graph import copied
from quantwright.graph.streamline import free_views, layout_is_free
from quantwright.simulate.grids import Bounds, Grid, clamp_on, grid_of, shifts
from quantwright.simulate.integer import integer_layer
from quantwright.simulate.kernels import (
    EXACT,
    AddOnGrid,
    AveragePooled,
    GlobalAverage,
    MulOnGrid,
    Requantize,
    Scaled,
    ToGrid,
    ToReal,
)
from quantwright.simulate.products import Weight, beside, bias_of, cut, largest_sum, weight_of
from quantwright.targets import Target

_MULTI = ("split", "chunk")  # movement whose output is a tuple


@dataclass(frozen=True, slots=True)
class _Value:
    """Returns a value on the grid: the node that holds it, and which grid."""

    node: fx.Node
    grid: Grid


def lower(
    module: fx.GraphModule, quantizers: Mapping[str, Quantizer], target: Target, *, taps: bool = False,
    kernels: bool = True,
) -> fx.GraphModule:  # fmt: skip
    """Returns the network computed as ``target`` does it; parameters are read now, later changes are not seen.

    Args:
        module: the network with its quantizers inserted, all of them ready.
        taps: keep the real value of every point under the name of its quantizer's node, and read everything behind a
            point from that value, so that it can be looked at and replaced.
        kernels: sums on the CPU's integer kernels where they take them (the same sums); not every tracer knows those.
    """
    return _Lowering(module, quantizers, target, taps, kernels).run()


class _Lowering:
    def __init__(
        self, module: fx.GraphModule, quantizers: Mapping[str, Quantizer], target: Target, taps: bool, kernels: bool
    ) -> None:
        self.kernels = kernels
        self.module = fx.GraphModule(module, copied(module.graph))
        self.graph = self.module.graph
        self.quantizers = quantizers
        self.target = target
        self.taps = taps
        self.values: dict[fx.Node, _Value] = {}  # node of the network -> the same value on the grid
        self.count = 0
        self.channels_last = layout_is_free(self.graph)
        self.device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))

    def run(self) -> fx.GraphModule:
        if self.channels_last:
            free_views(self.graph)
        for node in list(self.graph.nodes):
            quantizer = self._quantizer(node)
            if quantizer is not None:
                self._point(node, quantizer)
            elif node.op == "call_function":
                self._carry(node)
                self._float_result(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        self.module.eval()
        return self.module

    # -- points -------------------------------------------------------------------------------------------------
    def _point(self, node: fx.Node, quantizer: Quantizer) -> None:
        """Replaces the quantizer of an activation by a value on the grid and its real form."""
        grid = grid_of(quantizer, self.target)
        source = node.args[0]
        if grid is None or not isinstance(source, fx.Node) or ops.dtype_of(source) != torch.float32:
            return
        made = self._same(source, grid) or self._computed(node, source, grid)
        if made is None:
            made = self._call(node, ToGrid(grid), source)
        for key in ("shape", "dtype"):  # what stands behind asks for them
            made.meta.setdefault(key, node.meta.get(key))
        node.target, node.args = self._add(ToReal(grid)), (made,)
        self.values[node] = _Value(self._read_back(node, grid) if self.taps else made, grid)

    def _same(self, source: fx.Node, grid: Grid) -> fx.Node | None:
        """Returns the value itself when it is on this very grid already."""
        value = self.values.get(source)
        return value.node if value is not None and value.grid == grid else None

    def _computed(self, point: fx.Node, source: fx.Node, grid: Grid) -> fx.Node | None:
        """Returns the value computed from values on the grid, when the runtime has an integer kernel for that."""
        node, bounds = source, (grid.low, grid.high)
        while ops.kind_of(node) in kinds.CLAMP and len(node.users) == 1:
            inner, within = node.args[0], clamp_on(node, grid, self.target)
            if within is None or not isinstance(inner, fx.Node):
                return None
            node, bounds = inner, (max(bounds[0], within[0]), min(bounds[1], within[1]))
        if len(node.users) != 1 or node.op != "call_function":
            return None
        kind = ops.kind_of(node)
        if kind in kinds.JOIN and bounds == (grid.low, grid.high):
            return self._joined(node, point, grid)
        info = ops.layer_info(node)
        if info is not None:
            return self._product(info, point, grid, bounds)
        if not self._multiplies(grid):
            return None
        make = {"add": AddOnGrid, "mul": MulOnGrid}.get(kind)
        if make is not None:
            return self._pair(node, point, grid, bounds, make)
        if kind in ("adaptive_avg_pool", "avg_pool"):
            return self._average(node, point, grid, bounds)
        return None

    def _multiplies(self, grid: Grid) -> bool:
        """Returns whether the runtime requantizes to this grid with a multiplier, as its 8-bit kernels do."""
        usual = grid.rounding == "half_even" and not grid.multiply and grid.bits <= 8
        return usual and self.target.arithmetic.requantize == "multiplier"

    def _joined(self, node: fx.Node, before: fx.Node, grid: Grid) -> fx.Node | None:
        """Returns the concatenation of values that are all on this grid."""
        parts: Any = node.args[0]
        found = [self.values.get(part) for part in parts] if isinstance(parts, (list, tuple)) else [None]
        if any(value is None or value.grid != grid for value in found):
            return None
        return self._on_grid(node, before)

    def _pair(
        self, node: fx.Node, before: fx.Node, grid: Grid, bounds: Bounds, make: Callable[..., nn.Module]
    ) -> fx.Node | None:
        """Returns the elementwise operation on two values of one shape and storage type."""
        pair = [self.values.get(arg) if isinstance(arg, fx.Node) else None for arg in node.args[:2]]
        first, second = pair
        if first is None or second is None or len(node.args) != 2 or ops.argument(node, "alpha", 1) != 1:
            return None
        shapes = {ops.shape_of(arg) for arg in node.args[:2] if isinstance(arg, fx.Node)}
        if len(shapes) != 1 or len({grid.signed, first.grid.signed, second.grid.signed}) != 1:
            return None
        if any(value.grid.bits > 8 for value in (first, second)):
            return None
        return self._call(before, make(first.grid, second.grid, grid, bounds), first.node, second.node)

    def _average(self, node: fx.Node, before: fx.Node, grid: Grid, bounds: Bounds) -> fx.Node | None:
        """Returns an average pool as QLinearGlobalAveragePool or QLinearAveragePool computes it."""
        value = self.values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
        if value is None or value.grid.bits > 8 or value.grid.signed != grid.signed:
            return None
        if ops.op_name(node) in OPERATORS:  # multiplied behind the average, which is no kernel of the runtime's
            return None
        if ops.kind_of(node) == "avg_pool":
            return self._call(before, AveragePooled(grid, bounds), node)
        if any(size != 1 for size in ops.shape_of(node)[2:]) or grid.signed:
            return None
        return self._call(before, GlobalAverage(value.grid, grid, bounds), value.node)

    # -- products -----------------------------------------------------------------------------------------------
    def _product(self, info: ops.LayerInfo, point: fx.Node, grid: Grid, bounds: Bounds) -> fx.Node | None:
        """Returns a convolution, linear layer or matrix product on whole numbers, requantized."""
        with self.graph.inserting_before(point):
            made = self._accumulated(info, grid)
        if made is None:
            return None
        acc, step_C = made
        multiplier = step_C / torch.tensor(grid.step, dtype=torch.float32)
        return self._call(point, Requantize(beside(multiplier, info), grid, bounds), acc)

    def _float_result(self, node: fx.Node) -> None:
        """Replaces a layer by its integer form with a float result, where that is what the runtime's kernel gives.

        It is when nothing quantizes the result; and a layer on more than two axes is a product and an addition in the
        file, of which only the product is computed in integers.
        """
        info = ops.layer_info(node)
        if info is None or ops.kind_of(node) not in self.target.float_results:
            return
        apart = info.bias is not None and len(ops.shape_of(node)) != 2
        if not apart and ops.ends_at_a_quantizer(node):
            return
        with self.graph.inserting_before(node):
            made = self._accumulated(info, None, biased=not apart)
            if made is None:
                return
            acc, step_C = made
            real = self.graph.call_module(self._add(Scaled(beside(step_C, info))), (acc,))
            if apart:
                real = self.graph.call_function(torch.ops.aten.add.Tensor, (real, info.bias))
        real.meta.update(shape=ops.shape_of(node), dtype=ops.dtype_of(node))
        node.replace_all_uses_with(real)

    def _accumulated(
        self, info: ops.LayerInfo, grid: Grid | None, *, biased: bool = True
    ) -> tuple[fx.Node, Tensor] | None:
        """Returns (accumulators, their step per channel, float32) where the device sums up integers.

        Args:
            grid: what the accumulators are requantized to; None for a float result.
            biased: whether the bias is part of the sum.
        """
        x, other, weight = self.values.get(info.x), self.values.get(info.weight), None
        if x is None or (other is not None and other.grid.bits > 8):
            return None
        if other is not None:
            step_C = torch.tensor([other.grid.step], device=self.device)
        else:
            weight = self._weight(info)
            if weight is None:
                return None
            step_C = weight.step_C
        step_C = step_C.float() * torch.tensor(x.grid.step, dtype=torch.float32)
        by_shifts = grid is not None and shifts(self.target, grid.step, *step_C.tolist())
        multiplies = self.target.arithmetic.requantize == "multiplier" if grid is None else self._multiplies(grid)
        if not by_shifts and (info.transposed or x.grid.bits > 8 or not multiplies):
            return None
        bias = None
        if info.bias is not None and biased:
            bias = self._bias(info.bias, step_C, by_shifts)
            if bias is None:
                return None
        if weight is not None:
            return self._sum(info, x, weight.whole, bias), step_C
        return (self._two_activations(info, x, other), step_C) if other is not None else None

    def _weight(self, info: ops.LayerInfo) -> Weight | None:
        quantizer, real = self._quantizer(info.weight), self._attribute(info.weight)
        if quantizer is None or real is None:
            return None
        weight = weight_of(quantizer, real, info.channel_axis)
        first = not info.spatial and info.node.args[0] is info.weight  # channels are rows of the product then
        return None if weight is None or (first and weight.step_C.numel() > 1) else weight

    def _bias(self, node: fx.Node, step_C: Tensor, by_shifts: bool) -> Tensor | None:
        """Returns a bias in units of the accumulator, float64: integers, or with shifts whatever it is."""
        quantizer, real = self._quantizer(node), self._attribute(node)
        if real is None:
            return None
        if by_shifts:  # a power of two: nothing is rounded again
            return (real if quantizer is None else quantizer(real)).double() / step_C
        return bias_of(quantizer, real, step_C)

    def _sum(self, info: ops.LayerInfo, x: _Value, whole: Tensor, bias: Tensor | None) -> fx.Node:
        """Returns the accumulators: in float32 at once or in two halves, else in float64.

        Float32 kernels of other devices than the CPU may transform a convolution into sums that are not whole.
        """
        if self.device.type != "cpu":
            return self._copy(info, self.graph.call_method("double", (x.node,)), whole.double(), bias)
        if largest_sum(whole, info.channel_axis, x.grid, bias) < EXACT:
            return self._exact(info, x.node, x.grid, whole, bias)
        whole_layer = info.spatial or ops.op_name(info.node) == "linear"
        head = cut(info, whole, x.grid, bias) if whole_layer else None
        if head is None:
            return self._copy(info, self.graph.call_method("double", (x.node,)), whole.double(), bias)
        count, axis = whole.shape[info.input_axis], -1 - info.spatial
        parts = []
        for start, size, added in ((0, head, None), (head, count - head, bias)):
            piece = self.graph.call_function(torch.narrow, (x.node, axis, start, size))
            part = whole.narrow(info.input_axis, start, size).contiguous()
            parts.append(self._exact(info, piece, x.grid, part, added))
        return self.graph.call_method("add_", tuple(parts))

    def _exact(self, info: ops.LayerInfo, x: fx.Node, grid: Grid, whole: Tensor, bias: Tensor | None) -> fx.Node:
        """Returns sums that float32 holds: on integer kernels where there are any, else of whole numbers in float32."""
        takes = self.kernels and (self.channels_last or not info.spatial)
        layer = integer_layer(info, whole, grid, bias) if takes else None
        return self._copy(info, x, whole, bias) if layer is None else self.graph.call_module(self._add(layer), (x,))

    def _copy(self, info: ops.LayerInfo, x: fx.Node, whole: Tensor, bias: Tensor | None) -> fx.Node:
        """Returns the operator with other operands; without a bias when there is none."""
        if info.spatial == 2 and self.channels_last:
            whole = whole.contiguous(memory_format=torch.channels_last)
        swap = {info.x: x, info.weight: self._constant(whole)}
        if info.bias is not None and bias is not None:
            swap[info.bias] = self._constant(bias.to(whole.dtype))
        node = self.graph.node_copy(info.node, lambda n: swap.get(n, n))
        if info.bias is not None and bias is None:
            ops.set_argument(node, "bias", None)
        return node

    def _two_activations(self, info: ops.LayerInfo, x: _Value, other: _Value) -> fx.Node:
        """Returns the product of two values, summed up in float64 when their number is unknown or large."""
        count = ops.shape_of(info.weight)[info.input_axis]
        size = max(-x.grid.low, x.grid.high) * max(-other.grid.low, other.grid.high)
        pair = (x.node, other.node)
        if count < 0 or count * size >= EXACT or self.device.type != "cpu":
            pair = tuple(self.graph.call_method("double", (node,)) for node in pair)  # type: ignore[assignment]
        swap = dict(zip((info.x, info.weight), pair, strict=True))
        return self.graph.node_copy(info.node, lambda n: swap.get(n, n))

    def _attribute(self, node: fx.Node) -> Tensor | None:
        """Returns the parameter behind a quantizer."""
        name = ops.parameter_of(node)
        if name is None:
            return None
        owner: Any = self.module
        for part in name.split("."):
            owner = getattr(owner, part)
        return owner.detach() if isinstance(owner, Tensor) else None

    # -- movement -----------------------------------------------------------------------------------------------
    def _carry(self, node: fx.Node) -> None:
        """Notes the grid form of what keeps the grid: movement, max pools, a ReLU."""
        source = node.args[0] if node.args else None
        if isinstance(source, (list, tuple)):
            self._carry_join(node, source)
            return
        value = self.values.get(source) if isinstance(source, fx.Node) else None
        if value is None or ops.dtype_of(ops.source_of(node)) not in (torch.float32, None):
            return
        kind = ops.kind_of(node)
        if kind in ("max", "min") or not (ops.keeps_grid(node) or kind == "relu"):
            return
        if _is_item(node) and kind not in _MULTI and node.args[1] != 0:  # indices of a max pool
            return
        self._keep(node, value.grid)

    def _carry_join(self, node: fx.Node, parts: Any) -> None:
        found = [self.values.get(part) for part in parts if isinstance(part, fx.Node)]
        first = found[0] if found else None
        if ops.kind_of(node) not in kinds.JOIN or first is None or len(found) != len(parts):
            return
        if all(value is not None and value.grid == first.grid for value in found):
            self._keep(node, first.grid)

    def _keep(self, node: fx.Node, grid: Grid) -> None:
        """Notes the grid form of a node that keeps the grid: its copy, or what is read back from its real value."""
        if not self.taps:
            self.values[node] = _Value(self._on_grid(node, node), grid)
        elif ops.kind_of(node) in _MULTI and not _is_item(node):
            self.values[node] = _Value(node, grid)  # only items of it are read
        else:
            self.values[node] = _Value(self._read_back(node, grid), grid)

    def _read_back(self, node: fx.Node, grid: Grid) -> fx.Node:
        """Returns what is on the grid already, as whole numbers."""
        nearest = replace(grid, by=grid.step, multiply=False, rounding="half_even")
        with self.graph.inserting_after(node):
            return self.graph.call_module(self._add(ToGrid(nearest)), (node,))

    def _on_grid(self, node: fx.Node, before: fx.Node) -> fx.Node:
        """Returns a copy of ``node`` that reads values on the grid where there are any."""
        with self.graph.inserting_before(before):
            return self.graph.node_copy(node, lambda n: self.values[n].node if n in self.values else n)

    # -- the graph ----------------------------------------------------------------------------------------------
    def _quantizer(self, node: Any) -> Quantizer | None:
        if not isinstance(node, fx.Node) or not ops.is_quantizer(node):
            return None
        return self.quantizers.get(str(node.meta.get("point")))

    def _call(self, before: fx.Node, module: nn.Module, *args: fx.Node) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_module(self._add(module), args)

    def _add(self, module: nn.Module) -> str:
        self.count += 1
        path = f"simulated.k{self.count}"
        self.module.add_submodule(path, module)
        return path

    def _constant(self, value: Tensor) -> fx.Node:
        self.count += 1
        name = f"simulated_{self.count}"
        self.module.register_buffer(name, value, persistent=False)
        return self.graph.get_attr(name)


def _is_item(node: fx.Node) -> bool:
    return node.target is operator.getitem
