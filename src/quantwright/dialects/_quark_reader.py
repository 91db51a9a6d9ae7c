"""A reader of Quark documents: problems, notes (each once) and what cannot be carried over, all with their places."""

from __future__ import annotations

from quantwright.config.config import Source, Unmapped
from quantwright.config.document import Document, JsonPath, path_text
from quantwright.config.reader import Reader
from quantwright.dialects._quark_names import TOOL


class QuarkReader(Reader):
    """Returns a reader that also collects notes and what could not be carried over.

    Attributes:
        root: where the configuration begins: () or ("quantization_config",) in a Hugging Face config.json.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.notes: list[str] = []
        self.unmapped: list[Unmapped] = []
        self.root: JsonPath = ()
        self._noted: set[tuple[str, JsonPath | None]] = set()
        self._kind = self.source(()).kind

    def note(self, topic: str, path: JsonPath | None, text: str) -> None:
        """Adds a note once per topic and place."""
        if (topic, path) not in self._noted:
            self._noted.add((topic, path))
            self.notes.append(f"{self._place(path)}{text}")

    def drop(self, path: JsonPath, message: str, effect: str) -> None:
        """Adds something that is not carried over, and a note that says so."""
        line = self.document.place(path)[1]
        self.unmapped.append(Unmapped(path=path_text(path), message=message, effect=effect, line=line))
        self.note("unmapped", path, f"{message}: {effect}")

    def said(self, path: JsonPath) -> Source:
        """Returns the Source of a value that the document says."""
        text = path_text(path)
        file, line = self.document.place(path)
        kind = self._kind
        # not validated: a file of some megabytes has a hundred thousand of these
        return Source.model_construct(kind=kind, text=text, file=file, line=line, path=text)

    def own(self, path: JsonPath, text: str) -> Source:
        """Returns the Source of a value that is the tool's, for a tensor that the document speaks of at ``path``."""
        file, line = self.document.place(path)
        said = f"{TOOL}: {text}"
        return Source.model_construct(kind="dialect", text=said, file=file, line=line, path=path_text(path))

    def _place(self, path: JsonPath | None) -> str:
        if path is None:
            return ""
        file, line = self.document.place(path)
        place = f"{file}:{line}" if file and line else (file or "")
        return "".join(f"{part} " for part in (place, path_text(path)) if part).rstrip() + (
            ": " if place or path else ""
        )
