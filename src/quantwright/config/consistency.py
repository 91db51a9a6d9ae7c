"""Settings of one spec that contradict each other or have no effect, as far as the spec alone can tell.

A spec may be partial: a contradiction is reported only between fields that are both set. What needs the model or the
merged rules is the plan's job.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantwright.config.formats import later_formats, scaled_formats
from quantwright.config.spec import FLOAT_FORMATS, QuantSpec, Role, is_integer_format

#: observers that look for the least error of a grid of equal steps
INTEGER_OBSERVERS = ("diffs", "entropy", "min_mse_position", "mse")
_POWERS = ("power_of_two", "e8m0")
MAX_BITS = {"weight": 16, "bias": 32, "input": 16, "output": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Returns one contradiction: the field to point at, a stable code, what is wrong and what to do."""

    field: str
    code: str
    message: str
    fix: str


def conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    """Returns everything wrong with a (partial) spec for ``role``."""
    if spec.format in FLOAT_FORMATS:
        return _float_conflicts(spec)
    if spec.format in later_formats():
        return []  # what goes with a format that is not here yet is its own business
    grid = _scaled_conflicts(spec, role) if spec.is_scaled else _grid_conflicts(spec, role)
    return [*grid, *_scale_conflicts(spec, role), *_sharing_conflicts(spec, role)]


def _float_conflicts(spec: QuantSpec) -> list[Conflict]:
    return [
        Conflict(
            field=name,
            code="no_effect",
            message=f"'{name}' has no effect: {spec.format} is a cast and has no scale",
            fix=f"remove '{name}', or choose an integer format",
        )
        for name in spec.fields_set()
        if name != "format"
    ]


def _grid_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    found = []
    if spec.format is not None and is_integer_format(spec.format) and spec.bits > MAX_BITS[role]:
        message = f"{spec.format} is wider than the {MAX_BITS[role]} bits that a {role} can have"
        fix = f"use at most {MAX_BITS[role]} bits, or float32 to leave it unquantized"
        found.append(Conflict(field="format", code="too_wide", message=message, fix=fix))
    if spec.narrow_range and spec.symmetric is False:
        message = "'narrow_range' has no effect on an asymmetric grid"
        found.append(
            Conflict(field="narrow_range", code="no_effect", message=message, fix="remove it, or set symmetric: true")
        )
    if spec.narrow_range and spec.is_integer and not spec.signed:
        message = f"'narrow_range' has no effect on the unsigned {spec.format}"
        found.append(
            Conflict(field="narrow_range", code="no_effect", message=message, fix="remove it, or use a signed format")
        )
    return found


def _scaled_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    """Returns what is wrong with a spec whose format has a scale and no zero point."""
    about, found = scaled_formats()[spec.format or ""], []
    idle = {
        "symmetric": (spec.symmetric is False, f"{spec.format} has no zero point"),
        "narrow_range": (bool(spec.narrow_range), f"{spec.format} is as far below zero as above"),
        "fit": (spec.fit is not None, "the larger side of a range lies at the largest element"),
        "rounding": (about["kind"] == "codebook" and spec.rounding is not None, "a codebook takes the nearest value"),
    }
    for name, (given, why) in idle.items():
        if given:
            message = f"'{name}' has no effect: {why}"
            found.append(Conflict(field=name, code="no_effect", message=message, fix=f"remove '{name}'"))
    if about["kind"] == "fixed" and spec.scale not in (None, "derived", *_POWERS):
        message = f"the elements of {spec.format} share an exponent, which a scale {spec.scale} is not"
        found.append(Conflict(field="scale", code="shared_exponent", message=message, fix="use scale: e8m0"))
    if about["kind"] == "codebook" and spec.exponent == "even":
        message = f"'even' rounds to the mantissa of an element, and those of {spec.format} have none"
        found.append(Conflict(field="exponent", code="exponent", message=message, fix="use floor, ceil or cover"))
    pair, g = about.get("pair", 0), spec.granularity
    if pair and g is not None and (g.kind != "per_group" or (g.group_size or 0) % pair):
        message = f"{spec.format} has one bit for {pair} neighbours of a group, and {g} is not made of those"
        fix = f"use {{kind: per_group, group_size: {12 if about.get('pair_top') == 'block' else 16}}}"
        found.append(Conflict(field="granularity", code="pairs", message=message, fix=fix))
    if spec.observer is not None and spec.observer.name in INTEGER_OBSERVERS:
        message = f"the observer '{spec.observer.name}' compares grids of equal steps, and {spec.format} is none"
        fix = "use minmax, percentile or mse_shrink"
        found.append(Conflict(field="observer", code="observer_grid", message=message, fix=fix))
    return found


def _power_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    """Returns what is wrong with the ways to find a power of two, and with scales of two levels."""
    found = []
    if spec.scale not in (None, *_POWERS) and spec.exponent is not None:
        message = f"'exponent' has no effect on a {spec.scale} scale"
        fix = "use scale: power_of_two or e8m0"
        found.append(Conflict(field="exponent", code="no_effect", message=message, fix=fix))
    if spec.is_integer and spec.exponent == "even":
        message = f"'even' rounds to the mantissa of an element, and {spec.format} has none"
        fix = "use cover, nearest, ceil or floor"
        found.append(Conflict(field="exponent", code="exponent", message=message, fix=fix))
    if spec.scale == "e4m3" and role in ("input", "output") and spec.statistic not in (None, "all"):
        message = f"scales of two levels belong to one range, and statistic {spec.statistic} takes one of every batch"
        found.append(Conflict(field="statistic", code="two_levels", message=message, fix="use statistic: all"))
    return found


def _scale_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    if spec.scale == "derived":
        return _derived_conflicts(spec, role)
    found = _power_conflicts(spec, role)
    if spec.fit is not None and spec.symmetric is False:
        message = "'fit' has no effect on an asymmetric grid: it is laid on the whole range"
        found.append(Conflict(field="fit", code="no_effect", message=message, fix="remove it, or set symmetric: true"))
    if spec.fit is not None and spec.scale in _POWERS and spec.exponent == "cover" and not spec.is_scaled:
        message = "'fit' has no effect with exponent cover: that is half a step beyond both ends"
        fix = "remove it, or use another exponent"
        found.append(Conflict(field="fit", code="no_effect", message=message, fix=fix))
    cover = spec.scale in _POWERS and spec.exponent in (None, "cover")
    if cover and spec.symmetric is False and not spec.is_scaled:
        message = "power-of-two scales have no zero point, so an asymmetric grid is not possible"
        fix = "set symmetric: true, scale: float, or exponent: nearest (which takes a zero point)"
        found.append(Conflict(field="scale", code="power_of_two_asymmetric", message=message, fix=fix))
    if spec.scale == "float" and spec.observer is not None and spec.observer.name == "diffs":
        message = "the observer 'diffs' searches power-of-two scales and cannot give a float scale"
        fix = "use scale: power_of_two, or another observer such as mse"
        found.append(Conflict(field="observer", code="diffs_float", message=message, fix=fix))
    if spec.scale == "float" and spec.statistic == "modal":
        message = "'modal' takes the most frequent scale, and float scales hardly ever repeat"
        fix = "use statistic: all, max, mean or median, or scale: power_of_two"
        found.append(Conflict(field="statistic", code="modal_float", message=message, fix=fix))
    return found


def _derived_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    if role != "bias":
        message = "'derived' means input scale times weight scale; only a bias has that"
        return [Conflict(field="scale", code="derived", message=message, fix="use scale: float or power_of_two")]
    found = []
    if spec.format not in (None, "int32"):
        message = f"a derived scale needs int32, not {spec.format}: the sums it is added to are that wide"
        found.append(
            Conflict(field="format", code="derived", message=message, fix="use format: int32, or scale: float")
        )
    for name in ("observer", "statistic", "min_scale", "granularity", "exponent", "fit"):
        if getattr(spec, name) is not None:
            message = f"'{name}' has no effect on a derived scale: it comes from the input and the weight"
            found.append(
                Conflict(field=name, code="no_effect", message=message, fix=f"remove '{name}', or use scale: float")
            )
    if spec.symmetric is False:
        message = "a derived bias has zero point 0"
        found.append(Conflict(field="symmetric", code="derived", message=message, fix="remove it, or use scale: float"))
    return found


def _sharing_conflicts(spec: QuantSpec, role: Role) -> list[Conflict]:
    found = []
    if spec.ema_decay is not None and spec.statistic not in (None, "ema"):
        message = f"'ema_decay' has no effect with statistic {spec.statistic}"
        found.append(Conflict(field="ema_decay", code="no_effect", message=message, fix="use statistic: ema"))
    kind = spec.granularity.kind if spec.granularity is not None else None
    parameter = role in ("weight", "bias")
    if parameter and spec.statistic not in (None, "all"):
        message = f"'statistic' has no effect on a {role}: it is one tensor and does not change between batches"
        found.append(Conflict(field="statistic", code="no_effect", message=message, fix="remove it"))
    groups = kind == "per_group" and not spec.dynamic and role != "weight"
    if (kind == "per_token" and parameter) or (kind == "per_group" and role == "bias") or groups:
        fits = "activations" if kind == "per_token" else "weights"
        message, fix = f"{kind} is for {fits}, not for a {role}", "use per_tensor or per_channel"
        if groups and role != "bias":
            message, fix = f"per_group of an {role} takes the scales of every value as it passes", "set dynamic: true"
        found.append(Conflict(field="granularity", code="granularity", message=message, fix=fix))
    if kind == "per_token" and spec.statistic not in (None, "all"):
        message = "'statistic' has no effect with per_token: the range is taken anew for every token"
        found.append(Conflict(field="statistic", code="no_effect", message=message, fix="remove it"))
    exact = spec.observer is not None and spec.observer.params.get("histogram") == "exact"
    if exact and spec.observer is not None and "clipping" in spec.observer.params:
        message = "'clipping' has no effect on an exact histogram"
        found.append(Conflict(field="observer", code="no_effect", message=message, fix="use histogram: streaming"))
    if exact and not parameter and spec.statistic == "all":
        message = "an exact histogram sees one batch only; 'all' needs one over every batch"
        fix = "use histogram: streaming, or a statistic over batches (max, mean, median)"
        found.append(Conflict(field="statistic", code="exact_histogram", message=message, fix=fix))
    return found
