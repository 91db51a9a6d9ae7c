"""A strict YAML reader: the core schema of YAML 1.2, lines for every value, no tags that construct, bounded aliases.

It builds values from PyYAML's parse events, so nothing of the file can execute and nesting needs no recursion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from quantwright.config._parsing import (
    MAX_ALIASED,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    JsonPath,
    Lines,
    duplicate,
    fail,
    is_bad_float,
    path_text,
    too_deep,
    too_large,
)
from quantwright.config._quick import ODD, LazyLines, quick_yaml
from quantwright.config._yaml_said import said
from quantwright.errors import ConfigError, Problem

# YAML 1.2.2, section 10.3.2 "Tag resolution" of the core schema
NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_TAG = "tag:yaml.org,2002:"
_MERGE = object()


@dataclass(slots=True)
class _Node:
    """Returns a value being built or complete: how many values it holds and how deep it goes."""

    value: Any
    path: JsonPath
    line: int
    size: int = 1
    height: int = 0
    anchor: str | None = None
    key: Any = None  # of the entry that comes next, in a mapping
    merged: dict[str, Any] = field(default_factory=dict)


def parse_yaml(text: str, file: str | None) -> tuple[Any, Mapping[JsonPath, int]]:
    """Returns the value of a YAML text and the line of every path.

    Raises:
        ConfigError: not YAML (with the line), tags, several documents, NaN, or duplicate keys (all of them).
    """
    value = quick_yaml(text, _resolved)
    if value is not ODD:
        return value, LazyLines(lambda: _strict(text, file).lines)
    builder = _strict(text, file)
    return builder.result, builder.lines


def _resolved(text: str) -> Any:
    """Returns the value of a plain scalar, or ``ODD`` where there is something to say about it."""
    try:
        return _Builder(None).plain(text, 1)
    except ConfigError:
        return ODD


def _strict(text: str, file: str | None) -> _Builder:
    """Returns the builder that has read a text, value by value, with lines."""
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        message, line, fix = said(error, text)
        if "maximum nesting" in message:  # of the C parser, which reads ahead of us
            too_deep(file, line)
        fail(message, file=file, line=line, fix=fix)
    except yaml.YAMLError as error:
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 1
        message = f"not valid YAML: {str(error).splitlines()[0]}"
        fail(message, file=file, line=line, fix="remove characters that YAML does not allow")
    if builder.problems:
        raise ConfigError(builder.problems)
    return builder


class _Builder:
    """Returns the machine that turns events into values; ``take`` one event after the other."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.lines: Lines = {}
        self.problems: list[Problem] = []
        self.result: Any = None
        self._documents = 0
        self._aliased = 0
        self._open: list[_Node] = []
        self._anchors: dict[str, _Node | None] = {}

    def take(self, event: Any) -> None:
        """Takes in one event."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                fail("a second document starts here", file=self.file, line=line, fix="keep one document per file")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._start(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            node = self._open.pop()
            if isinstance(node.value, dict):
                node.value.update({key: item for key, item in node.merged.items() if key not in node.value})
            self._finish(node)

    def _start(self, event: Any, line: int) -> None:
        wanted = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in (None, "!", _TAG + wanted):
            self._refuse_tag(event.tag, line)
        if self._expects_key():
            fail("a key that is a list or mapping", file=self.file, line=line, fix="write keys as text")
        if len(self._open) >= MAX_DEPTH:
            too_deep(self.file, line)
        if event.anchor:
            self._anchors[event.anchor] = None  # not complete: an alias inside would be endless
        node = _Node({} if wanted == "map" else [], self._child_path(), line, anchor=event.anchor)
        self.lines.setdefault(node.path, line)
        self._open.append(node)

    def _scalar(self, event: Any, line: int) -> None:
        if self._expects_key():
            self._key(event, line)
            return
        value = self._core(event, line)
        node = _Node(value, self._child_path(), line, anchor=event.anchor)
        self.lines.setdefault(node.path, line)
        self._finish(node)

    def _alias(self, name: str | None, line: int) -> None:
        node = self._anchors.get(name or "")
        if self._expects_key():
            fail("a key that is an alias", file=self.file, line=line, fix="write keys as text")
        if name not in self._anchors or node is None:
            what = "contains itself" if name in self._anchors else "is not defined before"
            fail(f"the alias *{name} {what}", file=self.file, line=line, fix=f"define &{name} above and outside of it")
        if len(self._open) + node.height > MAX_DEPTH:
            too_deep(self.file, line)
        self._aliased += node.size
        if self._aliased > MAX_ALIASED:
            too_large(self.file, line)
        copy = _Node(node.value, self._child_path(), line, size=node.size, height=node.height)
        self.lines.setdefault(copy.path, line)
        self._finish(copy)

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _child_path(self) -> JsonPath:
        if not self._open:
            return ()
        parent = self._open[-1]
        if isinstance(parent.value, list):
            return (*parent.path, len(parent.value))
        return (*parent.path, "<<" if parent.key is _MERGE else parent.key)

    def _key(self, event: Any, line: int) -> None:
        parent = self._open[-1]
        if event.value == "<<" and not event.style and event.tag is None:
            parent.key = _MERGE
            return
        key = self._core(event, line)
        if not isinstance(key, str):
            message = f"the key {event.value!r:.60} is not text"
            self._problem("not_plain", message, (*parent.path, event.value), line, "put the key in quotes")
            key = str(event.value)
        if key in parent.value:
            first = self.lines.get((*parent.path, key))
            path = (*parent.path, key)
            self.problems.append(duplicate(key, path, file=self.file, line=line, first=first))
        parent.key = key
        self.lines[(*parent.path, key)] = line

    def _finish(self, node: _Node) -> None:
        """Puts a complete node into its parent and remembers its anchor."""
        if node.anchor:
            self._anchors[node.anchor] = node
        if not self._open:
            self.result = node.value
            return
        parent = self._open[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if parent.size > MAX_NODES:
            too_large(self.file, node.line)
        if isinstance(parent.value, list):
            parent.value.append(node.value)
            return
        if parent.key is _MERGE:
            self._merge(parent, node)
        else:
            parent.value[parent.key] = node.value
        parent.key = None

    def _merge(self, parent: _Node, node: _Node) -> None:
        sources = node.value if isinstance(node.value, list) else [node.value]
        for source in sources:
            if not isinstance(source, dict):
                self._problem("syntax", "'<<' needs a mapping", node.path, node.line, "refer to a mapping with *name")
                continue
            for key, item in source.items():
                parent.merged.setdefault(key, item)
                self.lines.setdefault((*parent.path, key), node.line)

    def _core(self, event: Any, line: int) -> Any:
        """Returns the value of a scalar by the core schema, or by its explicit standard tag."""
        text, tag = event.value, event.tag
        if tag in ("!", _TAG + "str") or (tag is None and event.style):
            return text
        if tag is None:
            return self.plain(text, line)
        kind = {_TAG + "int": int, _TAG + "float": float, _TAG + "bool": bool, _TAG + "null": type(None)}.get(tag)
        if kind is None:
            self._refuse_tag(tag, line)
        value = self.plain(text, line)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):  # type: ignore[arg-type]
            fail(f"'{text[:40]}' does not fit its tag", file=self.file, line=line, fix="remove the tag")
        return value

    def plain(self, text: str, line: int) -> Any:
        """Returns the value of a plain scalar by the core schema."""
        if NULL.match(text):
            return None
        if BOOL.match(text):
            return text.lower() == "true"
        if SPECIAL.match(text) or len(text) > MAX_DIGITS and (FLOAT.match(text) or INT.match(text)):
            fail(f"{text[:40]} is not a usable number", file=self.file, line=line, fix="write a finite number")
        if INT.match(text):
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        if FLOAT.match(text):
            value = float(text)
            if is_bad_float(value):
                fail(f"{text} is too large for a number", file=self.file, line=line, fix="write a finite number")
            return value
        return text

    def _refuse_tag(self, tag: str, line: int) -> None:
        fail(
            f"the tag {tag.replace(_TAG, '!!')!r:.80} is not allowed: a configuration holds plain values only",
            file=self.file,
            line=line,
            code="tag",
            fix="remove the tag",
        )

    def _problem(self, code: str, message: str, path: JsonPath, line: int, fix: str) -> None:
        text = path_text(path)
        self.problems.append(Problem(code=code, message=message, path=text, file=self.file, line=line, fix=fix))
