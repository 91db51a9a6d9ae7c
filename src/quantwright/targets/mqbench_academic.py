"""MQBench's backend Academic: convolutions and linear layers only, nothing fused, 8 bits at the ends of the network."""

from __future__ import annotations

from quantwright.targets import Placement
from quantwright.targets._mqbench import LAYERS_ONLY, backend, grid, observed

#: 2: no preset: a configuration has to say everything. What stands here only fills in what ours leave out
plugin = backend(
    "mqbench_academic",
    "MQBench's Academic backend: inputs and weights of convolutions and linear layers, the first and last in 8 bits",
    observed(grid(per_channel=True)),
    observed(grid(), statistic="ema"),
    {"conv2d": "consume", "depthwise_conv2d": "consume", "linear": "consume"},
    Placement(layers_only=LAYERS_ONLY, end_bits=8),
    optimize=(),
)
