"""8-bit integers below a shared exponent, one bit per pair for a half step: 9 bits a value in groups of 16."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"mx9": {"kind": "fixed", "bits": 8, "fraction_bits": 6, "pair": 2}}
plugin = scaled_format(GRIDS)
