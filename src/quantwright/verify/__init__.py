"""How far float, simulated and exported agree: per point in steps of the grid, and in accuracy."""
