"""Do float, simulation and the exported file agree, how far, and where do they begin to differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.prepare import PreparedModel
from quantwright.verify.compare import Divergence, PointReport, first_difference, step_of
from quantwright.verify.grids import compare_grids, file_grids
from quantwright.verify.places import (
    OutputSlot,
    PointSlot,
    activation_points,
    load_onnx,
    network_outputs,
    point_nodes,
    portions,
    sample_bytes,
    tensors,
    with_outputs,
    written_points,
)
from quantwright.verify.runtime import OrtRunner
from quantwright.verify.verdict import OutputReport, Verdict, output_problems, point_problems

__all__ = ["Verdict", "verify"]


def verify(
    prepared: PreparedModel,
    onnx_path: Path | str,
    batches: Iterable[Batch],
    *,
    mapping: Mapping[str, str] | None = None,
    points: bool = True,
    tolerance: float = 1.0,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Returns how far float, simulation and the exported file agree on ``batches``.

    The file runs unfused (every node as written, all points visible) and fused (final outputs only: an extra output
    would change what ONNX Runtime fuses). Each point is compared twice: with the differences of everything before it,
    and alone, the simulation computing it from the file's own values before it.

    Args:
        mapping: point -> value in the file; by default what the exporter wrote into the file.
        points: False compares final outputs only.
        tolerance: steps a point may differ by on its own.

    Raises:
        ArtifactError: the file is missing or no ONNX file. DataError: no batch at all.
    """
    path = Path(onnx_path)
    session = _Session(prepared, path, mapping, points, threads)
    with prepared.quantizing():
        for index, batch in enumerate(portions(prepared, batches, session.bytes_per_sample)):
            with torch.no_grad():
                session.take(batch, index)
            if progress is not None:
                progress(index + 1)
    if not session.samples:
        raise DataError("the data to verify on is empty: not one batch", fix="give at least one batch")
    return session.verdict(path.name, tolerance)


class _Session:
    """Returns the state of one verification: the runners, the points and the counts."""

    def __init__(
        self, prepared: PreparedModel, path: Path, mapping: Mapping[str, str] | None, points: bool, threads: int
    ) -> None:
        self.prepared = prepared
        self.samples = 0
        self.first: tuple[int, Divergence] | None = None
        self.notes: list[str] = []
        model = load_onnx(path)
        known = written_points(model) if mapping is None else dict(mapping)
        where = point_nodes(prepared)
        self.points = activation_points(prepared, known, where) if points else []
        if points and not self.points:
            self.notes.append("the file does not say where its points are: only final outputs are compared")
        self.problems, notes = compare_grids(self.points, file_grids(model))
        self.notes += notes
        self.outputs = network_outputs(prepared, where)
        self.fused = OrtRunner(path, fused=True, threads=threads)
        self.unfused = OrtRunner(with_outputs(model, [p.value for p in self.points]), fused=False, threads=threads)
        self.bytes_per_sample = sample_bytes(prepared, (p.node for p in self.points))

    def take(self, batch: Batch, index: int) -> None:
        """Runs one batch all four ways and counts the differences."""
        values = [p.value for p in self.points]
        results = [torch.from_numpy(a) for a in self.unfused.run(batch, [*self.fused.outputs, *values])]
        count = len(self.fused.outputs)
        outputs, exported = results[:count], dict(zip((p.name for p in self.points), results[count:], strict=True))
        fused = [torch.from_numpy(a) for a in self.fused.run(batch)]
        floats: dict[str, Tensor] = {}
        with self.prepared.floating():
            keep = {p.node: _keeper(floats, p.name) for p in self.points}
            float_output = tensors(self.prepared.compute(batch, keep))
        taps = {p.node: self._tap(p, order, index, floats, exported) for order, p in enumerate(self.points)}
        simulated = tensors(self.prepared.compute(batch, taps))
        local = {p.node: _local_tap(p, exported) for p in self.points}
        if any(p.all.differing for p in self.points):  # else both comparisons are the same one
            self.prepared.compute(batch, local)
        self._count_outputs(float_output, simulated, outputs, fused)
        self.samples += batch.size

    def _tap(
        self, point: PointSlot, order: int, index: int, floats: dict[str, Tensor], exported: Mapping[str, Tensor]
    ) -> Callable[[Tensor], None]:
        def tap(value: Tensor) -> None:
            value = value.cpu()
            theirs, step = exported[point.name], step_of(point.quantizer, value).cpu()
            point.power.add(floats.pop(point.name), value)
            gap = point.all.add(value, theirs, step)
            if gap is not None and (self.first is None or order < self.first[0]):
                self.first = (order, first_difference(point.name, index, gap, step, value, theirs))

        return tap

    def _count_outputs(
        self, floats: list[Tensor], simulated: list[Tensor], unfused: list[Tensor], fused: list[Tensor]
    ) -> None:
        for slot, real, sim, plain, quick in zip(self.outputs, floats, simulated, unfused, fused, strict=True):
            step = None if slot.quantizer is None else step_of(slot.quantizer, sim).cpu()
            slot.unfused.add(sim, plain, step)
            slot.fused.add(sim, quick, step)
            slot.floats.add(real, sim)
            slot.unfused_power.add(sim, plain)
            slot.fused_power.add(sim, quick)
            slot.count_top1("float", real, sim)
            slot.count_top1("unfused", sim, plain)
            slot.count_top1("fused", sim, quick)

    def verdict(self, file: str, tolerance: float) -> Verdict:
        """Returns the counts as a Verdict."""
        points = tuple(_point_report(p) for p in self.points)
        outputs = tuple(_output_report(i, slot) for i, slot in enumerate(self.outputs))
        return Verdict(
            file=file, samples=self.samples, tolerance=tolerance, points=points, outputs=outputs,
            first=None if self.first is None else self.first[1], notes=tuple(self.notes),
            problems=(
                *self.problems, *point_problems(points, tolerance), *output_problems(outputs, tolerance, bool(points)),
            ),
        )  # fmt: skip


def _local_tap(point: PointSlot, exported: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a tap that compares a value computed from exported values, and passes the exported one on."""

    def tap(value: Tensor) -> Tensor:
        theirs = exported[point.name].to(value.device)
        point.local.add(value, theirs, step_of(point.quantizer, value))
        return theirs.to(value.dtype)

    return tap


def _keeper(store: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def tap(value: Tensor) -> None:
        store[name] = value.cpu()

    return tap


def _point_report(point: PointSlot) -> PointReport:
    return PointReport(
        point=point.name, values=point.all.values, differing=point.all.differing, max_lsb=point.all.max_lsb,
        mean_lsb=point.all.mean_lsb, local_differing=point.local.differing, local_max_lsb=point.local.max_lsb,
        sqnr_db=point.power.db,
    )  # fmt: skip


def _output_report(index: int, slot: OutputSlot) -> OutputReport:
    lsb = slot.quantizer is not None
    return OutputReport(
        index=index, point=slot.point, max_lsb_unfused=slot.unfused.max_lsb if lsb else None,
        max_lsb_fused=slot.fused.max_lsb if lsb else None, max_abs_unfused=slot.unfused.max_abs,
        max_abs_fused=slot.fused.max_abs, sqnr_float_db=slot.floats.db, sqnr_unfused_db=slot.unfused_power.db,
        sqnr_fused_db=slot.fused_power.db, top1_float=slot.top1("float"), top1_unfused=slot.top1("unfused"),
        top1_fused=slot.top1("fused"),
    )  # fmt: skip
