"""The whole job on one screen: read, capture, optimize, resolve, insert, calibrate, refine, export, verify, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantwright import artifacts
from quantwright.api import Config, PreparedModel, prepare
from quantwright.calibrate import Progress
from quantwright.data import Batch, Batches, forward_parameters
from quantwright.graph.graph import Graph
from quantwright.report.folder import published
from quantwright.report.record import RunRecord
from quantwright.verify.evaluate import EvaluationRow, Runner, evaluate
from quantwright.verify.runtime import OrtRunner

FILES = {"onnx": "model.onnx"}  # exporter -> file name in the output folder
VERIFIED_BATCHES = 1  # batches that are compared point by point


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
    command: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PreparedModel:
    """Returns the calibrated and refined model; its ``record`` says what was done.

    With ``out``, the exported file (checked, run and compared with the simulation) and everything ``load`` needs are
    written there, all or nothing.

    Args:
        data: batches for calibration; must be re-iterable when the config refines or ``evaluate`` is asked for.
        evaluate: compare float, simulated and exported on ``eval_data`` (``data`` when not given).
        command: what was asked, for the record; the calling program decides what is worth keeping.

    Raises:
        InputError: config, model or data cannot be used. ExportError: the file could not be written or does not run.
        Nothing has been written then. A file that runs but differs is written, and ``record.verdict["ok"]`` is False.
    """
    torch.manual_seed(seed)
    clock = _Clock()
    names = tuple(model.input_names) if isinstance(model, Graph) else forward_parameters(model)
    batches = Batches(data, names, device)
    float_model = model.copy() if evaluate and isinstance(model, Graph) else model  # prepare optimises a graph in place
    with clock.lap("prepare"):
        prepared = prepare(model, config, batches.first(), target=target, dialect=dialect, device=device)
    with clock.lap("calibrate"):
        prepared.calibrate(batches, progress=progress)
    with clock.lap("refine"):
        prepared.refine(batches, progress=progress)
    prepared.record = RunRecord.start({**prepared.describe(), "command": dict(command or {})}, seed=seed, device=device)
    held = batches if eval_data is None else Batches(eval_data, names, device)
    runners = reference_runners(float_model, prepared) if evaluate else {}
    if out is None:
        prepared.record = _finish(prepared.record, None, None, _rows(runners, held, clock, progress), clock)
        return prepared
    with published(out, overwrite=overwrite) as folder:
        with clock.lap("export"):
            export = prepared.export(folder / FILES[exporter], exporter=exporter, **dict(export_options or {}))
        with clock.lap("verify"):
            few = [batch for _, batch in zip(range(VERIFIED_BATCHES), held, strict=False)]
            verdict = prepared.verify(folder / FILES[exporter], few)
        if runners:
            runners["exported"] = OrtRunner(folder / FILES[exporter]).run
        record = _finish(prepared.record, export, verdict, _rows(runners, held, clock, progress), clock)
        prepared.record = artifacts.write(prepared, folder, record)
    return prepared


def reference_runners(model: nn.Module | Graph, prepared: PreparedModel) -> dict[str, Runner]:
    """Returns how to run the float model and the simulation, for ``evaluate``."""
    network = model.module if isinstance(model, Graph) else model
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))

    def run_float(batch: Batch) -> Any:
        there = batch.to(home)
        with evaluating(network):
            return model(*there.args, **there.kwargs)

    return {"float": run_float, "simulated": prepared.run}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Yields with every module of ``model`` in eval mode; each gets its own mode back after."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _rows(
    runners: Mapping[str, Runner], batches: Iterable[Batch], clock: _Clock, progress: Progress | None
) -> Sequence[EvaluationRow]:
    """Returns the accuracy table, or nothing when it was not asked for."""
    if not runners:
        return ()
    report: Callable[[int], None] | None = None
    if progress is not None:
        shown = progress
        report = lambda done: shown("evaluate", done, None)  # noqa: E731
    with clock.lap("evaluate"):
        return evaluate(runners, batches, progress=report)


def _finish(record: RunRecord, export: Any, verdict: Any, rows: Sequence[EvaluationRow], clock: _Clock) -> RunRecord:
    return record.finish(export=export, verdict=verdict, evaluation=list(rows), timings=clock.laps)


class _Clock:
    """Returns named wall-clock laps, in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}

    @contextlib.contextmanager
    def lap(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.laps[name] = round(time.perf_counter() - start, 3)
