"""``quantwright quantize``: checks everything cheap, then runs the whole job."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.report.record import RunRecord
from quantwright.report.terminal import progress_bar, render_run


def run(options: argparse.Namespace) -> Outcome:
    """Returns the record of the run; everything is in ``--out``."""
    config, unmapped = preflight.look(options)
    model, data, eval_data = _load(options)
    from quantwright.pipeline import quantize

    notes = [note for source in (data, eval_data) if source is not None for note in source.notes]
    calibration = data if options.calib_batches is None else data.take(options.calib_batches)
    with progress_bar() as progress:
        result: Any = quantize(
            model,
            config,
            calibration,
            out=options.out,
            target=options.target,
            evaluate=options.eval,
            eval_data=eval_data if eval_data is not None else data,
            device=options.device,
            seed=options.seed,
            exporter=options.exporter,
            export_options={"exact_rounding": True} if options.exact_rounding else None,
            overwrite=options.overwrite,
            command={**_command(options), "unmapped": unmapped, "data_notes": notes},
            progress=progress,
        )
    record: RunRecord = result.record
    color = sys.stdout.isatty()
    verified = record.verdict is None or bool(record.verdict.get("ok"))
    document = {**record.to_json(), "out": options.out}
    return Outcome(
        document=document, text=lambda: render_run(record, out=options.out, color=color), code=0 if verified else 1
    )


def _load(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Returns model, calibration data and evaluation data (or None); what is wrong with them comes at once."""
    from quantwright.loading.model import input_names, load_model
    from quantwright.loading.source import load_data

    _seed(options.seed)  # a factory may draw its weights or samples
    checks = preflight.Checks()
    checks.run(preflight.device, options.device)
    model = checks.run(load_model, options.model)
    parameters = () if model is None else input_names(model)
    load = {"batch_size": options.batch_size, "images": preflight.images(options), "parameters": parameters}
    data = checks.run(load_data, options.data, **load)
    eval_data = checks.run(load_data, options.eval_data, **load) if options.eval_data is not None else None
    checks.done()
    return model, data, eval_data


def _seed(seed: int) -> None:
    """Seeds every generator that a user's factory may use."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _command(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what was asked, without what cannot change the result."""
    left_out = ("command", "json", "traceback", "out", "overwrite")
    return {name: value for name, value in sorted(vars(options).items()) if name not in left_out}
