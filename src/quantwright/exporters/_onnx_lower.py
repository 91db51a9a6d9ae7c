"""From marked nodes to standard ONNX: QuantizeLinear and DequantizeLinear, casts, or exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from quantwright.errors import ExportError
from quantwright.exporters import _onnx_dynamic, _onnx_exact, _onnx_scaled
from quantwright.exporters._onnx_encode import Encoding
from quantwright.exporters._onnx_tape import Tape, dims
from quantwright.exporters._onnx_trace import DOMAIN, POINT
from quantwright.numerics.grids import grid_of


@dataclass(slots=True)
class Lowered:
    """Returns what became of the points.

    Attributes:
        values: point -> the (dequantized) value that stands for it in the file.
        stored: parameter -> its integers.
    """

    values: dict[str, ir.Value] = field(default_factory=dict)
    stored: dict[str, ir.Value] = field(default_factory=dict)


def lower(model: ir.Model, encodings: Mapping[str, Encoding]) -> Lowered:
    """Returns the values of all points after replacing every marked node of ``model`` in place.

    Raises:
        ExportError: a point cannot be written (format, dtype or rounding); it is named.
    """
    result = Lowered()
    for node in list(_marked(model.graph)):
        encoding = encodings[node.attributes[POINT].as_string()]
        source, old = node.inputs[0], node.outputs[0]
        if source is None:
            raise ExportError("a marked value has no input", where=encoding.point)
        if encoding.parameter is not None and source.is_initializer():
            _lower_parameter(model.graph, node, encoding, result)
            continue
        tape = Tape(model.graph, encoding.point)
        value = _activation(tape, source, encoding)
        _replace(tape, node, [node], [old], value)
        result.values.setdefault(encoding.point, value)
    left = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    if left:
        raise ExportError(
            "a quantization point lies inside a control-flow branch, which the ONNX exporter does not write",
            where=left[0].attributes[POINT].as_string(), fix="exclude the layers inside the branch",
        )  # fmt: skip
    return result


def _marked(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.domain == DOMAIN)


def _replace(tape: Tape, at: ir.Node, gone: Sequence[ir.Node], old: Sequence[ir.Value], value: ir.Value) -> None:
    """Puts the tape at a node, ``value`` in the place of ``old``, and removes ``gone``.

    The value is named after its point; an output of the network keeps the output's name.
    """
    wanted = next((v.name for v in old if v.is_graph_output()), tape.point)
    ir.convenience.replace_nodes_and_values(tape.graph, at, gone, tape.nodes, old, [value] * len(old))
    value.name = wanted


# -- activations -------------------------------------------------------------------------------------------------
def _activation(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the value with the point applied, in the dtype of ``x``."""
    if x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        wide = tape.cast(x, ir.DataType.FLOAT)
        return tape.cast(_activation(tape, wide, encoding), x.dtype)
    if x.dtype != ir.DataType.FLOAT:
        raise ExportError(
            f"the value is {x.dtype.name if x.dtype else 'untyped'}, and QuantizeLinear takes float32 or float16",
            where=encoding.point, fix="convert the model to float32: model.float()",
        )  # fmt: skip
    if encoding.spec.is_scaled:
        return _scaled(tape, x, encoding)
    if not encoding.spec.is_integer:
        narrow = encoding.storage()
        return x if narrow == ir.DataType.FLOAT else tape.cast(tape.cast(x, narrow), ir.DataType.FLOAT)
    if encoding.dynamic:
        if encoding.granularity.kind != "per_token":
            raise ExportError(
                f"scales of every value, {encoding.granularity}, are not written for {encoding.spec.format}",
                where=encoding.point, allowed="per_token, or a format with no zero point such as fp8_e4m3",
                fix="set dynamic: false, or use per_token",
            )  # fmt: skip
        return _onnx_exact.per_token(tape, x, encoding)
    if encoding.exact and not encoding.standard:
        return _onnx_exact.fake_quantize(tape, x, encoding)
    return _quantize_dequantize(tape, x, encoding)


def _scaled(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the value on the grid of a scaled format: a pair where ONNX Runtime has the format, else arithmetic."""
    if encoding.dynamic:
        return _onnx_dynamic.fake_quantize(tape, x, encoding)
    if encoding.native:
        return _quantize_dequantize(tape, x, encoding)
    rank, (by_G, step_G) = len(dims(x)), encoding.factors()
    by = tape.number("by", encoding.aligned(by_G, rank))
    v = tape.like("Div" if encoding.arithmetic == "divide" else "Mul", x, by)
    grid = grid_of(encoding.spec.format or "")
    v = _onnx_scaled.elements(tape, v, grid, encoding.spec.rounding or "half_even")
    return tape.like("Mul", v, tape.number("element", encoding.aligned(step_G, rank)))


def _quantize_dequantize(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns DequantizeLinear(QuantizeLinear(x)), with a Clip when the grid is narrower than the storage.

    Clipping in float before is as exact as clipping the integers: a bound is a grid value, a value beyond rounds to it.
    """
    shape, storage = dims(x), encoding.storage()
    behind = encoding.clamp_integers and storage == ir.DataType.UINT8
    if encoding.narrower() and not behind:
        lo_G, hi_G = encoding.bounds()
        step_G = encoding.factors()[1]
        x = tape.clamp(x, encoding.aligned(lo_G * step_G, len(shape)), encoding.aligned(hi_G * step_G, len(shape)))
    scale = tape.constant(f"{encoding.owner}.scale", encoding.scale(shape), ir.DataType.FLOAT)
    zero = tape.constant(f"{encoding.owner}.zero_point", encoding.zero_point(shape), storage)
    attributes = {"axis": encoding.axis(len(shape))} if scale.shape and len(scale.shape) else {}
    q = tape.op("QuantizeLinear", [x, scale, zero], storage, x.shape, attributes)
    if encoding.narrower() and behind:
        q = clip_integers(tape, q, *encoding.ends())
    return tape.op("DequantizeLinear", [q, scale, zero], ir.DataType.FLOAT, x.shape, attributes)


def clip_integers(tape: Tape, q: ir.Value, lowest: int, highest: int) -> ir.Value:
    """Returns 8-bit integers clipped to [lowest, highest]."""
    dtype = q.dtype or ir.DataType.UINT8
    return tape.like("Clip", q, tape.number("lowest", lowest, dtype), tape.number("highest", highest, dtype))


# -- parameters --------------------------------------------------------------------------------------------------
def _lower_parameter(graph: ir.Graph, node: ir.Node, encoding: Encoding, result: Lowered) -> None:
    """Replaces a marked parameter by its integers and DequantizeLinear; a transpose behind it is done now."""
    old = node.outputs[0]
    transposes = [use.node for use in old.uses()]
    perms = {_permutation(user) for user in transposes}
    tape = Tape(graph, f"{encoding.point}.dequantized")
    if transposes and len(perms) == 1 and None not in perms and not old.is_graph_output():
        (perm,) = perms
        value = _dequantized(tape, encoding, dims(old), perm, result)
        _replace(tape, node, [], [user.outputs[0] for user in transposes], value)
        graph.remove([*transposes, node], safe=True)
    else:
        value = _dequantized(tape, encoding, dims(old), None, result)
        _replace(tape, node, [node], [old], value)
    result.values.setdefault(encoding.point, value)


def _permutation(node: ir.Node) -> tuple[int, ...] | None:
    """Returns the permutation of a Transpose; None for any other node, and for one whose result leaves the network."""
    if node.op_type != "Transpose" or node.domain or "perm" not in node.attributes or node.outputs[0].is_graph_output():
        return None
    return tuple(node.attributes["perm"].as_ints())


def _dequantized(
    tape: Tape, encoding: Encoding, shape: tuple[int, ...], perm: Sequence[int] | None, result: Lowered
) -> ir.Value:
    """Returns the float value of stored integers (or narrow floats), transposed by ``perm``.

    Shapes:
        shape: of the parameter before the transpose.
    """
    suffix = "" if perm is None else ".transposed"
    stored, storage = _turned(encoding.integers(), perm), encoding.storage()
    q = tape.constant(f"{encoding.owner}{suffix}.quantized", stored, storage)
    result.stored.setdefault(encoding.point, q)
    if encoding.as_values:
        return q
    if not encoding.spec.has_scale:
        return tape.cast(q, ir.DataType.FLOAT)
    scale, zero = encoding.scale(shape), encoding.zero_point(shape)
    attributes: dict[str, Any] = {}
    if scale.ndim:
        axis = encoding.axis(len(shape))
        attributes["axis"] = axis if perm is None else list(perm).index(axis)
    if encoding.granularity.kind == "per_group":
        attributes["block_size"] = encoding.granularity.group_size
        scale, zero = _turned(scale, perm), _turned(zero, perm)
    inputs = [q, tape.constant(f"{encoding.owner}{suffix}.scale", scale, ir.DataType.FLOAT)]
    integers = encoding.spec.is_scaled and storage in (ir.DataType.INT8, ir.DataType.INT16)
    if storage != ir.DataType.INT32 and not integers:  # int32 has no zero point (ONNX DequantizeLinear)
        inputs.append(tape.constant(f"{encoding.owner}{suffix}.zero_point", zero, storage))
    return tape.op("DequantizeLinear", inputs, ir.DataType.FLOAT, ir.Shape(stored.shape), attributes)


def _turned(array: np.ndarray[Any, Any], perm: Sequence[int] | None) -> np.ndarray[Any, Any]:
    return array if perm is None else np.ascontiguousarray(array.transpose(perm))
