"""Patterns: places in the graph, found by what an operation is and what it reads.

A place is one node for every part of the pattern. The head is any node that fits; a part inside is found at the node
that is read, looking through pure data movement that the part does not ask for, and must have no other reader (a part
without any condition may have several). A batch norm folded into a convolution is still read by what followed it: the
parts of a pattern may be origins of one node, in the order in which passes merged them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantwright.config import kinds
from quantwright.config.config import Pattern
from quantwright.plan.facts import ModelFacts, NodeFacts

Place = Mapping[str, str]
"""Way from the head ("" is the head itself, "0.1" the second input of its first input) -> node name."""
Find = Callable[[str, str], "set[int]"]
"""(``type``, ``name`` or ``function``; pattern of the word) -> origins that fit, numbered over all nodes."""


@dataclass(slots=True)
class Patterns:
    """Returns the places of patterns in one model.

    Attributes:
        find: looks up the origins that fit one word.
        origins: node name -> the numbers of its origins, in the order in which they were merged.
    """

    facts: ModelFacts
    find: Find
    origins: Mapping[str, Sequence[int]]
    _fits: dict[int, tuple[Pattern, set[int] | None]] = field(default_factory=dict)

    def places(self, pattern: Pattern) -> list[Place]:
        """Returns every place of the pattern, by head in execution order; one place for each head."""
        found: list[Place] = []
        for node in self.facts.nodes:
            if node.kind != kinds.OUTPUT:
                place = self._at(pattern, node, len(self.origins.get(node.name, ())), "")
                if place is not None:
                    found.append(place)
        return found

    def _at(self, pattern: Pattern, node: NodeFacts, end: int, way: str) -> dict[str, str] | None:
        """Returns the place of a pattern whose head is one of the first ``end`` origins of ``node``."""
        if not _params_fit(pattern.params, node):
            return None
        fitting, own = self._origins(pattern), self.origins.get(node.name, ())[:end]
        for index in range(len(own) - 1, -1, -1):
            if fitting is not None and own[index] not in fitting:
                continue
            if pattern.inputs is None:
                return {way: node.name}
            inside = self._folded(pattern, node, index, way) or self._read(pattern.inputs, node, index, way)
            if inside is not None:
                return {way: node.name, **inside}
        return None

    def _folded(self, pattern: Pattern, node: NodeFacts, index: int, way: str) -> dict[str, str] | None:
        """Returns the place of the only input among the origins that ``node`` had before this one."""
        if pattern.inputs is None or len(pattern.inputs) != 1 or index == 0:
            return None
        return self._at(pattern.inputs[0], node, index, _inner(way, 0))

    def _read(self, inputs: tuple[Pattern, ...], node: NodeFacts, index: int, way: str) -> dict[str, str] | None:
        """Returns the places of all inputs among the nodes that ``node`` reads."""
        if len(inputs) != len(node.inputs) or index != 0:
            return None
        found: dict[str, str] = {}
        for number, (part, name) in enumerate(zip(inputs, node.inputs, strict=True)):
            place = self._behind(part, name, _inner(way, number))
            if place is None:
                return None
            found.update(place)
        return found

    def _behind(self, part: Pattern, name: str, way: str) -> dict[str, str] | None:
        """Returns the place of an inner part at the node ``name``, or behind the data movement it is."""
        free = part.inputs is None and not part.params and self._origins(part) is None
        seen = set()
        while name not in seen:
            seen.add(name)
            node = self.facts.node(name)
            if not free and len(node.users) > 1:
                return None
            place = self._at(part, node, len(self.origins.get(name, ())), way)
            if place is not None or node.kind not in kinds.MOVEMENT or len(node.inputs) != 1:
                return place
            name = node.inputs[0]
        return None

    def _origins(self, pattern: Pattern) -> set[int] | None:
        """Returns the origins that fit the words of a pattern, None when it has no words."""
        if id(pattern) not in self._fits:  # the table keeps the pattern alive, so its id stays its own
            words = [(key, getattr(pattern, key)) for key in ("type", "name", "function")]
            sets = [self.find(key, word) for key, word in words if word is not None]
            self._fits[id(pattern)] = (pattern, set.intersection(*sets) if sets else None)
        return self._fits[id(pattern)][1]


def _inner(way: str, number: int) -> str:
    return f"{way}.{number}" if way else str(number)


def _params_fit(wanted: Mapping[str, Any], node: NodeFacts) -> bool:
    return all(name in node.params and _value_fits(value, node.params[name]) for name, value in wanted.items())


def _value_fits(wanted: Any, value: Any) -> bool:
    """Returns whether a value is what a pattern asks for; one number stands for equal numbers on every axis."""
    if isinstance(wanted, str) and wanted.startswith("re:"):
        return re.fullmatch(wanted[3:], _text(value)) is not None
    if isinstance(value, (list, tuple)) and not isinstance(wanted, (list, tuple)):
        return len(value) > 0 and all(_same(wanted, item) for item in value)
    if isinstance(wanted, (list, tuple)) and isinstance(value, (list, tuple)):
        return len(wanted) == len(value) and all(_same(one, two) for one, two in zip(wanted, value, strict=True))
    return _same(wanted, value)


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, bool) != isinstance(two, bool):
        return False
    return bool(one == two)


def _text(value: Any) -> str:
    """Returns a value as people write it: ``3``, ``[1, 2]``, ``true``, ``null``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)
