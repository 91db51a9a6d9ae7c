"""Golden vectors: the integers of a network, written for those who build or test the hardware that will compute them.

``npz``    ``parameters.npz``, and ``activations_<batch>.npz``: point -> integers.
``vitis``  the layout of vai_q_tensorflow2's ``dump_model`` (1.4): ``dump_results_weights/``, ``dump_results_<batch>/``,
           each tensor as ``.bin`` (its integers, low byte first) and ``.txt`` (one a line), ``/`` and ``:`` made ``_``.

``dump.json`` says what every file is. All is read back and compared before the folder gets its name.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, InputError
from quantwright.prepare import PreparedModel
from quantwright.verify.integer.grids import Fixed, dequantize, storage
from quantwright.verify.integer.machine import Machine
from quantwright.verify.integer.report import accumulators
from quantwright.verify.places import cut

Array = np.ndarray[Any, Any]
Format = Literal["npz", "vitis"]
FORMATS = ("npz", "vitis")
INDEX = "dump.json"
PARAMETERS, ACTIVATIONS = "parameters", "activations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Returns what one tensor of a dump is.

    Attributes:
        name: the point. file: its name without an ending, or its key in the ``.npz`` files. scale: float per step.
        position: the power of two in ``scale = 2**-position``, None when it is none. zero_point: the integer of 0.
    """

    name: str
    role: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    position: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpRecord:
    """Returns what was written: the folder, its tensors, how many batches and samples, bytes of integers."""

    folder: str
    format: str
    batches: int
    samples: int
    size: int
    tensors: tuple[Tensor, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def dump(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    folder: Path | str,
    *,
    format: Format = "npz",
    limit: int | None = None,
    floats: bool = False,
    progress: Callable[[int], None] | None = None,
) -> DumpRecord:
    """Returns the record of the golden vectors it wrote into ``folder``, which appears whole or not at all.

    Args:
        limit: how many samples; the first batch when None.
        floats: write the real values too, with ``_float`` to their names.
        progress: called with the number of batches done.

    Raises:
        InputError: an unknown format. DataError: no data. ArtifactError: the folder holds other files, or a full disk.
        StateError: nothing of the plan runs on integers.
    """
    if format not in FORMATS:
        raise InputError(f"format '{format}'", allowed=FORMATS, fix="use npz, or vitis")
    machine, final = Machine(prepared), Path(folder)
    with _appearing(final) as home:
        writer = _Writer(machine, home, format, floats)
        writer.parameters()
        for index, batch in enumerate(_first(batches, limit)):
            writer.activations(index, batch)
            if progress is not None:
                progress(index + 1)
        if not writer.samples:
            raise DataError("the data to dump is empty: not one batch", fix="give at least one batch")
        record = writer.record(final)
        contents: dict[str, Any] = {"quantwright_dump": 1, "target": prepared.target.name, **record.to_json()}
        contents["accumulators"] = [asdict(accumulator) for accumulator in accumulators(machine.layers)]
        (home / INDEX).write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return record


def read(folder: Path | str, name: str, batch: int | None = None) -> Array:
    """Returns the integers of a point from a dump; of a batch for an activation.

    Raises:
        ArtifactError: no dump, or no such tensor in it.
    """
    home = Path(folder)
    if not (home / INDEX).is_file():
        raise ArtifactError(f"there is no {INDEX}", where=str(home), fix="give a folder that quantwright dump wrote")
    index = json.loads((home / INDEX).read_text(encoding="utf-8"))
    found = [tensor for tensor in index["tensors"] if tensor["name"] == name]
    if not found:
        raise ArtifactError(f"the dump has no tensor '{name}'", where=str(home), fix=f"see {INDEX} for the names")
    where = _place(index["format"], batch)
    if index["format"] == "npz":
        with np.load(home / where, allow_pickle=False) as arrays:
            return np.asarray(arrays[found[0]["file"]])
    flat = np.fromfile(home / where / f"{found[0]['file']}.bin", dtype=np.dtype(found[0]["dtype"]).newbyteorder("<"))
    return flat.reshape(found[0]["shape"] if batch is None else (-1, *found[0]["shape"][1:]))


def _place(format: str, batch: int | None) -> str:
    """Returns the file or folder of the parameters, or of one batch."""
    if format == "npz":
        return f"{PARAMETERS}.npz" if batch is None else f"{ACTIVATIONS}_{batch}.npz"
    return f"dump_results_{'weights' if batch is None else batch}"


class _Writer:
    """Returns what writes the tensors of a dump, and remembers them."""

    def __init__(self, machine: Machine, home: Path, format: Format, floats: bool) -> None:
        self.machine, self.home, self.format, self.floats = machine, home, format, floats
        self.tensors: dict[str, Tensor] = {}
        self.batches = self.samples = self.size = 0

    def parameters(self) -> None:
        """Writes weights and biases."""
        found: dict[str, Array] = {}
        reals: dict[str, Array] = {}
        for name, real, fixed in self.machine.parameters():
            found[name], reals[name] = _integers(self.machine, name, fixed), real.numpy()
            self._describe(name, found[name], fixed.step_C.tolist(), fixed.zero_C.tolist())
        self._write(_place(self.format, None), found, reals)

    def activations(self, index: int, batch: Batch) -> None:
        """Writes the integers of every point for one batch."""
        values = self.machine.values(batch)
        found = {name: value.contiguous().numpy() for name, value in values.items()}
        reals = {}
        for name, value in values.items():
            grid = self.machine.grid(name)
            self._describe(name, found[name], [grid.step], [grid.zero])
            if self.floats:
                reals[name] = dequantize(value, grid).contiguous().numpy()
        self._write(_place(self.format, index), found, reals)
        self.batches += 1
        self.samples += batch.size

    def record(self, folder: Path) -> DumpRecord:
        """Returns what was written."""
        return DumpRecord(
            folder=str(folder), format=self.format, batches=self.batches, samples=self.samples, size=self.size,
            tensors=tuple(self.tensors.values()),
        )  # fmt: skip

    def _describe(self, name: str, value: Array, scale: list[float], zero: list[int]) -> None:
        if name in self.tensors:
            return
        taken = {tensor.file for tensor in self.tensors.values()}
        file = base = re.sub(r"[/:\\]", "_", name)
        count = 1
        while file in taken or f"{file}_float" in taken:
            file, count = f"{base}_{count}", count + 1
        powers = [math.frexp(step) for step in scale]
        position = tuple(1 - power for _, power in powers) if all(m == 0.5 for m, _ in powers) else None
        self.tensors[name] = Tensor(
            name=name, role=self.machine.prepared.plan[name].point.role, file=file, dtype=value.dtype.name,
            shape=value.shape, scale=tuple(scale), zero_point=tuple(zero), position=position,
        )  # fmt: skip

    def _write(self, place: str, found: Mapping[str, Array], reals: Mapping[str, Array]) -> None:
        """Writes arrays, reads them back and compares."""
        arrays = {self.tensors[name].file: value for name, value in found.items()}
        if self.floats:
            arrays |= {f"{self.tensors[name].file}_float": value for name, value in reals.items()}
        self.size += sum(value.nbytes for value in found.values())
        if self.format == "npz":
            _write_npz(self.home / place, arrays)
        else:
            (self.home / place).mkdir()
            for file, value in arrays.items():
                _write_pair(self.home / place, file, value)


def _integers(machine: Machine, name: str, fixed: Fixed) -> Array:
    """Returns a parameter in the smallest dtype of its format."""
    spec = machine.prepared.quantizers[name].spec
    return fixed.q.to(storage(spec.qmin, spec.qmax)).contiguous().numpy()


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    with np.load(path, allow_pickle=False) as back:
        for name, value in arrays.items():
            _require(np.array_equal(back[name], value), path, name)


def _write_pair(folder: Path, name: str, value: Array) -> None:
    flat = np.ascontiguousarray(value).reshape(-1)
    little = flat.astype(flat.dtype.newbyteorder("<"))
    little.tofile(folder / f"{name}.bin")
    (folder / f"{name}.txt").write_text("".join(f"{number}\n" for number in flat.tolist()), encoding="ascii")
    back = np.fromfile(folder / f"{name}.bin", dtype=little.dtype)
    _require(np.array_equal(back, flat), folder, name)


def _require(same: bool, path: Path, name: str) -> None:
    if not same:
        raise ArtifactError(f"'{name}' reads back as something else", where=str(path), fix="check the disk")


def _first(batches: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
    """Yields the first ``limit`` samples, in their batches; the first batch when None."""
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            return
        yield batch if batch.size <= left else cut(batch, 0, left)
        left -= batch.size
        if left <= 0:
            return


@contextlib.contextmanager
def _appearing(final: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``final`` when the block succeeds, in place of a dump that was there."""
    ours = (final / INDEX).is_file()
    if final.exists() and not ours and (not final.is_dir() or any(final.iterdir())):
        raise ArtifactError("there is something else already", where=str(final), fix="choose another folder (--out)")
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.tmp-", dir=final.parent))
        temporary.chmod(0o755)
        yield temporary
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
            final.rename(old / "dump")
            temporary.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(final)
    except OSError as error:
        text = error.strerror or str(error)
        raise ArtifactError(
            f"cannot write: {text}", where=str(final), fix="free space or choose another --out"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
