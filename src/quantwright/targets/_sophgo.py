"""What the targets of sophgo-mq share: the defaults of its chips and where it puts quantizers.

Section 7 of the behavioural spec of MQBench and sophgo-mq. Strategy CNN quantizes inputs and outputs of a long list of
operations; strategy Transformer quantizes what layers and matrix products read and only *observes* the rest, so the
rest is float here. Biases are rounded to steps of input scale times weight scale: ``derived``, in 32 bits here and
without a limit there.
"""

from __future__ import annotations

from quantwright.config.config import RoleSpecs
from quantwright.config.spec import QuantSpec, Role
from quantwright.targets import Check, Handling, Placement, Target
from quantwright.targets._mqbench import (
    FOLD,
    GENERAL,
    LAYERS,
    LAYERS_ONLY,
    MUL_ADD,
    PARAMETERS,
    RECIPROCAL,
    computing,
    grid,
    observed,
)

BIAS = QuantSpec(format="int32", symmetric=True, scale="derived", rounding="half_even")
#: 7: the op list; what has no kind of its own here (LogSigmoid, GLU, Softshrink, abs, gumbel_softmax) stays float
LISTED = (*GENERAL, "hardswish", "sigmoid", "silu", "tanh", "elu", "gelu", "mish", "hardsigmoid", "softplus",
          "layer_norm", "sub", "cat", "clamp", "matmul", "attention", "div")  # fmt: skip
CNN: dict[str, Handling] = {**computing(*LISTED), "relu6": "fuse", "flatten": "fuse", "dropout": "fuse"}
CNN_PLACEMENT = Placement(layers_only=LAYERS_ONLY, hosts=("flatten", "dropout"), unread=MUL_ADD, inputs="quantized")
TRANSFORMER: dict[str, Handling] = {**dict.fromkeys((*LAYERS, "matmul", "attention"), "consume"), "relu": "fuse"}
TRANSFORMER_PLACEMENT = Placement(layers_only=LAYERS_ONLY)


def four_or_eight(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with a width that is neither 4 nor 8 bits (BM1688)."""
    if role == "bias" or not spec.is_integer or spec.bits in (4, 8):
        return None
    return f"format {spec.format} is none of the chip's; use int4 or int8"


def eight(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with activations of another width than 8 bits; what int4 layers read may have 4."""
    allowed = {"output": (8,), "input": (4, 8)}.get(role)
    if allowed is None or not spec.is_integer or spec.bits in allowed:
        return None
    return f"format {spec.format} is not for activations on this chip; use int8"


def chip(
    name: str, label: str, *, transformer: bool = False, narrow: bool = False, check: Check | None = None
) -> Target:
    """Returns the target of a chip and strategy."""
    activation = observed(grid(), statistic="ema")
    return Target(
        name=name,
        summary=f"sophgo-mq's {label}, strategy {'Transformer' if transformer else 'CNN'}: int8 symmetric",
        defaults=RoleSpecs(
            weight=observed(grid(per_channel=True, narrow=narrow)), bias=BIAS, input=activation, output=activation
        ),
        kinds=TRANSFORMER if transformer else CNN,
        parameters=PARAMETERS,
        join="output",
        checks=() if check is None else (check,),
        arithmetic=RECIPROCAL,
        optimize=FOLD,
        placement=TRANSFORMER_PLACEMENT if transformer else CNN_PLACEMENT,
    )
