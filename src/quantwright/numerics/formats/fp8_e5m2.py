"""8-bit float, 5 exponent and 2 mantissa bits: largest 57344; what is larger saturates (OCP OFP8 E5M2)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"fp8_e5m2": {"kind": "float", "bits": 8, "exponent_bits": 5, "mantissa_bits": 2, "largest": 57344.0}}
plugin = scaled_format(GRIDS)
