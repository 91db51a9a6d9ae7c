"""Reader: what every dialect needs to read a document strictly. It collects problems with line, path, value and fix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from quantwright.config.config import Source
from quantwright.config.document import Document, JsonPath, path_text
from quantwright.errors import Problem, Problems, did_you_mean


def shown(value: object) -> str:
    """Returns a value for a message: JSON words for true, false and null, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """Returns what a person calls the type of a plain value."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


_AS_LIST = "write it as a list: '- ' before every entry, or [entry, entry]"


_UNSAID = Source(kind="file")
_LONGEST = 1000  # characters of a message, whatever a document's keys are


class Reader:
    """Returns a collector of problems bound to a document.

    Every ``read`` method returns the checked value, or None after it has added a problem.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems = Problems()

    def add(
        self,
        code: str,
        path: JsonPath,
        message: str,
        *,
        value: object = None,
        allowed: Iterable[str] | str | None = None,
        fix: str | None = None,
    ) -> None:
        """Adds one problem at ``path``."""
        file, line = self.document.place(path)
        self.problems.add(
            Problem(
                code=code,
                message=message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ...",
                path=path_text(path),
                file=file,
                line=line,
                value=value,
                allowed=allowed if allowed is None or isinstance(allowed, str) else ", ".join(allowed),
                fix=fix,
            )
        )

    def raise_if_any(self) -> None:
        """Raises ConfigError with all problems, in the order of the document."""
        self.problems.items.sort(key=lambda problem: problem.line or 0)
        self.problems.raise_if_any()

    def source(self, path: JsonPath, text: str = "") -> Source:
        """Returns the Source of the value at ``path``; one that says little when the document wants none."""
        if not self.document.sources:
            return _UNSAID
        from_file = not self.document.places and (self.document.file is not None or bool(self.document.lines))
        file, line = self.document.place(path)
        return Source(kind="file" if from_file else "python", text=text, file=file, line=line, path=path_text(path))

    def mapping(self, value: Any, path: JsonPath, keys: Iterable[str], what: str) -> Mapping[str, Any]:
        """Returns the known keys of a mapping; unknown keys and other types become problems."""
        allowed = tuple(keys)
        if not isinstance(value, dict):
            fix = "write it as a mapping: {key: value}"
            self.add("type", path, f"{what} is {kind_of(value)}, not a mapping", value=value, allowed=allowed, fix=fix)
            return {}
        for key in value:
            if key not in allowed:
                self.add(
                    "unknown_key",
                    (*path, key),
                    f"unknown key '{key:.80}' in {what}",
                    value=key,
                    allowed=allowed,
                    fix=did_you_mean(key, allowed) or "remove the key",
                )
        return {key: item for key, item in value.items() if key in allowed}

    def items(self, value: Any, path: JsonPath, what: str) -> list[Any]:
        """Returns a list, or [] with a problem."""
        if isinstance(value, list):
            return value
        self.add("type", path, f"{what} is {kind_of(value)}, not a list", value=value, fix=_AS_LIST)
        return []

    def word(self, value: Any, path: JsonPath, allowed: Iterable[str], what: str, *, code: str = "value") -> str | None:
        """Returns one of the allowed words, exactly as spelled."""
        words = tuple(allowed)
        if isinstance(value, str) and value in words:
            return value
        lowered = {word.lower(): word for word in words}
        fix = did_you_mean(value, words)
        if isinstance(value, str) and value.strip().lower().replace("-", "_") in lowered:
            fix = f"write '{lowered[value.strip().lower().replace('-', '_')]}'"
        what = f"{'an' if what[:1] in 'aeio' else 'a'} {what}"
        self.add(code, path, f"{shown(value)} is not {what}", value=value, allowed=words, fix=fix or f"choose {what}")
        return None

    def flag(self, value: Any, path: JsonPath, *, code: str = "type") -> bool | None:
        """Returns a boolean; text and numbers that look like one get the fix."""
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        word = {"true": "true", "yes": "true", "on": "true", "1": "true", "false": "false", "no": "false"}
        word |= {"off": "false", "0": "false"}
        name = path[-1] if path else "the value"
        fix = f"write {word[text]}" if text in word else "write true or false"
        self.add(
            code, path, f"'{name}' is {shown(value)}, not true or false", value=value, allowed="true, false", fix=fix
        )
        return None

    def number(
        self,
        value: Any,
        path: JsonPath,
        *,
        integer: bool = False,
        low: float | None = None,
        high: float | None = None,
        code: str = "value",
    ) -> float | int | None:
        """Returns a number within [low, high]."""
        name = path[-1] if path else "the value"
        wanted = ("an integer" if integer else "a number") + _range(low, high)
        if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
            fix = f"write {wanted}"
            if isinstance(value, str) and _is_number(value):
                fix = f"write {value.strip()} without quotes"
            elif integer and isinstance(value, float) and value.is_integer():
                fix = f"write {int(value)}"
            self.add(
                "type" if code == "value" else code,
                path,
                f"'{name}' is {shown(value)}, not {wanted}",
                value=value,
                fix=fix,
            )
            return None
        number: int | float = value
        if (low is not None and not number >= low) or (high is not None and not number <= high):  # so is NaN
            self.add(
                code,
                path,
                f"'{name}' is {shown(value)}, not {wanted}",
                value=value,
                allowed=wanted,
                fix=f"write {wanted}",
            )
            return None
        return number

    def text(self, value: Any, path: JsonPath) -> str | None:
        """Returns text that is not empty."""
        if isinstance(value, str) and value.strip():
            return value
        name = path[-1] if path else "the value"
        self.add("type", path, f"'{name}' is {shown(value)}, not text", value=value, fix="write it in quotes")
        return None


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if low is not None:
        return f" of at least {low:g}"
    return f" of at most {high:g}" if high is not None else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
