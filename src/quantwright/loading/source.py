"""DATA: a factory, an array file or a folder of images becomes batches that can be gone through again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantwright.data import Batch, as_batch
from quantwright.errors import DataError, QuantwrightError
from quantwright.loading import reference
from quantwright.loading.arrays import ArrayFile
from quantwright.loading.images import ImageFolder, ImageOptions


def load_data(
    ref: str, *, batch_size: int = 32, images: ImageOptions | None = None, parameters: Sequence[str] = ()
) -> DataSource:
    """Returns the batches that ``ref`` names; they can be gone through any number of times.

    Args:
        ref: ``file.py:factory`` or ``package.module:factory`` (an iterable of batches: tensor, tuple, dict or
            (inputs, labels)); a ``.npz``, ``.npy`` or ``.safetensors`` file (array ``x``, or the first one; labels in
            ``y``; the first dimension counts samples); or a folder of images.
        parameters: the names of the model's inputs, to tell inputs from labels and to find inputs by name.

    Raises:
        DataError: missing, empty, damaged, or of a dtype a network cannot take.
    """
    path = Path(ref)
    if path.is_dir():
        folder = ImageFolder.open(path, images or ImageOptions())
        return DataSource(ref, lambda: folder.batches(batch_size), samples=folder.samples, batch_size=batch_size)
    if path.suffix in reference.ARRAYS:
        arrays = ArrayFile.open(path, parameters)
        source = DataSource(ref, lambda: arrays.batches(batch_size), samples=arrays.samples, batch_size=batch_size)
        source.notes = arrays.notes
        return source
    made = reference.made(reference.resolve(ref, what="data", error=DataError), ref, DataError)
    return DataSource(ref, _iterator(ref, made), parameters=tuple(parameters), length=_length(made))


class DataSource:
    """Returns a re-iterable of checked batches.

    Attributes:
        name: what the user wrote.
        samples: how many there are, if that is known before looking.
        notes: what was decided about the data that its owner may want to know.
    """

    def __init__(
        self,
        name: str,
        open_: Callable[[], Iterable[Any]],
        *,
        samples: int | None = None,
        batch_size: int | None = None,
        length: int | None = None,
        parameters: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.samples = samples
        self.notes: tuple[str, ...] = ()
        self._open = open_
        self._parameters = parameters
        self._length = -(-samples // batch_size) if samples is not None and batch_size else length
        self._limit: int | None = None

    @property
    def length(self) -> int | None:
        """Returns the number of batches, if that is known before looking."""
        if self._length is None or self._limit is None:
            return self._length
        return min(self._length, self._limit)

    def take(self, batches: int) -> DataSource:
        """Returns the same data cut after ``batches`` batches."""
        other = DataSource(self.name, self._open, length=self._length, parameters=self._parameters)
        other.notes, other._limit = self.notes, batches
        return other

    def __iter__(self) -> Iterator[Batch]:
        """Yields every batch, checked to be finite and not empty."""
        count = 0
        for item in self._items():
            if self._limit is not None and count >= self._limit:
                return
            yield checked(as_batch(_tensors(item), self._parameters), self.name, count)
            count += 1
        if count == 0:
            raise DataError("the data is empty: not one batch", where=self.name, fix="give at least one batch")

    def _items(self) -> Iterator[Any]:
        try:
            yield from self._open()
        except QuantwrightError:
            raise
        except Exception as error:
            raise reference.from_user_code(error, f"'{self.name}' failed giving its batches", DataError) from error


def checked(batch: Batch, name: str, index: int) -> Batch:
    """Returns the batch when every tensor has samples and every floating-point one is finite.

    Raises:
        DataError: names the batch and the first bad sample.
    """
    tensors = batch.tensors()
    where = f"{name}, batch {index}"
    if not tensors:
        raise DataError("the batch holds no tensor", where=where, allowed="a tensor, a tuple or dict of tensors")
    for tensor in tensors:
        if tensor.numel() == 0:
            raise DataError(f"a tensor of the batch is empty: shape {tuple(tensor.shape)}", where=where)
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise _not_finite(tensor, where)
    if batch.labels is not None and batch.labels.ndim and len(batch.labels) != batch.size:
        raise DataError(f"{len(batch.labels)} labels for {batch.size} samples", where=where)
    return batch


def _is_finite(x: Tensor) -> bool:
    """Returns whether all values are finite, in one pass and without a mask of the same size."""
    low, high = torch.aminmax(x)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _not_finite(x: Tensor, where: str) -> DataError:
    bad_BN = ~torch.isfinite(x.reshape(x.shape[0] if x.ndim else 1, -1))
    sample = int(bad_BN.any(1).nonzero()[0])
    return DataError(
        f"NaN/Inf in the data: sample {sample} of the batch holds {int(bad_BN[sample].sum())} such values, "
        f"{int(bad_BN.sum())} in the whole batch",
        where=where,
        fix="repair or leave out that sample",
    )


def _tensors(item: Any) -> Any:
    """Returns a batch with its NumPy arrays made tensors, sharing memory."""
    if isinstance(item, Batch):
        return item
    make = lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf  # noqa: E731
    return torch.utils._pytree.tree_map(make, item)


def _iterator(ref: str, made: Any) -> Callable[[], Iterable[Any]]:
    """Returns what gives a fresh iteration each time: a generator is made again by calling its factory again."""
    if isinstance(made, (Tensor, Mapping, str, bytes)) or not isinstance(made, Iterable):
        kind = type(made).__name__
        raise DataError(
            f"'{ref}' gives one {kind}, not an iterable of batches",
            fix="return a list of batches, a DataLoader or a generator; one batch alone: [batch]",
        )
    if not isinstance(made, Iterator):
        return lambda: made
    pending = [made]  # the one that was made to look at it

    def again() -> Iterable[Any]:
        if pending:
            return pending.pop()
        fresh = reference.made(reference.resolve(ref, what="data", error=DataError), ref, DataError)
        if fresh is made:
            raise DataError(
                f"'{ref}' is an iterator that is used up, and the data is gone through more than once",
                fix="name the function that makes it, or a list or DataLoader",
            )
        return fresh  # type: ignore[no-any-return]

    return again


def _length(made: Any) -> int | None:
    try:
        return len(made)
    except TypeError:
        return None
