"""``quantwright quantize``: checks everything cheap, then runs the whole job."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.report.folder import MEASURED, partial_folder, read_json
from quantwright.report.record import RunRecord
from quantwright.report.terminal import progress_bar, render_run

EXPORT_SWITCHES = ("exact_rounding", "keep_signed")


def run(options: argparse.Namespace) -> Outcome:
    """Returns the record of the run; everything is in ``--out``."""
    reading = preflight.look(options)
    model, data, eval_data = _load(options)
    from quantwright.distributed import joined
    from quantwright.pipeline import quantize

    notes = [note for source in (data, eval_data) if source is not None for note in source.notes]
    calibration = data if options.calib_batches is None else data.take(options.calib_batches)
    with _told_how_to_resume(options), joined() as workers, progress_bar() as progress:
        result: Any = quantize(
            model,
            reading.config,
            calibration,
            out=options.out,
            target=options.target,
            capture=options.capture,
            evaluate=options.eval,
            eval_data=eval_data if eval_data is not None else data,
            device=options.device,
            seed=options.seed,
            exporter=options.exporter,
            export_options={name: True for name in EXPORT_SWITCHES if getattr(options, name)},
            overwrite=options.overwrite,
            resume=options.resume,
            checkpoint_every=options.checkpoint_every,
            distributed=workers.count > 1,
            command={
                **_command(options),
                "dialect_why": reading.why,
                "unmapped": reading.unmapped,
                "data_notes": notes,
            },
            progress=progress if workers.first else None,
        )
    if not workers.first:
        return Outcome(document=None, text=str, quiet=True)
    record: RunRecord = result.record
    verified = record.verdict is None or bool(record.verdict.get("ok"))
    document = {**record.to_json(), "out": options.out}
    return Outcome(document=document, text=lambda: _text(record, options.out), code=0 if verified else 1)


def _text(record: RunRecord, out: str) -> str:
    file = Path(out) / MEASURED
    measured = read_json(file) if file.exists() else {}
    return render_run(record, out=out, measured=measured, color=sys.stdout.isatty())


@contextlib.contextmanager
def _told_how_to_resume(options: argparse.Namespace) -> Iterator[None]:
    """Yields; a request to end gets the command that goes on as its text, once there is something to go on from."""
    try:
        yield
    except Exception:
        raise
    except BaseException as end:
        kept = partial_folder(options.out)
        if kept.is_dir():
            words = [word for word in options.arguments if word != "--resume"]
            end.args = (f"go on with: {shlex.join(['quantwright', *words, '--resume'])}",)
        raise


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
    left_out = ("command", "json", "traceback", "out", "overwrite", "resume", "checkpoint_every", "arguments")
    return {name: value for name, value in sorted(vars(options).items()) if name not in left_out}
