"""The public face: prepare, load, and a PreparedModel that can also verify, export and save itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from quantwright import artifacts, calibrate, registry
from quantwright.algorithms import Algorithm
from quantwright.calibrate import Progress
from quantwright.config.config import QuantConfig, Step
from quantwright.config.load import load_config
from quantwright.data import Batch, Batches, as_batch, as_batches, forward_parameters
from quantwright.errors import StateError
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.plan.coverage import coverage
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve
from quantwright.prepare import PreparedModel as Engine
from quantwright.report.record import RunRecord
from quantwright.targets import Target
from quantwright.verify.verify import Verdict, verify

Config = QuantConfig | Mapping[str, Any] | str | Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Returns everything that is known before the first quantizer is inserted."""

    graph: Graph
    plan: Plan
    config: QuantConfig
    target: Target
    example: Batch
    changes: tuple[Change, ...]


class PreparedModel(Engine):
    """Returns a model with a quantizer at every point of its plan: calibrate, refine, verify, export, save.

    Attributes:
        record: what the run that made this model did; None until ``quantize`` has finished.
    """

    record: RunRecord | None = None

    def describe(self) -> dict[str, Any]:
        """Returns what a run record says about the model: names, notes, warnings, coverage, changes."""
        return {
            "model": self.graph.name,
            "target": self.target.name,
            "dialect": self.config.dialect,
            "config_notes": self.config.notes,
            "notes": (*self.graph.notes, *(note for note in self.plan.notes if note not in self.config.notes)),
            "warnings": self.plan.warnings,
            "coverage": coverage(self.plan),
            "changes": self.changes,
        }

    def calibrate(self, batches: Iterable[Any], *, progress: Progress | None = None) -> PreparedModel:
        """Returns self, calibrated on ``batches`` (tensors, tuples, dicts or (inputs, labels))."""
        hooks = [
            hook
            for step, algorithm in self._algorithms()
            if (hook := algorithm.during_calibration(self, **step.params)) is not None
        ]
        calibrate.calibrate(self, as_batches(batches, self.input_names), hooks=hooks, progress=progress)
        return self

    def refine(self, batches: Iterable[Any], *, progress: Progress | None = None) -> PreparedModel:
        """Returns self after the algorithms of the config's ``refine``, in order."""
        self._require_calibrated("refine")
        steps = self._algorithms()
        held = Batches(batches, self.input_names)
        for index, (step, algorithm) in enumerate(steps):
            self.changes.extend(algorithm.run(self, held, **step.params))
            if progress is not None:
                progress(step.name, index + 1, len(steps))
        return self

    def export(self, path: str | Path, *, exporter: str = "onnx", **options: Any) -> Any:
        """Returns the record of an export that was written, checked and run before it got its name."""
        self._require_calibrated("export")
        return registry.load("exporters", exporter)(self, Path(path), **options)

    def verify(self, path: str | Path, batches: Iterable[Any] | None = None, **options: Any) -> Verdict:
        """Returns how far float, simulated and the file ``path`` agree on ``batches`` (default: the example)."""
        self._require_calibrated("verify")
        given = [self.example] if batches is None else as_batches(batches, self.input_names)
        return verify(self, Path(path), given, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Returns the folder it wrote: enough for ``load`` to give bit-equal outputs."""
        self._require_calibrated("save")
        return artifacts.save(self, Path(folder), overwrite=overwrite)

    def _algorithms(self) -> list[tuple[Step, Algorithm]]:
        return [(step, registry.load("algorithms", step.name)) for step in self.config.refine]

    def _require_calibrated(self, call: str) -> None:
        missing = [name for name, quantizer in self.quantizers.items() if not quantizer.ready]
        if missing:
            raise StateError(
                f"{call}: {len(missing)} points have no QParams yet, the first is '{missing[0]}'",
                fix="call calibrate(batches) first",
            )


def decide(
    model: nn.Module | Graph,
    config: Config,
    example_inputs: Any,
    *,
    target: str | None = None,
    dialect: str = "auto",
    device: str = "cpu",
) -> Decided:
    """Returns graph and plan: config read, model captured, passes run, every tensor decided."""
    read = load_config(config, dialect=dialect, target=target)
    chosen: Target = registry.load("targets", read.target or "generic")
    example = example_batch(model, example_inputs)
    graph = model if isinstance(model, Graph) else capture(model, example.to(device), device=device)
    changes: list[Change] = []
    for step in chosen.optimize if read.optimize is None else read.optimize:
        changes.extend(registry.load("passes", step.name)(graph, **step.params))
    plan = resolve(read, graph.facts(), chosen)
    return Decided(graph=graph, plan=plan, config=read, target=chosen, example=example, changes=tuple(changes))


def prepare(
    model: nn.Module | Graph,
    config: Config,
    example_inputs: Any,
    *,
    target: str | None = None,
    dialect: str = "auto",
    device: str = "cpu",
) -> PreparedModel:
    """Returns the model with a quantizer at every point the config asks for; the user's model is not changed.

    Args:
        model: an nn.Module, or a Graph from ``graph.capture`` (which is then owned by the result).
        config: a path, a dict, the name of a preset, or a QuantConfig.
        example_inputs: one batch: a tensor, a tuple or dict of inputs, or (inputs, labels).
        target: overrides the config's target.

    Raises:
        ConfigError: every problem of the configuration at once. CaptureError: the model cannot be captured.
    """
    decided = decide(model, config, example_inputs, target=target, dialect=dialect, device=device)
    return PreparedModel(
        decided.graph, decided.plan, decided.config, decided.target, decided.example.to(device), list(decided.changes)
    )


def load(folder: str | Path) -> PreparedModel:
    """Returns the model saved in ``folder``; its outputs are bit-equal to those of the one that was saved."""
    return artifacts.load(Path(folder), build=PreparedModel)


def example_batch(model: nn.Module | Graph, example_inputs: Any) -> Batch:
    """Returns the example as a Batch, its labels dropped."""
    names = tuple(model.input_names) if isinstance(model, Graph) else forward_parameters(model)
    batch = as_batch(example_inputs, names)
    return Batch(args=batch.args, kwargs=batch.kwargs)
