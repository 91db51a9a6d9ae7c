"""Operators that only move stored integers, or choose among them: no arithmetic, the grid stays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.verify.integer.grids import Grid, centred

if TYPE_CHECKING:
    from quantwright.verify.integer.build import Builder

#: run on any dtype, and put no zeros in
ANY_DTYPE = {"reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "expand", "slice", "select", "split",
              "chunk", "getitem", "contiguous", "roll", "flip", "repeat", "gather", "index_select", "clone", "dropout",
              "identity", "cat", "stack"}  # fmt: skip
_SEVERAL = ("split", "chunk")


def each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Returns the value changed: a tensor, or each of several."""
    if isinstance(value, (tuple, list)):
        return type(value)(each(part, change) for part in value)
    return change(value) if isinstance(value, Tensor) else value


def carried(b: Builder, node: fx.Node) -> bool:
    """Returns whether the node keeps the grid of what it reads, after adding its task."""
    if node.op != "call_function" or not node.args:
        return False
    kind = ops.kind_of(node)
    sources = _sources(b, node, kind)
    if not sources:
        return False
    grid = b.grid(sources[0])
    if grid is None or any(b.grid(source) != grid for source in sources):
        return False
    needs = tuple((n, "whole" if n in sources else "real") for n in node.all_input_nodes)
    b.whole(node, grid, "as it was", needs, _mover(node, kind, grid, tuple(needs)))
    return True


def _sources(b: Builder, node: fx.Node, kind: str) -> list[fx.Node]:
    """Returns the nodes whose values a node moves; none when it does more than that."""
    first = node.args[0]
    if isinstance(first, (list, tuple)):
        parts = [part for part in first if isinstance(part, fx.Node)]
        return parts if kind in kinds.JOIN and len(parts) == len(first) else []
    if not isinstance(first, fx.Node) or ops.dtype_of(ops.source_of(node)) not in (torch.float32, None):
        return []
    if kind in ("max", "min") or not (ops.keeps_grid(node) or kind == "relu"):
        return []
    item = node.target is operator.getitem
    if item and kind not in _SEVERAL and node.args[1] != 0:  # indices of a max pool
        return []
    return [first]


def _mover(node: fx.Node, kind: str, grid: Grid, needs: tuple[Any, ...]) -> Callable[..., Any]:
    """Returns the operator on stored integers."""
    run = call(node)
    if kind == "relu":
        return lambda q: q.clamp(min=grid.zero)
    if kind in ANY_DTYPE or node.target is operator.getitem:
        return run
    moved = [index for index, (_, form) in enumerate(needs) if form == "whole"]

    def through_float(*values: Any) -> Any:
        """Moves whole numbers in float32, or float64: these kernels choose and copy values, and put zeros in."""
        wide = torch.float32 if grid.bits <= 24 else torch.float64
        given = list(values)
        for index in moved:
            given[index] = each(given[index], lambda q: centred(q, grid.zero).to(wide))
        return each(run(*given), lambda y: y.add(grid.zero).to(grid.dtype) if y.is_floating_point() else y)

    return through_float


def call(node: fx.Node) -> Callable[..., Any]:
    """Returns the operator of a node as a function of its input nodes' values."""
    names = [source.name for source in node.all_input_nodes]
    target: Any = node.target

    def run(*values: Any) -> Any:
        known = dict(zip(names, values, strict=True))
        args = fx.node.map_arg(node.args, lambda n: known[n.name])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: known[n.name])
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    return run
