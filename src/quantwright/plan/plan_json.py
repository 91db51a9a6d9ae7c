"""A plan as JSON and back, without loss and in a fixed order; and what changed between two plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from quantwright.config.config import Source
from quantwright.config.spec import ROLES, Granularity, ObserverSpec, QuantSpec
from quantwright.errors import ArtifactError
from quantwright.plan.plan import Decision, Plan, Point, ProductOf, Reason, Relation, SameAs

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Returns one difference between two plans: a point, a field of it, and both values (None: not there)."""

    point: str
    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.point} {self.field}: {self.before} -> {self.after}"

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"point": self.point, "field": self.field, "before": self.before, "after": self.after}


def to_json(plan: Plan) -> dict[str, Any]:
    """Returns the plan as plain JSON values; equal plans give equal text."""
    sources: dict[str, int] = {}
    decisions = [_decision(decision, sources) for decision in plan.decisions]
    return {
        "version": VERSION,
        "model": plan.model,
        "target": plan.target,
        "decisions": decisions,
        "sources": [Source.model_validate_json(text).model_dump(exclude_defaults=True) for text in sources],
        "notes": list(plan.notes),
        "warnings": list(plan.warnings),
    }


def from_json(data: Mapping[str, Any]) -> Plan:
    """Returns the plan that ``to_json`` wrote.

    Raises:
        ArtifactError: it is not one, or of another version.
    """
    version = data.get("version") if isinstance(data, Mapping) else None
    if version != VERSION:
        raise ArtifactError(
            f"a plan of version {version!r} cannot be read", allowed=f"version {VERSION}", fix="prepare the model again"
        )
    try:
        sources = tuple(Source.model_validate(source) for source in data["sources"])
        known: dict[str, QuantSpec] = {}
        plan = Plan(
            model=_text(data["model"]),
            target=_text(data["target"]),
            decisions=tuple(_read_decision(item, sources, known) for item in data["decisions"]),
            notes=tuple(_text(note) for note in data["notes"]),
            warnings=tuple(_text(warning) for warning in data["warnings"]),
        )
        _check_relations(plan)
        return plan
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise ArtifactError(f"not a plan: {error!r}", fix="prepare the model again") from error


def diff(before: Plan, after: Plan) -> list[Difference]:
    """Returns what changed between two plans, point by point: new and gone points, and every changed field."""
    found = []
    names = dict.fromkeys(d.point.name for plan in (before, after) for d in plan.decisions)
    for name in names:
        one, two = before.by_name.get(name), after.by_name.get(name)
        if one is None or two is None:
            present = [None if d is None else ("float" if d.spec is None else d.spec.format) for d in (one, two)]
            found.append(Difference(point=name, field="point", before=present[0], after=present[1]))
            continue
        left, right = _comparable(one), _comparable(two)
        for key in dict.fromkeys((*left, *right)):
            if left.get(key) != right.get(key):
                found.append(Difference(point=name, field=key, before=left.get(key), after=right.get(key)))
    return found


def _comparable(decision: Decision) -> dict[str, Any]:
    """Returns everything about a decision but its reasons."""
    spec = {} if decision.spec is None else decision.spec.to_json()
    format_ = "float" if decision.spec is None else spec.pop("format", None)
    return {
        "format": format_,
        **spec,
        "relation": _relation(decision.relation),
        "why_float": decision.why_float,
        "redundant": decision.redundant,
        "role": decision.point.role,
        "tensor": decision.point.tensor,
        "consumers": list(decision.point.consumers),
    }


def _decision(decision: Decision, sources: dict[str, int]) -> dict[str, Any]:
    point = decision.point
    return {
        "point": {
            "name": point.name,
            "role": point.role,
            "node": point.node,
            "tensor": point.tensor,
            "consumers": list(point.consumers),
        },
        "spec": None if decision.spec is None else decision.spec.to_json(),
        "reasons": {
            name: [
                [_value(step.value), sources.setdefault(step.source.model_dump_json(), len(sources))] for step in steps
            ]
            for name, steps in decision.reasons.items()
        },
        "relation": _relation(decision.relation),
        "why_float": decision.why_float,
        "redundant": decision.redundant,
    }


def _relation(relation: Relation | None) -> dict[str, str] | None:
    if isinstance(relation, SameAs):
        return {"same_as": relation.point, "why": relation.why}
    if isinstance(relation, ProductOf):
        return {"input": relation.input, "weight": relation.weight}
    return None


def _value(value: Any) -> Any:
    if isinstance(value, (Granularity, ObserverSpec)):
        return value.model_dump(exclude_none=True)
    return value


def _read_decision(item: Mapping[str, Any], sources: tuple[Source, ...], known: dict[str, QuantSpec]) -> Decision:
    point = item["point"]
    if point["role"] not in ROLES:
        raise ValueError(f"role {point['role']!r}")
    return Decision(
        point=Point(
            name=_text(point["name"]),
            role=point["role"],
            node=_text(point["node"]),
            tensor=_text(point["tensor"]),
            consumers=tuple(_text(name) for name in point["consumers"]),
        ),
        spec=None if item["spec"] is None else _read_spec(item["spec"], known),
        reasons={
            name: tuple(Reason(value=_read_value(name, value, known), source=sources[at]) for value, at in steps)
            for name, steps in item["reasons"].items()
        },
        relation=_read_relation(item["relation"]),
        why_float=_text(item["why_float"]),
        redundant=bool(item["redundant"]),
    )


def _read_relation(item: Mapping[str, str] | None) -> Relation | None:
    if item is None:
        return None
    if "same_as" in item:
        return SameAs(point=_text(item["same_as"]), why=_text(item["why"]))
    return ProductOf(input=_text(item["input"]), weight=_text(item["weight"]))


def _read_spec(fields: Any, known: dict[str, QuantSpec]) -> QuantSpec:
    """Returns a (partial) spec; ``known`` holds those that were read already, a plan repeats few."""
    key = repr(fields)
    if key not in known:
        known[key] = QuantSpec.model_validate(fields)
    return known[key]


def _read_value(name: str, value: Any, known: dict[str, QuantSpec]) -> Any:
    """Returns the value of a spec field, as the spec holds it."""
    if name not in QuantSpec.model_fields:
        raise ValueError(f"field {name!r}")
    return getattr(_read_spec({name: value}, known), name)


def _check_relations(plan: Plan) -> None:
    """Raises ValueError when a relation leads nowhere or in a circle, or two points have one name."""
    if len(plan.by_name) != len(plan.decisions):
        raise ValueError("two points have the same name")
    for decision in plan.decisions:
        seen: set[str] = set()
        name, relation = decision.point.name, decision.relation
        while isinstance(relation, SameAs):
            if name in seen:
                raise ValueError(f"the relations of '{decision.point.name}' go in a circle")
            seen.add(name)
            name = relation.point
            relation = plan[name].relation
        if isinstance(relation, ProductOf) and not {relation.input, relation.weight} <= plan.by_name.keys():
            raise ValueError(f"'{name}' is the product of points that are not there")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
