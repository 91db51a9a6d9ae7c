"""What the three file readers share: limits, the line of every path, and how a syntax error is told."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any, NoReturn

from quantwright.config._live import spelled, spelled_key
from quantwright.errors import ConfigError, Problem

JsonPath = tuple["str | int", ...]
Lines = dict[JsonPath, int]

MAX_DEPTH = 50
MAX_NODES = 1_000_000
MAX_ALIASED = 200_000  # values that aliases repeat
MAX_BYTES = 16 * 2**20
MAX_DIGITS = 400


@contextmanager
def collecting_later() -> Iterator[None]:
    """Yields without garbage collection: it would walk a growing tree again and again and find nothing to free."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def fail(
    message: str, *, file: str | None, line: int | None = None, fix: str | None = None, code: str = "syntax"
) -> NoReturn:
    """Raises a ConfigError with one problem; a reader that cannot go on calls it."""
    raise ConfigError([Problem(code=code, message=message, file=file, line=line, fix=fix)])


def too_deep(file: str | None, line: int | None = None, path: JsonPath = ()) -> NoReturn:
    """Raises the ConfigError for nesting beyond MAX_DEPTH."""
    message, begin = f"nested deeper than {MAX_DEPTH} levels", path_text(path[:4])
    problem = Problem(code="too_deep", message=message, path=begin, file=file, line=line, fix="flatten the document")
    raise ConfigError([problem])


def too_large(file: str | None, line: int | None = None, path: JsonPath = ()) -> NoReturn:
    """Raises the ConfigError for more than MAX_NODES values (also after aliases are expanded)."""
    message, begin = f"more than {MAX_NODES:,} values, or {MAX_ALIASED:,} by aliases", path_text(path[:4])
    fix = "split the document, or use fewer aliases"
    raise ConfigError([Problem(code="too_large", message=message, path=begin, file=file, line=line, fix=fix)])


def duplicate(key: str, path: JsonPath, *, file: str | None, line: int | None, first: int | None) -> Problem:
    """Returns the problem for a key that stands twice in one mapping."""
    seen = f" (first on line {first})" if first is not None else ""
    return Problem(
        code="duplicate_key",
        message=f"the key '{key}' stands twice in the same mapping{seen}",
        path=path_text(path),
        file=file,
        line=line,
        fix="keep one of them",
    )


def path_text(path: JsonPath) -> str:
    """Returns ``a.b[0].c`` for ("a", "b", 0, "c")."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def is_bad_float(value: object) -> bool:
    """Returns whether ``value`` is a float that is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)


def plain_copy(value: Any, *, file: str | None, line_of: Any = None) -> Any:
    """Returns ``value`` as plain dicts, lists, strings, numbers, booleans and None; refuses everything else.

    Tuples and sets become lists; classes, functions and enum members, also as keys, the text that names them.

    Raises:
        ConfigError: a key that is not text, NaN or infinity, another type, too deep or too large; all at once.
    """
    problems: list[Problem] = []
    count = 0

    def visit(item: Any, path: JsonPath) -> Any:
        nonlocal count
        count += 1
        line = line_of(path) if line_of else None
        if len(path) > MAX_DEPTH:
            too_deep(file, line, path)
        if count > MAX_NODES:
            too_large(file, line, path)
        if isinstance(item, Mapping):
            return visit_mapping(item, path, line)
        if isinstance(item, Enum):
            return spelled(item)
        if isinstance(item, (list, tuple)):
            return [visit(inner, (*path, index)) for index, inner in enumerate(item)]
        if isinstance(item, (set, frozenset)):
            return sorted((visit(inner, (*path, index)) for index, inner in enumerate(item)), key=str)
        if is_bad_float(item):
            problems.append(_not_plain("number", item, path, file, line, "write a finite number"))
        elif isinstance(item, int) and item.bit_length() > MAX_DIGITS * 3:
            problems.append(_not_plain("number", item, path, file, line, "write a shorter number"))
        elif isinstance(item, str) and not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
            problems.append(_not_plain("text", item, path, file, line, "remove the half of a surrogate pair"))
        elif item is not None and not isinstance(item, (str, int, float, bool)):
            text = spelled(item)
            if text is not None:
                return text
            fix = "use text, numbers, true/false, lists, mappings, classes and functions"
            problems.append(_not_plain("value", item, path, file, line, fix))
        return item

    def visit_mapping(item: Mapping[Any, Any], path: JsonPath, line: int | None) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, inner in item.items():
            text = spelled_key(key)
            if text is None:
                problems.append(_not_plain("key", key, path, file, line, "write keys as text"))
            elif text in made:
                problems.append(duplicate(text, (*path, text), file=file, line=line, first=None))
            else:
                made[text] = visit(inner, (*path, text))
        return made

    copy = visit(value, ())
    if problems:
        raise ConfigError(problems)
    return copy


def _not_plain(what: str, item: object, path: JsonPath, file: str | None, line: int | None, fix: str) -> Problem:
    text = ascii(item)[:80] if isinstance(item, str) else _repr(item)
    message = f"a configuration cannot hold the {what} {text} ({type(item).__name__})"
    return Problem(code="not_plain", message=message, path=path_text(path), file=file, line=line, value=text, fix=fix)


def _repr(item: object) -> str:
    """Returns at most 80 characters of an object, whatever its own idea of that is."""
    try:
        return repr(item)[:80]
    except Exception:  # noqa: BLE001  an endless number, or a user's class that cannot show itself
        return f"<{type(item).__name__}>"
