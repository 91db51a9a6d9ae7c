"""MQBench's backend Tengine_u8: uint8 asymmetric per tensor; inputs, outputs and results are quantized."""

from __future__ import annotations

from quantwright.targets import Placement
from quantwright.targets._mqbench import (
    ASYMMETRIC,
    ASYMMETRIC_EMA,
    FUSING,
    GENERAL,
    LAYERS_ONLY,
    backend,
    computing,
    observed,
)

#: 2: general plus cat, hardswish and sigmoid, outputs too, behind a flatten; results of the network; no merges
plugin = backend(
    "mqbench_tengine_u8",
    "MQBench's preset for Tengine: uint8 asymmetric per tensor",
    observed(ASYMMETRIC),
    ASYMMETRIC_EMA,
    {**computing(*GENERAL, "cat", "hardswish", "sigmoid"), "flatten": "fuse"},
    Placement(layers_only=LAYERS_ONLY, fuse_behind={"relu": FUSING}, hosts=("flatten",), results="quantized"),
)
