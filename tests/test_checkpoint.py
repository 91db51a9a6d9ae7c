"""Checkpoints: what is refused, when they are written, what Ctrl-C does, and that a calibration goes on exactly."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import long_jobs
import numpy as np
import pytest
import torch
from torch import Tensor

from quantwright import cli, watcher
from quantwright.api import PreparedModel, prepare
from quantwright.calibrate import Calibrator
from quantwright.checkpoint import Checkpoint, batch_hash, job_of
from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, InputError, StateError
from quantwright.interrupts import Deferring
from quantwright.pipeline import quantize

CONFIG: dict[str, Any] = {"version": 1, "default": {"activation": {"observer": "mse"}}}
X = [torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
BATCHES = [Batch(args=(x,)) for x in X]


def prepared(config: dict[str, Any] = CONFIG) -> PreparedModel:
    return prepare(long_jobs.Small(), config, X[0])


def job(model: PreparedModel, first: Batch = BATCHES[0], seed: int = 0) -> dict[str, str]:
    return job_of(model, first, seed=seed, device="cpu", versions={"quantwright": "1", "torch": "2"})


def keep(folder: Path, resume: bool = False, every: float = 0.0, **changed: str) -> Checkpoint:
    return Checkpoint(folder, {**job(prepared()), **changed}, every=every, resume=resume)


def bits(model: PreparedModel) -> dict[str, Tensor]:
    """Returns every QParams of a model."""
    found = {name: q.qparams.to_dict() for name, q in model.quantizers.items() if q.qparams is not None}
    return {f"{name}/{key}": value for name, parts in found.items() for key, value in parts.items()}


def equal(first: PreparedModel, second: PreparedModel) -> bool:
    a, b = bits(first), bits(second)
    return set(a) == set(b) != set() and all(torch.equal(a[key], b[key]) for key in a)


class Cut(BaseException):
    """Ends a loop as a request to end does."""


def cut_after(count: int) -> Iterator[Tensor]:
    yield from X[:count]
    raise Cut


# -- going on ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_calibration_cut_anywhere_goes_on_exactly(count: int, every: float, tmp_path: Path) -> None:
    whole = prepared().calibrate(X)
    with pytest.raises(Cut):
        prepared().calibrate(cut_after(count), checkpoint=keep(tmp_path, every=every))
    fed = []
    rest = prepared().calibrate(
        X, checkpoint=keep(tmp_path, resume=True), progress=lambda stage, done, _: fed.append((stage, done))
    )
    assert equal(rest, whole)
    assert fed == [("calibrate", done) for done in range(count + 1, 5)]
    assert [path.name for path in tmp_path.iterdir()] == ["worker0.safetensors"]


def test_a_finished_calibration_is_not_done_again(tmp_path: Path) -> None:
    whole = prepared().calibrate(X, checkpoint=keep(tmp_path))
    never: Iterator[Tensor] = (pytest.fail("data was read") for _ in "x")
    assert equal(prepared().calibrate(never, checkpoint=keep(tmp_path, resume=True)), whole)
    again = keep(tmp_path, resume=False)  # without resume it starts over
    assert not again.path.exists()


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    rounded = {**CONFIG, "calibration": {"inputs": "quantized"}}
    rounded["default"] = {"activation": {"observer": "minmax", "rounding": "stochastic"}}

    def run(batches: Any, **options: Any) -> tuple[PreparedModel, list[float]]:
        for seeded in (torch.manual_seed, random.seed, np.random.seed):
            seeded(7)
        model = prepare(long_jobs.Small(), rounded, X[0]).calibrate(batches, **options)
        return model, [float(torch.rand(())), random.random(), random.gauss(0, 1), float(np.random.randn())]

    whole, numbers = run(X)
    odd = prepare(long_jobs.Small(), rounded, X[0])
    with pytest.raises(Cut):
        run(cut_after(2), checkpoint=Checkpoint(tmp_path, job(odd), every=0.0))
    for _ in range(2):  # in the middle of calibration, and after it
        model, after = run(X, checkpoint=Checkpoint(tmp_path, job(odd), every=0.0, resume=True))
        assert equal(model, whole) and after == numbers


# -- what is refused --------------------------------------------------------------------------------------------
def cut(tmp_path: Path, count: int = 2) -> None:
    with pytest.raises(Cut):
        prepared().calibrate(cut_after(count), checkpoint=keep(tmp_path))


def test_a_checkpoint_of_another_job_is_refused_with_what_differs(tmp_path: Path) -> None:
    cut(tmp_path)
    before = keep(tmp_path, resume=True).path.read_bytes()
    says = r"worker0.*another job: it differs in model, seed\n  fix: leave out --resume"
    with pytest.raises(ArtifactError, match=says):
        keep(tmp_path, resume=True, seed="1", model="x")
    assert keep(tmp_path, resume=True).path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": 1}, {"seed"}),
        ({"first": BATCHES[1]}, {"data (first batch)"}),
        ({"config": {"version": 1, "default": {"activation": {"observer": "minmax"}}}}, {"configuration", "plan"}),
        ({"weight": 1e-7}, {"model"}),
    ],
)
def test_what_makes_a_job(change: dict[str, Any], differs: set[str]) -> None:
    network = long_jobs.Small()
    if "weight" in change:
        network.second.bias.data[0] += change["weight"]
    model = prepare(network, change.get("config", CONFIG), X[0])
    here = job(model, change.get("first", BATCHES[0]), change.get("seed", 0))
    there = job(prepared())
    assert {name for name in there if here[name] != there[name]} == differs
    assert job(prepared()) == there, "the same job has the same description"


def test_data_that_changed_are_refused(tmp_path: Path) -> None:
    cut(tmp_path)
    with pytest.raises(DataError, match="batch 1 is not what it was when the checkpoint was written"):
        prepared().calibrate([X[0], X[2], X[1]], checkpoint=keep(tmp_path, resume=True))
    with pytest.raises(DataError, match="has seen 2 batches, and now there are only 1"):
        prepared().calibrate(X[:1], checkpoint=keep(tmp_path, resume=True))


@pytest.mark.parametrize("damage", [b"", b"\x10\0\0\0\0\0\0\0{}", "half"])
def test_a_damaged_checkpoint_is_refused(damage: Any, tmp_path: Path) -> None:
    cut(tmp_path)
    path = tmp_path / "worker0.safetensors"
    path.write_bytes(path.read_bytes()[:200] if damage == "half" else damage)
    with pytest.raises(ArtifactError, match=r"worker0.safetensors(.|\n)*leave out --resume"):
        keep(tmp_path, resume=True)
    keep(tmp_path, resume=False)


def test_one_tensor_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    from quantwright import tensorfile

    tensorfile.write(tmp_path / "worker0.safetensors", {"x": torch.zeros(3)})
    with pytest.raises(ArtifactError, match="this is not a checkpoint"):
        keep(tmp_path, resume=True)


def test_resuming_needs_a_place_and_may_find_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint to go on from"):
        quantize(long_jobs.Small(), CONFIG, X, resume=True)
    assert equal(prepared().calibrate(X, checkpoint=keep(tmp_path, resume=True)), prepared().calibrate(X))


# -- when it is written -----------------------------------------------------------------------------------------
def test_it_is_written_by_the_clock_and_at_the_end_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, stages = [0.0], []
    monkeypatch.setattr("quantwright.checkpoint.time.monotonic", lambda: now[0])
    save = Checkpoint.save
    monkeypatch.setattr(
        Checkpoint, "save", lambda self, stage, *a, **k: (stages.append((stage, k)), save(self, stage, *a, **k))
    )

    def ticking() -> Iterator[Tensor]:
        for x in X:
            now[0] += 6.0
            yield x

    prepared().calibrate(ticking(), checkpoint=keep(tmp_path, every=10.0))
    written = [(stage, facts.get("batches")) for stage, facts in stages]
    assert written == [("calibrate", 2), ("calibrate", 4), ("model", None)]


def test_failing_data_leave_what_was_written_and_a_failing_batch_is_not_kept_by_halves(tmp_path: Path) -> None:
    def lost() -> Iterator[Tensor]:
        yield from X[:3]
        raise OSError("the network drive is gone")

    with pytest.raises(OSError, match="drive"):
        prepared().calibrate(lost(), checkpoint=keep(tmp_path / "a"))
    saved = keep(tmp_path / "a", resume=True).saved
    assert saved is not None and saved.facts["batches"] == 3
    bad = X[1].clone()
    bad[0, 0] = float("nan")
    with pytest.raises(DataError, match="batch 1.*NaN"):
        prepared().calibrate([X[0], bad], checkpoint=keep(tmp_path / "b"))
    saved = keep(tmp_path / "b", resume=True).saved
    assert saved is not None and saved.facts["batches"] == 1


# -- Ctrl-C -----------------------------------------------------------------------------------------------------
def press(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Presses Ctrl-C ``times`` times in the middle of the second batch."""
    observe, seen = watcher.observe, []

    def pressing(observer: Any, x: Tensor, spec: Any, point: str) -> None:
        seen.append(point)
        if seen.count(point) == 2 and point == seen[1]:  # the second point of the second batch
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        observe(observer, x, spec, point)

    monkeypatch.setattr(watcher, "observe", pressing)


def test_ctrl_c_is_heard_after_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    model = prepared()
    press(monkeypatch, times=1)
    with pytest.raises(KeyboardInterrupt):
        model.calibrate(X, checkpoint=keep(tmp_path, every=1e9))
    assert signal.getsignal(signal.SIGINT) is before
    saved = keep(tmp_path, resume=True).saved
    assert saved is not None and saved.facts["batches"] == 2
    assert equal(prepared().calibrate(X, checkpoint=keep(tmp_path, resume=True)), prepared().calibrate(X))


def test_a_second_ctrl_c_is_heard_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = prepared()
    press(monkeypatch, times=2)
    with pytest.raises(KeyboardInterrupt):
        model.calibrate(X, checkpoint=keep(tmp_path, every=1e9))
    assert not keep(tmp_path, resume=True).path.exists(), "half a batch must not be kept"


def test_signals_of_other_threads_are_left_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with Deferring() as ending:
            with ending.later():
                seen.append(signal.getsignal(signal.SIGINT))
            ending.now()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("how", ["interrupted", "ended"])
def test_the_command_says_how_to_go_on(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number, code = {"interrupted": (signal.SIGINT, 130), "ended": (signal.SIGTERM, 143)}[how]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("from long_jobs import Small\nfactory = Small\n")
    (tmp_path / "feed.py").write_text(
        "import os, torch\npressed = []\ndef data():\n    for index in range(3):\n"
        "        if index == 2 and len(pressed) == 0 and os.path.exists('now'):\n"
        f"            pressed.append(1); os.kill(os.getpid(), {int(number)})\n"
        "        yield torch.ones(2, 6) * index\n"
    )
    (tmp_path / "c.yaml").write_text("version: 1\n")
    words = ["quantize", "net.py:factory", "--config", "c.yaml", "--data", "feed.py:data", "--out", "my out"]
    (tmp_path / "now").touch()
    assert cli.main(words) == code
    err = capsys.readouterr().err
    command = "quantwright quantize net.py:factory --config c.yaml --data feed.py:data --out 'my out' --resume"
    assert f"{how}; go on with: {command}" in err
    assert (tmp_path / "my out.partial").is_dir() and not (tmp_path / "my out").exists()
    assert cli.main([*words, "--resume"]) == 0
    assert (tmp_path / "my out" / "model.onnx").exists() and not (tmp_path / "my out.partial").exists()


# -- the calibrator ---------------------------------------------------------------------------------------------
def test_feeding_one_by_one_is_calibrating() -> None:
    model = prepared()
    calibrator = Calibrator(model)
    with torch.no_grad():
        wanted = [long_jobs.Small()(x) for x in X]
    for batch, want in zip(BATCHES, wanted, strict=True):
        torch.testing.assert_close(calibrator.feed(batch), want)
    history = calibrator.finish()
    assert all(per_batch == [] for per_batch in history.values()) and set(history) == set(calibrator.watchers)
    assert equal(model, prepared().calibrate(X))


def test_a_calibrator_knows_when_a_batch_failed_half_way() -> None:
    calibrator = Calibrator(prepared())
    with pytest.raises(DataError, match="not one batch"):
        calibrator.finish()
    calibrator = Calibrator(prepared())
    with pytest.raises(DataError):
        calibrator.feed(Batch(args=(X[0][:, :3],)))  # refused before anything saw it
    calibrator.feed(BATCHES[0])
    calibrator.prepared.set_parameter("first.weight", torch.full((8, 6), 3e38))
    with pytest.raises(DataError, match="NaN/Inf"):
        calibrator.feed(Batch(args=(X[1] * 1e4,)))  # the input is fine, what comes of it overflows
    for call in (lambda: calibrator.feed(BATCHES[2]), calibrator.finish):
        with pytest.raises(StateError, match="half-way"):
            call()


def test_hashes_see_values_shapes_types_and_structure() -> None:
    x = torch.arange(6.0)
    variants = [
        Batch(args=(x,)), Batch(args=(x.reshape(2, 3),)), Batch(args=(x.double(),)), Batch(kwargs={"x": x}),
        Batch(args=((x, 1),)), Batch(args=((x, 2),)), Batch(args=(x.bfloat16(),)), Batch(args=(x + 1e-7,)),
    ]  # fmt: skip
    assert len({batch_hash(batch) for batch in variants}) == len(variants) - 1 + int(not torch.equal(x, x + 1e-7))
    assert batch_hash(Batch(args=(x.clone(),), labels=x)) == batch_hash(variants[0])
    assert batch_hash(Batch(args=(torch.stack([x, x], 1)[:, 0],))) == batch_hash(variants[0])
