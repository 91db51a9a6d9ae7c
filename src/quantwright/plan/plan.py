"""Plan: what was decided. One frozen Decision per quantization point, every field with its chain of reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.config import Source
from quantwright.config.spec import QuantSpec, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Returns one place where a tensor is quantized.

    Attributes:
        name: stable and readable: the parameter's name (``conv1.weight``), ``<label>:output`` for the value a node
            produces, ``<label>:input`` / ``<label>:input.1`` for what a consumer sees on one edge only, and
            ``<input>:input`` for an input of the network.
        role: whose spec decided it.
        node: the graph node it belongs to (whose weight, whose output, or the consumer for an input point).
        tensor: the value: a parameter name for weight and bias, else the name of the node that produces it.
        consumers: node names that read the quantized value; empty means all of them.
    """

    name: str
    role: Role
    node: str
    tensor: str
    consumers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Returns one step in how a field got its value."""

    value: Any
    source: Source

    def __str__(self) -> str:
        return f"{self.value} <- {self.source}"


PLAN = "plan: "  # how the source begins of what the plan itself fills in


def decider(steps: Sequence[Reason]) -> Source:
    """Returns where a field was decided: its last step that is not the plan's completion of the one before."""
    asked = [step for step in steps if not (step.source.kind == "builtin" and step.source.text.startswith(PLAN))]
    return (asked or steps)[-1].source


@dataclass(frozen=True, slots=True, kw_only=True)
class SameAs:
    """Relation: uses the QParams of another point (concat, pool, reshape ...)."""

    point: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductOf:
    """Relation: scale = scale(input) * scale(weight), zero point 0 (int32 bias)."""

    input: str
    weight: str


Relation = SameAs | ProductOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Returns what one point gets: a complete spec, or None with the reason why it stays float."""

    point: Point
    spec: QuantSpec | None
    reasons: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)  # field -> oldest first, last one wins
    relation: Relation | None = None
    why_float: str = ""
    redundant: bool = False  # the value is on this grid already (movement after a quantized value): simulation skips it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Returns every decision for a model, in execution order."""

    model: str
    target: str
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    by_name: Mapping[str, Decision] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {decision.point.name: decision for decision in self.decisions})

    def __getitem__(self, name: str) -> Decision:
        return self.by_name[name]

    def root(self, name: str) -> Decision:
        """Returns the decision whose QParams the point ``name`` uses: its own, or where its SameAs relations lead."""
        decision = self.by_name[name]
        while isinstance(decision.relation, SameAs):
            decision = self.by_name[decision.relation.point]
        return decision

    def quantized(self) -> tuple[Decision, ...]:
        """Returns the decisions that quantize something."""
        return tuple(d for d in self.decisions if d.spec is not None and d.spec.format != "float32")
