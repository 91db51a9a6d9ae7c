"""A plan as JSON and back, without loss and in a fixed order; and what changed between two plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from quantwright.config.config import Source
from quantwright.config.spec import ROLES, Granularity, ObserverSpec, QuantSpec
from quantwright.errors import ArtifactError
from quantwright.plan.plan import Decision, Plan, Point, ProductOf, Reason, Relation, SameAs, decider

VERSION = 1
_PLACES = ("tensor", "consumers")  # fields of a point that say where it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Returns one difference between two plans: a point, a field of it, and both values (None: not there).

    Attributes:
        before_source: what decided the value: the last step of its chain, or why the tensor stays float.
        after_source: the same of the other plan.
    """

    point: str
    field: str
    before: Any
    after: Any
    before_source: Source | None = None
    after_source: Source | None = None

    def __str__(self) -> str:
        one, two = (f" [{source}]" if source else "" for source in (self.before_source, self.after_source))
        return f"{self.point} {self.field}: {self.before}{one} -> {self.after}{two}"

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        sides = (("before", self.before, self.before_source), ("after", self.after, self.after_source))
        return {
            "point": self.point,
            "field": self.field,
            **{side: value for side, value, _ in sides},
            **{f"{side}_source": source_json(source) for side, _, source in sides},
        }


def source_json(source: Source | None) -> dict[str, Any] | None:
    """Returns what people and machines want to know of a source: its text, and file and line where it has them."""
    if source is None:
        return None
    return {"text": source.text or source.kind, "kind": source.kind, "file": source.file, "line": source.line}


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
            found.append(_difference(name, "point", present, (one, two)))
            continue
        left, right = _comparable(one), _comparable(two)
        for key in dict.fromkeys((*left, *right)):
            if left.get(key) != right.get(key):
                found.append(_difference(name, key, [left.get(key), right.get(key)], (one, two)))
    return found


def decided(found: Sequence[Difference]) -> list[Difference]:
    """Returns the differences people decide about: no names of nodes, and no settings of what is float in one plan."""
    left_out = {item.point for item in found if item.field == "format" and "float" in (item.before, item.after)}
    return [
        item
        for item in found
        if item.field not in _PLACES and (item.point not in left_out or item.field in ("format", "why_float"))
    ]


def _difference(name: str, key: str, values: Sequence[Any], sides: Sequence[Decision | None]) -> Difference:
    before, after = (_deciding(side, "format" if key == "point" else key) for side in sides)
    return Difference(
        point=name, field=key, before=values[0], after=values[1], before_source=before, after_source=after
    )


def _deciding(decision: Decision | None, key: str) -> Source | None:
    """Returns what decided a field, or None when nothing a rule could change did."""
    if decision is None:
        return None
    steps = decision.reasons.get("format" if key == "why_float" else key)
    if decision.spec is None and not (steps and steps[-1].value == "float32"):
        return Source(kind="builtin", text=decision.why_float) if key in ("format", "why_float") else None
    return decider(steps) if steps else None


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
