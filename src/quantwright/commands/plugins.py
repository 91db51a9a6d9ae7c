"""``quantwright list KIND``: every plug-in of a kind, from its file, without importing it."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping
from pathlib import Path

import quantwright
from quantwright import registry
from quantwright.commands import Outcome
from quantwright.config.availability import missing
from quantwright.config.known import known
from quantwright.config.spec import ROUNDINGS
from quantwright.registry import Entry

_ROUNDING = "numerics/rounding.py"


def run(options: argparse.Namespace) -> Outcome:
    """Returns the plug-ins of ``options.kind`` with their parameters."""
    entries = roundings() if options.kind == "rounding" else registry.describe(options.kind)
    document = [
        {"name": e.name, "summary": e.summary, "file": e.file, "parameters": _parameters(options.kind, e.name)}
        for e in entries
    ]
    later = {name: known(options.kind)[name] for name in sorted(missing(options.kind))}
    text = table(entries)
    if later:
        text += "\n\nknown, not available yet (read, explained and translated; refused when run):\n" + _later(later)
    return Outcome(document={"kind": options.kind, "plugins": document, "later": later}, text=lambda: text)


def _later(names: Mapping[str, str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"{name:<{width}}  {summary}" for name, summary in names.items())


def roundings() -> tuple[Entry, ...]:
    """Returns the rounding modes; their one-liners are the literal ``SUMMARIES`` of the module that rounds."""
    tree = ast.parse((Path(quantwright.__file__).parent / _ROUNDING).read_text(encoding="utf-8"))
    summaries: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "SUMMARIES" for t in node.targets):
            summaries = ast.literal_eval(node.value)
    return tuple(Entry(name=n, summary=summaries.get(n, ""), file=f"quantwright/{_ROUNDING}") for n in ROUNDINGS)


def table(entries: tuple[Entry, ...]) -> str:
    """Returns name, summary and file in columns."""
    if not entries:
        return "none"
    name_width = max(len(entry.name) for entry in entries)
    summary_width = max(len(entry.summary) for entry in entries)
    return "\n".join(f"{e.name:<{name_width}}  {e.summary:<{summary_width}}  {e.file}" for e in entries)


def _parameters(kind: str, name: str) -> dict[str, object]:
    return {} if kind == "rounding" else dict(registry.parameters(kind, name))
