"""What a written strategy of vai_q_tensorflow2 does not say of a config: it is read back and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import BASE_SPEC, ROLES, QuantSpec, Role
from quantwright.errors import ConfigError, UnknownNameError

Read = Callable[[Document], "tuple[QuantConfig, list[Unmapped]]"]
Specs = Mapping[Role, QuantSpec]
_ENTRY = re.compile(r"layer_quantize_config\[(\d+)\]")


def complete(config: QuantConfig) -> dict[Role, QuantSpec]:
    """Returns complete specs by role: the built-in base, the target's defaults, the config's."""
    try:
        target = registry.load("targets", config.target).defaults if config.target else RoleSpecs()
    except UnknownNameError:
        target = RoleSpecs()
    empty = QuantSpec()
    found = {}
    for role in ROLES:
        spec = (target.get(role) or empty).over(BASE_SPEC)
        found[role] = (config.default.get(role) or empty).over(spec)
    return found


def differences(
    config: QuantConfig, specs: Specs, document: dict[str, Any], owners: Mapping[int, int], read: Read
) -> list[Unmapped]:
    """Returns what differs between a config and what the written document says."""
    try:
        back, _ = read(Document(value=document))
    except ConfigError as error:
        return [Unmapped(path=p.path, message=p.message, effect="the file is refused") for p in error.problems]
    found = _spec_differences("default", specs, complete(back))
    theirs = complete(back)
    order = []
    for rule in back.rules:
        at = _ENTRY.search(rule.source.path)
        index = owners.get(int(at.group(1))) if at else None
        if index is None:
            continue
        order.append(index)
        mine = config.rules[index]
        roles = [role for role in ROLES if mine.get(role) is not None]
        pair = [{role: (r.get(role) or QuantSpec()).over(b[role]) for role in roles}
                for r, b in ((mine, specs), (rule, theirs))]  # fmt: skip
        found += _spec_differences(f"rules[{index}]", *pair)
    found += _order(config, order)
    for name in ("target", "optimize", "refine", "calibration"):
        ours, written = getattr(config, name), getattr(back, name)
        if ours != written and not (name == "optimize" and ours is None and _same_steps(config, back)):
            message, effect = f"{name} {_told(ours)} cannot be said", f"the tool has {_told(written)}"
            found.append(Unmapped(path=name, message=message, effect=effect))
    return found


def _same_steps(config: QuantConfig, back: QuantConfig) -> bool:
    try:
        return bool(config.target and registry.load("targets", config.target).optimize == back.optimize)
    except UnknownNameError:
        return False


def _order(config: QuantConfig, order: list[int]) -> list[Unmapped]:
    """Returns a loss when the entries are not in the order of the rules."""
    if order == sorted(order):
        return []
    text = "the tool orders entries differently: classes first, then patterns, the larger ones last"
    return [Unmapped(path="rules", message=text, effect="where two of them meet, another one wins")]


def _spec_differences(where: str, ours: Specs, theirs: Specs) -> list[Unmapped]:
    found = []
    for role, spec in ours.items():
        other = theirs[role]
        names = ("format",) if not spec.is_integer and spec.format == other.format else tuple(QuantSpec.model_fields)
        for name in names:
            mine, written = getattr(spec, name), getattr(other, name)
            if mine != written and not _alike(name, spec, other):
                message, effect = f"{name} {_told(mine)} cannot be said", f"the tool has {_told(written)}"
                found.append(Unmapped(path=f"{where}.{role}.{name}", message=message, effect=effect))
    return found


def _alike(name: str, one: QuantSpec, two: QuantSpec) -> bool:
    """Returns whether a field that differs is read by neither spec."""
    if name == "exponent":
        return one.scale == two.scale == "float"
    if name == "ema_decay":
        return one.statistic != "ema" and two.statistic != "ema"
    return name == "fit" and one.symmetric is False and two.symmetric is False


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_told(item) for item in value) + "]"
    name, params = getattr(value, "name", None), getattr(value, "params", None)
    return f"{name}{params or ''}" if name is not None and params is not None else str(value)
