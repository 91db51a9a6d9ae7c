"""What the targets of MQBench share: its presets and where it puts quantizers.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq. Of an operation on its lists MQBench
quantizes the *inputs* (``consume``), on some backends the output too (``compute``). Data movement is no operation of
its lists, so what a ``flatten`` gives is a value of its own where a listed operation reads it (``float``).
"""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.config.config import RoleSpecs, Step
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec, Role
from quantwright.targets import Arithmetic, Handling, Placement, Target

EPS = 2.0**-23  # 4: the smallest scale
EMA_DECAY = 0.9
#: 2: layers whose input counts; one-dimensional and volumetric ones have quantized weights and no more
LAYERS = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear")
GENERAL = (*LAYERS, "max_pool", "avg_pool", "adaptive_avg_pool", "batch_norm", "prelu", "resize", "resize_nearest",
           "add", "mul")  # fmt: skip
#: 2: written as a function, none of these counts
LAYERS_ONLY = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, "max_pool", "avg_pool", "batch_norm", "prelu")
#: 2: what has a weight quantizer: torch's table of layers to be trained quantized
PARAMETERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR)
#: 2: what fuses with a ReLU behind it
FUSING = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, "batch_norm")
MUL_ADD = (("mul", "add"),)  # 2: "no quantizer on a mul that feeds an add"
RECIPROCAL = Arithmetic(quantize="reciprocal")  # 4: x * float32(1 / scale)
FOLD = (Step(name="fold_batchnorm"),)


def grid(
    bits: int = 8,
    *,
    symmetric: bool = True,
    per_channel: bool = False,
    narrow: bool = False,
    power_of_two: bool = False,
) -> QuantSpec:
    """Returns a grid as MQBench lays it: the range over half the span of the integers, scales of at least 2**-23."""
    spec = QuantSpec(
        format=f"{'' if symmetric else 'u'}int{bits}",
        granularity=Granularity(kind="per_channel" if per_channel else "per_tensor"),
        symmetric=symmetric,
        narrow_range=narrow,
        scale="power_of_two" if power_of_two else "float",
        fit="span",
        rounding="half_even",
        min_scale=EPS,
    )
    return spec.model_copy(update={"exponent": "nearest"}) if power_of_two else spec


def observed(spec: QuantSpec, observer: str = "minmax", statistic: str = "all", **params: object) -> QuantSpec:
    """Returns a grid with what watches for it; statistic ``ema`` has MQBench's decay."""
    changed: dict[str, object] = {"observer": ObserverSpec(name=observer, params=params), "statistic": statistic}
    if statistic == "ema":
        changed["ema_decay"] = EMA_DECAY
    return spec.model_copy(update=changed)


def defaults(weight: QuantSpec, activation: QuantSpec) -> RoleSpecs:
    """Returns the specs of a backend; its biases stay float (5)."""
    return RoleSpecs(weight=weight, bias=QuantSpec(format="float32"), input=activation, output=activation)


def consuming(*names: str) -> dict[str, Handling]:
    """Returns the handling of a backend that quantizes the inputs of these kinds."""
    return {**dict.fromkeys(names, "consume"), "relu": "fuse"}


def computing(*names: str) -> dict[str, Handling]:
    """Returns the handling of a backend that quantizes inputs and outputs of these kinds."""
    return {**dict.fromkeys(names, "compute"), "relu": "fuse"}


def per_tensor_activations(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with activations that have several scales where the backend knows one."""
    if role in ("weight", "bias") or spec.granularity is None or spec.granularity.kind == "per_tensor":
        return None
    return f"granularity {spec.granularity} is for weights only; use per_tensor"


GENERAL_PLACEMENT = Placement(
    layers_only=LAYERS_ONLY, fuse_behind={"relu": FUSING}, unread=MUL_ADD
)  # 2: the "general" quantizer


def backend(
    name: str,
    summary: str,
    weight: QuantSpec,
    activation: QuantSpec,
    handling: dict[str, Handling] | None = None,
    placement: Placement = GENERAL_PLACEMENT,
    optimize: tuple[Step, ...] = FOLD,
) -> Target:
    """Returns the target of one backend; the placement is the general one unless it is given."""
    return Target(
        name=name,
        summary=summary,
        defaults=defaults(weight, activation),
        kinds=consuming(*GENERAL) if handling is None else handling,
        parameters=PARAMETERS,
        join="output",
        arithmetic=RECIPROCAL,
        optimize=optimize,
        placement=placement,
    )


#: TensorRT's preset, which other backends share: 8 bits, symmetric, without -128, weights per channel
TENSORRT_WEIGHT = observed(grid(per_channel=True, narrow=True))
TENSORRT_ACTIVATION = observed(grid(narrow=True), statistic="ema")
ASYMMETRIC = grid(symmetric=False)
ASYMMETRIC_EMA = observed(ASYMMETRIC, statistic="ema")

#: 2: "TotalINT": the general list, outputs too; behind relu, relu6, flatten and dropout where they alone read it
TOTAL_INT: dict[str, Handling] = {
    **computing(*GENERAL),
    "relu6": "fuse",
    "flatten": "fuse",
    "dropout": "fuse",
}
TOTAL_INT_PLACEMENT = Placement(layers_only=LAYERS_ONLY, hosts=("flatten", "dropout"), unread=MUL_ADD)
