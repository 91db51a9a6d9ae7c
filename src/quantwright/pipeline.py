"""The whole job on one screen: read, capture, optimize, resolve, insert, calibrate, refine, export, verify, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantwright import artifacts, artifacts_modules
from quantwright.api import Capture, Config, PreparedModel, prepare
from quantwright.api_modules import PreparedModules
from quantwright.calibrate import Progress
from quantwright.checkpoint import EVERY, Checkpoint, job_of
from quantwright.data import Batch, Batches, forward_parameters
from quantwright.distributed import ALONE, Workers, current
from quantwright.errors import InputError
from quantwright.graph.graph import Graph
from quantwright.report.folder import partial_folder, published, tidy, write_measured
from quantwright.report.record import RunRecord, versions
from quantwright.stages import Stages
from quantwright.verify.evaluate import EvaluationRow, Runner, evaluate
from quantwright.verify.measure import measure
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
    capture: Capture = "graph",
    evaluate: bool = False,
    eval_data: Iterable[Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
    exporter: str = "onnx",
    export_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    checkpoint_every: float | None = EVERY,
    distributed: bool = False,
    command: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PreparedModel | PreparedModules:
    """Returns the calibrated and refined model; its ``record`` says what was done.

    With ``out``, the exported file (checked, run and compared with the simulation) and everything ``load`` needs are
    written there, all or nothing.

    Args:
        data: batches for calibration; must be re-iterable when the config refines or ``evaluate`` is asked for.
        capture: ``modules`` for a model that is no graph: it is saved and compared with float, and nothing is exported.
        evaluate: compare float, simulated and exported on ``eval_data`` (``data`` when not given).
        resume: go on from the checkpoint of the same job, if there is one; the files are the same, bit for bit.
        checkpoint_every: seconds between two checkpoints in the folder ``out`` + ``.partial``, which goes away with the
            job done; None: none are written.
        distributed: share calibration with the other processes of the torch.distributed group, all of which call this
            with the same arguments; the first one refines, exports and writes.
        command: what was asked, for the record; the calling program decides what is worth keeping.

    Raises:
        InputError: config, model or data cannot be used. ExportError: the file could not be written or does not run.
        Nothing has been written then. A file that runs but differs is written, and ``record.verdict["ok"]`` is False.
    """
    _require_exportable(capture, exporter, export_options)
    workers = current() if distributed else ALONE
    kept = _kept_in(out, workers, resume=resume, every=checkpoint_every)
    torch.manual_seed(seed)
    clock = _Clock()
    names = tuple(model.input_names) if isinstance(model, Graph) else forward_parameters(model)
    batches = Batches(data, names, device)
    float_model = model.copy() if evaluate and isinstance(model, Graph) else model  # prepare optimises a graph in place
    with clock.lap("prepare"):
        first = batches.first()
        prepared = prepare(model, config, first, target=target, dialect=dialect, device=device, capture=capture)
        checkpoint = None
        if kept is not None or workers.count > 1:
            job = job_of(prepared, first, seed=seed, device=device, versions=versions())
            checkpoint = _agreed(kept, job, workers, resume=resume, every=checkpoint_every or 0.0)
    with clock.lap("calibrate"):
        prepared.calibrate(batches, progress=progress, checkpoint=checkpoint, workers=workers)
    with clock.lap("refine"):
        prepared.refine(batches, progress=progress, checkpoint=checkpoint, workers=workers)
    prepared.record = RunRecord.start({**prepared.describe(), "command": dict(command or {})}, seed=seed, device=device)
    if not workers.first:
        with workers.together("export"):
            return prepared
    held = batches if eval_data is None else Batches(eval_data, names, device)
    runners = reference_runners(float_model, prepared) if evaluate else {}
    if out is None:
        with workers.together("evaluation"):
            prepared.record = _finish(prepared.record, None, None, _rows(runners, held, clock, progress), clock)
        return prepared
    with workers.together("export"), published(out, overwrite=overwrite) as folder:
        export, verdict = _export(prepared, folder, held, exporter, export_options, clock)
        if runners and export is not None:
            runners["exported"] = OrtRunner(folder / FILES[exporter]).run
        record = _finish(prepared.record, export, verdict, _rows(runners, held, clock, progress), clock)
        prepared.record = _write(prepared, folder, record)
    if checkpoint is not None:
        checkpoint.remove()
    return prepared


def _write(prepared: PreparedModel | PreparedModules, folder: Path, record: RunRecord) -> RunRecord | None:
    if isinstance(prepared, PreparedModules):
        return artifacts_modules.write(prepared, folder, record)
    return artifacts.write(prepared, folder, record)


def _export(
    prepared: PreparedModel | PreparedModules,
    folder: Path,
    batches: Iterable[Batch],
    exporter: str,
    options: Mapping[str, Any] | None,
    clock: _Clock,
) -> tuple[Any, Any]:
    """Returns the record of the export and the verdict about it, if there can be one; also writes what was measured."""
    few = [batch for _, batch in zip(range(VERIFIED_BATCHES), batches, strict=False)]
    export, verdict = None, None
    if isinstance(prepared, PreparedModel):
        file = folder / FILES[exporter]
        with clock.lap("export"):
            export = prepared.export(file, exporter=exporter, **dict(options or {}))
        with clock.lap("verify"):
            verdict = prepared.verify(file, few)
    with clock.lap("measure"):
        write_measured(folder, measure(prepared, few))
    return export, verdict


def _require_exportable(capture: Capture, exporter: str, options: Mapping[str, Any] | None) -> None:
    """Raises InputError for wishes about a file that capture="modules" cannot write."""
    if capture == "modules" and (options or exporter != "onnx"):
        asked = ", ".join(options or (exporter,))
        raise InputError(
            f"{asked} has no effect: capture='modules' has no graph, so nothing is exported",
            fix="leave it out, or use capture='graph'",
        )


def _kept_in(out: str | Path | None, workers: Workers, *, resume: bool, every: float | None) -> Path | None:
    """Returns the folder for checkpoints: beside ``out``; None without one, or when none are asked for."""
    if out is None or every is None:
        if resume:
            raise InputError("there is no checkpoint to go on from", fix="give out=, and do not switch checkpoints off")
        return None
    if resume and workers.first:
        tidy(out)
    return partial_folder(out)


def _agreed(
    kept: Path | None, job: Mapping[str, str], workers: Workers, *, resume: bool, every: float
) -> Checkpoint | None:
    """Returns the checkpoint of a job, if there is a folder for it, after all workers have found theirs of one job."""
    workers.agree(job)
    with workers.together("preparation"):
        return None if kept is None else Checkpoint(kept, job, every=every, workers=workers, resume=resume)


def reference_runners(model: nn.Module | Graph, prepared: Stages) -> dict[str, Runner]:
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
