"""What differs between a config and what a written document says when it is read back, for both tools' writers."""

from __future__ import annotations

from collections.abc import Mapping

from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Rule, Unmapped
from quantwright.config.spec import BASE_SPEC, ROLES, QuantSpec, Role
from quantwright.errors import UnknownNameError
from quantwright.targets import Target

_NEVER_READ = {"weight": ("statistic", "ema_decay", "dynamic"), "bias": ("statistic", "ema_decay", "dynamic")}


def target_of(name: str | None) -> Target | None:
    """Returns a target, or None when there is none of that name."""
    try:
        return registry.load("targets", name or "generic")  # type: ignore[no-any-return]
    except UnknownNameError:
        return None


def complete(config: QuantConfig) -> dict[Role, QuantSpec]:
    """Returns complete specs: the built-in base, the target's defaults, the config's."""
    target = target_of(config.target)
    given = RoleSpecs() if target is None else target.defaults
    empty = QuantSpec()
    return {
        role: (config.default.get(role) or empty).over((given.get(role) or empty).over(BASE_SPEC)) for role in ROLES
    }


def differences(config: QuantConfig, back: QuantConfig, lost: set[int]) -> list[Unmapped]:
    """Returns what a written document says otherwise than the config.

    Args:
        back: what reading the document gave.
        lost: numbers of the rules that were not written, and are told about already.
    """
    mine, theirs = complete(config), complete(back)
    found = spec_differences("default", mine, theirs)
    kept = [(index, rule) for index, rule in enumerate(config.rules) if index not in lost]
    if sorted(_identity(rule) for _, rule in kept) != sorted(_identity(rule) for rule in back.rules):
        text = "the rules that come back are not those that went in"
        found.append(Unmapped(path="rules", message=text, effect="some layers get other settings"))
    elif [_identity(rule) for _, rule in kept] != [_identity(rule) for rule in back.rules]:
        text = "the tool has an order of its own: exclusions, then additions, then types, then names"
        found.append(Unmapped(path="rules", message=text, effect="where two rules are about one layer another can win"))
    twins = list(back.rules)
    for index, rule in kept:
        twin = next((other for other in twins if _identity(other) == _identity(rule)), None)
        if twin is None:
            continue
        twins.remove(twin)
        roles = [role for role in ROLES if rule.get(role) is not None or twin.get(role) is not None]
        pair = [{role: _over(r, role, base) for role in roles} for r, base in ((rule, mine), (twin, theirs))]
        found += spec_differences(f"rules[{index}]", *pair)
    return [*found, *_whole(config, back)]


def _whole(config: QuantConfig, back: QuantConfig) -> list[Unmapped]:
    """Returns what differs in target, passes, algorithms and calibration."""
    found = []
    one, two = target_of(config.target), target_of(back.target)
    pairs = {
        "target": (config.target, back.target),
        "optimize": (
            config.optimize if config.optimize is not None or one is None else one.optimize,
            back.optimize if back.optimize is not None or two is None else two.optimize,
        ),
        "refine": (config.refine, back.refine),
        "calibration": (
            config.calibration or (one.calibration if one is not None else None),
            back.calibration or (two.calibration if two is not None else None),
        ),
    }
    for name, (ours, written) in pairs.items():
        if ours != written:
            message, effect = f"{name} {told(ours)} cannot be said", f"the tool has {told(written)}"
            found.append(Unmapped(path=name, message=message, effect=effect))
    return found


def spec_differences(where: str, ours: Mapping[Role, QuantSpec], theirs: Mapping[Role, QuantSpec]) -> list[Unmapped]:
    """Returns every field of complete specs that differs and is read, by role."""
    found = []
    for role, spec in ours.items():
        other = theirs[role]
        casts = not spec.is_integer and spec.format == other.format
        for name in ("format",) if casts else tuple(QuantSpec.model_fields):
            if name in _NEVER_READ.get(role, ()) or not (_read(spec, name) or _read(other, name)):
                continue
            mine, written = getattr(spec, name), getattr(other, name)
            if mine != written:
                message, effect = f"{name} {told(mine)} cannot be said", f"the tool has {told(written)}"
                found.append(Unmapped(path=f"{where}.{role}.{name}", message=message, effect=effect))
    return found


def _read(spec: QuantSpec, name: str) -> bool:
    """Returns whether a field of a complete spec means anything."""
    if name == "ema_decay":
        return spec.statistic == "ema"
    if name == "exponent":
        return spec.scale == "power_of_two"
    if name in ("fit", "narrow_range"):
        return spec.symmetric is not False
    if spec.scale == "derived":
        return name in ("format", "scale", "symmetric", "rounding", "fake_quant")
    return True


def _over(rule: Rule, role: Role, base: Mapping[Role, QuantSpec]) -> QuantSpec:
    return (rule.get(role) or QuantSpec()).over(base[role])


def _identity(rule: Rule) -> str:
    """Returns what a rule is about and does, without how: equal for a rule and what comes back of it."""
    said = rule.match.model_dump(exclude_none=True)
    return f"{said} {'exclude' if rule.exclude else 'include' if rule.include else 'set'} {rule.share}"


def told(value: object) -> str:
    """Returns a value for a message."""
    if isinstance(value, tuple):
        return "[" + ", ".join(told(item) for item in value) + "]"
    name, params = getattr(value, "name", None), getattr(value, "params", None)
    return f"{name}{params or ''}" if name is not None and params is not None else str(value)
