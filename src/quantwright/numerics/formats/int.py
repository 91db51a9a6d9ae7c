"""Integers, int2 to int32 and uint2 to uint32: an affine grid, zero point and scale per group."""

from __future__ import annotations

from quantwright.config.spec import is_integer_format
from quantwright.numerics import affine
from quantwright.numerics.formats import Format

plugin = Format(
    serves=is_integer_format,
    quantize=affine.quantize,
    dequantize=affine.dequantize,
    fake_quantize=affine.fake_quantize,
)
