"""6-bit float, 3 exponent and 2 mantissa bits: largest 28 (OCP MX 5.3.2)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"fp6_e3m2": {"kind": "float", "bits": 6, "exponent_bits": 3, "mantissa_bits": 2, "largest": 28.0}}
plugin = scaled_format(GRIDS)
