"""Moves clamps behind the rounding: Relu or Clip, then QuantizeLinear, becomes QuantizeLinear, then Clip of integers.

Rounding never decreases, so clamping before and after give the same integers. It matters for speed: ONNX Runtime 1.31
runs a convolution, addition or matrix product on integers only when QuantizeLinear reads its result, or reads it
through a clamp that saturation does anyway. A Relu before a zero point that is not the lowest integer stays, and the
whole operator is computed in float; so does a Clip whose bound is one rounding error within the grid. Signed integers
are left alone: the runtime itself turns some of them into unsigned ones, and a Clip between would keep it from that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from quantwright.exporters._onnx_lower import clip_integers
from quantwright.exporters._onnx_tape import Tape

_LOWEST, _HIGHEST = 0, 255


def clamp_integers(graph: ir.Graph) -> int:
    """Returns how many clamps it moved or left to the saturation of QuantizeLinear."""
    count = 0
    for node in list(graph):
        bounds = _bounds(node)
        quantizers = list(_quantizers(node))
        if bounds is None or not quantizers:
            continue
        ends = [_on_grid(quantizer, *bounds) for quantizer in quantizers]
        known = [pair for pair in ends if pair is not None]
        if len(known) != len(ends) or (node.op_type == "Relu" and not any(map(_moves, known))):
            continue
        for quantizer, pair in zip(quantizers, known, strict=True):
            _move(graph, node, quantizer, *pair)
        graph.remove(node, safe=True)
        count += 1
    return count


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Returns the constant bounds of a clamp; None for any other node."""
    if node.domain or node.op_type not in ("Relu", "Clip") or node.outputs[0].dtype != ir.DataType.FLOAT:
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    found = []
    for index, missing in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is None:
            found.append(missing)
        elif value.const_value is None or not value.is_initializer():
            return None
        else:
            found.append(float(value.const_value.numpy()))
    return found[0], found[1]


def _quantizers(node: ir.Node) -> Iterator[ir.Node]:
    """Yields the QuantizeLinear nodes that read a node's result, or nothing when something else does too."""
    readers = [use.node for use in node.outputs[0].uses()]
    if not node.outputs[0].is_graph_output() and all(reader.op_type == "QuantizeLinear" for reader in readers):
        yield from readers


def _on_grid(quantizer: ir.Node, low: float, high: float) -> tuple[int, int] | None:
    """Returns the integers of two bounds; None for a grid with several scales or of other integers than uint8."""
    scale, zero = (value.const_value if value is not None else None for value in quantizer.inputs[1:3])
    if scale is None or zero is None or scale.size != 1 or zero.dtype != ir.DataType.UINT8:
        return None
    with np.errstate(over="ignore"):
        steps = np.rint(np.asarray([low, high], np.float32) / scale.numpy().reshape(())) + float(zero.numpy())
    q = np.clip(steps, _LOWEST, _HIGHEST)
    return int(q[0]), int(q[1])


def _moves(ends: tuple[int, int]) -> bool:
    """Returns whether a clamp does more than saturation does."""
    return ends != (_LOWEST, _HIGHEST)


def _move(graph: ir.Graph, clamp: ir.Node, quantizer: ir.Node, lowest: int, highest: int) -> None:
    """Makes ``quantizer`` read what ``clamp`` reads, and clips its integers when saturation is not enough."""
    quantizer.replace_input_with(0, clamp.inputs[0])
    if not _moves((lowest, highest)):
        return
    q = quantizer.outputs[0]
    uses = list(q.uses())
    tape = Tape(graph, f"{q.name}.clamped")
    clipped = clip_integers(tape, q, lowest, highest)
    for use in uses:
        use.node.replace_input_with(use.idx, clipped)
    graph.insert_after(quantizer, tape.nodes)
