"""What differs between two configurations, without a model: defaults per role, then rule by rule, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, Rule, Source
from quantwright.config.spec import ROLES, Role
from quantwright.plan.chain import Chained, Chains
from quantwright.plan.plan import decider
from quantwright.plan.plan_json import Difference

Key = tuple[str, int]
_FLAGS = ("exclude", "include", "share", "if_unmatched")
_WHOLE = ("target", "optimize", "refine", "calibration")


@dataclass(slots=True)
class _Side:
    """Returns one configuration: its chains, and its rules by what they match (the second of two equal ones counts)."""

    config: QuantConfig
    chains: Chains
    rules: dict[Key, int] = field(default_factory=dict)

    @classmethod
    def of(cls, config: QuantConfig) -> _Side:
        target = registry.load("targets", config.target or "generic")
        side = cls(config=config, chains=Chains(config=config, target=target))
        seen: Counter[str] = Counter()
        for number, rule in enumerate(config.rules):
            text = str(rule.match)
            side.rules[text, seen[text]] = number
            seen[text] += 1
        return side

    def rule(self, key: Key) -> Rule | None:
        """Returns the rule, or None when this side has none such."""
        return self.config.rules[self.rules[key]] if key in self.rules else None

    def chain(self, role: Role, key: Key | None = None) -> Chained:
        """Returns the spec of a role by default, or with one rule on top of that."""
        rule = self.rule(key) if key is not None else None
        if rule is None or key is None or rule.get(role) is None:
            return self.chains.chain(role)
        return self.chains.chain(role, ((self.rules[key], role),))


def diff_configs(before: QuantConfig, after: QuantConfig) -> list[Difference]:
    """Returns what differs between two configurations; ``point`` is the configuration, a default or a rule.

    Specs are compared as they come about: a rule on top of the defaults, those on top of the target's. A rule that
    only one side has is compared with what the other does by default.
    """
    one, two = _Side.of(before), _Side.of(after)
    found = [*_whole(before, after)]
    for role in ROLES:
        found += _specs(f"default {role}", one.chain(role), two.chain(role))
    for key in dict.fromkeys((*one.rules, *two.rules)):
        found += _rule(key, one, two)
    return found + _order(one, two)


def _whole(before: QuantConfig, after: QuantConfig) -> list[Difference]:
    """Returns what differs beside rules and specs."""
    found = []
    for name in _WHOLE:
        left, right = (_told(getattr(config, name)) for config in (before, after))
        if left != right:
            found.append(
                Difference(
                    point="configuration",
                    field=name,
                    before=left,
                    after=right,
                    before_source=_named(before, name),
                    after_source=_named(after, name),
                )  # fmt: skip
            )
    return found


def _rule(key: Key, one: _Side, two: _Side) -> list[Difference]:
    """Returns what differs for one rule: that it is there, its flags, its specs."""
    left, right = one.rule(key), two.rule(key)
    name = f"rule ({key[0]})" + (f" #{key[1] + 1}" if key[1] else "")
    sources = [None if rule is None else rule.source for rule in (left, right)]
    found = []
    for flag in _FLAGS:
        values = [None if rule is None else getattr(rule, flag) for rule in (left, right)]
        asked = [value for value in values if value not in (None, False, "error")]
        if values[0] != values[1] and asked and not (flag == "if_unmatched" and None in values):
            found.append(_difference(name, flag, values, sources))
    for role in ROLES:
        names = {n for rule in (left, right) if rule is not None for n in _set(rule, role)}
        found += _specs(f"{name} {role}", one.chain(role, key), two.chain(role, key), names)
    if not found and (left is None or right is None):
        said = [None if rule is None else "sets what is the default anyway" for rule in (left, right)]
        found.append(_difference(name, "rule", said, sources))
    return found


def _set(rule: Rule, role: Role) -> tuple[str, ...]:
    spec = rule.get(role)
    return spec.fields_set() if spec is not None else ()


def _specs(name: str, one: Chained, two: Chained, names: set[str] | None = None) -> list[Difference]:
    """Returns the fields that differ between two complete specs, all or those in ``names``."""
    left, right = one.spec.to_json(), two.spec.to_json()
    return [
        _difference(name, key, [left.get(key), right.get(key)], [_why(one.reasons, key), _why(two.reasons, key)])
        for key in dict.fromkeys((*left, *right))
        if left.get(key) != right.get(key) and (names is None or key in names)
    ]


def _why(reasons: Mapping[str, Any], key: str) -> Source | None:
    return decider(reasons[key]) if reasons.get(key) else None


def _order(one: _Side, two: _Side) -> list[Difference]:
    """Returns the difference in the order of the rules that both have: the last one that matches wins."""
    left, right = ([key for key in side.rules if key in other.rules] for side, other in ((one, two), (two, one)))
    if left == right:
        return []
    values = [[text for text, _ in keys] for keys in (left, right)]
    return [_difference("rules", "order", values, [side.config.source for side in (one, two)])]


def _difference(point: str, name: str, values: list[Any], sources: list[Source | None]) -> Difference:
    return Difference(
        point=point, field=name, before=values[0], after=values[1], before_source=sources[0], after_source=sources[1]
    )


def _named(config: QuantConfig, name: str) -> Source:
    whole = config.source
    return config.default_sources.get(name, Source(kind=whole.kind, text=name, file=whole.file))


def _told(value: Any) -> Any:
    """Returns a target, steps or calibration as plain values."""
    if isinstance(value, tuple):
        return [{step.name: step.params} if step.params else step.name for step in value]
    return value.model_dump() if hasattr(value, "model_dump") else value
