"""Whole jobs in processes of their own, which may kill themselves at a given moment. Used by the tests of long jobs."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import vai_models
from torch import Tensor, nn

BATCHES = 6
CONFIGS: dict[str, Any] = {
    "histograms": {
        "version": 1,
        "default": {"activation": {"observer": "mse"}, "weight": {"format": "int8", "granularity": "per_channel"}},
        "rules": [
            {"match": {"name": "a"}, "activation": {"observer": "entropy"}},
            {"match": {"name": "b"}, "activation": {"observer": "percentile", "statistic": "mean"}},
            {"match": {"name": "c"}, "activation": {"observer": "moving_average"}},
        ],
        "refine": [{"bias_correction": {"samples": 8}}],
    },
    "vitis": {"version": 1, "target": "dpu", "refine": [{"bias_correction": {"method": "vitis"}}]},
}


class Data:
    """Returns ``BATCHES`` batches that can be gone through again; kills the process when it gives (pass, batch)."""

    def __init__(self, kill: tuple[int, int] | None = None) -> None:
        self.kill = kill
        self.passes = 0

    def __iter__(self) -> Iterator[Tensor]:
        now, self.passes = self.passes, self.passes + 1
        generator = torch.Generator().manual_seed(5)
        for index in range(BATCHES):
            if (now, index) == self.kill:
                die()
            yield (1 + index) * torch.randn(4, 3, 12, 12, generator=generator)


def die(*_: Any, **__: Any) -> None:
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def job(out: Path, config: str, kill: Any = None, **options: Any) -> None:
    """Runs the job ``config``; ``kill`` is a moment of ``MOMENTS`` or (pass over the data, batch)."""
    from quantwright.pipeline import quantize

    torch.set_num_threads(1)
    if isinstance(kill, str):
        MOMENTS[kill]()
    data = Data(kill if isinstance(kill, tuple) else None)
    quantize(vai_models.build("Chain"), CONFIGS[config], data, out=out, checkpoint_every=0.0, **options)


def _while_saving() -> None:
    write, count = Path.write_bytes, [0]

    def halves(self: Path, content: Any) -> int:
        count[0] += 1
        if count[0] == 2:
            write(self, content[: len(content) // 2])
            die()
        return write(self, content)

    Path.write_bytes = halves  # type: ignore[method-assign]


def _while_writing() -> None:
    from quantwright import artifacts

    artifacts.write = die  # type: ignore[assignment]  # the exported file is there, the rest is not


def _while_publishing() -> None:
    rename, count = Path.rename, [0]

    def second(self: Path, target: Any) -> Any:
        count[0] += 1
        if count[0] == 2:  # the old folder is out of the way, the new one not in its place
            die()
        return rename(self, target)

    Path.rename = second  # type: ignore[method-assign,assignment]


MOMENTS: dict[str, Callable[[], None]] = {
    "saving": _while_saving, "writing": _while_writing, "publishing": _while_publishing,
}  # fmt: skip


def _quietly(task: Callable[..., None], rank: int, count: int, meeting: Path | None, args: Any, options: Any) -> None:
    torch.set_num_threads(1)
    if meeting is not None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    task(*args, **options)


@functools.lru_cache(maxsize=1)
def _warm() -> None:
    """Starts the process that all others are forked from."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        forkserver.set_forkserver_preload(["warm_export"])
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def run(
    task: Callable[..., None], *args: Any, workers: int = 1, meeting: Path | None = None, **options: Any
) -> list[int]:
    """Returns the exit codes of ``workers`` fresh processes that ran ``task``; -9 is one that was killed.

    Args:
        meeting: a file that does not exist, by which the processes find each other.
    """
    context = multiprocessing.get_context("forkserver")
    _warm()
    made = [
        context.Process(target=_quietly, args=(task, rank, workers, meeting, args, options)) for rank in range(workers)
    ]
    for process in made:
        process.start()
    for process in made:
        process.join(120)
        process.kill()
    return [process.exitcode or 0 for process in made]


class Small(nn.Module):
    """Returns a network of a few points."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))
