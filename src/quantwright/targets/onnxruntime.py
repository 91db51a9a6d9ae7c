"""ONNX Runtime: the placement of generic, restricted to what its QDQ operators take."""

from __future__ import annotations

from quantwright.config.config import Step
from quantwright.config.spec import QuantSpec, Role
from quantwright.targets import Arithmetic, Target
from quantwright.targets._qdq import DEFAULTS, FLOAT_RESULTS, KERNELS, KINDS, PARAMETERS

#: ONNX operators QuantizeLinear and DequantizeLinear, opset 21
ACTIVATIONS = ("int8", "uint8", "int16", "uint16")
WEIGHTS = ("int4", "uint4", "int8", "uint8", "int16", "uint16")


def _format(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with a format; float16 and bfloat16 are casts."""
    allowed = WEIGHTS if role == "weight" else ACTIVATIONS
    if spec.is_scaled:
        names = "int32" if role == "bias" else ", ".join(allowed)
        return f"format {spec.format} has no integer kernel; use {names}, or target generic, which computes it in float"
    if role == "bias" or not spec.is_integer or spec.format in allowed:
        return None
    return f"format {spec.format} is not stored by QuantizeLinear; use one of {', '.join(allowed)}"


def _rounding(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the rounding of an activation; weights are rounded here, not there."""
    if role in ("input", "output") and spec.is_integer and spec.rounding != "half_even":
        return f"rounding {spec.rounding} is not what QuantizeLinear does; use half_even"
    return None


def _granularity(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the granularity of an activation: integer kernels take one scale."""
    per_tensor = spec.granularity is None or spec.granularity.kind == "per_tensor"
    if role in ("input", "output") and spec.is_integer and not per_tensor:
        return f"granularity {spec.granularity} of an activation has no kernel; use per_tensor"
    return None


def _range(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the range of an activation: QuantizeLinear saturates at the ends of its type."""
    if role in ("input", "output") and spec.is_integer and spec.signed and spec.narrow_range:
        return "narrow_range true is not how QuantizeLinear saturates; set narrow_range: false"
    return None


def _bias(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with a bias: kernels add it to the int32 accumulator."""
    if role == "bias" and spec.is_integer and spec.scale != "derived":
        return f"scale {spec.scale} of a bias does not fit the accumulator; use derived, with format int32"
    return None


plugin = Target(
    name="onnxruntime",
    summary="ONNX Runtime: what its QDQ operators take, and nothing else",
    defaults=DEFAULTS,
    kinds=KINDS,
    parameters=PARAMETERS,
    checks=(_format, _rounding, _granularity, _range, _bias),
    optimize=(Step(name="fold_batchnorm"),),
    arithmetic=Arithmetic(requantize="multiplier"),
    kernels=KERNELS,
    float_results=FLOAT_RESULTS,
    sign="by_range",
)
