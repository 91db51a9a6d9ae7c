"""The demo: the network and its data are what the README says, and both configurations do what they promise."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, shared
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from quantwright import cli

DIGITS = ROOT / "examples" / "digits"


def module(name: str) -> ModuleType:
    """Returns examples/digits/<name>.py, imported from its file."""
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Runs these tests on one thread: small tensors gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Returns the trained network."""
    network: nn.Module = module("model").digits()
    return network


@pytest.fixture(scope="module")
def data() -> ModuleType:
    """Returns the data module."""
    return module("data")


def test_the_network_is_trained(model: nn.Module, data: ModuleType) -> None:
    batches = data.test()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == labels).sum()) for x, labels in batches)
    count = sum(len(labels) for _, labels in batches)
    assert count == 500 and right / count >= 0.98
    assert not model.training


def test_the_network_has_what_is_hard_to_quantize(model: nn.Module) -> None:
    kinds = {type(layer) for layer in model.modules()}
    assert {nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.AdaptiveAvgPool2d, nn.Linear, nn.MaxPool2d} <= kinds
    assert any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
    assert (DIGITS / "digits.safetensors").stat().st_size < 300_000
    assert set(load_file(DIGITS / "digits.safetensors")) == set(model.state_dict())


def test_the_split_is_fixed_and_disjoint(data: ModuleType) -> None:
    parts = {part: data.images(part) for part in ("train", "calibration", "test")}
    assert {part: len(labels) for part, (_, labels) in parts.items()} == {
        "train": 1041, "calibration": 256, "test": 500,
    }  # fmt: skip
    images = torch.cat([x for x, _ in parts.values()])
    assert images.shape == (1797, 1, 24, 24)
    assert abs(float(images.mean())) < 0.1 and 0.5 < float(images.std()) < 1.5
    assert parts["test"][1][:10].tolist() == data.images("test")[1][:10].tolist()
    pixels, _ = load_digits(return_X_y=True)
    assert len(images.flatten(1).unique(dim=0)) == len(np.unique(pixels, axis=0)), "an image is in two parts"


def test_training_is_deterministic_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DIGITS))
    for name in ("model", "data"):  # train.py imports its neighbours by these names; other tests load other files so
        monkeypatch.delitem(sys.modules, name, raising=False)
    train = module("train")
    first, second = train.train(3, seed=0), train.train(3, seed=0)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert train.accuracy(first, "test") > 0.5 > train.accuracy(train.DigitsNet(), "test")


def test_the_cpu_configuration_is_the_sample_of_the_tool() -> None:
    sample = json.loads(shared("configs", "vai_q_pytorch", "pytorch_quantize_config.json").read_text())
    ours = json.loads((DIGITS / "cpu.json").read_text())
    assert ours["layer_quantize_config"][1].pop("layer_name").startswith("DigitsNet::DigitsNet/ConvBlock[stem]/")
    assert sample["layer_quantize_config"][1].pop("layer_name").startswith("ResNet::")
    assert ours == sample


RUNS = {"cpu.json": "vitis_cpu", "dpu.json": "dpu"}
Run = tuple[str, Path, dict[str, Any]]


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Returns (config, output folder, what --json printed) of the command that ``make demo`` runs."""
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [
        "quantize", f"{DIGITS}/model.py:digits", "--config", f"{DIGITS}/{request.param}", "--data",
        f"{DIGITS}/data.py:calibration", "--eval-data", f"{DIGITS}/data.py:test", "--out", str(out), "--eval", "--json",
    ]  # fmt: skip
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main(command)
    assert code == 0, printed.getvalue()
    return request.param, out, json.loads(printed.getvalue())


def test_quantized_stays_near_float_simulated_and_exported(run: Run) -> None:
    config, out, _ = run
    record = json.loads((out / "run.json").read_text())
    rows = {row["name"]: row for row in record["evaluation"]}
    assert set(rows) == {"float", "simulated", "exported"}
    assert {row["samples"] for row in rows.values()} == {500}
    assert rows["float"]["top1"] >= 0.98
    for name in ("simulated", "exported"):
        assert rows[name]["top1"] >= rows["float"]["top1"] - 0.01, (config, name)
        assert rows[name]["agreement"] >= 0.98, (config, name)
        assert rows[name]["sqnr_db"] > 15, (config, name)
    assert record["target"] == RUNS[config]
    assert record["verdict"]["ok"] is True


def test_the_folder_has_the_model_with_integer_weights(run: Run) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    _, out, _ = run
    graph = onnx.load(out / "model.onnx").graph
    large = [i for i in graph.initializer if len(i.dims) > 1]
    assert large and all(i.data_type == onnx.TensorProto.INT8 for i in large)
    assert sum(i.ByteSize() for i in graph.initializer) < 20_000 < (DIGITS / "digits.safetensors").stat().st_size


def test_the_summary_puts_the_runs_side_by_side(run: Run) -> None:
    _, out, _ = run
    command = [sys.executable, str(DIGITS / "summary.py"), str(out), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("ONNX Runtime") == 2 and done.stdout.count(" dB") == 4
    assert f"{out}/model.onnx" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"{out}/report.html") and (out / "report.html").is_file()


def test_the_makefile_runs_both_configurations() -> None:
    dry = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "for config in cpu dpu" in dry and "summary.py" in dry
    dry = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"/bin/{tool}" in dry for tool in ("ruff", "mypy", "pytest"))
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_an_old_python_is_refused_with_the_way_on(tmp_path: Path) -> None:
    fake = tmp_path / "oldpython"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.7.1\nexit 1\n')
    fake.chmod(0o755)
    command = ["make", "venv", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs Python 3.10 or newer" in done.stdout and "Python 3.7.1" in done.stdout
    assert not (tmp_path / "venv").exists()
