"""MQBench's backend OPENVINO: 7-bit weights per channel, int8 activations, unsigned behind a ReLU."""

from __future__ import annotations

from dataclasses import replace

from quantwright.targets import Handling, Placement
from quantwright.targets._mqbench import LAYERS, backend, consuming, grid, observed

#: 2: what a listed operation reads is quantized; a max pool or flatten that feeds a layer is not, it keeps the grid
_KINDS: dict[str, Handling] = {
    **consuming("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear", "add", "avg_pool", "adaptive_avg_pool",
                "mean", "sum", "resize", "resize_nearest"),
    "max_pool": "share",
    "flatten": "share",
}  # fmt: skip

plugin = replace(
    backend(
        "mqbench_openvino",
        "MQBench's preset for OpenVINO: 7-bit weights, unsigned activations behind a ReLU",
        observed(grid(7, per_channel=True)),  # 2: "forced to 7-bit -64..63"
        observed(grid(), statistic="ema"),
        _KINDS,
        Placement(layers_only=LAYERS, results="float"),
    ),
    sign="by_range",
)
