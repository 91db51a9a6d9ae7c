"""Passes: data-free rewrites of the graph that keep (or knowingly approximate) its function.

To add one: write ``passes/<name>.py`` with a docstring, a literal ``PARAMS`` (see ``registry.parameters``) and
``plugin = run`` where ``run(graph: Graph, **params) -> list[Change]`` edits the graph in place and reports each change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Returns one change a pass or algorithm made: to what, and what it was, in words; numbers go to ``data``."""

    by: str
    node: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)
