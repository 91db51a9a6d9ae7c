"""Bad input, through the command: one clear error, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from quantwright import cli

CODE = """
import os, time
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 5)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        return self.fc(torch.relu(self.conv2(x)).flatten(1))


class Branching(Net):
    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return super().forward(x)


class Crashing(Net):
    def forward(self, x):
        return super().forward(x) + self.missing_layer(x)


def net():
    return Net()


def branching():
    return Branching()


def crashing():
    return Crashing()


def nan_weight():
    model = Net()
    with torch.no_grad():
        model.conv2.weight[1, 0, 0, 0] = float("nan")
    return model


def inf_bias():
    model = Net()
    with torch.no_grad():
        model.fc.bias[2] = float("inf")
    return model


def overflowing():
    model = Net()
    with torch.no_grad():
        model.conv1.weight.mul_(1e25)
        model.conv2.weight.mul_(1e25)
    return model


def good():
    torch.manual_seed(1)
    return [(torch.randn(8, 3, 8, 8), torch.arange(8) % 5) for _ in range(2)]


def empty():
    return []


def empty_batch():
    return [torch.zeros(0, 3, 8, 8)]


def later_wrong_shape():
    return [torch.randn(8, 3, 8, 8), torch.randn(8, 1, 8, 8)]


def flat():
    return [torch.randn(8, 30)]


def integers():
    return [torch.zeros(8, 3, 8, 8, dtype=torch.int64)]


def later_double():
    return [torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8).double()]


def not_finite():
    x = torch.randn(8, 3, 8, 8)
    x[6, 0, 0, 0] = float("inf")
    return [torch.randn(8, 3, 8, 8), x]


def text():
    return ["a", "b"]


def slow():
    for index in range(10000):
        open(os.environ["TELL"], "a").close()
        time.sleep(0.02)
        yield torch.randn(2, 3, 8, 8)
"""
CONFIG = "version: 1\ntarget: generic\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "user_code.py").write_text(CODE)
    (tmp_path / "good.yaml").write_text(CONFIG)
    np.save(tmp_path / "good.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    return tmp_path


def quantize(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    *more: str,
    model: str = "net",
    config: str = "good.yaml",
    data: str = "good",
    both: bool = False,
) -> tuple[int, str]:
    """Returns exit code and message after checking that there is one error (in both forms), and nothing was written."""
    data = f"{place}/{data}" if "." in data else f"{place}/user_code.py:{data}"
    arguments = ["quantize", f"{place}/user_code.py:{model}", "--config", f"{place}/{config}", "--data", data,
                 "--out", f"{place}/result/out", *more]  # fmt: skip
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err and captured.err.count("error:") == 1
    if both:
        json_code = cli.main([*arguments, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert json_code == code == document["error"]["exit_code"]
    result = place / "result"
    assert not result.exists() or list(result.iterdir()) == []
    return code, captured.err


# -- data -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("empty", ["empty", "not one batch"]),
        ("empty_batch", ["empty", "[0, 3, 8, 8]|(0, 3, 8, 8)"]),
        ("later_wrong_shape", ["batch 1", "[8, 1, 8, 8]", "[N, 3, 8, 8]"]),
        ("flat", ["user_code.py:"]),
        ("integers", ["user_code.py:"]),
        ("later_double", ["batch 1", "float64", "float32"]),
        ("not_finite", ["batch 1", "sample 6", "NaN/Inf"]),
        ("text", ["a batch is a str"]),
    ],
)
def test_data_from_code(data: str, says: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = quantize(place, capsys, data=data)
    assert code == 2
    for text in says:
        assert any(choice in message for choice in text.split("|")), (text, message)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((0, 3, 8, 8), np.float32), "empty"),
        (np.zeros((4, 3, 8, 8), np.uint8), "uint8"),
        (np.full((4, 3, 8, 8), np.nan, np.float32), "sample 0"),
    ],
)
def test_data_from_arrays(array: np.ndarray, says: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(place / "a.npy", array)
    code, message = quantize(place, capsys, data="a.npy", both=True)
    assert code == 2 and says in message and "a.npy" in message


@pytest.mark.parametrize("keep", [3, 200, 5000])
def test_truncated_data(keep: int, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(place / "whole.npz", x=np.ones((8, 3, 8, 8), np.float32))
    (place / "cut.npz").write_bytes((place / "whole.npz").read_bytes()[:keep])
    code, message = quantize(place, capsys, data="cut.npz")
    assert code == 2 and "cut.npz" in message and "truncated" in message


# -- model ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nan_weight", ["conv2", "NaN"]),
        ("inf_bias", ["fc", "Inf"]),
        ("overflowing", ["relu", "Inf"]),
        ("branching", ["user_code.py:23"]),
        ("crashing", ["missing_layer", "user_code.py:"]),
    ],
)
def test_models(model: str, says: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = quantize(place, capsys, model=model)
    assert code == 2
    for text in says:
        assert text in message, message


# -- config -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CONFIG + "rulez: []\n", ["rulez", "did you mean 'rules'", "bad.yaml:3"]),
        (CONFIG + "rules:\n  - match: {name: conv7}\n    exclude: true\n", ["conv7", "bad.yaml:4", "conv1"]),
        (CONFIG + "default: {weight: {format: int8", ["bad.yaml:"]),
        (CONFIG + "default: {weight: {format: int8}\x00}", ["bad.yaml"]),
        ("", ["bad.yaml"]),
    ],
)
def test_configs(text: str, says: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.yaml").write_text(text)
    code, message = quantize(place, capsys, config="bad.yaml", both=True)
    assert code == 2
    for part in says:
        assert part in message, message


def test_a_folder_or_binary_file_as_config(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "folder.yaml").mkdir()
    (place / "binary.yaml").write_bytes(bytes(range(256)))
    for name in ("folder.yaml", "binary.yaml", "missing.yaml"):
        code, message = quantize(place, capsys, config=name)
        assert code == 2 and name in message


# -- artefacts --------------------------------------------------------------------------------------------------
def test_damaged_folders_are_refused_and_whole_ones_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "out"
    arguments = ["quantize", f"{place}/user_code.py:net", "--config", f"{place}/good.yaml", "--data",
                 f"{place}/user_code.py:good", "--out", str(out), "--eval", "--json"]  # fmt: skip
    assert cli.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["evaluation"]] == ["float", "simulated", "exported"]
    assert document["verdict"]["ok"] is True and set(document["files"]) >= {"model.onnx", "plan.json"}
    assert document["command"]["seed"] == 0 and "out" not in document["command"]
    assert cli.main(["verify", str(out)]) == 0
    assert cli.main(["verify", str(out), "--data", f"{place}/good.npy", "--json"]) == 0
    capsys.readouterr()
    for name in ("model.onnx", "qparams.safetensors", "plan.json"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole[: len(whole) // 2])
        assert cli.main(["verify", str(out)]) == 2
        assert f"{name}: the file is truncated" in capsys.readouterr().err
        (out / name).write_bytes(whole)
    (out / "model.onnx").unlink()
    assert cli.main(["verify", str(out)]) == 2
    assert cli.main(["verify", str(place)]) == 2
    assert "not written by quantwright" in capsys.readouterr().err


# -- the machine ------------------------------------------------------------------------------------------------
def run(place: Path, *more: str, data: str = "good", prelude: str = "", tell: str = "") -> list[str]:
    """Returns the command line of a real process that quantizes into ``result/out``."""
    code = f"import sys\n{prelude}\nfrom quantwright.cli import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, "quantize", f"{place}/user_code.py:net", "--config", f"{place}/good.yaml",
            "--data", f"{place}/user_code.py:{data}", "--out", f"{place}/result/out", *more]  # fmt: skip


def test_a_full_disk(place: Path) -> None:
    """The kernel refuses to write more than 1000 bytes to a file, as a full disk would."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    done = subprocess.run(run(place, prelude=prelude), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1 and "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert list((place / "result").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle(number: signal.Signals, code: int, place: Path) -> None:
    tell = place / "calibrating"
    process = subprocess.Popen(
        run(place, data="slow"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TELL": str(tell)},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not tell.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == "" and "Traceback" not in err
    assert err.strip() == ("interrupted" if number == signal.SIGINT else "ended")
    assert not (place / "result").exists() or list((place / "result").iterdir()) == []
