"""What the configuration classes share: the line each object was made at, and its values as plain ones."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any, ClassVar, TypeVar

from quantwright.config.callsite import call_site
from quantwright.config.document import Document, JsonPath

Made = TypeVar("Made", bound="ConfigBase")
_DEEPEST = 60  # beyond what a document may be, so that its reader refuses it


class ConfigBase:
    """Returns the base of the configuration classes; ``_site`` is file and line of the call that made the object."""

    _site: tuple[str, int] | None
    _not_written: ClassVar[tuple[str, ...]] = ()  # fields that the tool's JSON does not hold

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        made = super().__new__(cls)
        object.__setattr__(made, "_site", call_site())
        return made

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, as the tool writes them."""
        plain = as_plain(self)
        return dict(plain)

    @classmethod
    def from_dict(cls: type[Made], data: dict[str, Any]) -> Made:
        """Returns the object of a mapping of its fields; an unknown one is a TypeError, as in the tool."""
        return cls(**data)


def document_of(config: ConfigBase) -> Document:
    """Returns the values of an object and of all inside it, with the line each was made at."""
    places: dict[JsonPath, tuple[str, int]] = {}
    return Document(value=as_plain(config, places), places=places)


def as_plain(value: Any, places: dict[JsonPath, tuple[str, int]] | None = None, path: JsonPath = ()) -> Any:
    """Returns a value as mappings, lists and text; what has no such form stays, for the reader to refuse.

    Args:
        places: is given the file and line of every object, by its path; None leaves out what the tool does not write.
    """
    if len(path) > _DEEPEST:
        return None
    if hasattr(value, "to_quantization_spec"):
        value = value.to_quantization_spec()
    if isinstance(value, ConfigBase):
        if places is not None and value._site is not None:
            places[path] = value._site
        left = value._not_written if places is None else ()
        names = [item.name for item in fields(value) if item.name not in left]  # type: ignore[arg-type]
        named = {name: getattr(value, name) for name in names}
        return {name: as_plain(item, places, (*path, name)) for name, item in named.items()}
    if isinstance(value, Enum):
        return value.name.lower() if value.name.isupper() and value.name[0] != "_" else value.name
    if isinstance(value, type):
        return _class_name(value)
    if isinstance(value, dict):
        pairs = [(_class_name(key) if isinstance(key, type) else key, item) for key, item in value.items()]
        return {key: as_plain(item, places, (*path, key)) for key, item in pairs}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_plain(item, places, (*path, index)) for index, item in enumerate(value)]
    return value


def _class_name(kind: type) -> str:
    """Returns how a document writes a class: an observer by its name, a layer with its module."""
    if kind.__module__.startswith(__name__.partition(".config.")[0]):
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"
