"""What the readers of MQBench and sophgo-mq share: notes, what is not carried over, keys that a tool ignores, names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantwright.config.config import Source, Unmapped
from quantwright.config.document import Document, JsonPath, path_text
from quantwright.config.reader import Reader, kind_of, shown
from quantwright.errors import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Returns one name of a list in a document, and where it stands."""

    text: str
    path: JsonPath


class MqReader(Reader):
    """Returns a reader that also collects notes (each once) and what could not be carried over.

    Attributes:
        tool: the dialect's name, for sources and messages.
    """

    def __init__(self, document: Document, tool: str) -> None:
        super().__init__(document)
        self.tool = tool
        self.notes: list[str] = []
        self.unmapped: list[Unmapped] = []
        self._noted: set[tuple[str, JsonPath]] = set()

    def note(self, path: JsonPath, text: str, topic: str = "") -> None:
        """Adds a note, once per topic and place."""
        if (topic or text, path) in self._noted:
            return
        self._noted.add((topic or text, path))
        self.notes.append(f"{self._place(path)}{text}")

    def drop(self, path: JsonPath, message: str, effect: str) -> None:
        """Adds something that is not carried over, and a note that says so."""
        self.unmapped.append(
            Unmapped(path=path_text(path), message=message, effect=effect, line=self.document.line(path))
        )
        self.note(path, f"{message}: {effect}")

    def default(self, text: str) -> Source:
        """Returns the Source of a value that the tool takes where the document is silent."""
        return Source(kind="dialect", text=f"{self.tool}: {text}")

    def where(self, path: JsonPath) -> Source:
        """Returns the Source of the value at ``path``, called by its path."""
        return self.source(path, path_text(path))

    def ignoring(self, value: Any, path: JsonPath, keys: Iterable[str], what: str) -> Mapping[str, Any]:
        """Returns the known keys of a mapping; the tool ignores others silently: noted, a near miss is a problem."""
        allowed = tuple(keys)
        if not isinstance(value, dict):
            self.add("type", path, f"{what} is {kind_of(value)}, not a mapping", value=value, allowed=allowed)
            return {}
        for key in value:
            if key in allowed:
                continue
            near = did_you_mean(key, allowed)
            if near:
                message = f"unknown key '{key}' in {what}, which {self.tool} would ignore silently"
                self.add("unknown_key", (*path, key), message, value=key, allowed=allowed, fix=near)
            else:
                self.note((*path, key), f"no effect: {self.tool} reads no '{key:.60}' in {what}")
        return {key: item for key, item in value.items() if key in allowed}

    def names(self, value: Any, path: JsonPath) -> list[Entry]:
        """Returns the names of a list, or of one name alone."""
        if isinstance(value, str):
            found = [Entry(text=value.strip(), path=path)] if value.strip() else []
            if not found:
                self.add("type", path, f"'{path[-1]}' is empty text", value=value, fix="name something, or remove it")
            return found
        if value is None:
            return []
        found = []
        for index, item in enumerate(self.items(value, path, f"'{path[-1]}'")):
            if isinstance(item, str) and item.strip():
                found.append(Entry(text=item.strip(), path=(*path, index)))
            else:
                message = f"{shown(item)} is not a name"
                self.add("type", (*path, index), message, value=item, fix="write the name in quotes")
        return found

    def integer(self, value: Any, path: JsonPath, low: int, high: int) -> int | None:
        """Returns an integer; text that is one is taken and noted, as the documents of the tools write it."""
        if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) < 6:
            self.note(path, f"the text {shown(value)} is read as a number")
            value = int(value.strip())
        number = self.number(value, path, integer=True, low=low, high=high)
        return None if number is None else int(number)

    def _place(self, path: JsonPath) -> str:
        line, file = self.document.line(path), self.document.file or ""
        place = f"{file}:{line}" if file and line else file
        return " ".join(part for part in (place, path_text(path)) if part) + ": " if (place or path) else ""
