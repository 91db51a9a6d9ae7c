"""MQBench's backend PPLCUDA: uint8 asymmetric, weights per channel, the range over all batches."""

from __future__ import annotations

from quantwright.targets._mqbench import ASYMMETRIC, TOTAL_INT, TOTAL_INT_PLACEMENT, backend, grid, observed

plugin = backend(
    "mqbench_pplcuda",
    "MQBench's preset for PPL on CUDA: uint8 asymmetric, weights per channel",
    observed(grid(symmetric=False, per_channel=True)),
    observed(ASYMMETRIC),
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
)
