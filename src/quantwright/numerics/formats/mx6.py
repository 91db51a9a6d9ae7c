"""5-bit integers below a shared exponent, one bit per pair for a half step: 6 bits a value in groups of 16."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"mx6": {"kind": "fixed", "bits": 5, "fraction_bits": 3, "pair": 2}}
plugin = scaled_format(GRIDS)
