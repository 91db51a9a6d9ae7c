"""``quantwright diff A B``: which tensors two configurations or plans treat differently, and which rule does it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.config.load import Reading, read_any
from quantwright.errors import ArtifactError, InputError, ModelError
from quantwright.loading import reference
from quantwright.plan import plan_json
from quantwright.plan.config_diff import diff_configs
from quantwright.plan.plan import Plan
from quantwright.plan.plan_json import Difference, decided, diff
from quantwright.report.compare import text

PLAN = "plan.json"
SHOWN = 3  # tensors named in one line of the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Returns one of the two: a plan that was made, or a configuration."""

    name: str
    plan: Plan | None = None
    reading: Reading | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what it is, in plain JSON values."""
        read = self.reading
        if read is None:
            return {"name": self.name, "kind": "plan", "dialect": None, "why": None}
        return {"name": self.name, "kind": "configuration", "dialect": read.dialect, "why": read.why}

    def told(self) -> str:
        """Returns what it is, for people."""
        if self.reading is None:
            return f"{self.name} (plan)"
        return f"{self.name} ({self.reading.dialect}: {self.reading.why})"


def run(options: argparse.Namespace) -> Outcome:
    """Returns every difference; exit code 1 when there is one."""
    checks = preflight.Checks()
    one: Any = checks.run(_side, options.a, options.dialect, options)
    two: Any = checks.run(_side, options.b, options.dialect_b or options.dialect, options)
    if options.model is not None:
        checks.run(reference.look, options.model, what="model", error=ModelError)
    checks.run(preflight.image_numbers, options)
    checks.done()
    sides = (one, two)
    _require_fitting(sides, options)
    level, tensors = "plan", None
    if options.model is None and one.plan is None:
        level, found = "configuration", diff_configs(one.reading.config, two.reading.config)
    else:
        plans = [side.plan or _decide(side.reading.config, options) for side in sides]
        tensors = len({d.point.name for plan in plans for d in plan.decisions})
        found = decided(diff(*plans))
    document = {
        "a": one.to_json(), "b": two.to_json(), "level": level, "model": options.model, "tensors": tensors,
        "changed": len({item.point for item in found}), "differences": [item.to_json() for item in found],
    }  # fmt: skip
    return Outcome(document=document, text=lambda: render(sides, found, tensors), code=1 if found else 0)


def _side(name: str, dialect: str, options: argparse.Namespace) -> Side:
    """Returns the plan in a folder or file, or the configuration."""
    path = Path(name)
    if path.is_dir():
        path = path / PLAN
        if not path.is_file():
            fix = "name the folder of a quantize run, or a configuration"
            raise InputError(f"the folder has no {PLAN}", where=name, fix=fix)
    if path.name == PLAN or _is_plan(path):
        from quantwright.report.folder import read_json

        if options.target is not None:
            raise InputError("--target has no effect on a plan that is made", where=name, fix="leave out --target")
        try:
            return Side(name=name, plan=plan_json.from_json(read_json(path)))
        except ArtifactError as error:
            raise (
                error
                if error.where
                else ArtifactError(error.message, where=str(path), allowed=error.allowed, fix=error.fix)
            ) from error
    return Side(name=name, reading=read_any(name, dialect=dialect, target=options.target))


def _is_plan(path: Path) -> bool:
    """Returns whether a file begins as plan.json does, whatever it is called."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(400)
    return all(f'"{key}"'.encode() in head for key in ("version", "model", "target", "decisions"))


def _require_fitting(sides: Sequence[Side], options: argparse.Namespace) -> None:
    """Raises InputError when the two cannot be compared, or an option would have no effect."""
    made = [side for side in sides if side.plan is not None]
    if len(made) == 1 and options.model is None:
        raise InputError(
            f"'{made[0].name}' is a plan and the other one a configuration", where="diff",
            fix="add --model MODEL, on which the configuration becomes a plan too",
        )  # fmt: skip
    if len(made) == 2 and options.model is not None:
        raise InputError("--model has no effect: both are plans already", where="--model", fix="leave out --model")
    given = "--data" if options.data is not None else "--input-shape"
    if options.model is None and (options.data is not None or options.input_shape):
        raise InputError(f"{given} has no effect without --model", where=given, fix="add --model MODEL")
    if options.model is None and options.capture != "graph":
        raise InputError("--capture has no effect without --model", where="--capture", fix="add --model MODEL")


def _decide(config: Any, options: argparse.Namespace) -> Plan:
    """Returns the plan of a configuration on the model, which is loaded anew: passes may change a graph."""
    preflight.device(options.device)
    from quantwright.api import decide, decide_modules
    from quantwright.commands.explain import example_of
    from quantwright.loading.model import input_names, load_model

    model = load_model(options.model)
    example = example_of(options, model, input_names(model))
    look: Any = decide_modules if options.capture == "modules" else decide
    plan: Plan = look(model, config, example, device=options.device).plan
    return plan


def render(sides: Sequence[Side], found: Sequence[Difference], tensors: int | None) -> str:
    """Returns the differences as a table: equal changes of many tensors are one line."""
    from quantwright.report.tables import table

    floats = {item.point for item in found if item.field == "format"}
    found = [item for item in found if item.field != "why_float" or item.point not in floats]  # said with the format
    head = [f"A: {sides[0].told()}", f"B: {sides[1].told()}"]
    if not found:
        said = "no difference" if tensors is None else f"no difference in {tensors} tensors"
        return "\n".join([*head, said])
    rows = [
        (_names(names), item.field, _cell(item.before, item.before_source), _cell(item.after, item.after_source))
        for item, names in grouped(found)
    ]
    changed = len({item.point for item in found})
    said = f"{changed} of {tensors} tensors differ" if tensors is not None else f"{changed} things differ"
    title = "tensor" if tensors is not None else "what"
    return "\n".join([*head, f"{said}:", table((title, "field", "A", "B"), rows, out=sys.stdout)])


def grouped(found: Sequence[Difference]) -> list[tuple[Difference, list[str]]]:
    """Returns every kind of change once, with the points it happens to, in the order of the first one."""
    groups: dict[str, tuple[Difference, list[str]]] = {}
    for item in found:
        role = item.point.rpartition(".")[2] if ":" not in item.point else item.point.rpartition(":")[2].split(".")[0]
        key = repr((role, item.field, item.before, item.after, item.before_source, item.after_source))
        groups.setdefault(key, (item, []))[1].append(item.point)
    return list(groups.values())


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def _cell(value: Any, source: Any) -> str:
    """Returns a value and, under it, what decided it."""
    shown = "-" if value in (None, "", {}, []) else text(value)
    why = str(source) if source is not None else ""
    return shown if not why or why == shown else f"{shown}\n  {why}"
