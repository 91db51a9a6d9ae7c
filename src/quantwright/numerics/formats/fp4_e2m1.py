"""4-bit float, 2 exponent bits and 1 mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 (OCP MX 5.3.3)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"fp4_e2m1": {"kind": "float", "bits": 4, "exponent_bits": 2, "mantissa_bits": 1, "largest": 6.0}}
plugin = scaled_format(GRIDS)
