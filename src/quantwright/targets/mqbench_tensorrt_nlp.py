"""MQBench's backend Tensorrt_NLP: linear layers, additions and matrix products of transformers."""

from __future__ import annotations

from quantwright.targets import Placement
from quantwright.targets._mqbench import (
    FUSING,
    LAYERS_ONLY,
    TENSORRT_ACTIVATION,
    TENSORRT_WEIGHT,
    backend,
    consuming,
)

plugin = backend(
    "mqbench_tensorrt_nlp",
    "MQBench's preset for transformers on TensorRT: int8 symmetric",
    TENSORRT_WEIGHT,
    TENSORRT_ACTIVATION,
    consuming("linear", "matmul", "attention", "add"),
    Placement(
        layers_only=LAYERS_ONLY,
        fuse_behind={"relu": FUSING},
        passed_over={"add": ("embedding", "div", "mul")},  # 2: sums of embeddings, and masks added to scaled scores
        tensors_only=("add",),
    ),
)
