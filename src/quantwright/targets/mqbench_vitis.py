"""MQBench's backend Vitis: int8 power-of-two scales, outputs only; the input of the network stays float."""

from __future__ import annotations

from dataclasses import replace

from quantwright.config import kinds
from quantwright.targets import Handling, Placement
from quantwright.targets._mqbench import FUSING, backend, computing, grid, observed

#: 4: of five exponents the one with the least squared error, down to 2**-12
_GRID = grid(power_of_two=True).model_copy(update={"fit": "sides", "exponent": "ceil", "min_scale": 2.0**-12})
#: 2: "quantizes OUTPUTS only"; a max pool keeps the grid of what it reads
_KINDS: dict[str, Handling] = {
    **computing("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear", "avg_pool", "adaptive_avg_pool",
                "batch_norm", "prelu", "resize", "resize_nearest", "add", "mul", "cat"),
    **dict.fromkeys((*kinds.MOVEMENT, "max_pool"), "share"),
}  # fmt: skip

plugin = replace(
    backend(
        "mqbench_vitis",
        "MQBench's preset for Xilinx Vitis: int8, power-of-two scales",
        observed(_GRID, "min_mse_position", scope=5),
        # 4: positions of batches are counted; activations round half up, weights half to even
        observed(_GRID, "min_mse_position", "modal", scope=5).model_copy(update={"rounding": "half_up"}),
        _KINDS,
        Placement(fuse_behind={"relu": FUSING}, alone={"relu": "compute"}),
    ),
    quantize_before_compute=False,
)
