"""Rules for the patterns of vai_q_tensorflow2's document: nested layers, references, shared quantizers.

The tool never had them (spec 0.1); their meaning is that of spec 3.5. A rule is written for every layer of a pattern
that has a ``quant_config``; larger patterns come later, so they win over smaller ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from quantwright.config.config import Match, Pattern, Rule, Source
from quantwright.config.spec import Role
from quantwright.dialects._tf2_layers import Node, PatternEntry, Target
from quantwright.dialects._tf2_names import CLASSES, TOOL, functions_of
from quantwright.dialects._tf2_params import Quantizer, Tf2Reader
from quantwright.dialects._tf2_spec import FLOAT, Spec
from quantwright.targets import Handling

MOST_LAYERS = 200  # of one pattern, with everything it refers to
MOST_VARIANTS = 32  # rules for one layer of a pattern
#: Keras's name of an argument -> torch's
PARAMS = {"strides": "stride", "dilation_rate": "dilation", "pool_size": "kernel_size", "filters": "out_channels",
          "units": "out_features", "alpha": "negative_slope", "negative_slope": "negative_slope", "axis": "dim",
          "epsilon": "eps"}  # fmt: skip
_REGEX = re.compile(r"[|*+?\\()\[\]^$]")
SpecOf = Callable[[str, Role, Quantizer, str], "Spec | None"]


def pattern_rules(
    reader: Tf2Reader, entries: Sequence[PatternEntry], spec_of: SpecOf, handlings: Mapping[str, Handling]
) -> list[Rule]:
    """Returns the rules of all entries, small patterns first.

    Args:
        spec_of: (target type, role, quantizer, class) -> its spec and the source of every field.
        handlings: kind -> what the strategy's target does with it.
    """
    named = _by_name(reader, entries)
    found: list[tuple[int, list[Rule]]] = []
    for entry in entries:
        root = _expand(reader, entry.root, named, (entry.name,) if entry.name else (), [MOST_LAYERS])
        if root is None:
            continue
        nodes = dict(_walk(root, ""))
        if all(node.targets is None for node in nodes.values()) and not entry.name:
            fix = "add quant_config, or a pattern_name that another pattern refers to"
            reader.add("tf2_no_quant_config", root.path, "the pattern has no quant_config: it changes nothing", fix=fix)
            continue
        found.append((len(nodes), _Place(reader, nodes, spec_of, handlings).rules()))
    return [rule for _, rules in sorted(found, key=lambda pair: pair[0]) for rule in rules]


def _by_name(reader: Tf2Reader, entries: Sequence[PatternEntry]) -> dict[str, PatternEntry]:
    named: dict[str, PatternEntry] = {}
    for entry in entries:
        if not entry.name:
            continue
        if entry.name in named:
            message = f"two patterns are called '{entry.name}'"
            reader.add("tf2_pattern_name", (*entry.root.path, "pattern_name"), message, value=entry.name,
                       fix="give each pattern a name of its own")  # fmt: skip
        named.setdefault(entry.name, entry)
    return named


def _expand(
    reader: Tf2Reader, node: Node, named: Mapping[str, PatternEntry], inside: tuple[str, ...], left: list[int]
) -> Node | None:
    """Returns a layer with every reference replaced by what it refers to; its own targets do not come along."""
    left[0] -= 1
    if left[0] < 0:
        if left[0] == -1:
            message = f"the pattern has more than {MOST_LAYERS} layers, counting what it refers to"
            reader.add("tf2_pattern_size", node.path, message, fix="write a smaller pattern")
        return None
    if node.reference:
        place = (*node.path, "pattern")
        if node.reference not in named:
            known = tuple(named)
            message = f"no pattern is called '{node.reference}'"
            reader.add("tf2_pattern_reference", place, message, value=node.reference, allowed=known or "none",
                       fix="give a pattern this pattern_name")  # fmt: skip
            return None
        if node.reference in inside:
            way = " -> ".join((*inside, node.reference))
            message, fix = f"the pattern refers to itself: {way}", "break the circle"
            reader.add("tf2_pattern_cycle", place, message, value=node.reference, fix=fix)
            return None
        there = _without_targets(named[node.reference].root)
        return _expand(reader, there, named, (*inside, node.reference), left)
    if node.inputs is None:
        return node
    parts = [_expand(reader, part, named, inside, left) for part in node.inputs]
    if any(part is None for part in parts):
        return None
    return replace(node, inputs=tuple(part for part in parts if part is not None))


def _without_targets(node: Node) -> Node:
    inputs = None if node.inputs is None else tuple(_without_targets(part) for part in node.inputs)
    return replace(node, targets=None, inputs=inputs)


def _walk(node: Node, way: str) -> Iterator[tuple[str, Node]]:
    """Returns every layer with the way to it, the head first."""
    yield way, node
    for number, part in enumerate(node.inputs or ()):
        yield from _walk(part, f"{way}.{number}" if way else str(number))


class _Place:
    """Returns the rules of one pattern."""

    def __init__(
        self, reader: Tf2Reader, nodes: Mapping[str, Node], spec_of: SpecOf, handlings: Mapping[str, Handling]
    ) -> None:
        self.reader, self.nodes, self.spec_of, self.handlings = reader, nodes, spec_of, handlings
        self.named: dict[str, tuple[str, Target]] = {}
        for way, node in nodes.items():
            for target in node.targets or ():
                if target.quantizer is not None and target.quantizer.name:
                    self._name(way, target, target.quantizer.name)

    def _name(self, way: str, target: Target, name: str) -> None:
        if name in self.named:
            message = f"two quantizers of the pattern are called '{name}'"
            self.reader.add("tf2_quantizer_name", target.path or (), message, value=name, fix="rename one of them")
        self.named.setdefault(name, (way, target))

    def rules(self) -> list[Rule]:
        """Returns a rule for every layer with targets, inner layers first: what reads them decides."""
        found: list[Rule] = []
        for way in sorted(self.nodes, key=lambda item: -len(item.split(".")) if item else 1):
            if self.nodes[way].targets is not None:
                found += self._of_node(way, self.nodes[way])
        return found

    def _of_node(self, way: str, node: Node) -> list[Rule]:
        specs, share = self._specs(way, node)
        source = self.reader.source(node.path, f"pattern {_told(self.nodes[''])}" + (f" at {way}" if way else ""))
        fields = {f"{role}.{name}": at for role, (_, places) in specs.items() for name, at in places.items()}
        parts: dict[str, Any] = {role: spec for role, (spec, _) in specs.items()}
        if not node.targets:
            parts = {"exclude": True}
        quantized = [role for role, (spec, _) in specs.items() if spec != FLOAT]
        include = bool(node.targets) and self._includes(node, quantized)
        return [
            Rule(match=match, source=source, field_sources=fields, include=include, share=share, **parts)
            for match in self._matches(way, share)
        ]  # fmt: skip

    def _specs(self, way: str, node: Node) -> tuple[dict[Role, Spec], str | None]:
        """Returns the specs of a layer by role, and the place whose grid its output shares."""
        share: str | None = None
        specs: dict[Role, Spec] = {}
        layer = node.types[0] if node.types else ""
        for target in node.targets or ():
            quantizer = target.quantizer
            if quantizer is None:
                owner = self.named.get(target.shared)
                if owner is None:
                    message = f"no quantizer of this pattern is called '{target.shared}'"
                    self.reader.add("tf2_shared", (*(target.path or ()), "shared_quantizer"), message,
                                    value=target.shared, allowed=tuple(self.named) or "none",
                                    fix="name a quantizer_config of the same pattern")  # fmt: skip
                    continue
                quantizer = owner[1].quantizer
                if target.role == "output" and owner[1].role == "output" and owner[0] != way:
                    share = owner[0]
                else:
                    text = f"a {target.role} gets a grid of its own, of the same spec as '{target.shared}'"
                    self.reader.note("shared", target.path, text)
            spec = None if quantizer is None else self.spec_of(target.kind, target.role, quantizer, layer)
            if spec is not None and target.role not in specs:
                specs[target.role] = spec
        # an output that is not listed keeps its quantizer: it may be that of an activation fused behind the layer
        left = Source(kind="dialect", text=f"{TOOL}: the pattern has no quantizer for it")
        known = [CLASSES[name] for name in node.types if name in CLASSES]
        has: dict[Role, bool] = {"weight": any(item.weight for item in known), "bias": any(i.bias for i in known)}
        for role, owned in has.items():
            if owned and role not in specs and node.targets:
                specs[role] = (FLOAT, {"format": left})
        return specs, share

    def _includes(self, node: Node, quantized: Sequence[Role]) -> bool:
        """Returns whether the target would leave float what the pattern quantizes."""
        places: list[str] = []
        for name in node.types:
            known = CLASSES.get(name)
            places += [self.handlings.get(kind, "float") for kind in known.kinds] if known else ["float"]
        if not places or not quantized:
            return False
        return all(place == "float" for place in places) or ("output" in quantized and "consume" in places)

    # -- matches ----------------------------------------------------------------------------------------------------
    def _matches(self, way: str, share: str | None) -> list[Match]:
        """Returns the matches that find a layer: one for each way to tell types by kind and by class."""
        head = self.nodes[""]
        variants = _variants(head)
        if len(variants) > MOST_VARIANTS:
            message = f"the pattern mixes layers of Keras and of your own in {len(variants)} ways"
            self.reader.add("tf2_pattern_size", head.path, message, fix="write one pattern for each")
            return []
        plain = head.inputs is None and not head.params and share is None
        found = []
        for pattern in variants:
            words = {key: getattr(pattern, key) for key in ("type", "name", "function")}
            if plain and any(words.values()):
                found.append(Match(**words))
            else:
                found.append(Match(pattern=pattern, at=way or None))
        return found


def _told(node: Node) -> str:
    what = "|".join(node.types) or "any layer"
    return f"{what} called {node.name}" if node.name else what


def _variants(node: Node) -> list[Pattern]:
    """Returns the patterns that a layer is: classes of Keras are told by kind, others by type."""
    kinds_of = tuple(dict.fromkeys(kind for name in node.types if name in CLASSES for kind in CLASSES[name].kinds))
    others = tuple(dict.fromkeys(part for name in node.types if name not in CLASSES for part in _spelled(name)))
    words: list[dict[str, Any]] = []
    if kinds_of:
        words.append({"function": functions_of(kinds_of)})
    if others:
        words.append({"type": "|".join(others)})
    words = words or [{}]
    name = {"name": node.name} if node.name else {}
    params = {PARAMS.get(key, key): _param(value) for key, value in node.params.items()}
    if node.inputs is None:
        return [Pattern(**word, **name, params=params) for word in words]
    inner = [_variants(part) for part in node.inputs]
    count = len(words)
    for part in inner:
        count *= len(part)
    if count > MOST_VARIANTS:
        return [Pattern()] * (MOST_VARIANTS + 1)
    return [Pattern(**word, **name, params=params, inputs=parts) for word in words for parts in product(*inner)]


def _spelled(name: str) -> tuple[str, ...]:
    last = name.rpartition(".")[2]
    return (name,) if last == name else (name, last)


def _param(value: Any) -> Any:
    """Returns a value to compare with; text with the marks of a regular expression is one."""
    return f"re:{value}" if isinstance(value, str) and _REGEX.search(value) else value
