"""The strategy bfp of vai_q_tensorflow2: inputs and kernels in block floating point, the rest in float or bfloat16."""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.config.config import RoleSpecs
from quantwright.config.spec import Granularity, QuantSpec
from quantwright.targets import Target
from quantwright.targets._vitis_keras import KERNELS, RUNNING, placement

_BLOCKS = QuantSpec(  # 4.8: floor(log2(amax)), not below that of 2**-23
    format="bfp15", granularity=Granularity(kind="per_group", group_size=8), scale="e8m0", exponent="floor",
    min_scale=2.0**-23, rounding="half_even",
)  # fmt: skip
_VALUES = _BLOCKS.model_copy(update={"dynamic": True})

plugin = Target(
    name="vitis_keras_bfp",
    summary="the strategy bfp of vai_q_tensorflow2: block floating point",
    defaults=RoleSpecs(weight=_BLOCKS, bias=QuantSpec(format="float32"), input=_VALUES, output=_VALUES),
    kinds=placement(
        consume=(*KERNELS, "add", "layer_norm", "adaptive_avg_pool", "mean", "attention", *kinds.CLAMP,
                 *(kind for kind in kinds.ACTIVATION if kind not in ("prelu", "softmax", "log_softmax", "leaky_relu"))),
    ),
    parameters=(*KERNELS, "layer_norm"),
    calibration=RUNNING,
)  # fmt: skip
