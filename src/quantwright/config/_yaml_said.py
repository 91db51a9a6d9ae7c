"""What PyYAML says of a text that is not YAML, as people say it, with the way out."""

from __future__ import annotations

from typing import Any

_SEPARATE = "write a comma between entries, and close the bracket"
_SAID = (  # (words of the parser, what is wrong, what to do); {line} is where the thing began that it was reading
    ("found character '\\t'", "a tab at the beginning of a line, where YAML wants spaces", "replace the tab by spaces"),
    ("did not find expected ',' or '}'", "the '{{' of line {line} is not closed before this", _SEPARATE),
    ("did not find expected ',' or ']'", "the '[' of line {line} is not closed before this", _SEPARATE),
    (
        "did not find expected '-' indicator",
        "this line does not fit the list that begins on line {line}",
        "indent it like the entries of that list, or like what the list belongs to",
    ),
    (
        "did not find expected key",
        "this line does not fit the mapping that begins on line {line}",
        "indent it like the keys of that mapping, or write 'key: value'",
    ),
    (
        "mapping values are not allowed",
        "a ':' where none can stand",
        "indent the line like its neighbours, or put text that holds ': ' in quotes",
    ),
    ("could not find expected ':'", "a key without a ':'", "write 'key: value'"),
    ("unexpected end of stream", "the quote of line {line} is not closed", "close it"),
    ("unknown escape character", "an escape that YAML does not know", "write \\\\ for a backslash, or single quotes"),
    ("cannot start any token", "a character that cannot begin a value here", "put the value in quotes"),
)


def said(error: Any, text: str) -> tuple[str, int | None, str]:
    """Returns message, line and fix for a parser's error about ``text``."""
    mark, begun = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    what = " ".join(part for part in (error.context, error.problem) if part)
    line = mark.line + 1 if mark else None
    if "cannot start any token" in what and _tab(text, line):
        what = "found character '\\t'"
    for words, message, fix in _SAID:
        if words in what:
            start = begun.line + 1 if begun else "?"
            return f"not valid YAML: {message.format(line=start)}", line, fix
    return f"not valid YAML: {what}", line, "check indentation, quotes and brackets here"


def _tab(text: str, line: int | None) -> bool:
    """Returns whether a line begins with a tab, spaces before it or not."""
    lines = text.split("\n", line or 1)
    return line is not None and line <= len(lines) and lines[line - 1].lstrip(" ").startswith("\t")
