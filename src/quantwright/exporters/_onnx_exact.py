"""Rounding that QuantizeLinear does not have, written out: the same float32 operations as the simulation, in order.

``numerics/affine.py`` in ONNX: divide or multiply, round, clamp to the grid, multiply by the step. Opset 21.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from quantwright.errors import ExportError
from quantwright.exporters._onnx_encode import Encoding
from quantwright.exporters._onnx_tape import Tape, dims
from quantwright.numerics.choose import SMALLEST_SCALE, ZERO_RANGE_SCALE


def fake_quantize(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the point applied to ``x`` by arithmetic that equals the simulation bit for bit.

    Raises:
        ExportError: the rounding is random.
    """
    rank = len(dims(x))
    by_G, step_G = encoding.factors()
    lo_G, hi_G = encoding.bounds()
    by = tape.number("by", encoding.aligned(by_G, rank))
    v = tape.like("Div" if encoding.arithmetic == "divide" else "Mul", x, by)
    v = rounded(tape, v, encoding.spec.rounding or "half_even")
    v = tape.clamp(v, encoding.aligned(lo_G, rank), encoding.aligned(hi_G, rank))
    return tape.like("Mul", v, tape.number("step", encoding.aligned(step_G, rank)))


def rounded(tape: Tape, v: ir.Value, mode: str) -> ir.Value:
    """Returns ``v`` rounded to integers as ``numerics/rounding.py`` does.

    Raises:
        ExportError: ``stochastic``, which no file can repeat.
    """
    if mode not in _MODES:
        raise ExportError(
            f"rounding '{mode}' cannot be written to a file exactly", where=tape.point, allowed=_MODES,
            fix="choose another rounding for this point, or leave out exact_rounding",
        )  # fmt: skip
    return _MODES[mode](tape, v)


def _half_even(tape: Tape, v: ir.Value) -> ir.Value:
    return tape.like("Round", v)  # ONNX Round: ties to even


def _half_up(tape: Tape, v: ir.Value) -> ir.Value:
    """Returns ceil(floor(2v) / 2); doubling and halving are exact."""
    two, half = tape.number("two", 2.0), tape.number("half", 0.5)
    return tape.like("Ceil", tape.like("Mul", tape.like("Floor", tape.like("Mul", v, two)), half))


def _half_down(tape: Tape, v: ir.Value) -> ir.Value:
    """Returns floor(ceil(2|v|) / 2) with the sign of v."""
    two, half = tape.number("two", 2.0), tape.number("half", 0.5)
    doubled = tape.like("Ceil", tape.like("Mul", tape.like("Abs", v), two))
    return _signed(tape, tape.like("Floor", tape.like("Mul", doubled, half)), v)


def _half_away(tape: Tape, v: ir.Value) -> ir.Value:
    """Returns ceil(floor(2|v|) / 2) with the sign of v."""
    return _signed(tape, _half_up(tape, tape.like("Abs", v)), v)


def _toward_zero(tape: Tape, v: ir.Value) -> ir.Value:
    return _signed(tape, tape.like("Floor", tape.like("Abs", v)), v)


def _signed(tape: Tape, size: ir.Value, v: ir.Value) -> ir.Value:
    return tape.like("Mul", size, tape.like("Sign", v))


_MODES: dict[str, Callable[[Tape, ir.Value], ir.Value]] = {
    "half_even": _half_even,
    "half_up": _half_up,
    "half_down": _half_down,
    "half_away": _half_away,
    "floor": lambda tape, v: tape.like("Floor", v),
    "ceil": lambda tape, v: tape.like("Ceil", v),
    "toward_zero": _toward_zero,
}


# -- ranges taken from each token ----------------------------------------------------------------------------------
def per_token(tape: Tape, x: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the point applied with the range of each token (last axis), as ``choose_qparams`` chooses: in float64.

    Raises:
        ExportError: a power-of-two scale, whose choice is not written as nodes.
    """
    spec = encoding.spec
    if spec.scale != "float":
        raise ExportError(
            f"per-token scales of policy '{spec.scale}' cannot be written to ONNX", where=tape.point, allowed="float",
            fix="use scale: float for per_token, or per_tensor",
        )  # fmt: skip
    low, high = _token_extreme(tape, x, "ReduceMin"), _token_extreme(tape, x, "ReduceMax")
    if spec.symmetric is False:
        step, zero = _asymmetric(tape, low, high, encoding)
    else:
        step, zero = _symmetric(tape, low, high, encoding), None
    v, back = _divided(tape, x, step, encoding)
    v = rounded(tape, v, spec.rounding or "half_even")
    grid = np.asarray(spec.qmin, np.float32), np.asarray(spec.qmax, np.float32)
    if zero is None:
        v = tape.clamp(v, *grid)
    else:
        narrow = tape.cast(zero, ir.DataType.FLOAT)
        shifted = tape.like("Add", v, narrow)
        v = tape.clamp(shifted, *grid)
        v = tape.like("Sub", v, narrow)
    return tape.like("Mul", v, back)


def _divided(tape: Tape, x: ir.Value, step: ir.Value, encoding: Encoding) -> tuple[ir.Value, ir.Value]:
    """Returns (x in steps, step back); ``reciprocal`` chains as in ``affine`` for many groups (spec 3.2)."""
    single = tape.cast(step, ir.DataType.FLOAT)
    if encoding.arithmetic == "divide":
        return tape.like("Div", x, single), single
    wide = tape.cast(tape.like("Reciprocal", tape.like("Reciprocal", single)), ir.DataType.DOUBLE)
    inverse = tape.cast(tape.like("Reciprocal", wide), ir.DataType.FLOAT)
    back = tape.cast(tape.like("Reciprocal", tape.cast(inverse, ir.DataType.DOUBLE)), ir.DataType.FLOAT)
    return tape.like("Mul", x, inverse), back


def _token_extreme(tape: Tape, x: ir.Value, kind: str) -> ir.Value:
    """Returns the smallest or largest value of each token, float64 [..., 1]."""
    shape = None if x.shape is None else ir.Shape([*list(x.shape)[:-1], 1])
    axes = tape.constant(f"{tape.point}.axes", np.asarray([-1], dtype=np.int64), ir.DataType.INT64)
    extreme = tape.op(kind, [x, axes], ir.DataType.FLOAT, shape, {"keepdims": 1})
    return tape.cast(extreme, ir.DataType.DOUBLE)


def _symmetric(tape: Tape, low: ir.Value, high: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns max(|low|, |high|) / qmax (signed) or max(high, 0) / qmax."""
    if encoding.spec.signed:
        size = tape.like("Max", tape.like("Abs", low), tape.like("Abs", high))
    else:
        size = tape.like("Max", high, _double(tape, "zero", 0.0))
    return _bounded(tape, tape.like("Div", size, _double(tape, "qmax", encoding.spec.qmax)), encoding)


def _asymmetric(tape: Tape, low: ir.Value, high: ir.Value, encoding: Encoding) -> tuple[ir.Value, ir.Value]:
    """Returns (step, zero point): the range widened to hold 0, zero point = qmin - round(low / step), in the grid."""
    spec, zero = encoding.spec, _double(tape, "zero", 0.0)
    low, high = tape.like("Min", low, zero), tape.like("Max", high, zero)
    extent = tape.like("Sub", high, low)
    step = _bounded(tape, tape.like("Div", extent, _double(tape, "levels", spec.qmax - spec.qmin)), encoding)
    offset = tape.like("Round", tape.like("Div", low, step))
    qmin, qmax = _double(tape, "qmin", spec.qmin), _double(tape, "qmax", spec.qmax)
    shifted = tape.op("Sub", [qmin, offset], ir.DataType.DOUBLE, offset.shape)
    return step, tape.like("Min", tape.like("Max", shifted, qmin), qmax)


def _bounded(tape: Tape, step: ir.Value, encoding: Encoding) -> ir.Value:
    """Returns the step with vanishing ones replaced and ``min_scale`` as the lower bound."""
    tiny = tape.op("Less", [step, _double(tape, "smallest", SMALLEST_SCALE)], ir.DataType.BOOL, step.shape)
    step = tape.op("Where", [tiny, _double(tape, "vanished", ZERO_RANGE_SCALE), step], ir.DataType.DOUBLE, step.shape)
    floor = encoding.spec.min_scale
    return tape.like("Max", step, _double(tape, "min_scale", floor)) if floor else step


def _double(tape: Tape, name: str, value: float) -> ir.Value:
    return tape.number(f"double_{name}", float(value), ir.DataType.DOUBLE)
