"""The registry of plug-ins: a plug-in is a file, and its file name is its name.

``names`` and ``describe`` read folders and parse docstrings, so they import nothing (no torch). ``load`` imports one
file and returns its ``plugin`` object. ``register`` adds one from outside the package for this process.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantwright.errors import QuantwrightError, UnknownNameError, did_you_mean

_ROOT = Path(__file__).parent
KINDS: dict[str, str] = {  # kind -> folder, relative to the package
    "formats": "numerics/formats",
    "observers": "observers",
    "fakequant": "fakequant",
    "passes": "passes",
    "algorithms": "algorithms",
    "targets": "targets",
    "dialects": "dialects",
    "exporters": "exporters",
}
_EXTRA: dict[tuple[str, str], Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Returns what ``list`` shows about a plug-in: its name, one line, and the file that holds it."""

    name: str
    summary: str
    file: str


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise UnknownNameError(f"unknown plug-in kind '{kind}'", allowed=KINDS, fix=did_you_mean(kind, KINDS))
    return _ROOT / KINDS[kind]


def names(kind: str) -> tuple[str, ...]:
    """Returns the sorted names of all plug-ins of ``kind``: the files of its folder (without ``_`` names)."""
    found = {path.stem for path in _folder(kind).glob("*.py") if not path.stem.startswith("_")}
    return tuple(sorted(found | {name for k, name in _EXTRA if k == kind}))


def describe(kind: str) -> tuple[Entry, ...]:
    """Returns name, first docstring line and source file of every plug-in of ``kind``, importing none of them."""
    entries = []
    for name in names(kind):
        if (kind, name) in _EXTRA:
            doc = (_EXTRA[kind, name].__doc__ or "").strip()
            entries.append(Entry(name=name, summary=doc.split("\n")[0], file="registered at run time"))
            continue
        path = _folder(kind) / f"{name}.py"
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        entries.append(Entry(name=name, summary=doc.split("\n")[0], file=f"quantwright/{KINDS[kind]}/{name}.py"))
    return tuple(entries)


def load(kind: str, name: str) -> Any:
    """Returns the ``plugin`` object of the file ``name`` in the folder of ``kind``.

    Raises:
        UnknownNameError: no such file; the message lists what exists and the nearest names.
    """
    if (kind, name) in _EXTRA:
        return _EXTRA[kind, name]
    known = names(kind)
    if name not in known:
        raise UnknownNameError(f"no {kind} plug-in is called '{name}'", allowed=known, fix=did_you_mean(name, known))
    module = importlib.import_module(f"quantwright.{KINDS[kind].replace('/', '.')}.{name}")
    if not hasattr(module, "plugin"):
        raise QuantwrightError(f"{module.__file__} defines no 'plugin'", fix="assign the class or object to 'plugin'")
    return module.plugin


def parameters(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Returns the parameters a plug-in declares in its literal ``PARAMS``, without importing the file.

    ``PARAMS = {"percentile": {"type": "float", "default": 99.99, "min": 0, "max": 100, "help": "..."}}``;
    types are ``float``, ``int``, ``bool``, ``str`` (with ``choices``) and ``list``.
    """
    if (kind, name) in _EXTRA:
        return dict(getattr(_EXTRA[kind, name], "PARAMS", {}))
    return dict(literal(kind, name, "PARAMS", {}))


def literal(kind: str, name: str, constant: str, default: Any = None) -> Any:
    """Returns the value of a literal constant of a plug-in's file, without importing it; ``default`` without one.

    Raises:
        UnknownNameError: no such file; the message lists what exists and the nearest names.
    """
    if (kind, name) in _EXTRA:
        return getattr(_EXTRA[kind, name], constant, default)
    known = names(kind)
    if name not in known:
        raise UnknownNameError(f"no {kind} plug-in is called '{name}'", allowed=known, fix=did_you_mean(name, known))
    tree = ast.parse((_folder(kind) / f"{name}.py").read_text(encoding="utf-8"))
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == constant for target in targets):
            return ast.literal_eval(statement.value)  # type: ignore[attr-defined]
    return default


def register(kind: str, name: str, plugin: Any) -> None:
    """Adds a plug-in from outside the package for this process; a name that exists already is refused."""
    if name in names(kind):
        raise QuantwrightError(f"{kind} already has a plug-in called '{name}'", fix="choose another name")
    _EXTRA[kind, name] = plugin
