"""Every error Quantwright raises, in one tree.

    QuantwrightError
    |- InputError            what the user handed over cannot be used (exit code 2)
    |  |- ConfigError        a configuration; carries *all* problems at once
    |  |- UnknownNameError   a plug-in name that does not exist
    |  |- ModelError         a model that cannot be loaded
    |  |- CaptureError       a model that cannot be captured as a graph
    |  |- DataError          calibration or evaluation data: empty, wrong shape or dtype, NaN/Inf
    |  `- ArtifactError      a file or folder of ours that is missing, truncated or cannot be written
    |- StateError            a call out of order (export before calibrate, ...)
    |- MissingDependencyError an optional package is needed and not installed
    |- ExportError           the exporter could not write what the plan asks for
    `- VerificationError     the exported file does not compute what was simulated (exit code 1)

Every message answers four questions: what is wrong, where (file:line or tensor), what is allowed, what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


class QuantwrightError(Exception):
    """Returns the root of all errors; ``str(error)`` is the message a user should read."""

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        allowed: Iterable[str] | str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.allowed = None if allowed is None else (allowed if isinstance(allowed, str) else ", ".join(allowed))
        self.fix = fix
        super().__init__(self.render())

    def render(self) -> str:
        """Returns the message with where, allowed and fix, one per line."""
        lines = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class InputError(QuantwrightError):
    """Returns an error about something the user handed over."""

    exit_code = 2


class UnknownNameError(InputError):
    """Returns an error for a plug-in name that no file provides."""


class ModelError(InputError):
    """Returns an error for a model that cannot be loaded."""


class CaptureError(InputError):
    """Returns an error for a model that cannot be captured; ``where`` is the user's file and line."""


class DataError(InputError):
    """Returns an error for data that cannot be used."""


class ArtifactError(InputError):
    """Returns an error for a file that is missing, damaged or cannot be written."""


class StateError(QuantwrightError):
    """Returns an error for a call out of order."""


class MissingDependencyError(QuantwrightError):
    """Returns an error for an optional package that is not installed."""

    exit_code = 2


class ExportError(QuantwrightError):
    """Returns an error of an exporter."""


class VerificationError(QuantwrightError):
    """Returns an error for an exported file that diverges from the simulation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Returns one thing wrong in a configuration: what, where, which value, what is allowed, what to do."""

    code: str  # stable and short, for tests and machines: "unknown_key", "dpu_scale", ...
    message: str
    path: str = ""  # JSON path: "layer_quantize_config[0].overall_quantize_config.method"
    file: str | None = None
    line: int | None = None
    value: object = None
    allowed: str | None = None
    fix: str | None = None

    @property
    def where(self) -> str:
        """Returns ``file:line path`` as far as it is known."""
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}" if place else f"line {self.line}"
        return " ".join(part for part in (place, self.path) if part)

    def render(self) -> str:
        """Returns the problem as a few readable lines."""
        head = f"{self.where}: {self.message}" if self.where else self.message
        lines = [head]
        if self.allowed and self.allowed not in head:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Returns plain JSON values."""
        value = self.value if isinstance(self.value, (str, int, float, bool, type(None))) else repr(self.value)
        return {
            "code": self.code, "message": self.message, "path": self.path, "file": self.file, "line": self.line,
            "value": value, "allowed": self.allowed, "fix": self.fix,
        }  # fmt: skip


@dataclass(slots=True)
class Problems:
    """Returns a collector: checks add to it, and ``raise_if_any`` raises all of them in one ConfigError."""

    items: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Adds one problem."""
        self.items.append(problem)

    def raise_if_any(self) -> None:
        """Raises ConfigError with all problems collected so far."""
        if self.items:
            raise ConfigError(self.items)


class ConfigError(InputError):
    """Returns an error that carries every problem of a configuration at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        super().__init__(head + ":\n" + "\n".join(problem.render() for problem in self.problems))


def did_you_mean(value: object, allowed: Iterable[str]) -> str | None:
    """Returns ``did you mean 'x'?`` for the nearest allowed words, or None."""
    if not isinstance(value, str):
        return None
    words = list(allowed)
    lowered = {word.lower(): word for word in words}
    close = difflib.get_close_matches(value.lower(), list(lowered), n=3, cutoff=0.6)
    if not close:
        return None
    return "did you mean " + " or ".join(f"'{lowered[word]}'" for word in close) + "?"
