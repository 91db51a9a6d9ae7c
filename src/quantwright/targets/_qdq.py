"""What the targets share that run ONNX with QuantizeLinear and DequantizeLinear: placement and defaults."""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.config.config import RoleSpecs
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.targets import Handling, Kernels

#: integer kernels, or worth an integer boundary: inputs, parameters and output are quantized
COMPUTE = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.EMBEDDING, "add", "sub", "mul",
           "avg_pool", "adaptive_avg_pool", "mean", "resize")  # fmt: skip
#: runtimes clamp on the integer grid as part of the operation before
FUSE = kinds.CLAMP
#: values come out as they went in: the same scale, no rounding
SHARE = (*kinds.MOVEMENT, *kinds.POOL_MAX, "pad", "resize_nearest")
#: everything else (norms, softmax, gelu, silu, sigmoid, div ...) is computed in float: kernels for it dequantize anyway

KINDS: dict[str, Handling] = {
    **dict.fromkeys(COMPUTE, "compute"),
    **dict.fromkeys(FUSE, "fuse"),
    **dict.fromkeys(SHARE, "share"),
    **dict.fromkeys(kinds.JOIN, "join"),
}
PARAMETERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.EMBEDDING)

#: Seen in ONNX Runtime 1.31 on x86: kernels for signed activations are slower than float, those for unsigned ones about
#: three times faster; and an operator followed by a float clamp stays float when the zero point is not at the end
KERNELS = Kernels(unsigned=True, clamp_integers=True)
#: kernels of ONNX Runtime that add in integers and give float: QGemm without an output scale
FLOAT_RESULTS = kinds.LINEAR

_ACTIVATION = QuantSpec(
    format="uint8", granularity=Granularity(), symmetric=False, narrow_range=False, scale="float",
    rounding="half_even", observer=ObserverSpec(name="minmax"), statistic="all",
)  # fmt: skip
DEFAULTS = RoleSpecs(
    weight=QuantSpec(
        format="int8", granularity=Granularity(kind="per_channel"), symmetric=True, narrow_range=False, scale="float",
        rounding="half_even", observer=ObserverSpec(name="minmax"),
    ),
    bias=QuantSpec(format="int32", symmetric=True, scale="derived", rounding="half_even"),
    input=_ACTIVATION,
    output=_ACTIVATION,
)  # fmt: skip
