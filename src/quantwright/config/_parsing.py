"""What the three file readers share: limits, the line of every path, and how a syntax error is told."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from quantwright.errors import ConfigError, Problem

JsonPath = tuple["str | int", ...]
Lines = dict[JsonPath, int]

MAX_DEPTH = 50
MAX_NODES = 200_000
MAX_BYTES = 16 * 2**20


def fail(
    message: str, *, file: str | None, line: int | None = None, fix: str | None = None, code: str = "syntax"
) -> NoReturn:
    """Raises a ConfigError with one problem; a reader that cannot go on calls it."""
    raise ConfigError([Problem(code=code, message=message, file=file, line=line, fix=fix)])


def too_deep(file: str | None, line: int | None = None) -> NoReturn:
    """Raises the ConfigError for nesting beyond MAX_DEPTH."""
    fail(f"nested deeper than {MAX_DEPTH} levels", file=file, line=line, code="too_deep", fix="flatten the document")


def too_large(file: str | None, line: int | None = None) -> NoReturn:
    """Raises the ConfigError for more than MAX_NODES values (also after aliases are expanded)."""
    fail(
        f"more than {MAX_NODES:,} values, counting every use of an alias",
        file=file,
        line=line,
        code="too_large",
        fix="split the document, or use fewer aliases",
    )


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
            too_deep(file, line)
        if count > MAX_NODES:
            too_large(file, line)
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    problems.append(_not_plain("key", key, path, file, line, "write keys as text"))
            return {key: visit(inner, (*path, key)) for key, inner in item.items() if isinstance(key, str)}
        if isinstance(item, (list, tuple)):
            return [visit(inner, (*path, index)) for index, inner in enumerate(item)]
        if is_bad_float(item):
            problems.append(_not_plain("number", item, path, file, line, "write a finite number"))
        elif item is not None and not isinstance(item, (str, int, float, bool)):
            problems.append(
                _not_plain("value", item, path, file, line, "use text, numbers, true/false, lists and mappings")
            )
        return item

    copy = visit(value, ())
    if problems:
        raise ConfigError(problems)
    return copy


def _not_plain(what: str, item: object, path: JsonPath, file: str | None, line: int | None, fix: str) -> Problem:
    message = f"the {what} {item!r:.80} is a {type(item).__name__} that a configuration cannot hold"
    return Problem(
        code="not_plain", message=message, path=path_text(path), file=file, line=line, value=repr(item)[:80], fix=fix
    )
