"""A strict JSON reader that remembers the line of every value and refuses duplicate keys."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from quantwright.config._parsing import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NODES,
    JsonPath,
    Lines,
    duplicate,
    fail,
    is_bad_float,
    too_deep,
    too_large,
)
from quantwright.config._quick import ODD, LazyLines, quick_json
from quantwright.errors import ConfigError, Problem

_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_WORDS = {"true": True, "false": False, "null": None}
_PYTHON = {"True": "true", "False": "false", "None": "null", "NaN": "a number", "Infinity": "a number"}


def parse_json(text: str, file: str | None) -> tuple[Any, Mapping[JsonPath, int]]:
    """Returns the value of a JSON text and the line of every path.

    Raises:
        ConfigError: not JSON (with the line), or duplicate keys (all of them).
    """
    value = quick_json(text)
    if value is not ODD:
        return value, LazyLines(lambda: _Reader(text, file).document()[1])
    return _Reader(text, file).document()


class _Reader:
    """Returns a recursive-descent reader; the depth is bounded, so recursion is safe."""

    def __init__(self, text: str, file: str | None) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.count = 0
        self.lines: Lines = {}
        self.problems: list[Problem] = []
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> tuple[Any, Lines]:
        """Returns the one value of the text."""
        self._skip()
        value = self._value((), 0)
        self._skip()
        if self.at < len(self.text):
            self._fail("text after the end of the document", "remove it: a JSON file holds one value")
        if self.problems:
            raise ConfigError(self.problems)
        return value, self.lines

    def _line(self, at: int | None = None) -> int:
        return bisect.bisect_left(self._newlines, self.at if at is None else at) + 1

    def _fail(self, message: str, fix: str, at: int | None = None) -> NoReturn:
        fail(message, file=self.file, line=self._line(at), fix=fix)

    def _skip(self) -> None:
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches the empty string too

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _value(self, path: JsonPath, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH:
            too_deep(self.file, self._line())
        if self.count > MAX_NODES:
            too_large(self.file, self._line())
        self.lines.setdefault(path, self._line())
        mark = self._peek()
        if mark == "{":
            return self._object(path, depth)
        if mark == "[":
            return self._array(path, depth)
        if mark == '"':
            return self._string()
        if mark == "-" or mark.isdigit():
            return self._number()
        return self._constant()

    def _object(self, path: JsonPath, depth: int) -> dict[str, Any]:
        opened = self.at
        self.at += 1
        result: dict[str, Any] = {}
        self._skip()
        while self._peek() != "}":
            if result:
                self._comma(opened, "}")
            start = self.at
            if self._peek() != '"':
                self._unexpected(opened, "a key in double quotes")
            key = self._string()
            line = self._line(start)
            if key in result:
                first = self.lines.get((*path, key))
                self.problems.append(duplicate(key, (*path, key), file=self.file, line=line, first=first))
            self.lines[(*path, key)] = line
            self._skip()
            if self._peek() != ":":
                self._unexpected(opened, "':' after the key")
            self.at += 1
            self._skip()
            result[key] = self._value((*path, key), depth + 1)
            self._skip()
        self.at += 1
        return result

    def _array(self, path: JsonPath, depth: int) -> list[Any]:
        opened = self.at
        self.at += 1
        result: list[Any] = []
        self._skip()
        while self._peek() != "]":
            if result:
                self._comma(opened, "]")
            result.append(self._value((*path, len(result)), depth + 1))
            self._skip()
            if not self._peek():
                self._unexpected(opened, "']'")
        self.at += 1
        return result

    def _comma(self, opened: int, closing: str) -> None:
        if self._peek() != ",":
            self._unexpected(opened, f"',' or '{closing}'")
        comma = self.at
        self.at += 1
        self._skip()
        if self._peek() == closing:
            self._fail(f"a comma before '{closing}'", "remove the comma: JSON allows none after the last item", comma)

    def _string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if match is None:
            rest = self.text[self.at + 1 : self.at + 2000]
            ends = re.search(r'(?<!\\)"', rest)
            if ends is None and "\n" not in rest:
                self._fail("the file ends inside a text (truncated?)", "restore the missing end of the file")
            self._fail(
                "a text with a line break, a control character or an unknown escape", "close it with a double quote"
            )
        value: str = json.loads(match.group())
        if any("\ud800" <= char <= "\udfff" for char in value):
            self._fail("a text with half of a surrogate pair", "write the character itself in UTF-8")
        self.at = match.end()
        return value

    def _number(self) -> int | float:
        match = _NUMBER.match(self.text, self.at)
        if match is None or re.match(r"[\w.]", self.text[match.end() : match.end() + 1]):
            self._fail(
                f"'{self.text[self.at : self.at + 12].split()[0]}' is not a JSON number",
                "write it like 8 or 0.5 or 1e-3",
            )
        if len(match.group()) > MAX_DIGITS:
            self._fail(f"a number of more than {MAX_DIGITS} characters", "write a shorter number")
        value = float(match.group()) if match.group(1) or match.group(2) else int(match.group())
        if is_bad_float(value):
            self._fail(f"{match.group()} is too large for a number", "write a finite number")
        self.at = match.end()
        return value

    def _constant(self) -> bool | None:
        match = _WORD.match(self.text, self.at)
        word = match.group() if match else ""
        if word in _WORDS:
            self.at += len(word)
            return _WORDS[word]
        if word:
            say = _PYTHON.get(word) or _PYTHON.get(word.capitalize())
            fix = f"write {say}" if say else f'write "{word[:40]}" in double quotes'
            self._fail(f"'{word[:40]}' is not a JSON value", fix)
        return self._unexpected(None, "a value")

    def _unexpected(self, opened: int | None, wanted: str) -> NoReturn:
        found = self._peek()
        if not found:
            where = f": what opens on line {self._line(opened)} is not closed" if opened is not None else ""
            self._fail(f"the file ends too early (truncated?){where}", f"expected {wanted} here")
        hint = {
            "'": "use double quotes",
            "/": "JSON has no comments: remove it",
            "#": "JSON has no comments: remove it",
        }
        shown = {"'": "a single quote (')", "\n": "a line break"}.get(found, f"'{found}'")
        self._fail(f"{shown} where {wanted} is expected", hint.get(found, f"write {wanted} here"))
