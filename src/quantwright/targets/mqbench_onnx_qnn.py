"""MQBench's backend ONNX_QNN: uint8 asymmetric per tensor for TVM's quantized operators; linear layers stay float."""

from __future__ import annotations

from dataclasses import replace

from quantwright.config import kinds
from quantwright.targets import Placement
from quantwright.targets._mqbench import ASYMMETRIC, LAYERS_ONLY, backend, computing, observed

#: 2: add, average pools and convolutions, outputs too (behind a relu or relu6 where that follows); no linear layers
_KINDS = computing("conv2d", "depthwise_conv2d", "conv_transpose2d", "avg_pool", "adaptive_avg_pool", "add")
_PARTIAL = backend(
    "mqbench_onnx_qnn",
    "MQBench's preset for TVM's quantized ONNX: uint8 asymmetric, linear layers float",
    observed(ASYMMETRIC),
    observed(ASYMMETRIC),
    {**_KINDS, "relu6": "fuse"},
    Placement(layers_only=LAYERS_ONLY),
)

plugin = replace(_PARTIAL, parameters=(*kinds.CONV, *kinds.CONV_TRANSPOSE))
