"""``quantwright explain``: what every tensor gets and where each setting came from, or what a device would compute."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.errors import InputError


def run(options: argparse.Namespace) -> Outcome:
    """Returns the explanation of the points that match ``options.point``; ``--device``: what the device computes."""
    if options.device == "":
        return _places(options)
    reading = preflight.look(options)
    preflight.device(options.device)
    from quantwright.api import decide, decide_modules
    from quantwright.loading.model import input_names, load_model
    from quantwright.plan.explain import explain, render, to_json

    model = load_model(options.model)
    example = example_of(options, model, input_names(model))
    look = decide_modules if options.capture == "modules" else decide
    plan = look(model, reading.config, example, target=options.target, device=options.device).plan
    found = explain(plan, options.point)
    document = {
        "model": plan.model, "target": plan.target, "dialect": reading.dialect, "why": reading.why,
        "notes": plan.notes, "warnings": plan.warnings, "points": to_json(found),
    }  # fmt: skip
    read = f"{options.config} was read as {reading.dialect}: {reading.why}"
    return Outcome(document=document, text=lambda: _text(render(found), read, plan))


def _places(options: argparse.Namespace) -> Outcome:
    """Returns which operations the target's device computes, which fall to the CPU, and why."""
    if options.capture == "modules" or options.point is not None:
        what = "capture='modules' has no graph" if options.capture == "modules" else f"a point ('{options.point}')"
        raise InputError(f"explain --device is about all operations of a graph: {what}", fix="leave it out")
    reading = preflight.look(options)
    from quantwright.api import decide
    from quantwright.loading.model import input_names, load_model
    from quantwright.plan.device import place, render, summary
    from quantwright.report.tables import table

    model = load_model(options.model)
    example = example_of(options, model, input_names(model))
    decided = decide(model, reading.config, example, target=options.target)
    placed = place(decided.graph.facts(), decided.target, decided.plan)
    head, rows, text = render(placed, decided.target)
    document = {
        "model": decided.plan.model, "target": decided.target.name, "dialect": reading.dialect, "why": reading.why,
        "device": [item.to_json() for item in placed], "summary": summary(placed),
    }  # fmt: skip
    return Outcome(document=document, text=lambda: f"{table(head, rows, out=sys.stdout)}\n\n{text}")


def _text(points: str, read: str, plan: Any) -> str:
    """Returns the explanations, and after them how the configuration was read and the plan's own remarks."""
    remarks = [f"warning: {text}" for text in plan.warnings] + [f"note: {text}" for text in (read, *plan.notes)]
    return "\n\n".join([points, "\n".join(remarks)])


def example_of(options: argparse.Namespace, model: Any, parameters: tuple[str, ...]) -> Any:
    """Returns one batch the model can be captured with: from the data, from shapes, or from an archive's own inputs."""
    import torch

    from quantwright.graph.graph import Graph
    from quantwright.loading.source import load_data

    if options.data is not None:
        source = load_data(
            options.data, batch_size=options.batch_size, images=preflight.images(options), parameters=parameters
        )
        return next(iter(source))
    if options.input_shape:
        return tuple(torch.zeros(shape) for shape in options.input_shape)
    if isinstance(model, Graph):
        shapes = [tuple(2 if size == -1 else size for size in spec.shape) for spec in model.inputs]
        kinds = [spec.dtype or torch.float32 for spec in model.inputs]
        return tuple(torch.zeros(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True))
    raise InputError(
        "the model must be run once to be captured, and there is no example input",
        allowed="--data DATA or --input-shape N,C,H,W",
        fix="for images of 224x224: --input-shape 1,3,224,224",
    )
