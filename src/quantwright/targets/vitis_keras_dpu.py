"""The DPU strategies of vai_q_tensorflow2 (pof2s, pof2s_tqt): power-of-two scales at every supported layer."""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.targets import Placement, Target
from quantwright.targets._vitis_keras import BATCH, EQUALIZE, FOLD, FUSE, KERNELS, POOLS, POSITIONS, placement

#: 2.2; matrix products and divisions get a quantizer outside the registry. 5.2: sigmoid becomes a hard sigmoid
_COMPUTE = (*KERNELS, *POOLS, "batch_norm", "layer_norm", "add", "mul", "cat", "resize_nearest", "resize", "prelu",
            "sigmoid", "hardsigmoid", "silu", "hardswish", "matmul", "div", *kinds.ACTIVATION_PART)  # fmt: skip
#: 3.3: a clamp alone is float, also behind a concat or resize; behind pooling the tool quantizes twice, here once
FUSE_BEHIND = {
    **dict.fromkeys(kinds.CLAMP, (*KERNELS, *POOLS, "batch_norm", "add", "mul")),
    "leaky_relu": (*KERNELS, "batch_norm"),
}

plugin = Target(
    name="vitis_keras_dpu",
    summary="the DPU strategies of vai_q_tensorflow2: power-of-two scales",
    defaults=POSITIONS,
    kinds=placement(
        compute=_COMPUTE,
        fuse=FUSE,
        share=("pad", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze"),
    ),
    parameters=(*KERNELS, "batch_norm", "layer_norm", "prelu"),
    placement=Placement(float_operands=True, float_readers=True, fuse_behind=FUSE_BEHIND),
    optimize=(FOLD, EQUALIZE),
    calibration=BATCH,
)
