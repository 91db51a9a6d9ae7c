"""Scaled formats whose scales come from each value as it passes: ``choose_qparams`` in ONNX, float64, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from quantwright.config.spec import QuantSpec
from quantwright.errors import ExportError
from quantwright.exporters._onnx_encode import Encoding
from quantwright.exporters._onnx_scaled import double, elements, minifloat, power_below, reshape
from quantwright.exporters._onnx_tape import Tape, dims
from quantwright.numerics.grids import Grid, Minifloat, grid_of
from quantwright.numerics.scales import POWERS, SMALLEST_SCALE, ZERO_RANGE_SCALE

_DOUBLE, _FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT


def fake_quantize(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the point applied with the scales of the value itself.

    Raises:
        ExportError: a policy that is not written as nodes, or groups on an axis whose size varies.
    """
    g, rank = encoding.granularity, len(dims(x))
    if g.kind == "per_group":
        return _in_groups(tape, x, encoding)
    kept = {"per_tensor": [], "per_token": list(range(rank - 1)), "per_channel": [encoding.axis(rank)]}[g.kind]
    return _applied(tape, x, encoding, [axis for axis in range(rank) if axis not in kept])


def _in_groups(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the point applied to groups: the axis goes last, is filled up with zeros and cut."""
    size, at = encoding.granularity.group_size or 1, encoding.axis(len(dims(x)))
    count = dims(x)[at]
    if count < 1:
        raise ExportError(
            f"axis {at} is cut into groups of {size} and its size varies", where=tape.point,
            fix="choose an axis of fixed size, or capture the network with this size fixed",
        )  # fmt: skip
    perm = [axis for axis in range(len(dims(x))) if axis != at] + [at]
    shape = [list(x.shape or ())[axis] for axis in perm]
    v = x if perm == sorted(perm) else tape.op("Transpose", [x], _FLOAT, ir.Shape(shape), {"perm": perm})
    missing = -count % size
    if missing:
        pads = tape.constant(
            f"{tape.point}.pads", np.asarray([0] * (2 * len(perm) - 1) + [missing], np.int64), ir.DataType.INT64
        )
        v = tape.op("Pad", [v, pads], _FLOAT, ir.Shape([*shape[:-1], count + missing]))
    lead = [0] * (len(perm) - 1)
    v = reshape(tape, v, [*lead, -1, size], [*shape[:-1], (count + missing) // size, size])
    v = _applied(tape, v, encoding, [len(perm)])
    v = reshape(tape, v, [*lead, -1], [*shape[:-1], count + missing])
    if missing:
        numbers = {"starts": 0, "ends": count, "axes": len(perm) - 1}
        inputs = [
            tape.constant(f"{tape.point}.{name}", np.asarray([number], np.int64), ir.DataType.INT64)
            for name, number in numbers.items()
        ]
        v = tape.op("Slice", [v, *inputs], _FLOAT, ir.Shape(shape))
    if perm == sorted(perm):
        return v
    return tape.op("Transpose", [v], _FLOAT, x.shape, {"perm": [perm.index(axis) for axis in range(len(perm))]})


def _applied(tape: Tape, x: ir.Value, encoding: Encoding, axes: Sequence[int]) -> ir.Value:
    """Returns ``x`` on the grid whose scale is found over ``axes``."""
    spec, grid = encoding.spec, grid_of(encoding.spec.format or "")
    if encoding.arithmetic != "divide":
        raise ExportError(
            f"scales of every value with {encoding.arithmetic} arithmetic are not written to ONNX", where=tape.point,
            fix="choose a target that divides, such as generic",
        )  # fmt: skip
    shape = ir.Shape([1 if axis in axes else size for axis, size in enumerate(x.shape or ())])
    over = tape.constant(f"{tape.point}.over", np.asarray(axes, np.int64), ir.DataType.INT64)
    size = tape.op("ReduceMax", [tape.like("Abs", x) if grid.signed else x, over], _FLOAT, shape, {"keepdims": 1})
    if not grid.signed:
        size = tape.like("Max", size, tape.number("nothing", 0.0))
    scale = _scale(tape, tape.cast(size, _DOUBLE), spec, grid)
    v = elements(tape, tape.like("Div", x, scale), grid, spec.rounding or "half_even")
    return tape.like("Mul", v, scale)


def _scale(tape: Tape, size: ir.Value, spec: QuantSpec, grid: Grid) -> ir.Value:
    """Returns the float32 scale of a largest magnitude: ``numerics/scales.py``, ``element_scale``."""
    if spec.scale in POWERS:
        power = _bounded(tape, _power(tape, size, spec.exponent or "cover", grid), spec)
        if spec.scale == "e8m0":
            power = tape.like("Min", power, double(tape, 2.0**127))
        return tape.cast(power, _FLOAT)
    scale = _bounded(tape, tape.like("Div", size, double(tape, grid.largest)), spec)
    if spec.scale == "float":
        return tape.cast(scale, _FLOAT)
    if spec.scale == "e5m3":
        return _stored(tape, tape.cast(scale, _FLOAT), "fp8_e5m3")
    if spec.scale == "e4m3":
        above = tape.op("ReduceMax", [scale], _DOUBLE, ir.Shape([1] * len(scale.shape or ())), {"keepdims": 1})
        above = tape.like("Div", above, double(tape, 448.0))
        above = tape.cast(tape.like("Max", above, double(tape, SMALLEST_SCALE)), _FLOAT)
        above = tape.cast(above, _DOUBLE)
        below = _stored(tape, tape.cast(tape.like("Div", scale, above), _FLOAT), "fp8_e4m3")
        return tape.cast(tape.like("Mul", tape.cast(below, _DOUBLE), above), _FLOAT)
    raise ExportError(
        f"{spec.scale} scales of every value are not written to ONNX", where=tape.point,
        allowed="float, power_of_two, e8m0, e5m3, e4m3", fix="choose one of these for this point",
    )  # fmt: skip


def _power(tape: Tape, size: ir.Value, rule: str, grid: Grid) -> ir.Value:
    if rule == "nearest":
        raise ExportError(
            "the power of two nearest on the logarithm is not written to ONNX", where=tape.point,
            allowed="cover, floor, ceil, even", fix="choose another exponent for this point",
        )  # fmt: skip
    if rule == "cover":
        size = tape.like("Div", size, double(tape, grid.largest))
    power = power_below(tape, size)
    if rule in ("cover", "ceil"):
        more = tape.op("Greater", [size, power], ir.DataType.BOOL, size.shape)
        power = tape.op("Where", [more, tape.like("Mul", power, double(tape, 2.0)), power], _DOUBLE, size.shape)
    elif rule == "even":
        half = tape.like("Mul", power, double(tape, 2.0 ** -(grid.mantissa_bits + 1)))
        power = power_below(tape, tape.like("Add", size, half))
    if rule == "cover":
        return power
    return tape.like("Mul", power, double(tape, 2.0 ** -(np.frexp(grid.largest)[1] - 1)))


def _stored(tape: Tape, scale: ir.Value, name: str) -> ir.Value:
    grid = grid_of(name)
    assert isinstance(grid, Minifloat)  # scales are stored in minifloats
    smallest = tape.number("least_scale", 2.0 ** (grid.smallest_exponent - grid.mantissa_bits))
    return tape.like("Max", minifloat(tape, scale, grid, "half_even"), smallest)


def _bounded(tape: Tape, scale: ir.Value, spec: QuantSpec) -> ir.Value:
    tiny = tape.op("Less", [scale, double(tape, SMALLEST_SCALE)], ir.DataType.BOOL, scale.shape)
    scale = tape.op("Where", [tiny, double(tape, ZERO_RANGE_SCALE), scale], _DOUBLE, scale.shape)
    return tape.like("Max", scale, double(tape, spec.min_scale)) if spec.min_scale else scale
