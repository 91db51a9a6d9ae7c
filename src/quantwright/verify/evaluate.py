"""Evaluation: float, simulated and exported side by side on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.verify.compare import Power

Runner = Callable[[Batch], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """Returns how one way of computing the network did.

    Attributes:
        top1, top5: fraction of samples whose label is the highest (among the five highest) score; None without labels.
        agreement: fraction of samples (positions, for sequences and images) whose highest score is the float one's.
        same_as_simulated: the same against the simulation instead of float; None where there is nothing to compare.
        sqnr_db: 10 log10 of float output power over the power of the difference; None for the float row itself.
    Units:
        sqnr_db: decibel.
    """

    name: str
    samples: int
    top1: float | None
    top5: float | None
    agreement: float | None
    sqnr_db: float | None
    same_as_simulated: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    samples: int = 0
    labelled: int = 0
    top1: int = 0
    top5: int = 0
    compared: int = 0
    agreed: int = 0
    matched: int | None = None
    power: Power = field(default_factory=Power)

    def add(
        self, scores: Tensor, reference: Tensor, simulated: Tensor | None, labels: Tensor | None, size: int
    ) -> None:
        """Counts one batch.

        Shapes:
            scores, reference, simulated: [N, C], [N, T, C] or [N, C, H, W]; labels: [N].
        """
        axis = class_axis(scores)
        self.samples += size
        self.power.add(reference, scores)
        mine, theirs = scores.argmax(axis), reference.argmax(axis)
        self.compared += mine.numel()
        self.agreed += int((mine == theirs).sum())
        if simulated is not None:
            self.matched = (self.matched or 0) + int((mine == simulated.argmax(axis)).sum())
        if labels is not None and scores.ndim == 2:
            ranked = scores.argsort(dim=1, descending=True, stable=True)  # ties, common on a grid: lowest class first
            hits = ranked[:, :5] == labels.to(scores.device)[:, None]
            self.labelled += len(labels)
            self.top1 += int(hits[:, 0].sum())
            self.top5 += int(hits.any(1).sum())

    def row(self, name: str, is_reference: bool) -> EvaluationRow:
        """Returns the row."""
        return EvaluationRow(
            name=name,
            samples=self.samples,
            top1=self.top1 / self.labelled if self.labelled else None,
            top5=self.top5 / self.labelled if self.labelled else None,
            agreement=self.agreed / self.compared if self.compared else None,
            sqnr_db=None if is_reference else self.power.db,
            same_as_simulated=self.matched / self.compared if self.matched is not None and self.compared else None,
        )


def class_axis(scores: Tensor) -> int:
    """Returns the axis of the classes: 1 for [N, C] and images [N, C, H, W], else the last (sequences [N, T, C])."""
    return 1 if scores.ndim in (2, 4, 5) else -1


def evaluate(
    runners: Mapping[str, Runner], batches: Iterable[Batch], *, progress: Callable[[int], None] | None = None
) -> list[EvaluationRow]:
    """Returns a row per runner; the first is the reference that the others are compared with.

    Runners after the one called ``simulated`` are compared with that one too.

    Raises:
        DataError: no batch at all.
    """
    tallies = {name: _Tally() for name in runners}
    reference_name = next(iter(runners))
    count = 0
    with torch.no_grad():
        for batch in batches:
            reference, simulated = first_tensor(runners[reference_name](batch)), None
            for name, runner in runners.items():
                scores = reference if name == reference_name else first_tensor(runner(batch)).to(reference.device)
                tallies[name].add(scores, reference, simulated, batch.labels, batch.size)
                simulated = scores if name == "simulated" else simulated
            count += 1
            if progress is not None:
                progress(count)
    if count == 0:
        raise DataError(
            "the evaluation data is empty: not one batch", fix="give at least one batch, or leave out --eval"
        )
    return [tally.row(name, name == reference_name) for name, tally in tallies.items()]


def first_tensor(output: Any) -> Tensor:
    """Returns the first floating-point tensor of an output, whatever its structure (arrays become tensors)."""
    for leaf in torch.utils._pytree.tree_leaves(output):
        value = leaf if isinstance(leaf, Tensor) else torch.as_tensor(leaf)
        if value.is_floating_point():
            return value.reshape(1, -1) if value.ndim < 2 else value
    raise DataError("the network returns no floating-point tensor to compare", fix="leave out --eval")
