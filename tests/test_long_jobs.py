"""Killed, resumed and shared jobs leave the files that an undisturbed one leaves, bit for bit."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import long_jobs
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from quantwright import cli, registry
from quantwright.api import prepare
from quantwright.distributed import ALONE, Workers, current
from quantwright.errors import InputError, StateError
from quantwright.files import sha256

EXAMPLES = ROOT / "examples" / "digits"


def files(folder: Path) -> dict[str, bytes]:
    """Returns every file of a run but the one that holds the time."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.json"}


def test_a_job_killed_again_and_again_ends_with_the_same_files(tmp_path: Path) -> None:
    assert long_jobs.run(long_jobs.job, tmp_path / "whole", "histograms") == [0]
    out = tmp_path / "out"
    assert long_jobs.run(long_jobs.job, out, "histograms", kill=(1, 0)) == [-9]  # before the first batch: nothing kept
    assert not out.exists() and not (tmp_path / "out.partial").exists()
    for moment in [(1, 2), "saving", (1, 5), (2, 1), "writing"]:  # pass 1 calibrates, pass 2 refines
        assert long_jobs.run(long_jobs.job, out, "histograms", kill=moment, resume=True) == [-9], moment
        assert not out.exists() and (tmp_path / "out.partial" / "worker0.safetensors").exists(), moment
    assert long_jobs.run(long_jobs.job, out, "histograms", resume=True) == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"], "something was left behind"
    assert files(out) == files(tmp_path / "whole")


def test_a_hook_that_changes_the_network_goes_on_where_it_was(tmp_path: Path) -> None:
    assert long_jobs.run(long_jobs.job, tmp_path / "whole", "vitis") == [0]
    out = tmp_path / "out"
    assert long_jobs.run(long_jobs.job, out, "vitis", kill=(1, 3)) == [-9]
    assert long_jobs.run(long_jobs.job, out, "vitis", kill="writing", resume=True) == [-9]
    assert long_jobs.run(long_jobs.job, out, "vitis", resume=True) == [0]
    assert files(out) == files(tmp_path / "whole")


def test_a_folder_killed_while_it_is_replaced_is_put_right(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert long_jobs.run(long_jobs.job, out, "vitis") == [0]
    before = files(out)
    (out / "notes.txt").write_text("mine")
    assert long_jobs.run(long_jobs.job, out, "vitis", kill="publishing") == [-9]
    assert not out.exists()
    assert long_jobs.run(long_jobs.job, out, "vitis", resume=True) == [0]
    assert files(out) == {**before, "notes.txt": b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# -- shared -----------------------------------------------------------------------------------------------------
CASES = [
    (name, statistic)
    for name, statistic in itertools.product(registry.names("observers"), ("all", "modal", "mean"))
    if statistic != "all" or name not in ("moving_average", "growing_histogram")  # the order of batches counts there
]


def config(name: str, statistic: str) -> dict[str, Any]:
    """Returns a configuration in which every activation has that observer and statistic."""
    scale = "power_of_two" if name in ("diffs", "min_mse_position") or statistic == "modal" else "float"
    return {
        "version": 1,
        "default": {"activation": {"observer": name, "statistic": statistic, "scale": scale, "symmetric": True}},
    }


def calibrate_all(folder: Path, batches: list[torch.Tensor], shared: bool) -> None:
    """Writes the QParams that every observer and statistic finds."""
    workers = current() if shared else ALONE
    found = {}
    for name, statistic in CASES:
        model = prepare(long_jobs.Small(), config(name, statistic), batches[0])
        model.calibrate(batches, workers=workers)
        for point, quantizer in model.quantizers.items():
            assert quantizer.qparams is not None
            for key, value in quantizer.qparams.to_dict().items():
                found[f"{name}/{statistic}/{point}/{key}"] = value.contiguous().clone()
    save_file(found, folder / f"worker{workers.rank}.safetensors")


@pytest.mark.parametrize("count", [5, 1])  # one worker has a batch more; one has none
def test_two_workers_find_what_one_finds(count: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    batches = [2.0**i * torch.randn(7, 6, generator=generator) for i in range(count)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert long_jobs.run(calibrate_all, tmp_path / "one", batches, False) == [0]
    codes = long_jobs.run(calibrate_all, tmp_path / "two", batches, True, workers=2, meeting=tmp_path / "meeting")
    assert codes == [0, 0]
    one = load_file(tmp_path / "one" / "worker0.safetensors")
    assert len(one) >= len(CASES) * 4
    for rank in range(2):
        other = load_file(tmp_path / "two" / f"worker{rank}.safetensors")
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def shared_job(out: Path, kill: tuple[int, int] | None = None, rank: int = 0, **options: Any) -> None:
    """Runs a whole job on several workers, of which ``rank`` is killed."""
    long_jobs.CONFIGS["shared"] = {**long_jobs.CONFIGS["histograms"], "rules": []}
    dies = kill if torch.distributed.is_initialized() and torch.distributed.get_rank() == rank else None
    long_jobs.job(out, "shared", dies, distributed=torch.distributed.is_initialized(), **options)


def test_shared_jobs_resume_too(tmp_path: Path) -> None:
    assert long_jobs.run(shared_job, tmp_path / "whole") == [0]
    out = tmp_path / "out"
    first = long_jobs.run(shared_job, out, kill=(1, 4), rank=1, workers=2, meeting=tmp_path / "m1")
    assert first[1] == -9 and first[0] != 0, "the one that is left must not go on alone"
    kept = sorted(path.name for path in (tmp_path / "out.partial").iterdir())
    assert kept == ["worker0.safetensors", "worker1.safetensors"] and not out.exists()
    assert long_jobs.run(shared_job, out, resume=True, workers=2, meeting=tmp_path / "m2") == [0, 0]
    assert files(out) == files(tmp_path / "whole")


def refused(folder: Path) -> None:
    """Writes what a worker is told that was given another seed, and one whose calibration cannot be shared."""
    workers = current()
    said = {}
    try:
        workers.agree({"seed": str(workers.rank), "model": "m"})
    except InputError as error:
        said["agree"] = str(error)
    try:
        with workers.together("calibration"):
            if workers.first:
                raise ValueError("batch 3 is bad")
    except (ValueError, StateError) as error:
        said["together"] = f"{type(error).__name__}: {error}"
    (folder / f"{workers.rank}.json").write_text(json.dumps(said))


def test_what_fails_on_one_worker_fails_on_all(tmp_path: Path) -> None:
    assert long_jobs.run(refused, tmp_path, workers=2, meeting=tmp_path / "meeting") == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert "worker 1 and worker 0 differ in: seed\n" in first["agree"] and "differ in: seed\n" in second["agree"]
    assert first["together"] == "ValueError: batch 3 is bad"
    assert second["together"].startswith("StateError") and "worker 0: ValueError: batch 3 is bad" in second["together"]


TWO = Workers(rank=0, count=2)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (config("moving_average", "all"), r"observer 'moving_average' depends on the order.*[23] points, the first is"),
        ({**config("minmax", "all"), "calibration": {"inputs": "quantized"}}, "'quantized' by what the batches before"),
        (long_jobs.CONFIGS["vitis"], "changes the network after every calibration batch"),
    ],
)
def test_what_depends_on_the_order_is_not_shared(asked: dict[str, Any], says: str) -> None:
    x = torch.randn(4, 6)
    model = prepare(long_jobs.Small(), asked, x)
    seen = []
    with pytest.raises(InputError, match=says) as caught:
        model.calibrate((seen.append(1) or batch for batch in [x, x]), workers=TWO)
    assert seen == [] and "fix: calibrate on one worker" in str(caught.value)
    assert not any(quantizer.ready for quantizer in model.quantizers.values()), "work was done before it was refused"


def test_batches_that_are_measured_alone_can_be_shared_also_with_quantized_inputs() -> None:
    alone = {**config("minmax", "max"), "calibration": {"inputs": "quantized", "batch_qparams": "batch"}}
    x = torch.randn(4, 6)
    with pytest.raises((StateError, RuntimeError, ValueError), match=r"process group|init"):
        prepare(long_jobs.Small(), alone, x).calibrate([x], workers=TWO)  # not refused: it goes on to the exchange
    with pytest.raises(StateError, match="init_process_group"):
        current()


def command(words: list[str]) -> None:
    """Runs the command line, as one process would."""
    assert cli.main(words) == 0


def test_torchrun_shares_the_command(tmp_path: Path) -> None:
    words = ["quantize", f"{EXAMPLES}/model.py:digits", "--config", "power_of_two", "--target", "generic",
             "--data", f"{EXAMPLES}/data.py:calibration", "--calib-batches", "3", "--json", "--out"]  # fmt: skip
    assert long_jobs.run(command, [*words, str(tmp_path / "one")]) == [0]
    torchrun = str(Path(sys.executable).with_name("torchrun"))
    started = [torchrun, "--nproc-per-node", "2", "-m", "quantwright", *words, str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(started, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # one, from the first worker
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert document["files"]["model.onnx"] == sha256(tmp_path / "one" / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
