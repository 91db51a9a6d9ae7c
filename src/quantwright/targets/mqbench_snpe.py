"""MQBench's backend SNPE: uint8 asymmetric per tensor, outputs quantized too."""

from __future__ import annotations

from quantwright.targets._mqbench import (
    ASYMMETRIC,
    ASYMMETRIC_EMA,
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
    backend,
    observed,
)

plugin = backend(
    "mqbench_snpe",
    "MQBench's preset for Qualcomm SNPE: uint8 asymmetric per tensor",
    observed(ASYMMETRIC),
    ASYMMETRIC_EMA,
    TOTAL_INT,
    TOTAL_INT_PLACEMENT,
)
