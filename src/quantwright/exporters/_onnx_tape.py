"""A tape of new ONNX nodes: one method call writes one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantwright.errors import ExportError

Array = np.ndarray[Any, Any]


def dims(value: ir.Value) -> tuple[int, ...]:
    """Returns the shape of a value with -1 for what varies."""
    if value.shape is None:
        raise ExportError(f"the value '{value.name}' has no known rank", fix="report the model: shapes should be known")
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


class Tape:
    """Returns a recorder of nodes for one point; ``nodes`` go into the graph together, constants at once."""

    def __init__(self, graph: ir.Graph, point: str) -> None:
        self.graph = graph
        self.point = point
        self.nodes: list[ir.Node] = []

    def op(
        self, kind: str, inputs: Sequence[ir.Value | None], dtype: ir.DataType, shape: ir.Shape | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:  # fmt: skip
        """Returns the one output of a new node, named ``<point>.<kind><number>``."""
        out = ir.Value(
            name=f"{self.point}.{kind}{len(self.nodes)}", type=ir.TensorType(dtype),
            shape=None if shape is None else ir.Shape(list(shape)),
        )  # fmt: skip
        node = ir.node(kind, list(inputs), attributes=dict(attributes or {}), outputs=[out], name=f"{out.name}.node")
        self.nodes.append(node)
        return out

    def like(self, kind: str, *inputs: ir.Value) -> ir.Value:
        """Returns an elementwise result with the dtype and shape of the first input."""
        first = inputs[0]
        return self.op(kind, inputs, first.dtype or ir.DataType.FLOAT, first.shape)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Returns ``x`` in another type."""
        return self.op("Cast", [x], dtype, x.shape, {"to": int(dtype)})

    def clamp(self, x: ir.Value, lo: Array, hi: Array) -> ir.Value:
        """Returns ``x`` within bounds that are scalars (Clip) or broadcast (Max, Min)."""
        low, high = self.number("lo", lo), self.number("hi", hi)
        if lo.ndim == hi.ndim == 0:
            return self.like("Clip", x, low, high)
        return self.like("Min", self.like("Max", x, low), high)

    def number(self, name: str, value: Array | float, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Returns a small constant of this point."""
        return self.constant(f"{self.point}.{name}", np.asarray(value, dtype=dtype.numpy()), dtype)

    def constant(self, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
        """Returns the initializer ``name``, made on first use; the same name with other content gets another name."""
        known = self.graph.initializers.get(name)
        while known is not None and not _same(known, array, dtype):
            name += "_"
            known = self.graph.initializers.get(name)
        if known is not None:
            return known
        tensor = ir.Tensor(np.asarray(array), dtype=dtype, name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value


def _same(value: ir.Value, array: Array, dtype: ir.DataType) -> bool:
    const = value.const_value
    if const is None or const.dtype != dtype or tuple(const.shape) != array.shape:
        return False
    return bool(const.numpy().tobytes() == np.ascontiguousarray(array).tobytes())
