"""Matching: which nodes each rule is about.

What a rule's words mean, precisely:

    type      A full type (``torch.nn.modules.conv.Conv2d``), its public spelling (``torch.nn.Conv2d``, ``nn.Conv2d``),
              its last word (``Conv2d``) or a glob over any of these; case-sensitive. The type of the module that made
              the node, or of any module around it: ``BasicBlock`` covers everything inside every basic block.
    name      A module path, a glob or ``re:`` regular expression (whole match) over module paths: of the module that
              made the node or any module around it, under any of its names if it is tied. So ``layer4`` covers
              everything inside layer4, and ``layer4.*`` too except what layer4's own ``forward`` computes. A name
              without glob characters is a module path first; only if no module has that path it is the name of a graph
              node or its torch.fx name. Globs and ``re:`` look at module paths, node names and torch.fx names at once.
              After ``fx:`` the torch.fx name only: ``fx:add_1``. After ``module:`` the path of the module that made the
              node only, exactly or as a glob, and nothing around it: ``module:*.fc``.
    function  A kind (``cat``, ``input`` for the network's inputs), torch function (``torch.cat``, ``cat``,
              ``torch.nn.functional.relu``) or ATen operator (``aten.cat``, ``aten.cat.default``), or a glob over these.
              After ``kind:`` the kind only: ``kind:conv2d`` is no depthwise convolution, which ``conv2d`` is too.

    pattern   A place in the graph (``plan/patterns.py``); the rule is about its head, or the part that ``at`` says.

Alternatives are separated by ``|``: ``Conv2d|Linear``; everything after ``re:`` is one regular expression.

All given words must hold for the same origin of a node; a node that passes merged keeps several origins, and one that
fits is enough; beside a pattern they are about its head. Words are looked up in tables, never node by node.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quantwright.config.config import Match, Pattern, Rule
from quantwright.errors import Problem
from quantwright.plan.facts import ModelFacts, NodeFacts, Origin
from quantwright.plan.patterns import Patterns, Place

_GLOB = re.compile(r"[*?\[]")
_LITERAL = re.compile(r"\[[^\]]*\]|[*?]")
_FUNCTION_HOMES = re.compile(r"^((torch\.)?(ops|nn\.functional|Tensor)\.|torch\.|operator\.|F\.)")
_NO_ORIGIN = Origin(module_path="", module_type="", function="")
_NEAR_MISSES_FOR = 20  # rules; near misses are slow to find in a large model
_MANY_WORDS = 2_000

Table = Mapping[str, "set[int]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """Returns which rules match which nodes.

    Attributes:
        of_rule: per rule, the matched node names in execution order.
        of_node: node name -> indices of the rules that match it, in rule order.
        shares: rule -> pairs of nodes, of which the first uses the grid of the second (``Rule.share``).
        problems: one for every rule that matches nothing and may not.
        warnings: the same for rules that may.
    """

    of_rule: tuple[tuple[str, ...], ...]
    of_node: Mapping[str, tuple[int, ...]]
    shares: Mapping[int, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def match_rules(rules: Sequence[Rule], facts: ModelFacts) -> Matches:
    """Returns the nodes of every rule, and what there is to say about rules that match nothing."""
    index = _Index.of(facts)
    problems: list[Problem] = []
    warnings: list[str] = []
    of_rule: list[tuple[str, ...]] = []
    of_node: dict[str, list[int]] = defaultdict(list)
    shares: dict[int, tuple[tuple[str, str], ...]] = {}
    for number, rule in enumerate(rules):
        fault = _bad_regex(rule.match)
        of_rule.append(() if fault else index.nodes(rule.match))
        for name in of_rule[-1]:
            of_node[name].append(number)
        if rule.share is not None and not fault:
            way = rule.match.at or ""
            shares[number] = tuple((place[way], place[rule.share]) for place in index.places(rule.match))
        if fault:
            problems.append(rule_problem("regex", number, rule, fault, "correct the text after 're:'"))
            continue
        if of_rule[-1] or rule.if_unmatched == "ignore":
            continue
        message, fix = _unmatched(rule, facts, index, len(problems) < _NEAR_MISSES_FOR)
        if rule.if_unmatched == "warn":
            warnings.append(f"{rule_text(number, rule)} {message}; ignored")
        else:
            problems.append(rule_problem("rule_matches_nothing", number, rule, message, fix))
    return Matches(
        of_rule=tuple(of_rule),
        of_node={name: tuple(numbers) for name, numbers in of_node.items()},
        shares=shares,
        problems=tuple(problems),
        warnings=tuple(warnings),
    )


def rule_text(number: int, rule: Rule) -> str:
    """Returns how people are told about a rule: ``rule 2 (type Conv2d) (my.yaml:14)``."""
    source = rule.source
    place = f" ({source.file}{f':{source.line}' if source.line else ''})" if source.file else ""
    return (source.text or f"rule {number + 1} ({rule.match})") + place


def rule_problem(code: str, number: int, rule: Rule, message: str, fix: str | None) -> Problem:
    """Returns a problem that points at a rule."""
    source = rule.source
    return Problem(
        code=code,
        message=f"{source.text or f'rule {number + 1} ({rule.match})'} {message}",
        path=source.path or f"rules[{number}]",
        file=source.file,
        line=source.line,
        value=str(rule.match),
        fix=fix,
    )


def _bad_regex(match: Match | Pattern) -> str | None:
    """Returns what is wrong with a regular expression of a match or of its pattern, or None."""
    values = [value for value in match.params.values() if isinstance(value, str)] if isinstance(match, Pattern) else []
    for text in (match.type, match.name, match.function, *values):
        try:
            re.compile((text or "").removeprefix("re:") if (text or "").startswith("re:") else "")
        except (re.error, RecursionError, OverflowError) as error:
            return f"has no regular expression after 're:': {error}"
    inner = match.inputs or () if isinstance(match, Pattern) else ((match.pattern,) if match.pattern else ())
    return next((fault for fault in map(_bad_regex, inner) if fault), None)


def alternatives(pattern: str) -> list[str]:
    """Returns the alternatives of a word: ``Conv2d|Linear`` is two; a regular expression is one."""
    if pattern.startswith("re:") or "|" not in pattern:
        return [pattern]
    return [word.strip() for word in pattern.split("|") if word.strip()]


def spellings(module_type: str) -> tuple[str, ...]:
    """Returns the ways to write a module type: full, public (for torch's own) and its last word."""
    short = module_type.rpartition(".")[2]
    if module_type.startswith("torch.nn.modules."):
        return module_type, f"torch.nn.{short}", f"nn.{short}", short
    return (module_type, short) if short != module_type else (module_type,)


@dataclass(slots=True)
class _Index:
    """Returns tables from distinct words to the origins that carry them; origins are numbered over all nodes."""

    names: tuple[str, ...] = ()
    node_of: list[int] = field(default_factory=list)  # origin -> node
    types: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    paths: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    nodes_by_name: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    owners: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    fx_names: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    functions: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    kinds: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    cache: dict[str, tuple[str, ...]] = field(default_factory=dict)
    patterns: Patterns | None = None
    modules: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # (condition, word) -> (path, type)
    words: dict[str, list[str]] = field(default_factory=dict)  # condition -> words that would have matched, sorted

    @classmethod
    def of(cls, facts: ModelFacts) -> _Index:
        index = cls(names=tuple(node.name for node in facts.nodes))
        for number, node in enumerate(facts.nodes):
            if node.kind == "output":
                continue
            for origin in node.origins or (_NO_ORIGIN,):
                index._add(number, node, origin)
        own: dict[str, list[int]] = defaultdict(list)
        for at, number in enumerate(index.node_of):
            own[index.names[number]].append(at)
        index.patterns = Patterns(facts=facts, find=index.find, origins=own)
        return index

    def _add(self, number: int, node: NodeFacts, origin: Origin) -> None:
        at = len(self.node_of)
        self.node_of.append(number)
        for module_type in {origin.module_type, *(kind for _, kind in origin.parents)} - {""}:
            self.types[module_type].add(at)
        for path in _paths(origin):
            self.paths[path].add(at)
        for path in {origin.module_path, *origin.aliases}:
            self.owners[path].add(at)
        for name in {node.name, origin.fx_name} - {""}:
            self.nodes_by_name[name].add(at)
        self.fx_names[origin.fx_name or node.name].add(at)
        self.kinds[node.kind].add(at)
        for name in _functions(node, origin):
            self.functions[name].add(at)

    def nodes(self, match: Match) -> tuple[str, ...]:
        """Returns the names of the nodes a match is about, in execution order."""
        key = repr(match)
        if key not in self.cache:
            if match.pattern is not None:
                names = {place[match.at or ""] for place in self.places(match)}
                self.cache[key] = tuple(name for name in self.names if name in names)
            else:
                found = self.fitting(match)
                self.cache[key] = tuple(self.names[i] for i in sorted({self.node_of[at] for at in found}))
        return self.cache[key]

    def fitting(self, match: Match) -> set[int]:
        """Returns the origins that fit all words of a match."""
        return set.intersection(*(self.find(key, pattern) for key, pattern in _conditions(match)))

    def places(self, match: Match) -> list[Place]:
        """Returns the places of a match's pattern whose head fits its words too."""
        if match.pattern is None or self.patterns is None:
            return []
        places = self.patterns.places(match.pattern)
        if not _conditions(match):
            return places
        heads = {self.names[self.node_of[at]] for at in self.fitting(match)}
        return [place for place in places if place[""] in heads]

    def find(self, key: str, pattern: str) -> set[int]:
        """Returns the origins that fit one condition (``type``, ``name``, ``function``) by one of its alternatives."""
        look = {"type": self.by_type, "name": self.by_name, "function": self.by_function}[key]
        return set().union(*(look(word) for word in alternatives(pattern)))

    def by_type(self, pattern: str) -> set[int]:
        test = _tester(pattern)
        return _union(self.types, (kind for kind in self.types if any(test(word) for word in spellings(kind))))

    def by_name(self, pattern: str) -> set[int]:
        if pattern.startswith("fx:"):
            return self.fx_names.get(pattern.removeprefix("fx:"), set())
        if pattern.startswith("module:"):
            return _glob(pattern.removeprefix("module:"), self.owners)
        if pattern.startswith("re:"):
            whole = re.compile(pattern[3:]).fullmatch
            return _union(self.paths, filter(whole, self.paths)) | _union(
                self.nodes_by_name, filter(whole, self.nodes_by_name)
            )
        if not _GLOB.search(pattern):
            return self.paths.get(pattern) or self.nodes_by_name.get(pattern) or set()
        found = _glob(pattern, self.paths)
        return found | _glob(pattern, self.nodes_by_name)

    def by_function(self, pattern: str) -> set[int]:
        if pattern.startswith("kind:"):
            return self.kinds.get(pattern.removeprefix("kind:"), set())
        test = _tester(pattern if pattern.startswith("re:") else _plain_function(pattern))
        return _union(self.functions, filter(test, self.functions))


def _paths(origin: Origin) -> set[str]:
    """Returns every module path an origin lies in: its own, those around it, and the same under its other names."""
    found = {origin.module_path, *(path for path, _ in origin.parents)}
    for alias in origin.aliases:
        parts = alias.split(".")
        found.update(".".join(parts[: end + 1]) for end in range(len(parts)))
    return found - {""}


def _functions(node: NodeFacts, origin: Origin) -> set[str]:
    aten = origin.aten.replace("::", ".")
    base = ".".join(aten.split(".")[:2]) if aten.startswith("aten.") else aten
    words = {node.kind, _plain_function(origin.function), aten, base, base.removeprefix("aten.")}
    return words - {""}


def _plain_function(text: str) -> str:
    """Returns ``cat`` for torch.cat, ``aten.cat.default`` for torch.ops.aten.cat.default, ``add`` for add_."""
    plain = _FUNCTION_HOMES.sub("", text.replace("::", "."))
    return plain.rstrip("_") or plain


def _tester(pattern: str) -> Callable[[str], bool]:
    """Returns the test of a word against a pattern: equal, fitting the glob, or matching what follows ``re:``."""
    if pattern.startswith("re:"):
        regex = re.compile(pattern[3:])
        return lambda word: regex.fullmatch(word) is not None
    if not _GLOB.search(pattern):
        return pattern.__eq__
    whole = re.compile(fnmatch.translate(pattern)).match
    return lambda word: whole(word) is not None


def _union(table: Table, keys: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for key in keys:
        found |= table[key]
    return found


def _glob(pattern: str, table: Table) -> set[int]:
    """Returns the origins under keys that fit a glob; keys without its longest literal part are passed over quickly."""
    literal = max(_LITERAL.split(pattern), key=len)
    whole = re.compile(fnmatch.translate(pattern)).match
    return _union(table, (key for key in table if literal in key and whole(key)))


def _conditions(match: Match) -> list[tuple[str, str]]:
    """Returns the given conditions of a match: ("type", "Conv2d") ..."""
    parts = (("type", match.type), ("name", match.name), ("function", match.function))
    return [(key, pattern) for key, pattern in parts if pattern is not None]


def _unmatched(rule: Rule, facts: ModelFacts, index: _Index, near: bool) -> tuple[str, str | None]:
    """Returns what is wrong with a rule that matches no node, and what to do about it."""
    conditions = _conditions(rule.match)
    if rule.match.pattern is not None:
        conditions += _pattern_words(rule.match.pattern)
    for key, pattern in conditions:
        if index.find(key, pattern):
            continue
        gone = _gone(key, pattern, facts, index)
        if gone:
            return gone, "remove the rule"
        if key not in index.words:
            index.words[key] = sorted(_words(key, index, facts))
        words = index.words[key]
        misses = _near(pattern, words) if near else []
        if misses:
            return "matches no operation of the model", f"did you mean {' or '.join(misses)}?"
        return "matches no operation of the model", f"the model has, for example: {', '.join(words[:8])}"
    if rule.match.pattern is not None:
        message = "matches no place of the model: each word of the pattern fits some operations, but not together"
        return message, "compare it with `quantwright explain`: the order and number of inputs, params, other readers"
    return "matches no operation: each condition fits some, but none fits all at once", "drop one of the conditions"


def _pattern_words(pattern: Pattern) -> list[tuple[str, str]]:
    """Returns the words of a pattern and of everything inside it."""
    own = [(key, getattr(pattern, key)) for key in ("type", "name", "function") if getattr(pattern, key) is not None]
    return own + [word for part in pattern.inputs or () for word in _pattern_words(part)]


def _gone(key: str, pattern: str, facts: ModelFacts, index: _Index) -> str | None:
    """Returns the message for a module that the model has but of which no operation is left, or None."""
    if key == "function":
        return None
    if not index.modules:
        for path, kind in reversed(facts.module_paths):
            index.modules["name", path] = path, kind
            index.modules.update({("type", word): (path, kind) for word in spellings(kind)})
    if pattern.startswith("module:"):
        pattern = pattern.removeprefix("module:")
        if pattern in index.paths:
            return f"matches no operation: '{pattern}' computes nothing itself; '{pattern}.*' is what is inside"
    found = index.modules.get((key, pattern))
    if found is None and _GLOB.search(pattern):
        test = _tester(pattern)
        found = next((module for (of, word), module in index.modules.items() if of == key and test(word)), None)
    if found is None or (key == "name" and not found[0]):
        return None
    return f"matches no operation: of '{found[0]}' ({spellings(found[1])[-1]}) nothing is left in the graph"


def _words(key: str, index: _Index, facts: ModelFacts) -> set[str]:
    """Returns the words that would have matched something."""
    if key == "type":
        return {spellings(kind)[-1] for kind in index.types}
    if key == "name":
        return {path for path, _ in facts.module_paths if path} | set(index.paths) | set(index.nodes_by_name)
    return set(index.functions)


def _near(pattern: str, words: Sequence[str]) -> list[str]:
    lowered: dict[str, str] = {}
    for word in words:
        lowered.setdefault(word.lower(), word)
    wanted = re.sub(r"^(re|fx|module):", "", pattern).lower()
    wanted = wanted.rpartition(".")[2] if wanted.startswith(("torch.", "nn.")) else wanted
    if len(lowered) > _MANY_WORDS:  # similar words nearly always begin or end alike, and this is much faster
        lowered = {low: word for low, word in lowered.items() if low[:3] == wanted[:3] or low[-4:] == wanted[-4:]}
    close = difflib.get_close_matches(wanted, list(lowered), n=3, cutoff=0.6)
    return [f"'{lowered[word]}'" for word in close]
