"""MQBench's backend Academic_NLP: inputs of linear layers and matrix products, nothing fused."""

from __future__ import annotations

from quantwright.targets import Placement
from quantwright.targets._mqbench import LAYERS_ONLY, backend, grid, observed

plugin = backend(
    "mqbench_academic_nlp",
    "MQBench's Academic_NLP backend: inputs of linear layers and matrix products",
    observed(grid(per_channel=True)),
    observed(grid(), statistic="ema"),
    {"linear": "consume", "matmul": "consume", "attention": "consume"},
    Placement(layers_only=LAYERS_ONLY, tensors_only=("matmul",)),
    optimize=(),
)
