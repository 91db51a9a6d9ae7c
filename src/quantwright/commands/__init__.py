"""One file per command of the command line: ``run(options) -> Outcome``. Nothing here prints, and nothing imports torch
before the command needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantwright.errors import ConfigError, InputError, QuantwrightError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Returns what a command found: the document for machines, the text for people (made if asked), the exit code.

    Attributes:
        aside: what people read beside the text, on stderr (the text goes into a file or a pipe).
        quiet: print nothing: another process does.
    """

    document: Any
    text: Callable[[], str]
    code: int = 0
    aside: Callable[[], str] | None = None
    quiet: bool = False


class SeveralErrors(InputError):
    """Returns several errors at once: everything that the cheap checks found before any work began."""

    def __init__(self, errors: list[QuantwrightError]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{len(errors)} things are wrong:\n" + "\n".join(str(error) for error in errors))


def error_document(error: QuantwrightError) -> dict[str, Any]:
    """Returns an error as plain values: its kind, message, place, what is allowed, the fix, and all single problems."""
    document: dict[str, Any] = {
        "type": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "allowed": error.allowed,
        "fix": error.fix,
    }
    problems = error_problems(error)
    if problems:
        document["problems"] = problems
    return document


def error_problems(error: QuantwrightError) -> list[dict[str, Any]]:
    """Returns the single problems an error carries."""
    if isinstance(error, ConfigError):
        return [problem.to_json() for problem in error.problems]
    if isinstance(error, SeveralErrors):
        return [item for inner in error.errors for item in (error_problems(inner) or [error_document(inner)])]
    return []
