"""Writes the pair that a value on a grid lacks: behind a max pool or data movement that reads a dequantized value.

Seen in ONNX Runtime 1.31 at its default optimization level: where a MaxPool, Reshape, Transpose, Squeeze, Unsqueeze or
Slice reads DequantizeLinear and nothing quantizes its result (a concat that quantizes only what it joins), the runtime
puts a pair there itself. When it also turns int8 activations into uint8 it forgets the type it gave that pair, and
refuses the session: "output_dtype INT8 does not match y_zero_point type UINT8". The values are on the grid already,
so a pair with the same scale and zero point changes none of them.
"""

from __future__ import annotations

import onnx_ir as ir

PROPAGATED = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")


def quantize_grid_values(graph: ir.Graph) -> int:
    """Returns how many pairs it wrote; a chain of movements gets one behind each step."""
    count = 0
    for node in list(graph):
        pair = _pair_before(node)
        readers = [use.node.op_type for use in node.outputs[0].uses()]
        if pair is not None and readers and "QuantizeLinear" not in readers:
            _add_pair(graph, node, *pair)
            count += 1
    return count


def _pair_before(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Returns the per-tensor (QuantizeLinear, DequantizeLinear) that made the node's first input, if there is one."""
    if node.op_type not in PROPAGATED or node.domain:
        return None
    source = node.inputs[0]
    dequantize = None if source is None else source.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear" or dequantize.attributes:
        return None
    integers = dequantize.inputs[0]
    quantize = None if integers is None else integers.producer()
    if quantize is not None and quantize.op_type == "Clip" and quantize.inputs[0] is not None:
        quantize = quantize.inputs[0].producer()
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    return quantize, dequantize


def _add_pair(graph: ir.Graph, node: ir.Node, quantize: ir.Node, dequantize: ir.Node) -> None:
    """Puts copies of the pair between the first output of ``node`` and its readers."""
    value = node.outputs[0]
    name = value.name or node.name or "value"
    readers = list(value.uses())
    integers = ir.Value(name=f"{name}.grid", shape=value.shape, type=quantize.outputs[0].type)
    back = ir.Value(name=f"{name}.on_grid", shape=value.shape, type=value.type)
    to_grid = ir.node("QuantizeLinear", [value, *quantize.inputs[1:]], outputs=[integers], name=f"{name}.grid.node")
    back_again = ir.node(
        "DequantizeLinear", [integers, *dequantize.inputs[1:]], outputs=[back], name=f"{name}.on_grid.node"
    )
    for use in readers:
        use.node.replace_input_with(use.idx, back)
    graph.insert_after(node, [to_grid, back_again])
