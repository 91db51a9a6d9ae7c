"""``quantwright explain``: what every tensor gets, and where each setting came from."""

from __future__ import annotations

import argparse
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.errors import InputError


def run(options: argparse.Namespace) -> Outcome:
    """Returns the explanation of the points that match ``options.point``."""
    config, _ = preflight.look(options)
    preflight.device(options.device)
    from quantwright.api import decide, decide_modules
    from quantwright.loading.model import input_names, load_model
    from quantwright.plan.explain import explain, render, to_json

    model = load_model(options.model)
    example = _example(options, model, input_names(model))
    look = decide_modules if options.capture == "modules" else decide
    plan = look(model, config, example, target=options.target, device=options.device).plan
    found = explain(plan, options.point)
    document = {"model": plan.model, "target": plan.target, "notes": plan.notes, "warnings": plan.warnings}
    return Outcome(document={**document, "points": to_json(found)}, text=lambda: _text(render(found), plan))


def _text(points: str, plan: Any) -> str:
    """Returns the explanations with the plan's own remarks after them."""
    remarks = [f"warning: {text}" for text in plan.warnings] + [f"note: {text}" for text in plan.notes]
    return "\n\n".join([points, "\n".join(remarks)]) if remarks else points


def _example(options: argparse.Namespace, model: Any, parameters: tuple[str, ...]) -> Any:
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
