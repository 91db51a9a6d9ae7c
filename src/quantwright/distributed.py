"""Workers: several processes that calibrate together, each on its share of the batches (torch.distributed)."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from quantwright import tensorfile
from quantwright.errors import InputError, QuantwrightError, StateError

Item = TypeVar("Item")
_PATIENCE = datetime.timedelta(days=7)  # the others wait while the first worker refines and exports


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Returns this process and how many work together; what they exchange are tensors and JSON, never pickles.

    Attributes:
        rank: this one's number. The first, 0, does alone what is not shared: it refines, exports and writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Returns whether this is the worker that writes."""
        return self.rank == 0

    def share(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yields this worker's batches: ``rank``, ``rank + count``, ... of the data that all of them go through."""
        return itertools.islice(batches, self.rank, None, self.count)

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Returns what every worker gave, by rank."""
        if self.count == 1:
            return [dict(tensors)]
        mine = tensorfile.to_bytes(tensors)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([mine.numel()]))
        most = max(int(size) for size in sizes)
        padded = torch.cat([mine, mine.new_zeros(most - mine.numel())])
        parts = [torch.zeros(most, dtype=torch.uint8) for _ in range(self.count)]
        distributed.all_gather(parts, padded)
        return [tensorfile.from_bytes(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def tell(self, facts: Any) -> list[Any]:
        """Returns the plain values that every worker gave, by rank."""
        if self.count == 1:
            return [facts]
        return [tensorfile.split_facts(part)[1] for part in self.gather(tensorfile.with_facts({}, facts))]

    def from_first(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what the first worker gave."""
        return self.gather(tensors if self.first else {})[0]

    @contextlib.contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Yields; when the block fails on one worker, it fails on all: nobody waits for one that is gone.

        Raises:
            StateError: another worker failed; this one's own error is raised as it is.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001  raised again below
            failure = error
        if self.count > 1:
            said = self.tell("" if failure is None else f"{type(failure).__name__}: {failure}")
            others = [f"worker {rank}: {text}" for rank, text in enumerate(said) if text and rank != self.rank]
            if failure is None and others:
                failure = StateError(f"{what} failed on another worker\n{others[0]}")
        if failure is not None:
            raise failure

    def agree(self, job: Mapping[str, str]) -> None:
        """Raises InputError when the workers were not given the same model, configuration, data and seed."""
        for rank, other in enumerate(self.tell(dict(job))):
            differing = [name for name in job if other.get(name) != job[name]]
            if differing:
                raise InputError(
                    f"worker {rank} and worker {self.rank} differ in: {', '.join(differing)}",
                    fix="give every worker the same model, configuration, data and seed; each takes its own batches",
                )


ALONE = Workers()


def current() -> Workers:
    """Returns the workers of the process group that the caller made.

    Raises:
        StateError: there is none.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise StateError(
            "there is no process group to share the work with",
            fix="call torch.distributed.init_process_group('gloo') first, or leave out distributed",
        )
    return Workers(rank=distributed.get_rank(), count=distributed.get_world_size())


@contextlib.contextmanager
def joined() -> Iterator[Workers]:
    """Yields the workers that ``torchrun`` started, as its environment says; one alone when it did not."""
    count = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if int(count) == 1:
        yield ALONE
        return
    try:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise QuantwrightError(f"the {count} workers cannot reach each other: {error}") from error
    try:
        yield current()
    finally:
        distributed.destroy_process_group()
