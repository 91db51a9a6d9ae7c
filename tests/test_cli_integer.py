"""``verify --integer`` and ``dump`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics_helpers import one_thread  # noqa: F401
from test_integer_machine import DPU, narrowed, residual, wide_sums

from quantwright import cli
from quantwright.api import load
from quantwright.verify.integer import Machine
from quantwright.verify.integer.vectors import read

Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=["int8", "dpu"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Returns a saved run without an exported file."""
    return residual("int8" if request.param == "int8" else DPU).save(tmp_path / "out")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(5)).numpy()
    np.save(tmp_path / "x.npy", images)
    return tmp_path / "x.npy"


def call(capsys: Capture, *arguments: Any) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_document_has_the_counts(folder: Path, data: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, "verify", folder, "--integer", "--data", data, "--json", "--batch-size", 4)
    found = json.loads(out)["integer"]
    assert code == 0 and found["ok"] and found["samples"] == 6
    assert found["differing"] == 0 and found["first"] is None and found["values"] > 10_000
    assert all(layer["beyond"] == 0 and layer["bits"] == 32 for layer in found["layers"])
    assert found["exported"] == []


def test_people_read_a_table(folder: Path, capsys: Capture) -> None:
    code, out, err = call(capsys, "verify", folder, "--integer")
    assert code == 0 and out.startswith("ok: executed on integers") and "largest possible" in out and "stem" in out
    assert err == ""


def test_the_exported_file_is_compared_too(tmp_path: Path, capsys: Capture) -> None:
    from test_integer_machine import Residual

    from quantwright.pipeline import quantize

    torch.manual_seed(0)
    quantize(Residual().eval(), "power_of_two", [torch.randn(4, 3, 16, 16)], out=tmp_path / "out")
    code, out, _ = call(capsys, "verify", tmp_path / "out", "--integer", "--json")
    unfused, fused = json.loads(out)["integer"]["exported"]
    assert code == 0 and unfused["differing"] == fused["differing"] == 0


def test_an_overflow_ends_with_exit_code_1(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    wide_sums(40).save(tmp_path / "out")
    monkeypatch.setattr("quantwright.api.load", lambda path: narrowed(load_again(path), 20))
    load_again = load
    code, out, _ = call(capsys, "verify", tmp_path / "out", "--integer", "--json")
    assert code == 1 and json.loads(out)["integer"]["layers"][0]["beyond"] > 0
    code, out, _ = call(capsys, "verify", tmp_path / "out", "--integer")
    assert code == 1 and "do not fit into 20 bits" in out


@pytest.mark.parametrize("format", ["npz", "vitis"])
def test_dump_writes_what_the_machine_computes(folder: Path, data: Path, format: str, capsys: Capture) -> None:
    code, out, _ = call(capsys, "dump", folder, "--data", data, "--format", format, "--limit", 3, "--json")
    document = json.loads(out)
    place = folder.with_name("out.dump")
    assert code == 0 and document["folder"] == str(place) and document["samples"] == 3
    model = load(folder)
    given = type(model.example)(args=(torch.from_numpy(np.load(data)[:3]),))
    for name, q in Machine(model).values(given).items():
        assert np.array_equal(read(place, name, 0), q.numpy())


def test_dump_goes_where_it_is_told(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    code, out, _ = call(capsys, "dump", folder, "--out", tmp_path / "golden", "--float")
    assert code == 0 and "parameters and" in out and (tmp_path / "golden" / "dump.json").exists()
    with np.load(tmp_path / "golden" / "parameters.npz") as arrays:
        assert "stem.weight_float" in arrays


def test_mistakes_are_told_before_work(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = call(capsys, "dump", folder, "--format", "npy")
    assert code == 2 and "--format" in err and "npz" in err
    code, _, err = call(capsys, "dump", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in err
    code, _, err = call(capsys, "dump", folder, "--data", tmp_path / "nothing.npz", "--format", "cvs")
    assert code == 2 and "2 things are wrong" in err
