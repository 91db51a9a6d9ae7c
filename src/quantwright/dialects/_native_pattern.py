"""Graph patterns of the native language: read strictly, and written back."""

from __future__ import annotations

from typing import Any

from quantwright.config.config import Pattern, pattern_at
from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.dialects._native_spec import SpecReader

KEYS = tuple(Pattern.model_fields)
_WORDS = ("type", "name", "function")
_AT = "write '0' for what the head reads first, '0.1' for the second that one reads; leave it out for the head"
_PLAIN = (str, int, float, bool, type(None))


def read_pattern(reader: SpecReader, value: Any, path: JsonPath) -> Pattern | None:
    """Returns a pattern; its problems are in the reader."""
    count = len(reader.problems.items)
    known = reader.mapping(value, path, KEYS, "a pattern")
    words = {key: reader.pattern(known[key], (*path, key)) for key in _WORDS if key in known}
    params = _params(reader, known["params"], (*path, "params")) if "params" in known else {}
    inputs = None
    if "inputs" in known:
        listed = reader.items(known["inputs"], (*path, "inputs"), "'inputs'")
        inputs = tuple(read_pattern(reader, item, (*path, "inputs", index)) for index, item in enumerate(listed))
    if len(reader.problems.items) > count:
        return None
    return Pattern(**words, params=params, inputs=inputs)


def read_at(reader: SpecReader, value: Any, path: JsonPath, pattern: Pattern) -> str | None:
    """Returns a place inside a pattern, written as the way from its head: "" or "0.1"."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and pattern_at(pattern, text) is not None:
        return text
    allowed = ", ".join(f"'{place}'" for place in places(pattern))
    reader.add("value", path, f"{value!r:.40} is no place in the pattern", value=value, allowed=allowed, fix=_AT)
    return None


def places(pattern: Pattern, at: str = "") -> list[str]:
    """Returns every place of a pattern, the head ("") first."""
    found = [at]
    for index, item in enumerate(pattern.inputs or ()):
        found += places(item, f"{at}.{index}" if at else str(index))
    return found


def plain_pattern(pattern: Pattern) -> dict[str, Any]:
    """Returns a pattern as the plain values that ``read_pattern`` takes."""
    plain: dict[str, Any] = {key: getattr(pattern, key) for key in _WORDS if getattr(pattern, key) is not None}
    if pattern.params:
        plain["params"] = dict(pattern.params)
    if pattern.inputs is not None:
        plain["inputs"] = [plain_pattern(item) for item in pattern.inputs]
    return plain


def _params(reader: SpecReader, value: Any, path: JsonPath) -> dict[str, Any]:
    if not isinstance(value, dict):
        reader.add("type", path, f"'params' is {kind_of(value)}, not a mapping", value=value, fix="{kernel_size: 3}")
        return {}
    for key, item in value.items():
        flat = item if isinstance(item, list) else [item]
        if not all(isinstance(entry, _PLAIN) for entry in flat):
            message = f"the value of '{key}' is {kind_of(item)}, not a number, text or a list of these"
            reader.add("type", (*path, key), message, value=item, fix="write kernel_size: 3 or stride: [1, 2]")
    return dict(value)
