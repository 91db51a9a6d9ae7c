"""Checks a configuration file without a model: every problem at once, torch-free, in well under half a second."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantwright.config.availability import not_yet
from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import HasDocument, read_document
from quantwright.config.load import Loadable, choose_dialect, read_any
from quantwright.errors import ConfigError, InputError, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Returns what a check found: a config, or problems; the dialect and why; what could not be carried over.

    Attributes:
        file: the path, or the name of the preset.
        dialect: "" when no dialect could be chosen.
        warnings: notes of the reader: what was accepted, corrected or found to be without effect.
    """

    file: str
    dialect: str = ""
    why: str = ""
    config: QuantConfig | None = None
    problems: tuple[Problem, ...] = ()
    unmapped: tuple[Unmapped, ...] = ()

    @property
    def ok(self) -> bool:
        """Returns whether there is no problem."""
        return not self.problems

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns the notes of the reader, and what the configuration names that is not available yet."""
        return (*self.config.notes, *not_yet(self.config)) if self.config is not None else ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "ok": self.ok,
            "file": self.file,
            "dialect": self.dialect or None,
            "why": self.why or None,
            "target": self.config.target if self.config is not None else None,
            "problems": [problem.to_json() for problem in self.problems],
            "warnings": list(self.warnings),
            "unmapped": [item.model_dump() for item in self.unmapped],
        }

    def render(self) -> str:
        """Returns the result as readable text, problems first."""
        lines = [problem.render() for problem in self.problems]
        if self.ok:
            rules = len(self.config.rules) if self.config is not None else 0
            target = self.config.target if self.config is not None and self.config.target else "not named"
            lines.append(f"{self.file}: fine ({self.dialect}: {self.why}; target {target}; {rules} rules)")
        else:
            count = len(self.problems)
            said = f" in a {self.dialect} configuration ({self.why})" if self.dialect else ""
            lines.append(f"{self.file}: {count} problem{'' if count == 1 else 's'}{said}")
        lines += [f"note: {note}" for note in self.warnings]
        return "\n".join(lines)


def check(source: Loadable, dialect: str = "auto", *, sources: bool = True) -> CheckResult:
    """Returns what is wrong with a configuration, or the configuration when nothing is.

    Args:
        sources: whether that configuration knows where its values came from, which costs time in a large file.

    Raises:
        ArtifactError: the file cannot be read.
        UnknownNameError: the dialect does not exist, or the source is neither a file nor a preset.
    """
    file = _name(source)
    try:
        reading = read_any(source, dialect=dialect, sources=sources)
    except ConfigError as error:
        name, why = _dialect_of(source, dialect)
        return CheckResult(file=file, dialect=name, why=why, problems=error.problems)
    return CheckResult(
        file=file, dialect=reading.dialect, why=reading.why, config=reading.config, unmapped=reading.unmapped
    )


def _name(source: Loadable) -> str:
    if isinstance(source, (Mapping, QuantConfig, HasDocument)):
        return f"<{type(source).__name__}>"
    text = os.fspath(source)
    return "<text>" if "\n" in text else text


def _dialect_of(source: Loadable, dialect: str) -> tuple[str, str]:
    """Returns the dialect of a configuration that has problems, if it gets as far as having one."""
    if isinstance(source, QuantConfig):
        return source.dialect, "it is a QuantConfig"
    try:
        return choose_dialect(read_document(source), dialect)
    except InputError:
        return "", ""
