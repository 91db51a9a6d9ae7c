"""Block floating point with sub-tiles, msfp11 to msfp16: pairs share a bit for a half step (vai_q_tensorflow2 4.8).

The tool has tiles of 12 values: granularity per_group, group_size 12. A pair with the half step may be rounded up to
the whole range of its tile.
"""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {
    "msfp11": {"kind": "fixed", "bits": 3, "fraction_bits": 1, "pair": 2, "pair_top": "block"},
    "msfp13": {"kind": "fixed", "bits": 5, "fraction_bits": 3, "pair": 2, "pair_top": "block"},
    "msfp16": {"kind": "fixed", "bits": 8, "fraction_bits": 6, "pair": 2, "pair_top": "block"},
}
plugin = scaled_format(GRIDS)
