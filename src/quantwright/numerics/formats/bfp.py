"""Block floating point, bfp11 to bfp16: integers below an exponent that a tile shares (spec vai_q_tensorflow2 4.8).

The number counts the 8 bits of the exponent, as the tools do: bfp16 has 8-bit elements, sign included.
"""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {
    "bfp11": {"kind": "fixed", "bits": 3, "fraction_bits": 1},
    "bfp13": {"kind": "fixed", "bits": 5, "fraction_bits": 3},
    "bfp15": {"kind": "fixed", "bits": 7, "fraction_bits": 5},
    "bfp16": {"kind": "fixed", "bits": 8, "fraction_bits": 6},
}
plugin = scaled_format(GRIDS)
