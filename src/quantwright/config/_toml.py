"""TOML with line numbers: the standard reader for the values, a scan of the text for the lines (best effort)."""

from __future__ import annotations

import re
import sys
from typing import Any

from quantwright.config._parsing import JsonPath, Lines, fail, plain_copy, too_deep

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_ASSIGN = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_AT = re.compile(r"\(at line (\d+), column \d+\)")


def parse_toml(text: str, file: str | None) -> tuple[Any, Lines]:
    """Returns the value of a TOML text and the line of the paths that could be found.

    Raises:
        ConfigError: not TOML (with the line), dates, NaN or infinity.
    """
    try:
        value = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one, and so is a number that is too long to be read
        found = _AT.search(str(error))
        line = int(found.group(1)) if found else text.count("\n") + 1
        what = _AT.sub("", str(error)).strip()
        fix = 'write text in "double quotes"; numbers, true and false without' if what == "Invalid value" else None
        fail(f"not valid TOML: {what}", file=file, line=line, fix=fix or "correct the text here")
    except RecursionError:
        too_deep(file)
    lines = _scan(text)
    return plain_copy(value, file=file, line_of=lambda path: _nearest(lines, path)), lines


def _nearest(lines: Lines, path: JsonPath) -> int | None:
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


def _scan(text: str) -> Lines:
    """Returns the line of every table header and of every ``key =`` that stands at the start of a line."""
    lines: Lines = {(): 1}
    table: JsonPath = ()
    counts: dict[JsonPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            table = _table(header.group(2), header.group(1) == "[[", counts)
            lines.setdefault(table, number)
            continue
        assign = _ASSIGN.match(line)
        if assign:
            path = table
            for part in _PART.findall(assign.group(1)):
                path = (*path, part.strip("\"'"))
                lines.setdefault(path, number)
    return lines


def _table(text: str, is_array: bool, counts: dict[JsonPath, int]) -> JsonPath:
    path: JsonPath = ()
    parts = [part.strip("\"'") for part in _PART.findall(text)]
    for index, part in enumerate(parts):
        path = (*path, part)
        if is_array and index == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
