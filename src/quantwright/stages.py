"""Stages: what can be done with a quantized model, however it was captured: describe, calibrate, refine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from quantwright import calibrate, registry
from quantwright.algorithms import Algorithm
from quantwright.calibrate import BatchHook, Progress
from quantwright.checkpoint import Checkpoint, load_model_state, model_state
from quantwright.config.config import Step
from quantwright.data import Batches, as_batches
from quantwright.distributed import ALONE, Workers
from quantwright.errors import StateError
from quantwright.plan.coverage import coverage
from quantwright.quantized import QuantizedModel
from quantwright.report.record import RunRecord

Self = TypeVar("Self", bound="Stages")


class Stages(QuantizedModel):
    """Returns a model with a quantizer at every point of its plan, and the stages of its making.

    Attributes:
        record: what the run that made this model did; None until ``quantize`` has finished.
    """

    record: RunRecord | None = None

    def describe(self) -> dict[str, Any]:
        """Returns what a run record says about the model: names, notes, warnings, coverage, changes."""
        return {
            "model": self.plan.model,
            "target": self.target.name,
            "dialect": self.asked.dialect,
            "config_notes": self.asked.notes,
            "notes": (*self.capture_notes, *(note for note in self.plan.notes if note not in self.asked.notes)),
            "warnings": self.plan.warnings,
            "coverage": coverage(self.plan),
            "changes": self.changes,
        }

    def calibrate(
        self: Self,
        batches: Iterable[Any],
        *,
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
        workers: Workers = ALONE,
    ) -> Self:
        """Returns self, calibrated on ``batches`` (tensors, tuples, dicts or (inputs, labels)).

        Args:
            checkpoint: where the state is kept and gone on from; a calibration that was finished there is not repeated.
            workers: who else calibrates; all are given the same batches, and end with the same model.
        """
        if checkpoint is not None and checkpoint.restore_model(self):
            return self
        calibrate.calibrate(
            self, as_batches(batches, self.input_names), hooks=self.calibration_hooks(), progress=progress,
            checkpoint=checkpoint, workers=workers,
        )  # fmt: skip
        if checkpoint is not None:
            checkpoint.save_model(self, refined=0)
        return self

    def calibration_hooks(self) -> list[BatchHook]:
        """Returns what the algorithms of the config's ``refine`` want done while calibration runs."""
        made = [algorithm.during_calibration(self, **step.params) for step, algorithm in self._algorithms()]
        return [hook for hook in made if hook is not None]

    def refine(
        self: Self,
        batches: Iterable[Any],
        *,
        progress: Progress | None = None,
        checkpoint: Checkpoint | None = None,
        workers: Workers = ALONE,
    ) -> Self:
        """Returns self after the algorithms of the config's ``refine``, in order.

        Args:
            checkpoint: written after every algorithm; those that were finished there are not repeated.
            workers: the first one refines, and the others take over what it made.
        """
        self.require_calibrated("refine")
        steps = self._algorithms()
        held = Batches(batches, self.input_names)
        done = 0 if checkpoint is None else checkpoint.refined
        with workers.together("refinement"):
            for index, (step, algorithm) in enumerate(steps):
                if index < done or not workers.first:
                    continue
                self.changes.extend(algorithm.run(self, held, **step.params))
                if checkpoint is not None:
                    checkpoint.save_model(self, refined=index + 1)
                if progress is not None:
                    progress(step.name, index + 1, len(steps))
        if workers.count > 1 and steps:
            load_model_state(self, workers.from_first(model_state(self)))
        return self

    def _algorithms(self) -> list[tuple[Step, Algorithm]]:
        return [(step, registry.load("algorithms", step.name)) for step in self.asked.refine]

    def require_calibrated(self, call: str) -> None:
        """Raises StateError when a point has no QParams yet."""
        missing = [name for name, quantizer in self.quantizers.items() if not quantizer.ready]
        if missing:
            raise StateError(
                f"{call}: {len(missing)} points have no QParams yet, the first is '{missing[0]}'",
                fix="call calibrate(batches) first",
            )
