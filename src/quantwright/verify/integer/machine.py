"""The integer machine: runs a prepared network on integer tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.prepare import PreparedModel
from quantwright.verify.integer.build import build
from quantwright.verify.integer.grids import Fixed, Grid, parameter
from quantwright.verify.integer.sums import Layer
from quantwright.verify.places import point_nodes


class Machine:
    """Returns what runs a calibrated network on integers, for its parameters and QParams of this moment.

    Attributes:
        points: activation point -> node that holds its value, in execution order; those on an integer grid.
        floats: activation points that are on no integer grid (float formats, ranges of each token).
        layers: what is known of every integer accumulator; ``seen`` grows with every run.
        how: point -> how its integers are computed.

    Args:
        plain: add up all products in 64-bit integers: slow, and beyond doubt.
    """

    def __init__(self, prepared: PreparedModel, *, plain: bool = False) -> None:
        self.prepared = prepared
        self.program = build(prepared, plain=plain)
        self.points, self.floats = self._points()

    @property
    def layers(self) -> list[Layer]:
        """Returns what is known of every integer accumulator, in execution order."""
        return self.program.layers

    @property
    def how(self) -> dict[str, str]:
        """Returns point -> how its integers are computed."""
        return self.program.how

    def grid(self, point: str) -> Grid:
        """Returns the grid of a point."""
        return self.program.grids[self.points[point]]

    def parameters(self) -> Iterator[tuple[str, Tensor, Fixed]]:
        """Yields (point, real value, integers) of every weight and bias that is integers."""
        for name, quantizer in self.prepared.quantizers.items():
            if quantizer.point.role in ("weight", "bias"):
                real = self.prepared.parameter(quantizer.point.tensor).detach()
                found = parameter(quantizer, real)
                if found is not None:
                    yield name, found.real, found

    def run(self, batch: Batch) -> Any:
        """Returns the network's output for one batch, in real numbers, computed on integers."""
        return self._collect(batch, [])[1]

    def values(self, batch: Batch, points: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Returns point -> stored integers for one batch, in execution order; of all points when none are named."""
        return self._collect(batch, list(self.points if points is None else points))[0]

    def everything(self, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """Returns (point -> stored integers, output) for one batch."""
        return self._collect(batch, list(self.points))

    @torch.no_grad()
    def _collect(self, batch: Batch, points: list[str]) -> tuple[dict[str, Tensor], Any]:
        given = self.prepared.graph.flat_inputs(batch.args, dict(batch.kwargs))
        outputs = [(name, "real") for name in self.program.outputs]
        wanted = [(self.points[point], "whole") for point in points]
        kept: dict[tuple[str, str], Any] = {}
        self.program.run(given, [*outputs, *wanted], kept.__setitem__)
        values = {point: kept[self.points[point], "whole"] for point in points}
        leaves = iter([kept[key] for key in outputs])
        structure = next(n for n in self.prepared.graph.module.graph.nodes if n.op == "output").args[0]
        flat = [next(leaves) if isinstance(leaf, torch.fx.Node) else leaf for leaf in pytree.tree_leaves(structure)]
        return values, pytree.tree_unflatten(flat, self.prepared.graph.signature.out_spec)

    def _points(self) -> tuple[dict[str, str], tuple[str, ...]]:
        where, grids = point_nodes(self.prepared), self.program.grids
        order = {node.name: index for index, node in enumerate(self.prepared.graph.module.graph.nodes)}
        found: dict[str, str] = {}
        floats: list[str] = []
        for decision in self.prepared.plan.quantized():
            name = decision.point.name
            if decision.point.role in ("weight", "bias") or name not in where:
                continue
            if where[name] in grids:
                found[name] = where[name]
            else:
                floats.append(name)
        return dict(sorted(found.items(), key=lambda item: order[item[1]])), tuple(floats)
