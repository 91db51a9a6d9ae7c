"""Replacing one activation by another, in the same place of the graph."""

from __future__ import annotations

from typing import Any

from torch import fx

from quantwright.passes import Change


def made_by_module(node: fx.Node, class_name: str) -> bool:
    """Returns whether a module of the class ``class_name`` made ``node``, not a function or method call."""
    origins = node.meta.get("origins", ())
    return any(origin.module_type.rpartition(".")[2] == class_name for origin in origins)


def replace(node: fx.Node, target: Any, x: fx.Node, *, kind: str, by: str) -> Change:
    """Returns the change after ``node`` became ``target(x)`` of the kind ``kind``; its name and origins stay."""
    was = node.meta.get("kind", "")
    node.target, node.args, node.kwargs = target, (x,), {}
    node.meta["kind"] = kind
    origins = node.meta.get("origins", ())
    label = origins[0].module_path if origins and origins[0].module_path else node.name
    return Change(by=by, node=node.name, text=f"{label}: {was} replaced by {kind}", data={"was": was, "is": kind})
