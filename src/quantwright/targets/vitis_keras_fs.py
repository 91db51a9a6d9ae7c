"""The strategy fs of vai_q_tensorflow2: kernels and what they read, with float scales; everything else is float."""

from __future__ import annotations

from quantwright.targets import Placement, Target
from quantwright.targets._vitis_keras import EQUALIZE, KERNELS, RUNNING, WEIGHTS, placement

plugin = Target(
    name="vitis_keras_fs",
    summary="the strategy fs of vai_q_tensorflow2: kernels and their inputs only",
    defaults=WEIGHTS,
    kinds=placement(consume=KERNELS),
    parameters=KERNELS,
    placement=Placement(float_operands=True, float_readers=True),
    optimize=(EQUALIZE,),
    calibration=RUNNING,
)
