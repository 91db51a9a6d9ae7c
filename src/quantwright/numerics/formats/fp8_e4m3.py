"""8-bit float, 4 exponent and 3 mantissa bits: largest 448, no infinity (arXiv 2209.05433; OCP OFP8 E4M3)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"fp8_e4m3": {"kind": "float", "bits": 8, "exponent_bits": 4, "mantissa_bits": 3, "largest": 448.0}}
plugin = scaled_format(GRIDS)
