"""The whole job on one screen: read, capture, optimize, resolve, insert, calibrate, refine, export, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantwright import api, registry
from quantwright.calibrate import Progress
from quantwright.config.config import QuantConfig
from quantwright.data import Batch, as_batches
from quantwright.errors import DataError
from quantwright.graph.graph import Graph
from quantwright.report.record import RunRecord
from quantwright.verify.evaluate import evaluate as evaluate_rows
from quantwright.verify.verify import Verdict

Config = QuantConfig | Mapping[str, Any] | str | Path


def quantize(
    model: nn.Module | Graph,
    config: Config,
    data: Iterable[Any],
    *,
    out: str | Path | None = None,
    target: str | None = None,
    dialect: str = "auto",
    evaluate: bool = False,
    eval_data: Iterable[Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
    exporter: str = "onnx",
    export_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> api.PreparedModel:
    """Returns the calibrated, refined model; with ``out`` also writes the exported file, proved, and everything to reload.

    Args:
        data: re-iterable batches for calibration (and for evaluation, unless ``eval_data`` is given).
        evaluate: compare float, simulated and exported on ``eval_data``.

    Raises:
        InputError: config, model or data cannot be used; nothing has been written.
        VerificationError: the exported file does not compute what was simulated; the folder says where.
    """
    clock = _Clock()
    torch.manual_seed(seed)
    batches = _batches(data, model, device)
    prepared = api.prepare(model, config, _first(batches), target=target, dialect=dialect, device=device)
    clock.lap("prepare")
    prepared.calibrate(batches, progress=progress)
    clock.lap("calibrate")
    prepared.refine(batches, progress=progress)
    clock.lap("refine")
    record = RunRecord.start(prepared.describe(), seed=seed, device=device)
    if out is not None:
        held = batches if eval_data is None else _batches(eval_data, model, device)
        with prepared.saving(out, overwrite=overwrite) as folder:
            export, verdict, rows = _export_and_prove(
                prepared, folder, exporter, dict(export_options or {}), held, evaluate, model, clock, progress
            )
            record = record.finish(export=export, verdict=verdict.to_json(), evaluation=rows, timings=clock.laps)
            prepared.write(folder, record)
    elif evaluate:
        held = batches if eval_data is None else _batches(eval_data, model, device)
        record = record.finish(evaluation=_evaluate(prepared, model, held, None, progress), timings=clock.laps)
    prepared.record = record
    return prepared


class _Clock:
    """Returns named wall-clock laps, seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
