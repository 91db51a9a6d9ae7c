"""Chains: how a spec comes about. Built-in base <- target <- config default <- each matching rule, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quantwright.config.config import QuantConfig, Source
from quantwright.config.spec import BASE_SPEC, QuantSpec, Role
from quantwright.plan.plan import PLAN, Reason, decider
from quantwright.targets import Target

Reasons = Mapping[str, tuple[Reason, ...]]
Steps = tuple[tuple[int, Role], ...]
"""(rule, which of its specs), in rule order."""

_BUILTIN = Source(kind="builtin", text="built-in default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chained:
    """Returns a complete spec and, per field, every value it had on the way; the last one won."""

    spec: QuantSpec
    reasons: Reasons

    def why(self, name: str) -> Source:
        """Returns where the deciding value of a field came from."""
        return decider(self.reasons[name])

    def set(self, name: str, value: object, text: str) -> Chained:
        """Returns the chain with one field decided by the plan itself."""
        reason = Reason(value=value, source=Source(kind="builtin", text=f"{PLAN}{text}"))
        return Chained(
            spec=self.spec.model_copy(update={name: value}),
            reasons={**self.reasons, name: (*self.reasons.get(name, ()), reason)},
        )


@dataclass(slots=True)
class Chains:
    """Returns the chains of one config on one target; equal questions are answered once.

    Attributes:
        used: (rule, role) of every rule spec that went into a chain.
    """

    config: QuantConfig
    target: Target
    used: set[tuple[int, Role]] = field(default_factory=set)
    _made: dict[tuple[Role, Steps], Chained] = field(default_factory=dict)
    _steps: dict[tuple[tuple[int, ...], tuple[Role, ...]], Steps] = field(default_factory=dict)
    _set: dict[tuple[int, str, str, str], tuple[Chained, Chained]] = field(default_factory=dict)

    def steps(self, rules: Sequence[int], *roles: Role) -> Steps:
        """Returns the specs that ``rules`` set for ``roles``."""
        key = (tuple(rules), roles)
        if key not in self._steps:
            all_rules = self.config.rules
            self._steps[key] = tuple((i, role) for i in rules for role in roles if all_rules[i].get(role) is not None)
        return self._steps[key]

    def chain(self, role: Role, steps: Steps = ()) -> Chained:
        """Returns the spec of ``role`` with rules on top."""
        self.used.update(steps)
        key = (role, steps)
        if key not in self._made:
            self._made[key] = self.over(self.chain(role), steps) if steps else self._default(role)
        return self._made[key]

    def set(self, base: Chained, name: str, value: object, text: str) -> Chained:
        """Returns ``base`` with one field decided by the plan itself; equal questions give the same object."""
        key = (id(base), name, str(value), text)
        if key not in self._set:
            self._set[key] = (base, base.set(name, value, text))
        return self._set[key][1]

    def over(self, base: Chained, steps: Steps) -> Chained:
        """Returns ``base`` with what rules set on top."""
        spec, reasons = base.spec, dict(base.reasons)
        for number, role in steps:
            rule = self.config.rules[number]
            part = rule.get(role)
            if part is not None:
                fallback = (
                    rule.source if rule.source.text or rule.source.file else Source(text=_rule_name(number, rule))
                )
                spec = self._put(spec, reasons, part, role, rule.field_sources, fallback, _rule_name(number, rule))
        return Chained(spec=spec, reasons=reasons)

    def _default(self, role: Role) -> Chained:
        reasons: dict[str, tuple[Reason, ...]] = {}
        spec = self._put(QuantSpec(), reasons, BASE_SPEC, role, {}, _BUILTIN, "")
        device = Source(kind="target", text=f"target {self.target.name}")
        part = self.target.defaults.get(role)
        if part is not None:
            spec = self._put(spec, reasons, part, role, {}, device, "")
        part = self.config.default.get(role)
        if part is not None:
            told = self.config.source
            asked = Source(text="default", file=told.file, line=told.line if told.kind == "python" else None)
            spec = self._put(spec, reasons, part, role, self.config.default_sources, asked, "default")
        return Chained(spec=spec, reasons=reasons)

    @staticmethod
    def _put(
        spec: QuantSpec,
        reasons: dict[str, tuple[Reason, ...]],
        part: QuantSpec,
        role: Role,
        sources: Mapping[str, Source],
        fallback: Source,
        text: str,
    ) -> QuantSpec:
        """Returns ``spec`` with the fields of ``part`` replaced, each step added to ``reasons``."""
        for name in part.fields_set():
            source = sources.get(f"{role}.{name}", fallback)
            if not source.text and text:
                source = source.model_copy(update={"text": text})
            reasons[name] = (*reasons.get(name, ()), Reason(value=getattr(part, name), source=source))
        return part.over(spec)


def _rule_name(number: int, rule: object) -> str:
    return f"rule {number + 1} ({getattr(rule, 'match', '')})"
