"""Keeps float layers float: ONNX Runtime quantizes constant float weights between DequantizeLinear and QuantizeLinear.

Seen in ONNX Runtime 1.31 at its default optimization level: a Conv, ConvTranspose or Gemm whose input is dequantized,
whose output is quantized and whose weight is a float constant gets an int8 weight when the session is made. A layer
that the plan leaves float (or stores in float16) would silently lose its precision, so its result goes through a Max
with one input, which changes no value and which no runtime looks through.
"""

from __future__ import annotations

import onnx_ir as ir

GUARDED = ("Conv", "ConvTranspose", "Gemm")
_PASSING = ("Relu", "LeakyRelu", "Clip", "Max", "Min")  # may stand between the operator and QuantizeLinear


def guard_float_layers(graph: ir.Graph) -> int:
    """Returns how many operators it guarded."""
    count = 0
    for node in list(graph):
        if node.op_type in GUARDED and not node.domain and _is_float_between(node):
            _guard(graph, node)
            count += 1
    return count


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
