"""8-bit integers below an exponent that a group shares: -127/64 to 127/64 (OCP MX 5.3.4, without -2)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {"mxint8": {"kind": "fixed", "bits": 8, "fraction_bits": 6}}
plugin = scaled_format(GRIDS)
