"""Batch: what an iterable of batches may yield, and how a model is called with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantwright.data import Batch, as_batch, as_batches, forward_parameters
from quantwright.errors import DataError

X, Y, LABELS = torch.ones(4, 3), torch.zeros(4, 5), torch.arange(4)


class Two(nn.Module):
    """Takes two inputs and an optional third."""

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return left.sum() + right.sum() * scale


def test_a_tensor_is_the_one_input() -> None:
    batch = as_batch(X)
    assert batch.args == (X,) and not batch.kwargs and batch.labels is None


@pytest.mark.parametrize("labels", [LABELS, LABELS.to(torch.uint8)])
def test_inputs_and_labels(labels: Tensor) -> None:
    batch = as_batch((X, labels), ("x",))
    assert len(batch.args) == 1 and batch.args[0] is X
    assert batch.labels is not None and torch.equal(batch.labels, labels)


def test_one_label_for_one_sample() -> None:
    batch = as_batch((X[:1], 7), ("x",))
    assert batch.labels is not None and int(batch.labels) == 7


def test_numpy_labels() -> None:
    batch = as_batch((X, np.arange(4)), ("x",))
    assert batch.labels is not None and batch.labels.tolist() == [0, 1, 2, 3]


def test_two_inputs_are_not_labels() -> None:
    assert as_batch((X, Y)).args == (X, Y)
    assert as_batch((X, LABELS), ("tokens", "positions")).labels is None, "a model of two inputs gets both"


def test_a_dict_of_parameter_names_is_keyword_inputs() -> None:
    batch = as_batch({"left": X, "right": Y}, ("left", "right", "scale"))
    assert set(batch.kwargs) == {"left", "right"} and not batch.args


def test_any_other_dict_is_the_one_input() -> None:
    batch = as_batch({"image": X}, ("inputs",))
    assert not batch.kwargs and torch.equal(batch.args[0]["image"], X)


def test_inputs_with_labels_may_be_a_tuple_or_dict() -> None:
    batch = as_batch(((X, Y), LABELS), ("left", "right"))
    assert batch.args == (X, Y) and batch.labels is not None
    batch = as_batch(({"left": X, "right": Y}, LABELS), ("left", "right"))
    assert set(batch.kwargs) == {"left", "right"} and batch.labels is not None


def test_a_batch_stays_itself() -> None:
    batch = Batch(args=(X,))
    assert as_batch(batch) is batch


@pytest.mark.parametrize("item", ["x", 3, None, object()])
def test_anything_else_is_refused_with_what_is_allowed(item: object) -> None:
    with pytest.raises(DataError, match=f"a batch is a {type(item).__name__}") as caught:
        as_batch(item)
    assert "allowed: a tensor" in str(caught.value)


def test_tensors_and_size() -> None:
    batch = Batch(args=({"a": X, "b": [Y, 3]},), kwargs={"mask": LABELS})
    assert [tuple(t.shape) for t in batch.tensors()] == [(4, 3), (4, 5), (4,)]
    assert batch.size == 4
    assert Batch(args=(torch.tensor(1.0),)).size == 1


def test_to_moves_inputs_and_labels() -> None:
    batch = Batch(args=({"a": X},), kwargs={"b": Y}, labels=LABELS).to("meta")
    assert {t.device.type for t in batch.tensors()} == {"meta"}
    assert batch.labels is not None and batch.labels.device.type == "meta"


def test_batches_know_the_model() -> None:
    model = Two()
    names = forward_parameters(model)
    assert names == ("left", "right", "scale")
    (first, second) = as_batches([(X, LABELS), {"left": X, "right": Y}], names)
    assert first.labels is None and len(first.args) == 2
    assert model(*second.args, **second.kwargs) == X.sum()


def test_a_model_may_name_its_inputs_itself() -> None:
    model = Two()
    model.input_names = ("p", "q")  # type: ignore[assignment]
    assert forward_parameters(model) == ("p", "q")


class Flagged(nn.Module):
    def forward(self, x: torch.Tensor, flag: torch.Tensor | None = None) -> torch.Tensor:
        return x if flag is None else x + flag


class Both(nn.Module):
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return x + ids[:, None]


def test_labels_are_labels_when_the_second_parameter_is_optional() -> None:
    pair = (torch.randn(4, 3), torch.arange(4))
    flagged = as_batch(pair, forward_parameters(Flagged()))
    assert len(flagged.args) == 1 and torch.equal(flagged.labels, pair[1])
    both = as_batch(pair, forward_parameters(Both()))
    assert len(both.args) == 2 and both.labels is None
    mask = as_batch((pair[0], torch.ones(4, 3)), forward_parameters(Flagged()))
    assert len(mask.args) == 2 and mask.labels is None
