"""Live objects of Python configurations as text: classes, functions, enum members. Nothing is imported for it."""

from __future__ import annotations

from enum import Enum
from typing import Any

_HOMES = {"_operator": "operator", "torch._C._nn": "torch.nn.functional", "builtins": ""}


def spelled(item: Any) -> str | None:
    """Returns how a live object is written in a file, or None when it is not of a kind that can be.

    A class is ``torch.nn.modules.conv.Conv2d``, a function ``operator.add`` or ``torch.cat``, a method
    ``torch.Tensor.add``, an enum member its value when that is text, else its name, a dtype ``torch.float16``.
    """
    if isinstance(item, Enum):
        return item.value if isinstance(item.value, str) else item.name
    kind = type(item)
    if (kind.__module__, kind.__name__) == ("torch", "dtype"):
        return str(item)
    name = getattr(item, "__qualname__", None) or getattr(item, "__name__", None)
    if not isinstance(name, str) or not (isinstance(item, type) or callable(item)):
        return None
    home = getattr(item, "__module__", None)
    owner, _, short = name.rpartition(".")
    if owner == "_VariableFunctionsClass":  # torch's own functions hide in a class
        return f"torch.{short}"
    if owner in ("TensorBase", "_C.TensorBase"):
        return f"torch.Tensor.{short}"
    if not isinstance(home, str):
        return name
    return f"{_HOMES.get(home, home)}.{name}".lstrip(".")


def spelled_key(key: Any) -> str | None:
    """Returns the text of a key: itself, that of a live object, or those of a tuple's, joined by commas."""
    if isinstance(key, Enum):
        return spelled(key)
    if isinstance(key, str):
        return key
    if isinstance(key, tuple):
        parts = [spelled_key(part) for part in key]
        return None if not parts or None in parts else ", ".join(part for part in parts if part is not None)
    return spelled(key)
