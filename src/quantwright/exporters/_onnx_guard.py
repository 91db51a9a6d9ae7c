"""Keeps ONNX Runtime from changing what a file computes: float layers stay float, a softmax saturates.

Seen in ONNX Runtime 1.31 at its default optimization level. A Conv, ConvTranspose or Gemm whose input is dequantized,
whose output is quantized and whose weight is a float constant gets an int8 weight when the session is made. A layer
that the plan leaves float (or stores in float16) would silently lose its precision, so its result goes through a Max
with one input, which changes no value and which no runtime looks through.

A Softmax between DequantizeLinear and QuantizeLinear becomes QLinearSoftmax, which does not saturate: where the grid
ends below 1 (a range that leaves out a few large values), a value beyond it comes out as another one, up to the whole
grid away. Such a softmax gets the same Max; one whose grid reaches 1 is fused.

An operator that reads an 8-bit float and whose result is quantized becomes its integer form, QLinearConv and the like,
which has no 8-bit floats: the session is refused. It gets the same Max. So does what an operator reads that pairs are
moved across (``_onnx_grid``), which would run on 8-bit floats too; and what QuantizeLinear makes an 8-bit float of: a
Relu before it is taken for the lower end of the grid and dropped, negative values and all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from quantwright.exporters._onnx_grid import PROPAGATED

GUARDED = ("Conv", "ConvTranspose", "Gemm")
_PAIR = ("QuantizeLinear", "DequantizeLinear")
_FLOAT8 = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)
_PASSING = ("Relu", "LeakyRelu", "Clip", "Max", "Min")  # may stand between the operator and QuantizeLinear


def guard_float_layers(graph: ir.Graph) -> int:
    """Returns how many operators it guarded."""
    count = 0
    for node in list(graph):
        if node.op_type in GUARDED and not node.domain and _is_float_between(node):
            _guard(graph, node)
            count += 1
    return count


def guard_softmax(graph: ir.Graph) -> int:
    """Returns how many softmaxes it guarded: those whose grid ends more than one step below 1."""
    found = [node for node in graph if node.op_type == "Softmax" and not node.domain]
    short = [node for node in found if _ends_below_one(node.outputs[0])]
    for node in short:
        _guard(graph, node)
    return len(short)


def guard_float8(graph: ir.Graph) -> int:
    """Returns how many guards it wrote around 8-bit floats."""
    found = [node for node in graph if node.op_type not in _PAIR and any(map(_is_float8, node.inputs))]
    moved = [node for node in found if node.op_type in PROPAGATED]
    between = [node for node in found if node not in moved and _reaches_quantize(node.outputs[0])]
    to_float8 = [n for n in graph if n.op_type == "QuantizeLinear" and n.outputs[0].dtype in _FLOAT8]
    for node in between:
        _guard(graph, node)
    for node in (*moved, *to_float8):
        _guard_input(graph, node)
    return len(between) + len(moved) + len(to_float8)


def _is_float8(value: ir.Value | None) -> bool:
    """Returns whether a value is what DequantizeLinear makes of an 8-bit float."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype in _FLOAT8


def _ends_below_one(value: ir.Value) -> bool:
    """Returns whether a QuantizeLinear that reads ``value`` has a grid whose end lies more than one step below 1."""
    for use in value.uses():
        scale, zero = (_constant(use.node, index) for index in (1, 2))
        if use.node.op_type == "QuantizeLinear" and scale is not None and zero is not None and zero.dtype.kind in "iu":
            steps = np.iinfo(zero.dtype).max - zero.astype(np.int64) + 1
            if bool((steps * scale < 1).any()):
                return True
    return False


def _constant(node: ir.Node, index: int) -> np.ndarray[Any, Any] | None:
    """Returns the constant a node has as an input, or None."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def _is_float_between(node: ir.Node) -> bool:
    """Returns whether the input is dequantized, the weight a float constant and the result quantized."""
    source, weight = node.inputs[0], node.inputs[1]
    producer = None if source is None else source.producer()
    if weight is None or producer is None or producer.op_type != "DequantizeLinear":
        return False
    cast = weight.producer()
    constant = weight.is_initializer() or (cast is not None and cast.op_type == "Cast")
    return constant and _reaches_quantize(node.outputs[0])


def _reaches_quantize(value: ir.Value) -> bool:
    readers = [use.node for use in value.uses()]
    return any(
        node.op_type == "QuantizeLinear" or (node.op_type in _PASSING and _reaches_quantize(node.outputs[0]))
        for node in readers
    )


def _guard(graph: ir.Graph, node: ir.Node) -> None:
    """Puts a one-input Max behind the operator."""
    value = node.outputs[0]
    out = ir.Value(name=f"{value.name}.float", type=value.type, shape=value.shape)
    uses = list(value.uses())
    guard = ir.node("Max", [value], outputs=[out], name=f"{value.name}.float.node")
    graph.insert_after(node, guard)
    for use in uses:
        use.node.replace_input_with(use.idx, out)


def _guard_input(graph: ir.Graph, node: ir.Node) -> None:
    """Puts a one-input Max between the operator and the first value it reads."""
    value = node.inputs[0]
    if value is None:
        return
    out = ir.Value(name=f"{node.outputs[0].name}.from", type=value.type, shape=value.shape)
    graph.insert_before(node, ir.node("Max", [value], outputs=[out], name=f"{out.name}.node"))
    node.replace_input_with(0, out)
