"""Translates a configuration into another tool's language and says, per tensor role, what could not be carried."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from quantwright.config.config import QuantConfig, Source, Unmapped
from quantwright.config.load import Loadable, Reading, read_any, write_config
from quantwright.config.spec import ROLES

WHOLE = "network"  # the role of what is about no single tensor
_RULE = re.compile(r"rules\[(\d+)\]")
_WORDS = (
    ("weight", "weight"), ("w_", "weight"), ("bias", "bias"), ("input", "input"), ("output", "output"),
    ("activation", "activation"), ("a_", "activation"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Returns one thing that the translation could not carry.

    Attributes:
        when: ``reading``: the configuration says it and nothing here has a meaning for it; ``writing``: the other
            tool cannot say it.
        role: weight, bias, input, output, activation, or ``network``.
        path: in the document that was read, or in the native configuration that was written from.
        source: where the value was asked for, as far as that is known.
    """

    when: str
    role: str
    path: str
    message: str
    effect: str
    source: Source

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "when": self.when, "role": self.role, "path": self.path, "message": self.message, "effect": self.effect,
            "file": self.source.file, "line": self.source.line,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """Returns the text in the other language, how the configuration was read, and everything that is lost."""

    text: str
    to: str
    reading: Reading
    losses: tuple[Loss, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "from": self.reading.dialect,
            "why": self.reading.why,
            "to": self.to,
            "lossless": not self.losses,
            "text": self.text,
            "unmapped": [loss.to_json() for loss in self.losses],
            "notes": list(self.reading.config.notes),
        }


def translate(
    source: Loadable, *, to: str, dialect: str = "auto", target: str | None = None
) -> tuple[str, list[Unmapped]]:
    """Returns the configuration in another tool's language, and everything that could not be carried.

    Args:
        source: a path, a text, a mapping, a preset name or a QuantConfig.
        to: a name of ``quantwright list dialects``.
        dialect: whose language ``source`` is in; ``auto`` asks every dialect.
        target: replaces the target that the configuration names.

    Raises:
        ConfigError: every problem of the configuration at once. ArtifactError: a file that cannot be read.
        UnknownNameError: an unknown dialect or target.
    """
    reading = read_any(source, dialect=dialect, target=target)
    text, unwritten = write_config(reading.config, to)
    return text, [*reading.unmapped, *unwritten]


def translation(source: Loadable, *, to: str, dialect: str = "auto") -> Translation:
    """Returns what ``translate`` returns, with roles and places of what is lost; see there."""
    reading = read_any(source, dialect=dialect)
    text, unwritten = write_config(reading.config, to)
    file = reading.config.source.file
    losses = [_loss("reading", item, Source(kind="file", file=file, line=item.line)) for item in reading.unmapped]
    losses += [_loss("writing", item, origin(reading.config, item.path)) for item in unwritten]
    ordered = sorted(dict.fromkeys(losses), key=lambda loss: _ORDER.index(loss.role))
    return Translation(text=text, to=to, reading=reading, losses=tuple(ordered))


_ORDER = (*ROLES, "activation", WHOLE)


def role_of(path: str) -> str:
    """Returns which tensors a path of any dialect is about: the last of its words that names a role."""
    for word in reversed(re.split(r"[.\[\] ]+", path.lower())):
        for beginning, role in _WORDS:
            if word.startswith(beginning):
                return role
    return WHOLE


def origin(config: QuantConfig, path: str) -> Source:
    """Returns where the value at a path of the native configuration was asked for: its field, its rule, or the file.

    A field that nobody asked for, and that has its value by default, has a source that says so.
    """
    rest = path.partition(".")[2]
    rule = _RULE.match(path)
    if rule and int(rule.group(1)) < len(config.rules):
        found = config.rules[int(rule.group(1))]
        return found.field_sources.get(rest, found.source)
    if path.startswith("default."):
        return config.default_sources.get(rest, Source(kind="builtin", text="default"))
    return config.default_sources.get(path, Source(kind=config.source.kind, file=config.source.file))


def _loss(when: str, item: Unmapped, source: Source) -> Loss:
    return Loss(
        when=when, role=role_of(item.path), path=item.path, message=item.message, effect=item.effect, source=source
    )
