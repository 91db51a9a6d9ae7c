"""Context: what every part of the resolution reads, and where it leaves decisions, notes and problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from quantwright.config import kinds
from quantwright.config.config import QuantConfig
from quantwright.config.spec import FLOAT_FORMATS, Role
from quantwright.plan.chain import Chained, Chains
from quantwright.plan.checks import Legality
from quantwright.plan.ends import Ends
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.plan.groups import Groups
from quantwright.plan.match import Matches, rule_text
from quantwright.plan.plan import Decision, Point, Reason, Relation
from quantwright.targets import Target

EXCLUDED = "excluded by"  # how the reason begins of what a rule leaves float
_WHY = {  # kind -> what it is, for people
    "norm_part": "part of a normalization written by hand",
    "activation_part": "part of an activation function written by hand",
    "mask": "holds a mask near minus infinity, beside which one step of a grid would hide every other value",
    "divisor": "a divisor that a tiny number keeps from zero, to which a grid would round it",
    "angle": "an angle that sine and cosine read, which rounding would shift",
}


@dataclass(slots=True)
class Context:
    """Returns the question (config, facts, target), what was found on the way, and the answer so far.

    Attributes:
        excluded: node name -> the rule that leaves it float.
        included: node name -> the rule that quantizes it whatever its kind.
        ends: the first and last layers, where the target makes a difference.
        labels: node name -> how its points are called; unique.
        of_value: node name -> the decision about the value it produces.
        effect: (rule, role) pairs that changed something; ``exclude`` counts by its own name.
    """

    config: QuantConfig
    facts: ModelFacts
    target: Target
    matches: Matches
    excluded: Mapping[str, int]
    included: Mapping[str, int]
    chains: Chains
    groups: Groups
    legality: Legality
    labels: Mapping[str, str]
    ends: Ends = field(default_factory=Ends)
    of_value: dict[str, Decision] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    shared: set[tuple[int, str]] = field(default_factory=set)  # (rule, node) whose output uses another one's grid

    def rules(self, *names: str) -> tuple[int, ...]:
        """Returns the rules that match any of these nodes, in rule order."""
        if len(names) == 1:
            return self.matches.of_node.get(names[0], ())
        return tuple(sorted({rule for name in names for rule in self.matches.of_node.get(name, ())}))

    def rule_text(self, number: int) -> str:
        """Returns how people are told about a rule."""
        return rule_text(number, self.config.rules[number])

    def note(self, text: str) -> None:
        """Adds a note, once."""
        self.notes[text] = None

    def why_excluded(self, name: str) -> str:
        """Returns why an excluded node is float."""
        return f"{EXCLUDED} {self.rule_text(self.excluded[name])}"

    def why_kind(self, node: NodeFacts) -> str:
        """Returns why an operation that the target does not quantize is float."""
        if node.kind == kinds.UNSEEN:
            what = node.origins[0].function if node.origins else node.name
            return f"{what} is not seen by capture='modules', which quantizes modules of one known operation"
        if node.kind in _WHY:
            return f"{_WHY[node.kind]}, computed in float on target {self.target.name}"
        if node.kind == "other" and node.origins and node.origins[0].aten:
            return f"{node.origins[0].aten} is computed in float on target {self.target.name}"
        return f"{node.kind} is computed in float on target {self.target.name}"

    def unique(self, name: str) -> str:
        """Returns ``name``, or with a number when a point is called so already."""
        candidate, count = name, 1
        while candidate in self.taken:
            count += 1
            candidate = f"{name}#{count}"
        self.taken.add(candidate)
        return candidate

    def leave_float(self, point: Point, why: str, chained: Chained | None = None) -> Decision:
        """Returns the decision, now recorded, that a tensor stays float."""
        reasons = chained.reasons if chained is not None else self._excluding(point, why)
        return self.record(Decision(point=point, spec=None, reasons=reasons, why_float=why))

    def _excluding(self, point: Point, why: str) -> Mapping[str, tuple[Reason, ...]]:
        """Returns the candidates for the format of a tensor that a rule leaves float: other rules, then that one."""
        number = self.excluded.get(point.node)
        if number is None or not why.startswith(EXCLUDED):
            return {}
        usual = self.chains.chain(point.role)
        steps = list(usual.reasons["format"])
        for other in self.rules(point.node):
            part, source = self.config.rules[other].get(point.role), self.config.rules[other].source
            if part is not None:
                text = source.text or self.rule_text(other)
                source = self.config.rules[other].field_sources.get(f"{point.role}.format", source)
                steps.append(
                    Reason(value=part.format or usual.spec.format, source=source.model_copy(update={"text": text}))
                )
        rule = self.config.rules[number]
        text = rule.source.text or f"rule {number + 1} ({rule.match})"
        return {"format": (*steps, Reason(value="float32", source=rule.source.model_copy(update={"text": text})))}

    def quantize(
        self, point: Point, chained: Chained, relation: Relation | None = None, redundant: bool = False
    ) -> Decision:
        """Returns the decision, now recorded, that a tensor gets a spec."""
        decision = Decision(
            point=point, spec=chained.spec, reasons=chained.reasons, relation=relation, redundant=redundant
        )
        return self.record(decision)

    def record(self, decision: Decision) -> Decision:
        """Returns the decision it recorded."""
        self.decisions.append(decision)
        return decision


def unique_labels(facts: ModelFacts) -> dict[str, str]:
    """Returns how the points of every node are called: its label, and ``label/node`` when several nodes share it."""
    count = Counter(node.label for node in facts.nodes)
    return {node.name: node.label if count[node.label] == 1 else f"{node.label}/{node.name}" for node in facts.nodes}


def float_format(chained: Chained) -> str | None:
    """Returns why a spec with format float32 leaves its tensor float, or None."""
    if chained.spec.format != "float32":
        return None
    return f"format float32 ({chained.why('format')})"


def is_cast(chained: Chained) -> bool:
    """Returns whether a spec is a cast to a narrower float format."""
    return chained.spec.format in FLOAT_FORMATS and chained.spec.format != "float32"


def fill_axis(chains: Chains, chained: Chained, role: Role, axis: int | None, what: str) -> Chained:
    """Returns the spec with the axis of its granularity filled in, when it has one and nobody chose it."""
    granularity = chained.spec.granularity
    if granularity is None or granularity.axis is not None or granularity.kind in ("per_tensor", "per_token"):
        return chained
    if axis is None:
        return chained
    return chains.set(chained, "granularity", granularity.model_copy(update={"axis": axis}), f"{what} is axis {axis}")
