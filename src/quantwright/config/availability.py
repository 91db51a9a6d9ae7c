"""Availability: what a config names that is known (``known.py``) and has no plug-in in this version. No torch."""

from __future__ import annotations

from quantwright import registry
from quantwright.config.config import QuantConfig, Step
from quantwright.config.known import known
from quantwright.config.spec import ROLES, QuantSpec, Role

_WHAT = {"passes": "pass", "algorithms": "algorithm"}


def missing(kind: str) -> set[str]:
    """Returns the known names of a kind for which there is no plug-in."""
    names = set(known(kind))
    return names - set(registry.names(kind)) if kind in registry.KINDS else names


def _is_missing(kind: str, name: str | None) -> bool:
    """Returns whether a name is known and has no plug-in; the folder is looked into only for names that are known."""
    return name in known(kind) and name in missing(kind)


def spec_faults(spec: QuantSpec, role: Role, derived: bool = False) -> list[tuple[str, str]]:
    """Returns (field, what is not available yet) for a spec.

    Args:
        derived: its QParams are those of other points, so no observer chooses them.
    """
    found = []
    if _is_missing("formats", spec.format):
        found.append(("format", f"format {spec.format} ({known('formats')[spec.format or '']})"))
        return found
    if spec.format is not None and not spec.has_scale:
        return found
    names = (("observer", "observers", spec.observer), ("fake_quant", "fakequant", spec.fake_quant))
    for field, kind, named in names:
        if named is not None and _is_missing(kind, named.name) and not (derived and field == "observer"):
            found.append((field, f"{field.replace('_', ' ')} '{named.name}' ({known(kind)[named.name]})"))
    if spec.scale is not None and spec.scale in known("scale"):
        found.append(("scale", f"scale {spec.scale} ({known('scale')[spec.scale]})"))
    granularity = spec.granularity.kind if spec.granularity is not None else "per_tensor"
    runs = granularity in ("per_token", "per_group") or spec.is_scaled
    if spec.dynamic and role in ("input", "output") and not runs:
        what = f"dynamic QParams of a granularity {granularity} (those of tokens and groups run)"
        found.append(("dynamic", what))
    return found


def step_fault(kind: str, step: Step) -> str:
    """Returns what to say about a step that is not available yet."""
    return f"{_WHAT[kind]} '{step.name}' is known and not available yet: {known(kind)[step.name]}"


def not_yet(config: QuantConfig) -> tuple[str, ...]:
    """Returns everything a config names that is not available yet, once each, with where it was asked for."""
    found: dict[str, None] = {}
    for kind, steps in (("passes", config.optimize or ()), ("algorithms", config.refine)):
        found.update(dict.fromkeys(step_fault(kind, step) for step in steps if _is_missing(kind, step.name)))
    faults: dict[tuple[int, Role], list[tuple[str, str]]] = {}  # a reader gives equal specs as one object
    parts = [("default", config.default), *((f"rules[{i}]", rule) for i, rule in enumerate(config.rules))]
    for where, specs in parts:
        for role in ROLES:
            spec = specs.get(role)
            if spec is None:
                continue
            if (id(spec), role) not in faults:
                faults[id(spec), role] = spec_faults(spec, role)
            for _, what in faults[id(spec), role]:
                found[f"{what} is known and not available yet ({where}.{role})"] = None
    return tuple(found)
