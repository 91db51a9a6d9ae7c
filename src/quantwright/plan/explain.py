"""Explain: per tensor what was decided and, field by field, how it came about; and what stays float, and why."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantwright.errors import UnknownNameError, did_you_mean
from quantwright.plan.plan import Decision, Plan, ProductOf, Reason, SameAs

_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Returns one decision in words.

    Attributes:
        summary: ``int8, per_channel(axis 0), symmetric ...``, or ``float32``.
        fields: field -> the candidates for its value, oldest first, the last one won; empty for a tensor that no spec
            was looked up for.
        relation: whose scale it uses, "" for its own.
        why_float: why it is not quantized, "" when it is.
    """

    point: str
    role: str
    summary: str
    fields: Mapping[str, tuple[Reason, ...]]
    relation: str = ""
    why_float: str = ""
    redundant: bool = False

    def render(self) -> str:
        """Returns the explanation as lines of text."""
        lines = [f"{self.point} ({self.role}): {self.summary}"]
        if self.why_float:
            lines.append(f"  stays float: {self.why_float}")
        if self.relation:
            lines.append(f"  {self.relation}" + (" (its values are on that grid already)" if self.redundant else ""))
        width = max((len(name) for name in self.fields), default=0)
        for name, reasons in self.fields.items():
            won, *lost = (f"{_value(step.value)} [{step.source}]" for step in reversed(reasons))
            over = f"  won over  {'  over  '.join(lost)}" if lost else ""
            lines.append(f"  {name:<{width}}  {won}{over}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values; the steps of a field are the candidates, oldest first: the last one won."""
        return {
            "point": self.point,
            "role": self.role,
            "summary": self.summary,
            "fields": {
                name: [
                    {"value": _plain(step.value), "source": str(step.source), "file": step.source.file,
                     "line": step.source.line, "won": step is reasons[-1]}
                    for step in reasons
                ]
                for name, reasons in self.fields.items()
            },
            "relation": self.relation,
            "why_float": self.why_float,
            "redundant": self.redundant,
        }  # fmt: skip


def explain(plan: Plan, pattern: str | None = None) -> list[Explanation]:
    """Returns the explanations of all points, or of those a name or glob is about, in execution order.

    A pattern is the name of a point (``conv1.weight``, ``layer1.0.relu:output``), of what it belongs to (``conv1``: its
    weight, bias, inputs and output), or a glob over point names.

    Raises:
        UnknownNameError: nothing fits; the nearest names are told.
    """
    chosen = plan.decisions if pattern is None else tuple(d for d in plan.decisions if _fits(d.point.name, pattern))
    if pattern is not None and not chosen:
        names = [decision.point.name for decision in plan.decisions]
        near = did_you_mean(pattern, names) or did_you_mean(pattern, {_owner(name) for name in names})
        raise UnknownNameError(
            f"no point of the plan is called '{pattern}'",
            where=plan.model,
            allowed=f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''}, or a glob over these",
            fix=near,
        )
    return [_explain(decision) for decision in chosen]


def render(explanations: Sequence[Explanation]) -> str:
    """Returns explanations as text, one paragraph per point."""
    return "\n\n".join(explanation.render() for explanation in explanations)


def to_json(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """Returns explanations as plain JSON values."""
    return [explanation.to_json() for explanation in explanations]


def _fits(name: str, pattern: str) -> bool:
    if _GLOB.search(pattern):
        return fnmatch.fnmatchcase(name, pattern)
    return name == pattern or _owner(name) == pattern


def _owner(name: str) -> str:
    """Returns what a point belongs to: ``conv1`` for conv1.weight, conv1:output and conv1:input.1."""
    return name.partition(":")[0] if ":" in name else name.rpartition(".")[0]


def _explain(decision: Decision) -> Explanation:
    return Explanation(
        point=decision.point.name,
        role=decision.point.role,
        summary=_summary(decision),
        fields=decision.reasons,
        relation=_relation(decision),
        why_float=decision.why_float,
        redundant=decision.redundant,
    )


def _summary(decision: Decision) -> str:
    spec = decision.spec
    if spec is None:
        return "float"
    if not spec.has_scale:
        return f"{spec.format} (a cast)"
    zero = "no zero point" if spec.is_scaled else "symmetric" if spec.symmetric else "asymmetric"
    parts = [spec.format, str(spec.granularity), zero, f"scale {spec.scale}", f"rounding {spec.rounding}"]
    if decision.relation is None:
        parts.append(f"range by {spec.observer}")
    return ", ".join(str(part) for part in parts)


def _relation(decision: Decision) -> str:
    relation = decision.relation
    if isinstance(relation, SameAs):
        return f"uses the scale of '{relation.point}'" + (f": {relation.why}" if relation.why else "")
    if isinstance(relation, ProductOf):
        return f"scale = scale of '{relation.input}' * scale of '{relation.weight}', zero point 0"
    return ""


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
