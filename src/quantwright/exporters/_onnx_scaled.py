"""Scaled formats in ONNX: 8-bit floats by QuantizeLinear, the others as arithmetic that equals the simulation.

What decides here is that the file computes the simulation's numbers, bit for bit. ONNX Runtime 1.31 on a CPU runs
QuantizeLinear and DequantizeLinear of FLOAT8E4M3FN and FLOAT8E5M2 (half-even, saturating, as ``numerics/grids.py``) and
nothing of FLOAT4E2M1. So a parameter is stored in the narrowest type that the runtime has and that holds every element:

fp8_e4m3, fp8_e5m2            their own type
fp4_e2m1, fp6_e2m3, fp6_e3m2  FLOAT8E4M3FN, of whose values theirs are some
bfp, msfp, mx6, mx9, mxint8   INT8, or INT16 where a half step needs one bit more
codebooks, fp8_e5m3           FLOAT: the values on the grid as float32, which the record says
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from quantwright.config.spec import QuantSpec
from quantwright.exporters._onnx_tape import Tape, dims
from quantwright.numerics.grids import Codebook, Fixed, Grid, Minifloat, grid_of

#: formats that QuantizeLinear writes
NATIVE = {"fp8_e4m3": ir.DataType.FLOAT8E4M3FN, "fp8_e5m2": ir.DataType.FLOAT8E5M2}
_E4M3 = Minifloat(bits=8, exponent_bits=4, mantissa_bits=3, largest=448.0)
_DOUBLE, _FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT


def storage(spec: QuantSpec, parameter: bool) -> ir.DataType:
    """Returns the type that holds a parameter's elements, or what QuantizeLinear makes of an activation."""
    name, grid = spec.format or "", grid_of(spec.format or "")
    if name in NATIVE or not parameter:
        return NATIVE.get(name, _FLOAT)
    if isinstance(grid, Fixed):
        return ir.DataType.INT8 if grid.bits + (grid.pair > 0) <= 8 else ir.DataType.INT16
    if isinstance(grid, Minifloat) and _holds(_E4M3, grid):
        return ir.DataType.FLOAT8E4M3FN
    return _FLOAT


def unit(spec: QuantSpec, parameter: bool) -> float:
    """Returns how much of an element one stored number is: a step of integers, else 1."""
    grid = grid_of(spec.format or "")
    if not isinstance(grid, Fixed) or not parameter:
        return 1.0
    return 2.0 ** -(grid.fraction_bits + (grid.pair > 0))


def _holds(wide: Minifloat, narrow: Minifloat) -> bool:
    smallest = wide.smallest_exponent - wide.mantissa_bits
    return (
        narrow.signed
        and narrow.mantissa_bits <= wide.mantissa_bits
        and narrow.largest <= wide.largest
        and narrow.smallest_exponent - narrow.mantissa_bits >= smallest
    )


def elements(tape: Tape, v: ir.Value, grid: Grid, rounding: str) -> ir.Value:
    """Returns ``v`` rounded to the elements of a grid: ``numerics/grids.py`` in ONNX, opset 21.

    Shapes:
        v: any, float32; the last axis is the group's where elements come in pairs.
    """
    if isinstance(grid, Codebook):
        return _codebook(tape, v, grid)
    if isinstance(grid, Fixed):
        return _pairs(tape, v, grid, rounding) if grid.pair else _fixed(tape, v, grid, rounding)
    assert isinstance(grid, Minifloat)  # there are three kinds
    return minifloat(tape, v, grid, rounding)


def minifloat(tape: Tape, v: ir.Value, grid: Minifloat, rounding: str) -> ir.Value:
    """Returns ``v`` rounded to a small float, float32; computed in float64, which holds every step exactly."""
    low, high = np.float32(-grid.largest if grid.signed else 0.0), np.float32(grid.largest)
    v = tape.clamp(v, np.asarray(low), np.asarray(high))
    wide = tape.cast(v, _DOUBLE)
    power = tape.like("Max", power_below(tape, tape.like("Abs", wide)), double(tape, 2.0**grid.smallest_exponent))
    if rounding == "half_even":  # adding 1.5 * 2**(e + 52 - m) rounds to a multiple of 2**(e - m)
        magic = tape.like("Mul", power, double(tape, 1.5 * 2.0 ** (52 - grid.mantissa_bits)))
        return tape.cast(tape.like("Sub", tape.like("Add", wide, magic), magic), _FLOAT)
    spacing = tape.cast(tape.like("Mul", power, double(tape, 2.0**-grid.mantissa_bits)), _FLOAT)
    v = tape.like("Mul", _rounded(tape, tape.like("Div", v, spacing), rounding), spacing)
    return tape.clamp(v, np.asarray(low), np.asarray(high))


def power_below(tape: Tape, size: ir.Value) -> ir.Value:
    """Returns 2**floor(log2(size)) of non-negative float64, exactly; 0 for 0.

    S. M. Rump, "Ultimately fast accurate summation" (SIAM J. Sci. Comput. 31, 2009), algorithm 3.5: (1 - u) q is
    written q - u q, which rounds to the same; ONNX Runtime 1.31 takes a factor of 1 - 2**-53 for 1 and drops it.
    """
    q = tape.like("Mul", size, double(tape, 2.0**52 + 1))
    less = tape.like("Sub", q, tape.like("Mul", q, double(tape, 2.0**-53)))
    return tape.like("Abs", tape.like("Sub", q, less))


def _fixed(tape: Tape, v: ir.Value, grid: Fixed, rounding: str) -> ir.Value:
    top = np.asarray(2.0 ** (grid.bits - 1) - 1, np.float32)
    v = _rounded(tape, tape.like("Mul", v, tape.number("steps", 2.0**grid.fraction_bits)), rounding)
    return tape.like("Mul", tape.clamp(v, -top, top), tape.number("element_step", 2.0**-grid.fraction_bits))


def _pairs(tape: Tape, v: ir.Value, grid: Fixed, rounding: str) -> ir.Value:
    """Returns ``v`` rounded with the whole or the half step, for every pair on its last axis."""
    shape = list(v.shape or ())
    pairs = reshape(tape, v, [*[0] * (len(shape) - 1), -1, grid.pair], [*shape[:-1], None, grid.pair])
    axes = tape.constant(f"{tape.point}.pair_axis", np.asarray([-1], np.int64), ir.DataType.INT64)
    size = tape.op(
        "ReduceMax", [tape.like("Abs", pairs), axes], _FLOAT, ir.Shape([*shape[:-1], None, 1]), {"keepdims": 1}
    )
    small = tape.op("Less", [size, tape.number("one", 1.0)], ir.DataType.BOOL, size.shape)
    whole, half = 2.0**-grid.fraction_bits, 2.0 ** -(grid.fraction_bits + 1)
    step = tape.op("Where", [small, tape.number("half_step", half), tape.number("step", whole)], _FLOAT, size.shape)
    v = tape.like("Mul", _rounded(tape, tape.like("Div", pairs, step), rounding), step)
    if grid.pair_top == "block":
        top = tape.op("Sub", [tape.number("two", 2.0), step], _FLOAT, step.shape)
    else:
        top = tape.like("Mul", step, tape.number("most", 2.0 ** (grid.bits - 1) - 1))
    v = tape.like("Min", tape.like("Max", v, tape.like("Neg", top)), top)
    return reshape(tape, v, [*[0] * (len(shape) - 1), -1], shape)


def _codebook(tape: Tape, v: ir.Value, grid: Codebook) -> ir.Value:
    """Returns the element whose number is how many midpoints lie below the value."""
    codes = np.asarray(grid.values, np.float64)
    between = tape.number("between", ((codes[1:] + codes[:-1]) / 2).astype(np.float32))
    last = tape.constant(f"{tape.point}.code_axis", np.asarray([-1], np.int64), ir.DataType.INT64)
    shape = list(v.shape or ())
    column = tape.op("Unsqueeze", [v, last], _FLOAT, ir.Shape([*shape, 1]))
    above = tape.op("Greater", [column, between], ir.DataType.BOOL, ir.Shape([*shape, len(codes) - 1]))
    counted = tape.cast(above, ir.DataType.INT32)
    index = tape.op("ReduceSum", [counted, last], ir.DataType.INT32, v.shape, {"keepdims": 0})
    return tape.op("Gather", [tape.number("codes", codes.astype(np.float32)), index], _FLOAT, v.shape)


def reshape(tape: Tape, v: ir.Value, to: Sequence[int], shape: Sequence[Any]) -> ir.Value:
    """Returns ``v`` in another shape: 0 copies a size, -1 is the rest."""
    name = "to_" + "_".join(str(size).replace("-", "m") for size in to)
    target = tape.constant(f"{tape.point}.{name}", np.asarray(to, np.int64), ir.DataType.INT64)
    return tape.op("Reshape", [v, target], v.dtype or _FLOAT, ir.Shape(list(shape)))


def double(tape: Tape, value: float) -> ir.Value:
    """Returns a float64 constant."""
    return tape.number(f"double_{math.frexp(value)[0]:.6g}e{math.frexp(value)[1]}", value, _DOUBLE)


def _rounded(tape: Tape, v: ir.Value, mode: str) -> ir.Value:
    from quantwright.exporters._onnx_exact import rounded

    return rounded(tape, v, mode)


def rank_axes(x: ir.Value, kept: Sequence[int]) -> list[int]:
    """Returns all axes of a value but those."""
    return [axis for axis in range(len(dims(x))) if axis not in kept]
