"""The integer machine against the simulation, and against the exported file: every value of every point."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.prepare import PreparedModel
from quantwright.verify.integer.grids import Grid, dequantize
from quantwright.verify.integer.machine import Machine
from quantwright.verify.integer.report import Comparison, Difference, IntegerReport, accumulators
from quantwright.verify.places import load_onnx, portions, sample_bytes, with_outputs, written_points
from quantwright.verify.runtime import OrtRunner


def check(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    file: Path | str | None = None,
    plain: bool = False,
    progress: Callable[[int], None] | None = None,
) -> IntegerReport:
    """Returns how the simulation, and the exported ``file``, compare with the plan executed on integers.

    Args:
        file: an ONNX file exported from the model, run node by node as it is written; None compares no file.
        plain: add up every product in 64-bit integers: slow, and beyond doubt.
        progress: called with the number of batches done.

    Raises:
        DataError: no batch at all. StateError: nothing of the plan runs on integers, or it is not calibrated.
    """
    session = _Session(prepared, None if file is None else Path(file), plain)
    with prepared.quantizing():
        for index, batch in enumerate(portions(prepared, batches, session.bytes_per_sample)):
            with torch.no_grad():
                session.take(batch, index)
            if progress is not None:
                progress(index + 1)
    if not session.samples:
        raise DataError("the data to verify on is empty: not one batch", fix="give at least one batch")
    return session.report()


class _Session:
    """Returns the state of one comparison."""

    def __init__(self, prepared: PreparedModel, file: Path | None, plain: bool) -> None:
        self.prepared = prepared
        self.machine = Machine(prepared, plain=plain)
        self.order = {point: index for index, point in enumerate(self.machine.points)}
        self.simulated = _Tally("simulation", self.order)
        self.exported = _Tally("exported file, node by node", self.order)
        self.runner: OrtRunner | None = None
        self.fused = _Tally("exported file, fused, outputs", self.order)
        self.samples, self.seconds = 0, 0.0
        if file is not None:
            model = load_onnx(file)
            known = written_points(model)
            self.files = {point: known[point] for point in self.machine.points if point in known}
            self.runner = OrtRunner(with_outputs(model, self.files.values()), fused=False)
            self.quick = OrtRunner(file)
            self.at_output = dict(self._output_points())
        self.bytes_per_sample = sample_bytes(prepared, self.machine.points.values())
        self._parameters()

    def take(self, batch: Batch, index: int) -> None:
        """Runs one batch on integers and in simulation, and counts the differences."""
        start = time.perf_counter()
        values, output = self.machine.everything(batch)
        self.seconds += time.perf_counter() - start
        points: dict[str, list[str]] = {}
        for point, node in self.machine.points.items():
            points.setdefault(node, []).append(point)
        taps = {node: self._tap(names, values, index) for node, names in points.items()}
        simulated = self.prepared.compute(batch, taps)
        ours, theirs = _tensors(output), _tensors(simulated)
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            self.simulated.output(number, index, a, b)
        if self.runner is not None:
            self._file(batch, index, values, ours)
        self.samples += batch.size

    def _tap(self, points: list[str], values: Mapping[str, Tensor], index: int) -> Callable[[Tensor], None]:
        def tap(value: Tensor) -> None:
            for point in points:
                self.simulated.point(point, index, values[point], self.machine.grid(point), value)

        return tap

    def _file(self, batch: Batch, index: int, values: Mapping[str, Tensor], ours: list[Tensor]) -> None:
        assert self.runner is not None
        names = list(dict.fromkeys(self.files.values()))
        count = len(ours)
        results = [
            torch.from_numpy(np.asarray(r)) for r in self.runner.run(batch, [*self.runner.outputs[:count], *names])
        ]
        found = dict(zip(names, results[count:], strict=True))
        for point, name in self.files.items():
            self.exported.point(point, index, values[point], self.machine.grid(point), found[name])
        for number, (a, b) in enumerate(zip(ours, results[:count], strict=True)):
            self.exported.output(number, index, a, b)
        for number, (a, b) in enumerate(zip(ours, self.quick(batch), strict=True)):
            at = self.at_output.get(number)
            if at is None:
                self.fused.output(number, index, a, b)
            else:
                self.fused.point(at, index, values[at], self.machine.grid(at), b)

    def _output_points(self) -> Iterator[tuple[int, str]]:
        """Yields (number, point) of the outputs that are on a grid."""
        at = {node: point for point, node in self.machine.points.items()}
        for number, node in enumerate(self.machine.program.outputs):
            if node in at:
                yield number, at[node]

    def _parameters(self) -> None:
        """Compares the integers of weights and biases with what the simulation reads."""
        for name, real, grid_of in self.machine.parameters():
            quantizer = self.prepared.quantizers[name]
            with torch.no_grad():
                theirs = quantizer.apply_qparams(self.prepared.parameter(quantizer.point.tensor))
            self.simulated.parameter(name, grid_of.centred, real, theirs)

    def report(self) -> IntegerReport:
        """Returns the counts."""
        return IntegerReport(
            target=self.prepared.target.name, samples=self.samples, simulation=self.simulated.comparison(),
            exported=() if self.runner is None else (self.exported.comparison(), self.fused.comparison()),
            layers=accumulators(self.machine.layers),
            how=dict(Counter(how for point, how in self.machine.how.items())),
            float_points=self.machine.floats, seconds=self.seconds,
        )  # fmt: skip


class _Tally:
    """Returns the counts of one comparison."""

    def __init__(self, what: str, order: Mapping[str, int]) -> None:
        self.what, self.order = what, order
        self.values = self.differing = 0
        self.max_lsb = 0.0
        self.points: set[str] = set()
        self.by_point: dict[str, int] = {}
        self.first: tuple[tuple[int, int], Difference] | None = None

    def point(self, name: str, batch: int, q: Tensor, grid: Grid, other: Tensor) -> None:
        """Counts the values of one point."""
        self.points.add(name)
        self.values += q.numel()
        ours = dequantize(q, grid)
        if torch.equal(ours, other):
            return
        steps = other.double() / grid.step
        whole = q.double() - grid.zero
        self._count(name, batch, whole, steps, ours != other, self.order[name])

    def parameter(self, name: str, whole: Tensor, ours: Tensor, other: Tensor) -> None:
        """Counts the values of a weight or bias."""
        self.points.add(name)
        self.values += ours.numel()
        if not torch.equal(ours, other):
            step = torch.where(whole != 0, ours.double() / whole, ours.double().abs().max() + 1.0)
            self._count(name, 0, whole.double(), other.double() / step, ours != other, -1)

    def output(self, number: int, batch: int, ours: Tensor, other: Tensor) -> None:
        """Counts the values of one output of the network."""
        self.values += ours.numel()
        if torch.equal(ours, other):
            return
        differing = ~((ours == other) | (ours.isnan() & other.isnan()))
        if bool(differing.any()):
            self._count(f"output {number}", batch, ours.double(), other.double(), differing, len(self.order), real=True)

    def _count(
        self, name: str, batch: int, ours: Tensor, other: Tensor, differing: Tensor, order: int, *, real: bool = False
    ) -> None:
        count = int(differing.sum())
        self.differing += count
        self.by_point[name] = self.by_point.get(name, 0) + count
        gaps = (other - ours).abs()
        if not real:
            self.max_lsb = max(self.max_lsb, float(gaps[differing].max()))
        if self.first is not None and self.first[0] <= (order, batch):
            return
        at = tuple(int(i) for i in differing.nonzero()[0])
        a, b = float(ours[at]), float(other[at])
        lsb = None if real else b - a
        self.first = ((order, batch), Difference(point=name, batch=batch, index=at, integer=a, other=b, lsb=lsb))

    def comparison(self) -> Comparison:
        """Returns the counts."""
        return Comparison(
            what=self.what, points=len(self.points), values=self.values, differing=self.differing,
            max_lsb=self.max_lsb, by_point=dict(self.by_point), first=None if self.first is None else self.first[1],
        )  # fmt: skip


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
