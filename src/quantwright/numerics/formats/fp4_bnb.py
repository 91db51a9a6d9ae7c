"""4-bit float codebook of bitsandbytes: 0, 1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1, times 12 (spec mqbench_sophgo 7)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {
    "fp4_bnb": {
        "kind": "codebook", "bits": 4,
        "values": [
            -12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -0.0625, 0.0, 0.0625, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0,
        ],
    }
}  # fmt: skip
plugin = scaled_format(GRIDS)
