"""Checkpoints: what a long job has done so far, in a folder beside its output, so that it can go on after any end.

One file per worker, ``worker<rank>.safetensors``, replaced whole: the stage, its tensors, the state of the random
number generators, and which job it is of. A checkpoint of another job is refused, and so are data that changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from quantwright import tensorfile
from quantwright.data import Batch
from quantwright.distributed import ALONE, Workers
from quantwright.errors import ArtifactError, DataError
from quantwright.files import atomic_path
from quantwright.interrupts import Deferring
from quantwright.numerics.qparams import QParams
from quantwright.passes import Change
from quantwright.plan import plan_json
from quantwright.quantized import QuantizedModel

EVERY = 10.0  # seconds between two checkpoints
FORMAT = 1
_MODEL = "model"  # the stages: a calibrated model, or (named by the caller) a loop over batches
_RNG = "random/"
_START_OVER = "leave out --resume (resume=False) to start from the beginning"


class Stateful(Protocol):
    """Something that takes in batches and can say, and take back, what they left behind (a Calibrator)."""

    def state(self) -> dict[str, Tensor]:
        """Returns what the batches so far have left behind."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what ``state`` gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Returns one checkpoint: the stage it was written in, its tensors and its plain values."""

    stage: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(slots=True)
class Checkpoint:
    """Returns where one worker of one job keeps its state.

    Args:
        folder: beside the output; made when there is something to write.
        job: what makes the job what it is (see ``job_of``); a checkpoint with other values is refused, and so is one
            of another number of workers.
        every: seconds between two writes.
        resume: go on from what is there, if anything; otherwise it is removed.

    Attributes:
        saved: what was there.
        refined: how many algorithms were done on the model that was restored.

    Raises:
        ArtifactError: ``resume``, and the checkpoint is damaged or of another job.
    """

    folder: Path
    job: Mapping[str, str]
    every: float = EVERY
    workers: Workers = ALONE
    resume: bool = False
    saved: Saved | None = field(init=False, default=None)
    refined: int = field(init=False, default=0)
    _last: float = field(init=False, default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        self.job = {**self.job, "number of workers": str(self.workers.count)}
        if self.resume and self.path.exists():
            self.saved = self._read()
        else:
            self.path.unlink(missing_ok=True)

    @property
    def path(self) -> Path:
        """Returns the file of this worker."""
        return self.folder / f"worker{self.workers.rank}.safetensors"

    def save(self, stage: str, tensors: Mapping[str, Tensor], **facts: Any) -> None:
        """Writes a checkpoint in the place of the last one.

        Raises:
            ArtifactError: it cannot be written.
        """
        head = {"format": FORMAT, "job": dict(self.job), "stage": stage, "facts": facts}
        content = tensorfile.to_bytes(tensorfile.with_facts({**tensors, **_random_state()}, head))
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content.numpy().data)
        except ArtifactError:
            with contextlib.suppress(OSError):  # it holds other checkpoints
                self.folder.rmdir()
            raise
        self._last = time.monotonic()

    def save_model(self, prepared: QuantizedModel, *, refined: int) -> None:
        """Writes a calibrated model with its first ``refined`` algorithms done; the first worker does, for all."""
        if self.workers.first:
            state = {f"{_MODEL}/{key}": value for key, value in model_state(prepared).items()}
            self.save(_MODEL, state, refined=refined)

    def restore_model(self, prepared: QuantizedModel) -> bool:
        """Returns whether there was a calibrated model, and ``prepared`` is that now, on every worker."""
        saved = self.saved if self.saved is not None and self.saved.stage == _MODEL else None
        facts = self.workers.tell(None if saved is None else saved.facts)[0]
        if facts is None:
            return False
        tensors = self.workers.from_first({} if saved is None else saved.tensors)
        prefix = f"{_MODEL}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        load_model_state(prepared, state)
        restore_random_state(tensors)
        self.refined = facts["refined"]
        return True

    def remove(self) -> None:
        """Removes the folder: the job is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def keeping(self, stage: str, subject: Stateful, batches: Iterable[Batch]) -> Generator[Batch, None, None]:
        """Yields the batches that are left to take in, and saves ``subject`` now and then, and when asked to end.

        Those that a resumed checkpoint has seen are passed over. A request to end (Ctrl-C, SIGTERM) that comes while a
        batch is taken in is heard after it; a second one at once.

        Raises:
            DataError: there are fewer batches than the checkpoint has seen, or the last of those is another one now.
        """
        source = iter(batches)
        count, unsaved = 0, False
        batch: Batch | None = None
        saved = self.saved
        if saved is not None and saved.stage == stage:
            count, batch = _pass_over(source, int(saved.facts["batches"]), saved.facts["last_batch"])
            subject.load_state(saved.tensors)
            restore_random_state(saved.tensors)
        try:
            with Deferring() as ending:
                for item in source:
                    with ending.later():
                        yield item
                        count, batch, unsaved = count + 1, item, True
                    ending.now()
                    if time.monotonic() - self._last >= self.every:
                        self.save(stage, subject.state(), batches=count, last_batch=batch_hash(batch))
                        unsaved = False
        except (Exception, GeneratorExit):  # giving or taking in a batch failed; what was written before stays
            raise
        except BaseException:  # a request to end
            if unsaved and batch is not None:
                self.save(stage, subject.state(), batches=count, last_batch=batch_hash(batch))
            raise

    def _read(self) -> Saved:
        try:
            tensors, head = tensorfile.split_facts(tensorfile.read(self.path, _START_OVER))
            stage, facts, job, form = head["stage"], head["facts"], head["job"], head["format"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError("this is not a checkpoint", where=str(self.path), fix=_START_OVER) from error
        differing = [name for name in self.job if job.get(name) != self.job[name]]
        if form != FORMAT or differing:
            what = ", ".join(differing) or f"format {form}"
            raise ArtifactError(
                f"the checkpoint is of another job: it differs in {what}", where=str(self.path), fix=_START_OVER
            )
        return Saved(stage=stage, tensors=tensors, facts=facts)


_WRITTEN_AT: Any = {
    "source": True, "default_sources": True, "notes": True, "rules": {"__all__": {"source", "field_sources"}},
}  # fmt: skip


def job_of(
    prepared: QuantizedModel, first: Batch, *, seed: int, device: str, versions: Mapping[str, str]
) -> dict[str, str]:
    """Returns what makes a job what it is, in words a user knows, each with a hash or value.

    What was asked and decided counts, and not where it was written: a script may be edited and go on.
    """
    decisions = plan_json.to_json(prepared.plan)["decisions"]
    decided = [{key: item[key] for key in ("point", "spec", "relation", "redundant")} for item in decisions]
    return {
        "configuration": _text_hash(prepared.asked.model_dump(mode="json", exclude=_WRITTEN_AT)),
        "plan": _text_hash({"target": prepared.plan.target, "decisions": decided}),
        "model": _model_hash(prepared),
        "data (first batch)": batch_hash(first),
        "seed": str(seed),
        "device": device,
        "version of quantwright": versions.get("quantwright", ""),
        "version of torch": versions.get("torch", ""),
    }


def _model_hash(prepared: QuantizedModel) -> str:
    """Returns the SHA-256 of a model's structure, code and tensors."""
    code = [module.code for module in prepared.modules() if isinstance(module, fx.GraphModule)]
    digest = hashlib.sha256("\n".join([repr(prepared), *code]).encode())
    for name, value in sorted(prepared.state_dict().items()):
        digest.update(f"{name} {_tensor_hash(value)}\n".encode())
    return digest.hexdigest()


def batch_hash(batch: Batch) -> str:
    """Returns the SHA-256 of a batch's inputs: structure, dtypes, shapes and bytes."""
    leaves, tree = torch.utils._pytree.tree_flatten((batch.args, dict(batch.kwargs)))
    words = [_tensor_hash(leaf) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
    return hashlib.sha256("\n".join([str(tree), *words]).encode()).hexdigest()


def model_state(prepared: QuantizedModel) -> dict[str, Tensor]:
    """Returns what calibration and algorithms have made of a model: QParams, changed parameters, changes."""
    flat: dict[str, Tensor] = {}
    for name, quantizer in prepared.quantizers.items():
        if quantizer.qparams is not None:
            flat |= {f"qparams/{name}/{key}": value for key, value in quantizer.qparams.to_dict().items()}
    for name, before in prepared.float_parameters.items():
        flat |= {f"before/{name}": before, f"after/{name}": prepared.parameter(name).detach()}
    changes = [{"by": c.by, "node": c.node, "text": c.text, "data": c.data} for c in prepared.changes]
    return tensorfile.with_facts(flat, changes)


def load_model_state(prepared: QuantizedModel, state: Mapping[str, Tensor]) -> None:
    """Makes of a freshly prepared model what ``model_state`` said; it quantizes then."""
    tensors, changes = tensorfile.split_facts(state)
    device = prepared.example.tensors()[0].device
    for name, quantizer in prepared.quantizers.items():
        prefix = f"qparams/{name}/"
        parts = {key.removeprefix(prefix): tensors[key].to(device) for key in tensors if key.startswith(prefix)}
        quantizer.qparams = QParams(**parts) if parts else None
    for key in [key for key in tensors if key.startswith("before/")]:
        name = key.removeprefix("before/")
        prepared.change_parameter(name, tensors[f"after/{name}"].to(device))
        prepared.float_parameters[name] = tensors[key].to(device)
    prepared.changes[:] = [Change(**change) for change in changes]
    prepared.set_mode("quantize")


def _pass_over(source: Iterator[Batch], count: int, expected: str) -> tuple[int, Batch]:
    """Returns ``count`` and the last of the batches that were passed over."""
    batch = None
    for index in range(count):
        batch = next(source, None)
        if batch is None:
            raise DataError(f"the checkpoint has seen {count} batches, and now there are only {index}", fix=_START_OVER)
    if batch is None or batch_hash(batch) != expected:
        raise DataError(
            f"batch {count - 1} is not what it was when the checkpoint was written",
            fix="give the same data in the same order (no unseeded shuffling), or " + _START_OVER,
        )
    return count, batch


def _random_state() -> dict[str, Tensor]:
    """Returns the state of the generators of torch, NumPy and Python, as tensors."""
    python = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)
    words = [python[0], python[2], *numpy[2:]]
    flat = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(python[1], dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(numpy[1]).astype(np.int64)),
        "rest": torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        flat["cuda"] = torch.cuda.get_rng_state()
    return {_RNG + key: value for key, value in flat.items()}


def restore_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Sets every generator to where it was when the checkpoint was written."""
    flat = {key.removeprefix(_RNG): value for key, value in tensors.items() if key.startswith(_RNG)}
    version, gauss, *rest = json.loads(bytes(flat["rest"].tolist()))
    torch.set_rng_state(flat["torch"])
    random.setstate((version, tuple(flat["python"].tolist()), gauss))
    np.random.set_state(("MT19937", flat["numpy"].numpy().astype(np.uint32), *rest))
    if "cuda" in flat and torch.cuda.is_available():
        torch.cuda.set_rng_state(flat["cuda"])


def _tensor_hash(x: Tensor) -> str:
    digest = hashlib.sha256(f"{x.dtype} {tuple(x.shape)}".encode())
    digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
