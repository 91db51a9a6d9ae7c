"""MQBench's backend PPLW8A16: uint8 weights, uint16 activations, asymmetric per tensor."""

from __future__ import annotations

from quantwright.targets._mqbench import ASYMMETRIC, TOTAL_INT, TOTAL_INT_PLACEMENT, backend, grid, observed

plugin = backend(
    "mqbench_pplw8a16",
    "MQBench's preset for PPL: uint8 weights, uint16 activations",
    observed(ASYMMETRIC),
    observed(grid(16, symmetric=False), statistic="ema"),
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
)
