"""Batch: one batch of network inputs, with or without labels, in the form a model is called with."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantwright.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Returns one batch: positional and keyword inputs for the model, and labels if there are any."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch with every tensor on ``device``."""
        move = lambda item: item.to(device) if isinstance(item, Tensor) else item  # noqa: E731
        tree = torch.utils._pytree.tree_map(move, (self.args, dict(self.kwargs), self.labels))
        return Batch(args=tree[0], kwargs=tree[1], labels=tree[2])

    def tensors(self) -> list[Tensor]:
        """Returns every input tensor, flattened in order."""
        leaves = torch.utils._pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def size(self) -> int:
        """Returns the number of samples: the first dimension of the first tensor."""
        first = self.tensors()[0]
        return int(first.shape[0]) if first.ndim else 1


def as_batch(item: Any, parameters: Sequence[str] = ()) -> Batch:
    """Returns a Batch for what an iterable of batches may yield.

    A tensor is the one input; a dict whose keys are parameter names of ``forward`` becomes keyword inputs, any other
    dict is the one input; ``(inputs, labels)`` is recognised when the second element is an integer tensor or array of
    one dimension (or a plain int) and the model does not need two inputs; any other tuple or list is the positional
    inputs.

    Args:
        parameters: parameter names of the model's ``forward``, as far as known.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch(args=(item,))
    if isinstance(item, Mapping):
        if item and set(item) <= set(parameters):
            return Batch(kwargs=dict(item))
        return Batch(args=(dict(item),))
    if isinstance(item, (tuple, list)):
        items = list(item)
        required = parameters.required if isinstance(parameters, Parameters) else len(parameters)
        if len(items) == 2 and _is_labels(items[1]) and (required < 2 or not isinstance(items[0], Tensor)):
            inner = as_batch(items[0], parameters)
            return Batch(args=inner.args, kwargs=inner.kwargs, labels=torch.as_tensor(items[1]))
        return Batch(args=tuple(items))
    raise DataError(
        f"a batch is a {type(item).__name__}",
        allowed="a tensor, a tuple of inputs, a dict of inputs, or (inputs, labels)",
        fix="let the data factory yield one of these; numpy arrays go through torch.from_numpy",
    )


def as_batches(items: Iterable[Any], parameters: Sequence[str] = ()) -> Iterator[Batch]:
    """Yields a Batch for every item of ``items``; see ``as_batch``."""
    if isinstance(items, (Tensor, Mapping, str)):
        raise DataError(
            f"the data is one {type(items).__name__}, not an iterable of batches", fix="wrap it in a list: [inputs]"
        )
    for item in items:
        yield as_batch(item, parameters)


class Batches:
    """Returns batches that can be gone through again and again; nothing is held in memory but what an iterator gave.

    Args:
        items: what ``as_batches`` takes; an iterator, which can be read once only, is read into a list.
        device: where every batch goes.
    """

    def __init__(self, items: Iterable[Any], parameters: Sequence[str] = (), device: str = "cpu") -> None:
        self._items = list(items) if isinstance(items, Iterator) else items
        self._parameters = parameters
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        for batch in as_batches(self._items, self._parameters):
            yield batch if self._device == "cpu" else batch.to(self._device)

    def first(self) -> Batch:
        """Returns the first batch.

        Raises:
            DataError: there is none, or it holds no tensor.
        """
        first = next(iter(self), None)
        if first is None:
            raise DataError("the data is empty: not one batch", fix="give at least one batch to calibrate on")
        if not first.tensors():
            fix = "yield tensors; numpy arrays go through torch.from_numpy"
            raise DataError("the first batch holds no tensor", fix=fix)
        return first


class Parameters(tuple[str, ...]):
    """Returns the parameter names of a ``forward``; the first ``required`` of them have no default."""

    required: int = 0


def forward_parameters(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of the parameters of ``model.forward``, the required ones first, as Parameters."""
    names = getattr(model, "input_names", None)
    if isinstance(names, tuple):
        return names
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds]
    found = Parameters(p.name for p in taken)
    found.required = sum(p.default is inspect.Parameter.empty for p in taken)
    return found


def _is_labels(value: Any) -> bool:
    """Returns whether ``value`` looks like class labels: one integer, or a vector of them."""
    if isinstance(value, (int, np.integer)):
        return True
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point()
