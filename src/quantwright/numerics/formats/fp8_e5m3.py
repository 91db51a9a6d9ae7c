"""Unsigned 8-bit float, 5 exponent and 3 mantissa bits: 0 to 114688 (spec quark 1.6); mostly for scales."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {
    "fp8_e5m3": {
        "kind": "float",
        "bits": 8,
        "exponent_bits": 5,
        "mantissa_bits": 3,
        "largest": 114688.0,
        "signed": False,
    },
}
plugin = scaled_format(GRIDS)
