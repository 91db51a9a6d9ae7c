"""6-bit float, 2 exponent and 3 mantissa bits: largest 7.5 (OCP MX 5.3.2)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"fp6_e2m3": {"kind": "float", "bits": 6, "exponent_bits": 2, "mantissa_bits": 3, "largest": 7.5}}
plugin = scaled_format(GRIDS)
