"""What the targets of Quark share: which operations are quantized, and how where nobody says it (spec quark 2, 4)."""

from __future__ import annotations

from quantwright.config.config import RoleSpecs
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.targets import Handling

COMPUTE = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear")
LAYERS = ("Conv2d", "ConvTranspose2d", "Linear")
KINDS_EAGER: dict[str, Handling] = dict.fromkeys(COMPUTE, "compute")

#: Int8PerTensorSpec: 2 of the spec has the divisor 127.5 and the smallest scale
_INT8 = QuantSpec(
    format="int8", granularity=Granularity(), symmetric=True, narrow_range=False, scale="float", fit="span",
    rounding="half_even", observer=ObserverSpec(name="minmax"), statistic="all", min_scale=2.0**-23,
)  # fmt: skip
DEFAULTS = RoleSpecs(weight=_INT8, bias=QuantSpec(format="float32"), input=_INT8, output=_INT8)
