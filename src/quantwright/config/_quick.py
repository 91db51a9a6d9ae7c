"""Quick readings of large documents: values only, for texts without anything that needs a message.

The strict readers build values and lines together, value by value. Mostly nobody asks for a line: then C does the
work here, whatever is odd about a text (an error, an alias, a tag, a strange number) is left to the strict reader, and
lines come from it when the first one is asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from quantwright.config._parsing import MAX_DEPTH, MAX_NODES, JsonPath

ODD = object()  # what a quick reading gives for a text that the strict reader has to look at
_ODD_JSON = re.compile(r"\\u[dD][89a-fA-F]|[\d.]{300}")  # halves of surrogate pairs; endless numbers


class LazyLines(Mapping[JsonPath, int]):
    """Returns the line of every path, found by the strict reader when the first one is asked for."""

    def __init__(self, find: Callable[[], Mapping[JsonPath, int]]) -> None:
        self._find = find
        self._found: Mapping[JsonPath, int] | None = None

    def _lines(self) -> Mapping[JsonPath, int]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def __getitem__(self, path: JsonPath) -> int:
        return self._lines()[path]

    def __contains__(self, path: object) -> bool:
        return path in self._lines()

    def __iter__(self) -> Iterator[JsonPath]:
        return iter(self._lines())

    def __len__(self) -> int:
        return len(self._lines())

    def __bool__(self) -> bool:
        return True  # a document has a first line


class _Odd(Exception):
    """Returns what ends a quick reading."""


def quick_json(text: str) -> Any:
    """Returns the value of a JSON text, or ``ODD``."""
    if _ODD_JSON.search(text):
        return ODD
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (_Odd, ValueError, RecursionError):
        return ODD
    return value if _is_bounded(value) else ODD


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _Odd
    return made


def _refuse(_: str) -> NoReturn:
    raise _Odd


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Odd
    return value


def _is_bounded(value: Any) -> bool:
    """Returns whether a tree is neither too deep nor too large, level by level."""
    count, level = 1, [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            if type(item) in (dict, list)
            for inner in (item.values() if type(item) is dict else item)
        ]
        count += len(level)
        if not level:
            return count <= MAX_NODES
    return False


def quick_yaml(text: str, resolve: Callable[[str], Any]) -> Any:
    """Returns the value of a YAML text, or ``ODD``.

    Args:
        resolve: the value of a plain scalar, or ``ODD``; asked once for every text.
    """
    import yaml

    if "&" in text or "!" in text:
        return ODD
    try:
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        return _build(loader.get_event, resolve)
    except (yaml.YAMLError, _Odd):
        return ODD


def _build(get_event: Callable[[], Any], resolve: Callable[[str], Any]) -> Any:
    """Returns the value that parse events describe.

    Raises:
        _Odd: several documents, aliases, tags, keys that are no text or stand twice, too deep, too large.
    """
    import yaml

    scalar, opens, closes = (
        yaml.ScalarEvent,
        (yaml.MappingStartEvent, yaml.SequenceStartEvent),
        (yaml.MappingEndEvent, yaml.SequenceEndEvent),
    )
    known: dict[str, Any] = {}
    outer: list[Any] = []  # the one value of the document
    holder: Any = outer
    key, count = None, 0
    waiting: list[tuple[Any, Any]] = []
    while True:
        event = get_event()
        kind = type(event)
        if kind is scalar:
            text = event.value
            if event.tag is not None:
                raise _Odd
            if not event.style:
                value = known.get(text, ODD)
                if value is ODD:
                    value = known[text] = resolve(text)
                    if value is ODD:
                        raise _Odd
            else:
                value = text
            if type(holder) is list:
                holder.append(value)
            elif key is None:
                if type(value) is not str or value in holder or text == "<<":
                    raise _Odd
                key = value
                continue
            else:
                holder[key] = value
                key = None
        elif kind in opens:
            value = {} if kind is opens[0] else []
            if event.tag is not None or len(waiting) >= MAX_DEPTH:
                raise _Odd
            if type(holder) is list:
                holder.append(value)
            elif key is None:
                raise _Odd
            else:
                holder[key] = value
            waiting.append((holder, None))
            holder, key = value, None
        elif kind in closes:
            holder, key = waiting.pop()
            continue
        elif kind is yaml.StreamEndEvent:
            return outer[0] if len(outer) == 1 else ODD
        elif (kind is yaml.DocumentStartEvent and outer) or kind is yaml.AliasEvent:
            raise _Odd
        else:
            continue
        count += 1
        if count > MAX_NODES:
            raise _Odd
