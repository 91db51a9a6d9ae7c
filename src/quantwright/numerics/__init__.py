"""Numbers: rounding, granularity as a [G, N] view, affine maps, QParams, formats. Needs torch, knows no graph."""
