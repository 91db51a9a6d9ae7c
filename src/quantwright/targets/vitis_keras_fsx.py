"""The strategies fsx and gpu of vai_q_tensorflow2: float scales at kernels, additions, pooling and what follows."""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.targets import Placement, Target
from quantwright.targets._vitis_keras import EQUALIZE, FOLD, KERNELS, POOLS, RUNNING, SCALES, placement

#: 5.1: a batch norm that nothing takes in becomes a depthwise convolution, so it is quantized like one
plugin = Target(
    name="vitis_keras_fsx",
    summary="the strategies fsx and gpu of vai_q_tensorflow2: float scales, fewer layers than the DPU's",
    defaults=SCALES,
    kinds=placement(compute=(*KERNELS, *POOLS, "batch_norm", "add", "prelu"), fuse=kinds.CLAMP),
    parameters=(*KERNELS, "batch_norm", "prelu"),
    placement=Placement(
        float_operands=True, float_readers=True, fuse_behind=dict.fromkeys(kinds.CLAMP, (*KERNELS, "batch_norm", "add"))
    ),
    optimize=(FOLD, EQUALIZE),
    calibration=RUNNING,
)
