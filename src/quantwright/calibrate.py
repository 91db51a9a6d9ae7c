"""Calibration: watch every point while batches pass, then choose QParams by the spec's observer and statistic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from quantwright.checkpoint import Checkpoint
from quantwright.config.config import Calibration
from quantwright.data import Batch
from quantwright.distributed import ALONE, Workers
from quantwright.errors import DataError, InputError, StateError
from quantwright.numerics.qparams import QParams
from quantwright.observers import observer_name
from quantwright.quantized import QuantizedModel
from quantwright.watcher import Watcher, make_observer, observe

Progress = Callable[[str, int, "int | None"], None]
"""(stage, done, total or None): called after every batch of a long stage."""


class BatchHook(Protocol):
    """Something that must see every calibration batch as it passes (an algorithm's ``during_calibration``)."""

    @property
    def taps(self) -> Mapping[str, Callable[[Tensor], None]]:
        """Returns node name -> what is done with its value in every batch."""

    def before(self) -> None:
        """Runs once, after the weights have QParams and before the first batch."""

    def after_batch(self) -> None:
        """Runs after each batch."""

    def after(self) -> list[Any]:
        """Runs once after the last batch; returns the changes made."""

    def state(self) -> dict[str, Tensor]:
        """Returns what the batches so far have left behind, as tensors: enough for ``load_state`` to go on exactly."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on, after ``before``, from what ``state`` gave."""


class Calibrator:
    """Returns a calibration in progress: ``feed`` batches as they come, then ``finish``, or ``close`` to give it up.

    Weights and biases have their QParams from the start; activations are watched while batches pass.

    Attributes:
        watchers: point name -> what is kept of it.
        count: how many batches were fed.

    Args:
        shared: several of these will be put together by ``merge``; what cannot be merged exactly is refused.

    Raises:
        InputError: ``shared``, and the result depends on the order of the batches.
    """

    def __init__(self, prepared: QuantizedModel, *, hooks: Sequence[BatchHook] = (), shared: bool = False) -> None:
        self.prepared = prepared
        self.hooks = tuple(hooks)
        self.feeding = prepared.asked.calibration or prepared.target.calibration
        self.count = 0
        self._torn = False
        prepared.set_mode("float")
        self.watchers = _watch_activations(prepared, self.feeding)
        try:
            if shared:
                self._require_mergeable()
            _calibrate_parameters(prepared, self.feeding)
            for hook in self.hooks:
                hook.before()
            self._run = self._runner()
        except BaseException:
            self.close()
            raise

    def feed(self, batch: Batch) -> Any:
        """Returns the network's output for one batch, after every point has seen it.

        Raises:
            DataError: wrong shape or dtype, or NaN/Inf (the point is named).
            StateError: an earlier batch failed half-way, so some points have seen it and others not.
        """
        if self._torn:
            raise StateError("an earlier batch failed half-way", fix="calibrate again from the first batch")
        try:
            output = _run_one(self._run, batch, self.count)
            for hook in self.hooks:
                hook.after_batch()
        except BaseException:
            self._torn = any(watcher.batches != self.count for watcher in self.watchers.values())
            raise
        self.count += 1
        return output

    def finish(self) -> dict[str, list[QParams]]:
        """Returns the per-batch QParams of every point (empty lists for one-range points); the model quantizes now.

        Raises:
            DataError: no batch was fed. StateError: the last one failed half-way.
        """
        if self._torn:
            raise StateError("the last batch failed half-way", fix="calibrate again from the first batch")
        if self.count == 0:
            raise DataError(
                "the calibration data is empty: not one batch", fix="give at least one batch to calibrate on"
            )
        self.close()
        for watcher in self.watchers.values():
            watcher.quantizer.qparams = watcher.result()
        self.prepared.link()
        for hook in self.hooks:
            self.prepared.changes.extend(hook.after())
        self.prepared.set_mode("quantize")
        return {name: watcher.history for name, watcher in self.watchers.items()}

    def close(self) -> None:
        """Stops watching and leaves the model in float."""
        for watcher in self.watchers.values():
            watcher.quantizer.watch = None
        self.prepared.set_mode("float")

    def state(self) -> dict[str, Tensor]:
        """Returns what the batches so far have left behind: ``points/<name>/<key>``, ``hooks/<i>/<key>``, ``count``."""
        flat = {"count": torch.tensor(self.count)}
        for name, watcher in self.watchers.items():
            flat |= {f"points/{name}/{key}": value for key, value in watcher.state().items()}
        for index, hook in enumerate(self.hooks):
            flat |= {f"hooks/{index}/{key}": value for key, value in hook.state().items()}
        return flat

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what ``state`` gave; the next batch to feed is number ``count``."""
        device = self.prepared.example.tensors()[0].device
        self.count = int(state["count"])
        for name, watcher in self.watchers.items():
            watcher.load_state(_part(state, f"points/{name}/", device), self.count)
        for index, hook in enumerate(self.hooks):
            hook.load_state(_part(state, f"hooks/{index}/", device))

    def merge(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Becomes the calibration that saw every batch, from the states of workers that took turns (Workers.share)."""
        device = self.prepared.example.tensors()[0].device
        self.count = sum(int(state["count"]) for state in states)
        for name, watcher in self.watchers.items():
            watcher.merge([_part(state, f"points/{name}/", device) for state in states], self.count)

    def _runner(self) -> Callable[[Batch], Any]:
        """Returns how to run one batch: the fast way where nothing but the watchers looks, and nothing is rounded."""
        if not self.hooks and self.feeding.inputs == "float":
            return self.prepared.watching()
        taps = {name: tap for hook in self.hooks for name, tap in hook.taps.items()}
        return lambda batch: self.prepared.compute(batch, taps)

    def _require_mergeable(self) -> None:
        """Raises InputError, with every reason, when several workers would not find exactly what one finds."""
        wrong = []
        if self.hooks:
            wrong.append("an algorithm under 'refine' changes the network after every calibration batch")
        alone = self.feeding.batch_qparams == "batch" and not any(w.whole for w in self.watchers.values())
        if self.feeding.inputs == "quantized" and not alone:
            wrong.append("calibration inputs are 'quantized' by what the batches before have left: order counts")
        random = [n for n, q in self.prepared.quantizers.items() if q.spec.rounding == "stochastic"]
        if self.feeding.inputs == "quantized" and random:
            wrong.append(f"rounding is stochastic ({random[0]}), and every worker draws numbers of its own")
        kinds: dict[str, list[str]] = {}
        for name, watcher in self.watchers.items():
            if not watcher.mergeable:
                kinds.setdefault(observer_name(type(watcher.fresh_observer())), []).append(name)
        for kind, names in kinds.items():
            where = f"{len(names)} points, the first is {names[0]}"
            wrong.append(f"observer '{kind}' depends on the order of the batches ({where})")
        if wrong:
            raise InputError(
                "this calibration cannot be shared between workers:\n  " + "\n  ".join(wrong),
                fix="calibrate on one worker, or use inputs: float and minmax, percentile, entropy, mse or diffs",
            )


def calibrate(
    prepared: QuantizedModel,
    batches: Iterable[Batch],
    *,
    hooks: Sequence[BatchHook] = (),
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    workers: Workers = ALONE,
) -> dict[str, list[QParams]]:
    """Returns the per-batch QParams of every point (empty lists for one-range points) and leaves the model quantizing.

    Weights and biases are measured first, then activations while the batches pass, then related points are derived.

    Args:
        checkpoint: where the state is kept, and gone on from.
        workers: who else calibrates; every worker is given the same batches and takes its own.

    Raises:
        DataError: no batch at all, a batch of the wrong shape or dtype, or NaN/Inf (the point is named).
        InputError: several workers, and something whose result depends on the order of the batches.
    """
    calibrator = Calibrator(prepared, hooks=hooks, shared=workers.count > 1)
    try:
        with workers.together("calibration"), contextlib.ExitStack() as stack:
            todo = workers.share(batches)
            if checkpoint is not None:
                kept = checkpoint.keeping("calibrate", calibrator, todo)
                todo = stack.enter_context(contextlib.closing(kept))
            for batch in todo:
                calibrator.feed(batch)
                if progress is not None:
                    progress("calibrate", calibrator.count, None)
        if workers.count > 1:
            calibrator.merge(workers.gather(calibrator.state()))
        return calibrator.finish()
    except BaseException:
        calibrator.close()
        raise


def _calibrate_parameters(prepared: QuantizedModel, feeding: Calibration) -> None:
    """Gives every weight, and every bias with a scale of its own, its QParams; quantizes them if inputs are to be."""
    for quantizer in prepared.quantizers.values():
        spec, point = quantizer.spec, quantizer.point
        if point.role not in ("weight", "bias"):
            continue
        if spec.has_scale and spec.scale != "derived":
            alone = spec.model_copy(update={"statistic": "max"})  # a parameter is one batch: nothing is kept for more
            observer = make_observer(alone, point.name)
            observe(observer, prepared.parameter(point.tensor), spec, point.name)
            quantizer.qparams = observer.qparams()
        elif not bool(prepared.parameter(point.tensor).isfinite().all()):
            raise DataError("the tensor has NaN/Inf values", where=point.name, fix="repair the weights")
        if feeding.inputs == "quantized" and quantizer.ready:
            quantizer.mode = "quantize"


def _watch_activations(prepared: QuantizedModel, feeding: Calibration) -> dict[str, Watcher]:
    """Returns a watcher for every activation point that has a range of its own, and switches those to observing."""
    watchers = {}
    for name, quantizer in prepared.quantizers.items():
        if quantizer.point.role in ("weight", "bias"):
            continue
        if not quantizer.spec.has_scale or quantizer.dynamic:
            quantizer.mode = "quantize" if feeding.inputs == "quantized" else "float"
        elif prepared.root(name) == name:
            watchers[name] = Watcher(quantizer, feeding)
            quantizer.watch = watchers[name]
            quantizer.mode = "observe"
    return watchers


def _run_one(run: Callable[[Batch], Any], batch: Batch, index: int) -> Any:
    try:
        with torch.no_grad():
            return run(batch)
    except DataError as error:
        where = f"calibration batch {index}" + (f", {error.where}" if error.where else "")
        raise DataError(error.message, where=where, allowed=error.allowed, fix=error.fix) from error


def _part(state: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    """Returns the entries under a prefix, by the rest of their keys, on ``device``."""
    return {key.removeprefix(prefix): value.to(device) for key, value in state.items() if key.startswith(prefix)}
