"""What a written Quark document does otherwise than the config it was written from: read back and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import QuantConfig, Rule, Unmapped
from quantwright.config.spec import ROLES, QuantSpec, Role

Complete = Mapping[Role, QuantSpec]
#: beside a float format, or a format with its own exponents, these are what counts
_FORMAT_ONLY = ("format",)
_NAMES = ("target", "optimize", "calibration")


def differences(
    config: QuantConfig, back: QuantConfig, base: Complete, back_base: Complete, written: list[int]
) -> list[Unmapped]:
    """Returns every field that differs, with what the tool has instead."""
    found = _specs("default", base, back_base)
    mine = [(number, config.rules[number]) for number in written]
    own = {_identity(rule) for _, rule in mine}
    twins = [rule for rule in back.rules if not rule.exclude and not is_companion(rule) and _identity(rule) in own]
    if _order([rule for _, rule in mine]) != _order(twins):
        message = "the tool takes names over types and the first pattern that fits"
        found.append(Unmapped(path="rules", message=message, effect="another entry can win"))
    by_name = {_identity(rule): rule for rule in reversed(twins)}
    later: dict[tuple[str, str], set[Role]] = {}  # roles that a later rule about the same layers sets
    for number, rule in reversed(mine):
        key = _identity(rule)
        over, twin, empty = later.setdefault(key, set()), by_name.get(key), QuantSpec()
        roles = [role for role in ROLES if rule.get(role) is not None and role not in over]
        over.update(roles)
        if twin is None:
            continue
        ours = {role: (rule.get(role) or empty).over(base[role]) for role in roles}
        theirs = {role: (twin.get(role) or empty).over(back_base[role]) for role in roles}
        found += _specs(f"rules[{number}]", ours, theirs)
    for name in _NAMES:
        ours_, theirs_ = getattr(config, name), getattr(back, name)
        if ours_ != theirs_:
            message, effect = f"{name} {told(ours_)} cannot be said", f"the tool has {told(theirs_)}"
            found.append(Unmapped(path=name, message=message, effect=effect))
    return found


def _identity(rule: Rule) -> tuple[str, str]:
    match = rule.match
    if match.type is not None:
        return "type", match.type.rpartition(".")[2]
    if match.name is not None:
        return "name", match.name.removeprefix("module:")
    return "function", match.function or ""


def is_companion(rule: Rule) -> bool:
    """Returns whether a rule stands beside another one for embeddings only, which no entry of its own says."""
    return rule.include and rule.match.name is not None and rule.match.type is not None


def _order(rules: list[Rule]) -> list[tuple[str, str]]:
    """Returns whom rules are about, in order; of several about the same layers the last."""
    return list(reversed(dict.fromkeys(_identity(rule) for rule in reversed(rules))))


def _specs(where: str, ours: Complete, theirs: Complete) -> list[Unmapped]:
    found = []
    for role, spec in ours.items():
        other = theirs[role]
        for name in _compared(spec, other):
            mine, written = getattr(spec, name), getattr(other, name)
            if mine != written:
                message, effect = f"{name} {told(mine)} cannot be said", f"the tool has {told(written)}"
                found.append(Unmapped(path=f"{where}.{role}.{name}", message=message, effect=effect))
    return found


def _compared(spec: QuantSpec, other: QuantSpec) -> tuple[str, ...]:
    """Returns the fields in which a difference changes something."""
    if not spec.is_integer and spec.format == other.format and spec.scale == other.scale == "float":
        return _FORMAT_ONLY if spec.format in ("float32", "float16", "bfloat16") else tuple(QuantSpec.model_fields)
    names = list(QuantSpec.model_fields)
    idle = {
        "fit": spec.symmetric is False and other.symmetric is False,
        "exponent": spec.scale == other.scale and spec.scale not in ("power_of_two", "e8m0"),
        "ema_decay": "ema" not in (spec.statistic, other.statistic),
    }
    if not spec.is_integer and spec.format == other.format:
        idle |= dict.fromkeys(("fit", "min_scale", "symmetric", "narrow_range", "rounding"), True)
        if spec.format in ("float32", "float16", "bfloat16"):
            return _FORMAT_ONLY
    if spec.scale == other.scale == "derived":
        idle |= dict.fromkeys(("fit", "min_scale", "granularity", "observer", "statistic", "exponent"), True)
    return tuple(name for name in names if not idle.get(name))


def told(value: Any) -> str:
    """Returns a value for a message."""
    if isinstance(value, tuple):
        return "[" + ", ".join(told(item) for item in value) + "]"
    name, params = getattr(value, "name", None), getattr(value, "params", None)
    return f"{name}{params or ''}" if name is not None and params is not None else str(value)
