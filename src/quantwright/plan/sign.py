"""Signs: whether a symmetric activation is signed or unsigned, where the config leaves its format open.

An unsigned symmetric grid begins at zero and cuts what is below; a signed one spends half of its integers below zero.
So a value that cannot be negative gets the unsigned format and every other value the signed one, of the same width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quantwright.config import kinds
from quantwright.plan.chain import Chained, Chains
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.targets import Target

_NEVER_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softmax")
_AS_THEIR_INPUTS = (*kinds.POOL_AVERAGE, *kinds.JOIN)  # no more negative than what they read
_OF_TWO = ("add", "mul", "maximum", "minimum")  # the same, when both operands are known: a constant is not


def never_negative(facts: ModelFacts) -> frozenset[str]:
    """Returns the nodes whose values cannot be below zero, whatever the network reads."""
    found: set[str] = set()
    for node in facts.nodes:
        if node.kind in _NEVER_NEGATIVE or (_keeps_sign(node) and all(name in found for name in node.inputs)):
            found.add(node.name)
    return frozenset(found)


def _keeps_sign(node: NodeFacts) -> bool:
    if node.kind in _OF_TWO:
        return len(node.inputs) == 2
    return bool(node.inputs) and (node.keeps_grid or node.kind in _AS_THEIR_INPUTS)


@dataclass(slots=True)
class Signs:
    """Returns what decides the sign of an activation's format.

    Attributes:
        open: heads of the groups whose sign was decided here, and not asked for.
    """

    target: Target
    chains: Chains
    facts: ModelFacts
    open: set[str] = field(default_factory=set)
    _positive: frozenset[str] | None = None

    def choose(self, head: str, host: str, chained: Chained) -> Chained:
        """Returns the spec with the format's sign chosen by the values of ``host``, where nobody asked for a format."""
        spec = chained.spec
        asked = chained.why("format").kind not in ("builtin", "target")
        if self.target.sign == "fixed" or asked or not spec.is_integer or spec.symmetric is not True:
            return chained
        if self._positive is None:
            self._positive = never_negative(self.facts)
        self.open.add(head)
        positive = host in self._positive
        text = "cannot be negative, so a symmetric grid" if positive else "can be negative, and a symmetric grid"
        end = "begins at zero" if positive else "needs both sides"
        return self.set(chained, not positive, f"the value {text} {end}")

    def follow(self, head: str, chained: Chained, other: Chained, label: str) -> Chained:
        """Returns the spec with the sign of ``other``, which it is concatenated into, where nobody asked for one."""
        if head not in self.open or not other.spec.is_integer:
            return chained
        return self.set(chained, other.spec.signed, f"'{label}', which concatenates it, has that format")

    def set(self, chained: Chained, signed: bool, text: str) -> Chained:
        """Returns the spec in the format of the same width with this sign."""
        wanted = f"{'' if signed else 'u'}int{chained.spec.bits}"
        return chained if chained.spec.format == wanted else self.chains.set(chained, "format", wanted, text)
