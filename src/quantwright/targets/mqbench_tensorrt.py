"""MQBench's backend Tensorrt: int8 symmetric without -128, weights per channel."""

from __future__ import annotations

from quantwright.targets._mqbench import TENSORRT_ACTIVATION, TENSORRT_WEIGHT, backend

plugin = backend(
    "mqbench_tensorrt", "MQBench's preset for TensorRT: int8 symmetric", TENSORRT_WEIGHT, TENSORRT_ACTIVATION
)
