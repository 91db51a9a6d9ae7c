"""What the page of two runs shows: figures side by side, error per layer of both, decisions that changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantwright.plan import plan_json
from quantwright.report import view
from quantwright.report.run import Run


def page(before: Run, after: Run) -> dict[str, Any]:
    """Returns what the template writes as text."""
    names = _names(before, after)
    runs = [{**view.page(run), "name": name} for run, name in zip((before, after), names, strict=True)]
    titles = dict.fromkeys(tile["title"] for run in runs for tile in run["tiles"])
    by_title = [{tile["title"]: tile for tile in run["tiles"]} for run in runs]
    return {
        "title": f"{names[0]} and {names[1]}",
        "names": names,
        "runs": runs,
        "tiles": [{"title": title, "cells": [by.get(title) for by in by_title]} for title in titles],
        "version": runs[1]["version"],
    }


def data(before: Run, after: Run) -> dict[str, Any]:
    """Returns what the script draws: error per point of both runs, and the differences of the plans."""
    errors: dict[str, dict[str, Any]] = {}
    for side, run in (("a", before), ("b", after)):
        for one in run.measured.get("activations", []):
            errors.setdefault(one["point"], {"point": one["point"], "role": one["role"]})[side] = one["sqnr_db"]
    return {
        "names": _names(before, after),
        "errors": list(errors.values()),
        "changes": [
            {
                "point": item.point, "field": item.field, "before": text(item.before), "after": text(item.after),
                "why": [str(source or "") for source in (item.before_source, item.after_source)],
            }
            for item in plan_json.decided(plan_json.diff(before.plan, after.plan))
        ],
    }  # fmt: skip


def _names(before: Run, after: Run) -> list[str]:
    """Returns the last parts of the folders' names, or as much as tells them apart."""
    last = [Path(run.name).name for run in (before, after)]
    return last if last[0] != last[1] else [before.name, after.name]


def text(value: Any) -> str:
    """Returns a setting in words: ``diffs(scope 5)``, ``per_channel(axis 0)``, a dash for nothing."""
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        head = next((str(value[key]) for key in ("name", "kind") if key in value), "")
        rest = ", ".join(f"{key} {text(item)}" for key, item in value.items() if key not in ("name", "kind"))
        return f"{head}({rest})" if head and rest else head or rest
    return ", ".join(map(text, value)) if isinstance(value, list) else str(value)
