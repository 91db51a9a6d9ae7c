"""From a prepared network to a program of the integer machine: which value is integers, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from quantwright.errors import StateError
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph import ops
from quantwright.graph.graph import copied
from quantwright.graph.streamline import free_views, layout_is_free
from quantwright.prepare import PreparedModel
from quantwright.verify.integer import movement, multiply, shifts
from quantwright.verify.integer.exact import Exact
from quantwright.verify.integer.grids import Fixed, Grid, centred, dequantize, grid_of, parameter, quantize
from quantwright.verify.integer.program import Key, Program, Task

QUANTIZED, MOVED, FLOAT = "quantized from float", "as it was", "float"


def build(prepared: PreparedModel, *, plain: bool = False) -> Program:
    """Returns the program of a calibrated network, for its parameters of this moment.

    Args:
        plain: 64-bit integers for every sum of products.

    Raises:
        StateError: the model is not calibrated, not on the CPU, or its target computes nothing in integers.
    """
    missing = [name for name, quantizer in prepared.quantizers.items() if not quantizer.ready]
    if missing:
        raise StateError(f"point '{missing[0]}' has no QParams yet", fix="call calibrate(batches) first")
    if prepared.graph.device.type != "cpu":
        raise StateError(f"the integer machine runs on the cpu, the model is on {prepared.graph.device}", fix="load it")
    if prepared.target.arithmetic.requantize == "none":
        raise StateError(
            f"target {prepared.target.name} computes in float: there is nothing to execute in integers",
            allowed="a target whose arithmetic requantizes: generic, onnxruntime, dpu",
        )
    with torch.no_grad():
        return Builder(prepared, plain).run()


class Builder:
    """Returns what makes the program, node by node.

    Attributes:
        exacts: node -> what is known of its exact form (targets that shift).
        settled: nodes whose real value the target's kernel computes as one: nothing is fused with them.
    """

    def __init__(self, prepared: PreparedModel, plain: bool) -> None:
        self.target = prepared.target
        self.quantizers = prepared.quantizers
        self.source = prepared.graph.module
        self.graph = copied(prepared.graph.module.graph)
        if layout_is_free(self.graph):
            free_views(self.graph)
        self.plain = plain
        self.program = Program()
        self.exacts: dict[fx.Node, Exact] = {}
        self.settled: set[fx.Node] = set()
        self._parameters: dict[str, Fixed | None] = {}

    def run(self) -> Program:
        """Returns the program after one walk through the network."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.program.inputs.append(node.name)
            elif node.op == "get_attr":
                value = ops.attribute(self.source, str(node.target))
                self.add(node, "real", (), lambda value=value: value)
            elif ops.is_quantizer(node):
                self._point(node)
            elif node.op == "output":
                leaves = torch.utils._pytree.tree_leaves(node.args)
                self.program.outputs = [leaf.name for leaf in leaves if isinstance(leaf, fx.Node)]
            else:
                self._operation(node)
        return self.program

    # -- what others ask ----------------------------------------------------------------------------------------
    def grid(self, node: Any) -> Grid | None:
        """Returns the grid of a node whose stored integers there are."""
        return self.program.grids.get(node.name) if isinstance(node, fx.Node) else None

    def fixed(self, node: Any) -> Fixed | None:
        """Returns the parameter behind a quantizer as integers."""
        quantizer, name = self.quantizer(node), ops.parameter_of(node)
        if quantizer is None or name is None:
            return None
        if node.name not in self._parameters:
            self._parameters[node.name] = parameter(quantizer, ops.attribute(self.source, name))
        return self._parameters[node.name]

    def constant(self, node: Any) -> Tensor | None:
        """Returns the real value of a parameter as the network reads it: on its grid where it has one."""
        name = ops.parameter_of(node)
        if name is None:
            return None
        real: Tensor = ops.attribute(self.source, name).detach()
        found, quantizer = self.fixed(node), self.quantizer(node)
        if found is not None:
            return found.real
        return real if quantizer is None else quantizer.apply_qparams(real)

    def quantizer(self, node: Any) -> Quantizer | None:
        """Returns the quantizer a node calls."""
        if not isinstance(node, fx.Node) or not ops.is_quantizer(node):
            return None
        return self.quantizers.get(str(node.meta.get("point")))

    def add(self, node: fx.Node, form: str, needs: tuple[tuple[fx.Node, str], ...], run: Callable[..., Any]) -> None:
        """Adds a task."""
        keys: tuple[Key, ...] = tuple((need.name, kind) for need, kind in needs)
        self.program.tasks[node.name, form] = Task(needs=keys, run=run)

    def exact(self, node: fx.Node) -> Exact | None:
        """Returns what is known of the exact form of a node; a value on a grid gets one when it is asked for."""
        found, grid = self.exacts.get(node), self.grid(node)
        if found is None and grid is not None:
            found = Exact(unit=grid.unit, largest=max(-grid.low, grid.high))
            self.exacts[node] = found
            self.add(node, "exact", ((node, "whole"),), lambda q: centred(q, grid.zero))
        return found

    def whole(self, node: fx.Node, grid: Grid, how: str, needs: Any, run: Callable[..., Tensor]) -> None:
        """Adds a value of stored integers, and its real form."""
        self.program.grids[node.name] = grid
        if node.meta.get("point"):
            self.program.how[str(node.meta["point"])] = how
        self.add(node, "whole", needs, run)
        self.add(node, "real", ((node, "whole"),), lambda q: movement.each(q, lambda part: dequantize(part, grid)))

    # -- nodes --------------------------------------------------------------------------------------------------
    def _point(self, node: fx.Node) -> None:
        quantizer, source = self.quantizer(node), node.args[0]
        if quantizer is None or not isinstance(source, fx.Node):
            raise StateError(f"node {node.name} stands for a point that is not in the plan", fix="prepare again")
        if quantizer.point.role in ("weight", "bias"):
            fixed = self.fixed(node)
            if fixed is None:
                self.add(node, "real", ((source, "real"),), quantizer.apply_qparams)
            else:
                value = fixed.real
                self.add(node, "real", (), lambda: value)
            return
        grid = grid_of(quantizer, self.target)
        if grid is None or ops.dtype_of(source) != torch.float32:
            self.program.how[quantizer.point.name] = FLOAT
            self.add(node, "real", ((source, "real"),), quantizer.apply_qparams)
            return
        if self.grid(source) == grid:
            self.whole(node, grid, MOVED, ((source, "whole"),), lambda q: q)
            return
        choose = shifts.point if self.target.arithmetic.requantize == "shift" else multiply.point
        if not choose(self, node, source, grid):
            self.whole(node, grid, QUANTIZED, ((source, "real"),), lambda x: quantize(x, grid))

    def _operation(self, node: fx.Node) -> None:
        """Adds what an operator makes: integers where it moves them only, an exact form, its real value."""
        if movement.carried(self, node):
            return
        needs = tuple((source, "real") for source in node.all_input_nodes)
        self.add(node, "real", needs, movement.call(node))
        if self.target.arithmetic.requantize == "shift":
            shifts.operation(self, node)
        else:
            multiply.operation(self, node)
