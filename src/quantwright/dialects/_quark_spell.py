"""Spells a complete QuantSpec as the nearest QTensorConfig of Quark 0.13."""

from __future__ import annotations

from typing import Any

from quantwright.config.spec import QuantSpec, Role
from quantwright.dialects._quark_names import (
    BLOCKS,
    CASTS,
    EXPONENTS,
    FLOATS,
    INTEGERS,
    MAX_NUMEL,
    ROUNDS,
    SCALE_FORMATS,
    SCALES,
)

_FLOATS = {ours: theirs for theirs, ours in FLOATS.items()}
_BLOCKS = {ours: theirs for theirs, ours in BLOCKS.items()}
_ROUNDS = {ours: theirs for theirs, ours in ROUNDS.items()}
_SCALES = {ours: theirs for theirs, ours in reversed(SCALES.items())} | {"float": "float"}
_FORMATS = {ours: theirs for theirs, ours in SCALE_FORMATS.items()}
_MODES = {ours: theirs for theirs, ours in EXPONENTS.items()}
_PREFIX = {"per_tensor": "PerTensor", "per_channel": "PerChannel", "per_group": "PerGroup", "per_token": "PerChannel"}
_BLANK: dict[str, Any] = {
    "dtype": None, "is_dynamic": None, "qscheme": None, "ch_axis": None, "group_size": None, "block_size": None,
    "symmetric": None, "round_method": None, "scale_type": None, "zero_point_type": "int32", "scale_format": None,
    "scale_calculation_mode": None, "mx_element_dtype": None, "observer_cls": None, "is_scale_quant": False,
    "enable_buffer_reuse": False, "max_input_numel": MAX_NUMEL,
}  # fmt: skip
_TOKEN_AXIS = 1


def tensor(spec: QuantSpec, role: Role, fx: bool) -> Any:
    """Returns the QTensorConfig of a complete spec; None leaves the tensor float.

    Args:
        fx: graph mode, where an int32 bias has a derived scale whatever it says.
    """
    if spec.format == "float32":
        return None
    if spec.format in CASTS:
        return {**_BLANK, "dtype": spec.format, "observer_cls": "PlaceholderObserver"}
    if spec.format == "mxint8" or spec.format in _BLOCKS or (spec.scale == "e8m0" and spec.format in _FLOATS):
        return _block(spec, role)
    made = {**_BLANK, **_grid(spec, role), **_granularity(spec, role), **_scale(spec)}
    if spec.scale == "e4m3":  # 1.7: ScaleQuantSpec, two stages
        return [made, {**_BLANK, **_second()}]
    return made


def _grid(spec: QuantSpec, role: Role) -> dict[str, Any]:
    kind = spec.granularity.kind if spec.granularity is not None else "per_tensor"
    grouped = role in ("input", "output") and kind == "per_group"
    return {
        "dtype": _dtype(spec),
        "is_dynamic": bool(spec.dynamic) or grouped,  # 1.2: groups of an activation have to be
        "symmetric": bool(spec.symmetric) if spec.is_integer else None,
        "round_method": _ROUNDS.get(spec.rounding or "", "half_even"),
    }


def _dtype(spec: QuantSpec) -> str:
    """Returns the data type, or the next wider one that the tool has."""
    if not spec.is_integer:
        return _FLOATS.get(spec.format or "", "int8")
    sign = "int" if spec.signed else "uint"
    return next((f"{sign}{bits}" for bits in range(spec.bits, 33) if f"{sign}{bits}" in INTEGERS), "int8")


def _granularity(spec: QuantSpec, role: Role) -> dict[str, Any]:
    found = spec.granularity
    kind = found.kind if found is not None else "per_tensor"
    made: dict[str, Any] = {"qscheme": kind, "observer_cls": _observer(spec, kind)}
    if kind == "per_token":
        return {**made, "qscheme": "per_channel", "ch_axis": _TOKEN_AXIS}
    if found is not None and kind != "per_tensor":
        usual = -1 if kind == "per_group" else (0 if role in ("weight", "bias") else 1)
        made["ch_axis"] = usual if found.axis is None else found.axis
        made["group_size"] = found.group_size
    return made


def _observer(spec: QuantSpec, kind: str) -> str:
    """Returns the observer class; what the tool has no word for becomes minmax, and is told as a loss."""
    name = spec.observer.name if spec.observer is not None else "minmax"
    prefix = _PREFIX[kind]
    if name == "tqt_init":
        return "TQTObserver"
    if name == "lsq_init":
        return "LSQObserver"
    if spec.scale == "power_of_two" and prefix != "PerGroup":
        if name == "minmax" and spec.exponent != "nearest":
            return f"{prefix}PowOf2MinMaxObserver"
        return f"{prefix}PowOf2MinMSEObserver" if name in ("mse", "diffs") else f"{prefix}PowOf2MinMaxObserver"
    if prefix == "PerGroup" and not spec.is_integer:
        return "PerBlockMXObserver"
    if prefix != "PerTensor":
        return f"{prefix}MinMaxObserver"
    special = {"percentile": "Percentile", "mse": "MSE", "histogram_l2": "HistogramObserverPro"}.get(name, "MinMax")
    return f"PerTensor{special}" if special.endswith("Pro") else f"PerTensor{special}Observer"


def _scale(spec: QuantSpec) -> dict[str, Any]:
    if spec.is_integer:
        power = spec.scale == "power_of_two"  # the PowOf2 observers say it; elsewhere only pof2 can
        group = spec.granularity is not None and spec.granularity.kind == "per_group"
        return {"scale_type": "float" if power and not group else _SCALES.get(spec.scale or "", "float")}
    form = _FORMATS.get(spec.scale or "", "float32") if spec.scale != "e4m3" else "float32"
    mode = _MODES.get(spec.exponent or "", "even") if form == "e8m0" else None
    return {"scale_type": "float", "scale_format": form, "scale_calculation_mode": mode}


def _block(spec: QuantSpec, role: Role) -> dict[str, Any]:
    """Returns the spec of a format with a shared exponent for every block."""
    found, made = spec.granularity, dict(_BLANK)
    if spec.format in _BLOCKS:
        made["dtype"] = _BLOCKS[spec.format]
    else:
        made |= {"dtype": "mx", "mx_element_dtype": "int8" if spec.format == "mxint8" else _FLOATS[spec.format or ""]}
    made["ch_axis"] = found.axis if found is not None and found.axis is not None else -1
    made["group_size"] = found.group_size if found is not None and found.group_size is not None else 32
    made["scale_calculation_mode"] = _MODES.get(spec.exponent or "", "even")
    made["observer_cls"] = "PlaceholderObserver"
    return made


def _second() -> dict[str, Any]:
    return {
        "dtype": "fp8_e4m3", "is_dynamic": False, "qscheme": "per_tensor", "symmetric": True,
        "round_method": "half_even", "scale_type": "float", "observer_cls": "PerTensorMinMaxObserver",
        "is_scale_quant": True,
    }  # fmt: skip
