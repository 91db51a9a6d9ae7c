"""Document: a parsed file (or dict) whose every value knows its line. Strict readers for YAML, JSON and TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonPath = tuple["str | int", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Returns a parsed configuration: plain values, the file they came from, and the line of each path.

    ``lines[("layer_quantize_config", 0, "layer_type")] == 31`` is the line of that key; () is the document itself.
    """

    value: Any
    file: str | None = None
    lines: Mapping[JsonPath, int] = field(default_factory=dict)

    def line(self, path: JsonPath) -> int | None:
        """Returns the line of ``path``, or of the nearest enclosing path that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def path_text(path: JsonPath) -> str:
    """Returns ``a.b[0].c`` for ("a", "b", 0, "c")."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text
