"""Array files: ``.npy``, ``.npz`` and ``.safetensors``, read batch by batch, mapped from disk where possible."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.loading.reference import one_line

Slice = Callable[[int, int], Tensor]
_NETWORK = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)
_LABEL = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Returns one array of a file: its shape and dtype without reading it, and ``read(start, stop)`` over samples."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayFile:
    """Returns an array file whose first dimension counts samples.

    Attributes:
        inputs: the arrays that go into the network, in order; by input name when ``named``.
        labels: the array ``y``, or None.
        notes: what was decided about the file that its owner may want to know.
    """

    inputs: Mapping[str, Column]
    named: bool
    labels: Column | None
    samples: int
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, parameters: Sequence[str] = ()) -> ArrayFile:
        """Returns the file after everything has been checked that needs no look at the values.

        Args:
            parameters: names of the network's inputs; a file that holds several of them feeds them by name.

        Raises:
            DataError: unreadable, truncated, empty, a dtype no network takes, or lengths that differ.
        """
        columns = _columns(path)
        names = [name for name in parameters if name in columns]
        named = len(names) > 1
        if not named:
            names = [_input_name(columns, path)]
        inputs = {name: columns[name] for name in names}
        samples = {_samples(column, name, path) for name, column in inputs.items()}
        if len(samples) > 1:
            lengths = ", ".join(f"{name} {column.shape[0]}" for name, column in inputs.items())
            raise DataError(f"the arrays differ in their number of samples: {lengths}", where=str(path))
        count = samples.pop()
        labels = columns.get("y") if "y" not in inputs else None
        _check_labels(labels, count, path)
        unused = [name for name in columns if name not in inputs and columns[name] is not labels]
        return cls(
            inputs=inputs, named=named, labels=labels, samples=count, notes=tuple(_notes(path, inputs, labels, unused))
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """Yields batches of ``size`` samples in order, the last one shorter; float64 becomes float32."""
        for start in range(0, self.samples, size):
            stop = min(start + size, self.samples)
            tensors = {name: _single(column.read(start, stop)) for name, column in self.inputs.items()}
            labels = None if self.labels is None else self.labels.read(start, stop).long().reshape(-1)
            yield Batch(
                args=() if self.named else tuple(tensors.values()), kwargs=tensors if self.named else {}, labels=labels
            )


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float64 else x


def _columns(path: Path) -> dict[str, Column]:
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    try:
        columns = readers[path.suffix](path)
    except (ValueError, EOFError, OSError, KeyError, SyntaxError, zipfile.BadZipFile, SafetensorError) as error:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            raise DataError(
                "the array holds Python objects (a pickle), which could run code and is never loaded",
                where=str(path), fix="save numbers: np.savez(path, x=np.stack(images).astype(np.float32))",
            ) from error  # fmt: skip
        raise DataError(
            f"cannot be read as {path.suffix}: {one_line(error)}", where=str(path), fix="the file may be truncated"
        ) from error
    if not columns:
        raise DataError("there is no array in the file", where=str(path), fix="save the inputs as 'x'")
    return columns


def _npy(path: Path) -> dict[str, Column]:
    return {"x": _array_column(np.load(path, mmap_mode="r", allow_pickle=False), path)}


def _npz(path: Path) -> dict[str, Column]:
    """Returns the members of an archive: mapped from disk when stored, read when compressed."""
    columns = {}
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as members:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            stored = info.compress_type == zipfile.ZIP_STORED
            array = _map_member(path, info) if stored else None
            columns[name] = _array_column(members[name] if array is None else array, path, name)
    return columns


def _map_member(path: Path, info: zipfile.ZipInfo) -> Any:
    """Returns an uncompressed member as a memory map, or None when its header is of a kind that must be parsed."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # APPNOTE 4.3.7: lengths of the name and of the extra field
        name_length, extra_length = np.frombuffer(file.read(4), "<u2").tolist()
        file.seek(info.header_offset + 30 + name_length + extra_length)
        start = file.tell()
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            return None
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
        offset = file.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if dtype.hasobject or size == 0:
        return None
    if offset - start + size > info.file_size:
        raise ValueError(f"array '{info.filename}' is shorter than its header says")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if is_fortran else "C")


def _array_column(array: Any, path: Path, name: str = "x") -> Column:
    try:
        dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
    except TypeError as error:
        raise DataError(
            f"array '{name}' has dtype {array.dtype}", where=str(path), allowed="numbers: float32, int64, ...",
            fix="convert it with .astype(np.float32)",
        ) from error  # fmt: skip

    def read(start: int, stop: int) -> Tensor:
        part = np.array(array[start:stop], dtype=array.dtype.newbyteorder("="), order="C")  # a copy of one batch only
        return torch.from_numpy(part)

    return Column(shape=tuple(array.shape), dtype=dtype, read=read)


def _safetensors(path: Path) -> dict[str, Column]:
    file: Any = safe_open(path, framework="pt")
    return {name: _slice_column(file, name) for name in sorted(file.keys())}


def _slice_column(file: Any, name: str) -> Column:
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    dtype = part[:0].dtype if shape else file.get_tensor(name).dtype
    return Column(shape=shape, dtype=dtype, read=lambda start, stop: part[start:stop])


def _input_name(columns: Mapping[str, Column], path: Path) -> str:
    if "x" in columns:
        return "x"
    first = next((name for name in columns if name != "y"), None)
    if first is None:
        raise DataError("the file holds labels 'y' but no inputs", where=str(path), fix="save the inputs as 'x'")
    return first


def _samples(column: Column, name: str, path: Path) -> int:
    """Returns the number of samples of an input array, or refuses it."""
    where = str(path)
    if not column.shape:
        raise DataError(f"array '{name}' is one number", where=where, allowed="[samples, ...]")
    if 0 in column.shape:
        raise DataError(f"array '{name}' is empty: shape {column.shape}", where=where, fix="give at least one sample")
    if column.dtype in (torch.uint8, torch.int8, torch.uint16, torch.int16):
        raise DataError(
            f"array '{name}' has dtype {_word(column.dtype)}: raw pixels or samples are not scaled by guesswork",
            where=where, allowed=", ".join(map(_word, _NETWORK)),
            fix="preprocess as in training and save float32, for example (x / 255 - mean) / std; or give a folder of "
            "images with --mean and --std",
        )  # fmt: skip
    if column.dtype not in _NETWORK:
        raise DataError(
            f"array '{name}' has dtype {_word(column.dtype)}", where=where, allowed=", ".join(map(_word, _NETWORK))
        )
    return column.shape[0]


def _check_labels(labels: Column | None, samples: int, path: Path) -> None:
    if labels is None:
        return
    if labels.dtype not in _LABEL:
        raise DataError(
            f"the labels 'y' have dtype {_word(labels.dtype)}", where=str(path), allowed="integers: the class",
            fix="save y.astype(np.int64)",
        )  # fmt: skip
    if len([size for size in labels.shape if size != 1]) > 1:
        raise DataError(
            f"the labels 'y' have shape {labels.shape}", where=str(path), allowed=f"[{samples}]",
            fix="save class numbers; for one-hot rows y.argmax(1)",
        )  # fmt: skip
    length = labels.shape[0] if labels.shape else 0
    if length != samples:
        raise DataError(f"{samples} inputs but {length} labels 'y'", where=str(path), fix="save one label per sample")


def _notes(path: Path, inputs: Mapping[str, Column], labels: Column | None, unused: list[str]) -> Iterator[str]:
    if unused:
        used = ", ".join(f"'{name}'" for name in inputs)
        yield f"{path}: used array {used}" + (" and labels 'y'" if labels else "") + f", not {', '.join(unused)}"
    if any(column.dtype == torch.float64 for column in inputs.values()):
        yield f"{path}: float64 is converted to float32"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
