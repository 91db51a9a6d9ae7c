"""sophgo-mq's chip Academic: 8-bit float weights, inputs of linear layers and matrix products."""

from __future__ import annotations

from dataclasses import replace

from quantwright.config.config import RoleSpecs
from quantwright.config.spec import QuantSpec
from quantwright.targets import Handling
from quantwright.targets._mqbench import grid, observed
from quantwright.targets._sophgo import TRANSFORMER_PLACEMENT, chip

_WEIGHT = observed(grid(per_channel=True)).model_copy(update={"format": "fp8_e4m3"})
_ACTIVATION = observed(grid(), statistic="ema")
#: 7: "only Linear & matmul inputs, output of any node whose name contains 'matmul'"
_KINDS: dict[str, Handling] = {"linear": "consume", "matmul": "compute", "attention": "compute"}

plugin = replace(
    chip("sophgo_academic", "Academic", transformer=True),
    summary="sophgo-mq's Academic: 8-bit float weights, inputs of linear layers and matrix products",
    defaults=RoleSpecs(weight=_WEIGHT, bias=QuantSpec(format="float32"), input=_ACTIVATION, output=_ACTIVATION),
    kinds=_KINDS,
    placement=TRANSFORMER_PLACEMENT,
)
