"""4-bit codebook that minimises the absolute error of blocks of a normal distribution (arXiv 2306.06965, AF4-64)."""

from __future__ import annotations

from quantwright.numerics.scaled import scaled_format

GRIDS = {
    "af4": {
        "kind": "codebook", "bits": 4,
        "values": [
            -1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0, 0.04273164,
            0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0,
        ],
    }
}  # fmt: skip
plugin = scaled_format(GRIDS)
