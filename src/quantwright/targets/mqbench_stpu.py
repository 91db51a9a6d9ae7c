"""MQBench's backend STPU: int8 symmetric per tensor without -128, outputs quantized too."""

from __future__ import annotations

from quantwright.targets._mqbench import (
    TENSORRT_ACTIVATION,
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
    backend,
    grid,
    observed,
)

plugin = backend(
    "mqbench_stpu",
    "MQBench's preset for SenseTime STPU: int8 symmetric per tensor",
    observed(grid(narrow=True)),
    TENSORRT_ACTIVATION,
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
)
