"""Document: a parsed file (or dict) whose every value knows its line. Strict readers for YAML, JSON and TOML."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from quantwright.config._json import parse_json
from quantwright.config._parsing import MAX_BYTES, JsonPath, fail, path_text, plain_copy
from quantwright.errors import ArtifactError, did_you_mean

__all__ = ["Document", "HasDocument", "JsonPath", "is_text", "path_text", "read_document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Returns a parsed configuration: plain values, the file they came from, and the line of each path.

    ``lines[("layer_quantize_config", 0, "layer_type")] == 31`` is the line of that key; () is the document itself.
    ``places`` is for a document made of Python objects: where each was constructed, in a file of its own. A reader
    leaves out where every field came from when nobody wants to know (``sources`` false): a check tells problems only.
    """

    value: Any
    file: str | None = None
    lines: Mapping[JsonPath, int] = field(default_factory=dict)
    places: Mapping[JsonPath, tuple[str, int]] = field(default_factory=dict)
    sources: bool = True

    def line(self, path: JsonPath) -> int | None:
        """Returns the line of ``path``, or of the nearest enclosing path that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def place(self, path: JsonPath) -> tuple[str | None, int | None]:
        """Returns file and line of ``path``, or those of the nearest enclosing path that has a place of its own."""
        for length in range(len(path), -1, -1) if self.places else ():
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.file, self.line(path)


@runtime_checkable
class HasDocument(Protocol):
    """Returns an object that a configuration can be read from, such as the config classes of another tool's face."""

    def to_document(self) -> Document:
        """Returns its values as a document, with the place every part was made at."""
        ...


def read_document(
    source: str | os.PathLike[str] | Mapping[str, Any] | HasDocument, *, file: str | None = None
) -> Document:
    """Returns the document of a path, a text (it has a line break or starts with a brace), a mapping or an object.

    Args:
        file: what to call a text or mapping in messages.

    Raises:
        ArtifactError: a file that cannot be read.
        ConfigError: text that is not UTF-8, truncated, not YAML, JSON or TOML, has duplicate keys, tags or NaN, or is
            too deep or too large.
    """
    if isinstance(source, HasDocument):
        made = source.to_document()
        value = plain_copy(made.value, file=made.place(())[0], line_of=lambda path: made.place(path)[1])
        return replace(made, value=value)
    if isinstance(source, Mapping):
        return Document(value=plain_copy(dict(source), file=file), file=file)
    if isinstance(source, str) and is_text(source):
        return _parse(source, file, "")
    if len(os.fspath(source)) > 4096:
        raise ArtifactError("longer than a path can be", where=f"{source!s:.60}...", fix="give a path or a document")
    path = Path(source)
    return _parse(_decode(_read(path), str(path)), str(path), path.suffix.lower())


def is_text(source: str) -> bool:
    """Returns whether a string is a document itself and not the path of one."""
    return "\n" in source or source.lstrip()[:1] in ("{", "[")


def _parse(text: str, file: str | None, suffix: str) -> Document:
    if not text.strip():
        fail("the document is empty", file=file, line=1, code="empty", fix="write a configuration, or name a preset")
    value: Any
    lines: Mapping[JsonPath, int]
    if suffix == ".json" or (suffix not in (".yaml", ".yml", ".toml") and text.lstrip()[0] in "{["):
        value, lines = parse_json(text, file)
    elif suffix == ".toml":
        from quantwright.config._toml import parse_toml

        value, lines = parse_toml(text, file)
    else:
        from quantwright.config._yaml import parse_yaml  # PyYAML costs import time that JSON need not pay

        value, lines = parse_yaml(text, file)
    if value is None:
        fail(
            "the document holds nothing", file=file, line=1, code="empty", fix="write a configuration, or name a preset"
        )
    return Document(value=value, file=file, lines=lines)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        near = did_you_mean(path.name, _siblings(path)) if path.parent.exists() else _nearest_folder(path)
        raise ArtifactError("no such file", where=str(path), fix=near or "check the path") from error
    except IsADirectoryError as error:
        raise ArtifactError("a folder, not a file", where=str(path), fix="name the configuration file in it") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"cannot be read: {reason}", where=str(path), fix="check the path and its permissions"
        ) from error
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"larger than {MAX_BYTES >> 20} MiB", where=str(path), fix="is this a configuration?")
    return data


def _nearest_folder(path: Path) -> str | None:
    """Returns the fix for a path whose folder does not exist, as far up as that begins."""
    missing = path.parent
    while not missing.parent.exists():
        missing = missing.parent
    return did_you_mean(missing.name, _siblings(missing)) or f"there is no folder '{missing}'"


def _siblings(path: Path) -> list[str]:
    try:
        return [item.name for item in path.parent.iterdir()]
    except OSError:
        return []


def _decode(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        fail(
            f"not UTF-8 text (byte {error.start})", file=file, line=line, code="encoding", fix="save the file as UTF-8"
        )
