"""MQBench's backend QDQ: as Tensorrt, exported as ONNX with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from quantwright.targets._mqbench import TENSORRT_ACTIVATION, TENSORRT_WEIGHT, backend

plugin = backend("mqbench_qdq", "MQBench's preset for ONNX QDQ: int8 symmetric", TENSORRT_WEIGHT, TENSORRT_ACTIVATION)
