"""The CPU/GPU target of vai_q_pytorch: the placement of the DPU, any scale, rounding and observer."""

from __future__ import annotations

from quantwright.config.config import Calibration, RoleSpecs, Step
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.targets import Arithmetic, Target
from quantwright.targets._vitis import KINDS, PARAMETERS, only_weights_per_channel

#: what the example configuration of the tool's document asks for: maxmin, float scales, half to even, the largest scale
_PARAMETER = QuantSpec(
    format="int8", granularity=Granularity(), symmetric=True, narrow_range=False, scale="float", rounding="half_even",
    observer=ObserverSpec(name="minmax"), statistic="all",
)  # fmt: skip
_ACTIVATION = _PARAMETER.model_copy(update={"statistic": "max"})

plugin = Target(
    name="vitis_cpu",
    summary="the CPU/GPU target of vai_q_pytorch: DPU placement, float or power-of-two scales",
    # 3.6: a bias is a tensor like any other, with a range of its own
    defaults=RoleSpecs(weight=_PARAMETER, bias=_PARAMETER, input=_ACTIVATION, output=_ACTIVATION),
    kinds=KINDS,
    parameters=PARAMETERS,
    join="output",
    checks=(only_weights_per_channel,),
    arithmetic=Arithmetic(quantize="reciprocal"),
    optimize=(Step(name="fold_batchnorm"),),
    calibration=Calibration(inputs="quantized", batch_qparams="running", modal_ties="smaller_scale"),
)
