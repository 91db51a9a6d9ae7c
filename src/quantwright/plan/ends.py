"""Ends: the first and last layers of a network, which some tools keep at a width of their own (``end_bits``)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from quantwright.config import kinds
from quantwright.config.spec import Role
from quantwright.plan.chain import Chained, Chains, Steps
from quantwright.plan.facts import ModelFacts
from quantwright.targets import Target

_LAYERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Returns the layers that read an input of the network or compute its result, and what becomes of their specs.

    Attributes:
        layers: their node names; empty when the target makes no difference.
        bits: the width they get.
    """

    layers: frozenset[str] = frozenset()
    bits: int = 0

    @classmethod
    def of(cls, facts: ModelFacts, target: Target) -> Ends:
        """Returns the ends of a model on a target."""
        bits = target.placement.end_bits
        if not bits:
            return cls()
        found = {
            node.name
            for node in facts.nodes
            if node.kind in _LAYERS
            and (node.name in facts.outputs or any(facts.node(name).kind == kinds.INPUT for name in node.inputs[:1]))
        }
        return cls(layers=frozenset(found), bits=bits)

    def chain(self, chains: Chains, role: Role, steps: Steps, nodes: Collection[str]) -> Chained:
        """Returns the spec of ``role`` with rules on top; of the ends' width where any of ``nodes`` is an end."""
        plain = chains.chain(role, steps)
        default = chains.chain(role)
        if self.layers.isdisjoint(nodes) or not default.spec.is_integer:
            return plain
        wanted = f"{'' if default.spec.signed else 'u'}int{self.bits}"
        if default.spec.format == wanted:
            return plain
        text = f"layers at the ends of the network, and what they read, have {self.bits} bits on this target"
        return chains.over(chains.set(default, "format", wanted, text), steps)
