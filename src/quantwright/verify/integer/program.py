"""A program of the integer machine: tasks that make values from values, in order; only those that are asked for run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantwright.verify.integer.grids import Grid
from quantwright.verify.integer.sums import Layer

Key = tuple[str, str]
"""(name of a node, form): ``whole`` stored integers, ``exact`` integers times a unit, ``real`` float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Returns one step: ``run`` takes the values of ``needs`` in order."""

    needs: tuple[Key, ...]
    run: Callable[..., Any]


@dataclass(slots=True, kw_only=True)
class Program:
    """Returns the tasks of a network and what is known of their results.

    Attributes:
        tasks: in an order in which everything needed comes first.
        grids: node -> the grid of its stored integers.
        layers: what is known of every accumulator, in order.
        how: point -> how its integers are computed, in words.
        inputs: placeholders, in order. outputs: the nodes a network returns, flattened.
    """

    tasks: dict[Key, Task] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def run(self, given: Sequence[Any], wanted: Iterable[Key], take: Callable[[Key, Any], None]) -> None:
        """Runs what ``wanted`` needs, hands each wanted value to ``take``, and frees values after their last use."""
        asked = set(wanted)
        uses = self._uses(asked)
        held: dict[Key, Any] = {(name, "real"): value for name, value in zip(self.inputs, given, strict=True)}
        for name in self.inputs:
            if (name, "real") in asked:
                take((name, "real"), held[name, "real"])
        left = dict(uses)
        for key, task in self.tasks.items():
            if key not in uses:
                continue
            value = task.run(*(held[need] for need in task.needs))
            if key in asked:
                take(key, value)
            if left[key]:
                held[key] = value
            for need in set(task.needs):
                left[need] -= 1
                if not left[need]:
                    held.pop(need, None)

    def _uses(self, asked: set[Key]) -> Mapping[Key, int]:
        """Returns how many tasks read each value that is needed."""
        uses: dict[Key, int] = dict.fromkeys(asked, 0)
        for key in reversed(self.tasks):
            if key in uses:
                for need in set(self.tasks[key].needs):
                    uses[need] = uses.get(need, 0) + 1
        return uses
