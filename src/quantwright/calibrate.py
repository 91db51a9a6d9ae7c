"""Calibration: watch every point while batches pass, then choose QParams by the spec's observer and statistic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from quantwright import registry
from quantwright.config.config import Calibration
from quantwright.config.spec import QuantSpec
from quantwright.data import Batch
from quantwright.errors import DataError, QuantwrightError
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics import affine
from quantwright.numerics.granularity import group_view
from quantwright.numerics.qparams import QParams
from quantwright.observers import Observer
from quantwright.prepare import PreparedModel

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


@dataclass(slots=True)
class Watcher:
    """Returns what calibration keeps for one activation point: an observer, or the QParams of every batch."""

    quantizer: Quantizer
    feeding: Calibration
    observer: Observer | None = None
    history: list[QParams] = field(default_factory=list)

    def __call__(self, x: Tensor) -> Tensor:
        """Takes in one value and returns what the network should go on with."""
        spec = self.quantizer.spec
        whole = spec.statistic == "all"
        if self.observer is None or not whole:
            self.observer = make_observer(spec, self.quantizer.point.name)
        _observe(self.observer, x, spec, self.quantizer.point.name)
        if not whole:
            self.history.append(self.observer.qparams())
        if self.feeding.inputs == "float":
            return x
        running = whole or self.feeding.batch_qparams == "running"
        qparams = self.result() if running else self.history[-1]
        return affine.fake_quantize(x, qparams, spec, arithmetic=self.quantizer.arithmetic)

    def result(self) -> QParams:
        """Returns the QParams over everything seen so far."""
        if self.observer is None:
            raise DataError(
                f"point '{self.quantizer.point.name}' saw no data during calibration",
                fix="check that the calibration batches reach this part of the network",
            )
        if self.quantizer.spec.statistic == "all":
            return self.observer.qparams()
        return combine(self.history, self.quantizer.spec.statistic or "max", self.feeding.modal_ties)


def calibrate(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    hooks: Sequence[BatchHook] = (),
    progress: Progress | None = None,
) -> dict[str, list[QParams]]:
    """Returns the per-batch QParams of every point (empty lists for one-range points) and leaves the model quantizing.

    Weights and biases are measured first, then activations while the batches pass, then related points are derived.

    Raises:
        DataError: no batch at all, a batch of the wrong shape or dtype, or NaN/Inf (the point is named).
    """
    feeding = prepared.config.calibration or prepared.target.calibration
    prepared.set_mode("float")
    _calibrate_parameters(prepared, feeding)
    watchers = _watch_activations(prepared, feeding)
    try:
        for hook in hooks:
            hook.before()
        taps = {name: tap for hook in hooks for name, tap in hook.taps.items()}
        count = 0
        for batch in batches:
            _run_one(prepared, batch, taps, count)
            for hook in hooks:
                hook.after_batch()
            count += 1
            if progress is not None:
                progress("calibrate", count, None)
        if count == 0:
            raise DataError(
                "the calibration data is empty: not one batch", fix="give at least one batch to calibrate on"
            )
    finally:
        for watcher in watchers.values():
            watcher.quantizer.watch = None
        prepared.set_mode("float")
    for watcher in watchers.values():
        watcher.quantizer.qparams = watcher.result()
    prepared.link()
    for hook in hooks:
        prepared.changes.extend(hook.after())
    prepared.set_mode("quantize")
    return {name: watcher.history for name, watcher in watchers.items()}


def make_observer(spec: QuantSpec, point: str = "") -> Observer:
    """Returns a fresh observer for a complete spec."""
    if spec.observer is None:
        raise QuantwrightError(f"point '{point}' has no observer", fix="complete the spec with config.spec.BASE_SPEC")
    kind: type[Observer] = registry.load("observers", spec.observer.name)
    return kind(spec, **spec.observer.params)


def combine(history: Sequence[QParams], statistic: str, modal_ties: str = "larger_scale") -> QParams:
    """Returns one QParams for those of several batches: the statistic over scales, the mode of the zero points.

    Spec vai_q_pytorch 3.6. The mode of several equally frequent scales is the larger one (3.5: the smallest position)
    or the smaller one (3.6: the CPU engine).
    """
    scale_BG = torch.stack([q.scale for q in history])
    zero_BG = torch.stack([q.zero_point for q in history])
    if statistic == "max":
        scale_G = scale_BG.amax(0)
    elif statistic == "mean":
        scale_G = scale_BG.mean(0)
    elif statistic == "median":
        scale_G = torch.quantile(scale_BG.double(), 0.5, dim=0).to(scale_BG.dtype)
    elif modal_ties == "larger_scale":
        scale_G = -torch.mode(-scale_BG, dim=0).values
    else:
        scale_G = torch.mode(scale_BG, dim=0).values
    return QParams(scale=scale_G, zero_point=torch.mode(zero_BG, dim=0).values)


def _observe(observer: Observer, x: Tensor, spec: QuantSpec, point: str) -> None:
    assert spec.granularity is not None  # specs of a plan are complete
    try:
        observer.observe(group_view(x.detach(), spec.granularity))
    except DataError as error:
        raise DataError(error.message, where=point, allowed=error.allowed, fix=error.fix) from error


def _calibrate_parameters(prepared: PreparedModel, feeding: Calibration) -> None:
    """Gives every weight, and every bias with a scale of its own, its QParams; quantizes them if inputs are to be."""
    for quantizer in prepared.quantizers.values():
        spec, point = quantizer.spec, quantizer.point
        if point.role not in ("weight", "bias"):
            continue
        if spec.is_integer and spec.scale != "derived":
            observer = make_observer(spec, point.name)
            _observe(observer, prepared.graph.parameter(point.tensor), spec, point.name)
            quantizer.qparams = observer.qparams()
        if feeding.inputs == "quantized" and quantizer.ready:
            quantizer.mode = "quantize"


def _watch_activations(prepared: PreparedModel, feeding: Calibration) -> dict[str, Watcher]:
    """Returns a watcher for every activation point that has a range of its own, and switches those to observing."""
    watchers = {}
    for name, quantizer in prepared.quantizers.items():
        if quantizer.point.role in ("weight", "bias"):
            continue
        if not quantizer.spec.is_integer or quantizer.dynamic:
            quantizer.mode = "quantize" if feeding.inputs == "quantized" else "float"
        elif prepared.root(name) == name:
            watchers[name] = Watcher(quantizer, feeding)
            quantizer.watch = watchers[name]
            quantizer.mode = "observe"
    return watchers


def _run_one(prepared: PreparedModel, batch: Batch, taps: Mapping[str, Any], index: int) -> None:
    try:
        with torch.no_grad():
            if taps:
                prepared.graph.run(batch.args, dict(batch.kwargs), taps)
            else:
                prepared.graph(*batch.args, **batch.kwargs)
    except DataError as error:
        where = f"calibration batch {index}" + (f", {error.where}" if error.where else "")
        raise DataError(error.message, where=where, allowed=error.allowed, fix=error.fix) from error
