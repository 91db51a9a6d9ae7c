"""Fixed-point accelerators of the DPU family: int8, power-of-two scales, int8 biases with a scale of their own."""

from __future__ import annotations

from quantwright.config.config import Calibration, RoleSpecs, Step
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec, Role
from quantwright.targets import Arithmetic, Target
from quantwright.targets._vitis import DPU, KINDS, PARAMETERS

ROUNDING = {"weight": "half_away", "bias": "half_away", "input": "half_up", "output": "half_up"}  # 2.4, 3.5

_PARAMETER = QuantSpec(
    format="int8", granularity=Granularity(), symmetric=True, narrow_range=False, scale="power_of_two",
    rounding="half_away", observer=ObserverSpec(name="diffs", params={"scope": 5}), statistic="all", min_scale=2.0**-12,
)  # fmt: skip
_ACTIVATION = _PARAMETER.model_copy(update={"rounding": "half_up", "statistic": "modal"})


def _scale(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the scale: the hardware shifts, it does not multiply."""
    if spec.is_integer and spec.scale != "power_of_two":
        return f"scale {spec.scale} cannot be computed by shifts; use power_of_two"
    return None


def _symmetric(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the zero point: the hardware has none."""
    if spec.is_integer and spec.symmetric is not True:
        return "symmetric false needs a zero point, which the hardware does not have; set symmetric: true"
    return None


def _format(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the format: signed integers only."""
    if spec.is_scaled:
        return f"format {spec.format} is no integer, and the hardware multiplies integers; use int8"
    if spec.is_integer and not spec.signed:
        return f"format {spec.format} is unsigned; use int{spec.bits}"
    return None


def _granularity(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the granularity: one position per tensor."""
    if spec.is_integer and spec.granularity is not None and spec.granularity.kind != "per_tensor":
        return f"granularity {spec.granularity} is not possible, there is one position per tensor; use per_tensor"
    return None


def _observer(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the observer: the tool takes diffs and maxmin."""
    if spec.is_integer and spec.observer is not None and spec.observer.name not in ("diffs", "minmax"):
        return f"observer {spec.observer.name} does not choose positions; use diffs or minmax"
    return None


def _rounding(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the rounding: parameters half away from zero, activations half up."""
    if spec.is_integer and spec.rounding != ROUNDING[role]:
        return f"rounding {spec.rounding} is not what the hardware does to a {role}; use {ROUNDING[role]}"
    return None


def _range(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the range: the hardware saturates activations at the lowest value too.

    The tool's document asks for narrow_range and the tool refuses it (spec 0.5). A narrow *parameter* is safe: it is a
    fixed tensor whose values are on the full grid as well.
    """
    if spec.is_integer and spec.narrow_range and role in ("input", "output"):
        return "narrow_range true is not how the hardware saturates; set narrow_range: false"
    return None


def _statistic(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong with the statistic: positions of batches are counted, not averaged."""
    if spec.is_integer and role in ("input", "output") and spec.statistic != "modal":
        return f"statistic {spec.statistic} does not choose one of the positions found; use modal"
    return None


plugin = Target(
    name="dpu",
    summary="fixed-point accelerators: int8, power-of-two scales, rounding half up",
    defaults=RoleSpecs(weight=_PARAMETER, bias=_PARAMETER, input=_ACTIVATION, output=_ACTIVATION),
    kinds=KINDS,
    parameters=PARAMETERS,
    join="output",
    checks=(_scale, _symmetric, _format, _granularity, _observer, _rounding, _range, _statistic),
    arithmetic=Arithmetic(quantize="reciprocal", accumulator_bits=32, requantize="shift", rounding="half_up"),
    optimize=(
        Step(name="relu6_to_relu"),
        Step(name="fold_batchnorm"),
        Step(name="cross_layer_equalization", params={"method": "vitis"}),
        Step(name="dpu_operators"),
    ),
    calibration=Calibration(inputs="quantized", batch_qparams="running", modal_ties="larger_scale"),
    device=DPU,
)
