"""Evaluation rows against counts and decibels worked out by hand and by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.verify.evaluate import evaluate, first_tensor


def batches(labels: list[int] | None = None) -> list[Batch]:
    x = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 5.0], [2.0, 1.0, 0.0]])
    y = None if labels is None else torch.tensor(labels)
    return [
        Batch(args=(x[:2],), labels=None if y is None else y[:2]),
        Batch(args=(x[2:],), labels=None if y is None else y[2:]),
    ]


def identity(batch: Batch) -> torch.Tensor:
    return batch.args[0]


def shifted(batch: Batch) -> torch.Tensor:
    return batch.args[0] + torch.tensor([0.0, 2.5, 0.0])


def test_top1_agreement_and_sqnr() -> None:
    rows = evaluate({"float": identity, "simulated": shifted}, batches([0, 1, 2, 1]))
    assert [row.name for row in rows] == ["float", "simulated"]
    assert rows[0].top1 == 0.75 and rows[0].agreement == 1.0 and rows[0].sqnr_db is None
    # scores become [3, 3.5, 0], [0, 4.5, 1], [1, 2.5, 5], [2, 3.5, 0]: predictions 1, 1, 2, 1
    assert rows[1].top1 == 0.75 and rows[1].agreement == 0.5 and rows[1].top5 == 1.0
    signal = np.square([3, 1, 0, 0, 2, 1, 1, 0, 5, 2, 1, 0]).sum()
    assert rows[1].sqnr_db == pytest.approx(10 * math.log10(signal / (4 * 2.5**2)))


def test_the_exported_row_is_compared_with_the_simulation_too() -> None:
    rows = evaluate({"float": identity, "simulated": shifted, "exported": shifted, "other": identity}, batches())
    assert [row.same_as_simulated for row in rows] == [None, None, 1.0, 0.5]
    assert rows[2].to_json()["same_as_simulated"] == 1.0


def test_ties_go_to_the_lowest_class() -> None:
    tied = Batch(args=(torch.tensor([[1.0, 1.0, 0.0]]),), labels=torch.tensor([0]))
    assert evaluate({"float": identity}, [tied])[0].top1 == 1.0


def test_equal_outputs_have_infinite_sqnr() -> None:
    rows = evaluate({"float": identity, "simulated": identity}, batches())
    assert rows[1].sqnr_db == math.inf and rows[1].top1 is None and rows[1].samples == 4


def test_sequences_compare_every_position() -> None:
    x = torch.randn(2, 5, 7)
    row = evaluate({"float": lambda b: x, "other": lambda b: x.roll(1, 2)}, [Batch(args=(x,))])[1]
    assert row.agreement == 0.0 and row.top1 is None


def test_no_batches_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match="evaluation data is empty"):
        evaluate({"float": identity}, [])


def test_first_tensor_looks_into_structures_and_refuses_integers() -> None:
    assert torch.equal(
        first_tensor({"ids": torch.tensor([1]), "logits": torch.tensor([[1.0, 2.0]])}), torch.tensor([[1.0, 2.0]])
    )
    with pytest.raises(DataError, match="no floating-point tensor"):
        first_tensor((torch.tensor([1]),))
