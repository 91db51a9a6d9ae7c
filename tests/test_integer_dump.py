"""Golden vectors: every file reads back equal to what the machine computes, appears whole, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numerics_helpers import one_thread  # noqa: F401
from test_integer_machine import DPU, batch, residual

from quantwright.api import PreparedModel
from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, InputError
from quantwright.verify.integer import Machine
from quantwright.verify.integer import dump as write
from quantwright.verify.integer.vectors import INDEX, read

GIVEN = [batch(0, 3, 3, 16, 16), batch(1, 4, 3, 16, 16)]


def values(model: PreparedModel, given: Batch) -> dict[str, Any]:
    return {name: q.numpy() for name, q in Machine(model).values(given).items()}


@pytest.mark.parametrize("format", ["npz", "vitis"])
@pytest.mark.parametrize("config", ["int8", "power_of_two", DPU], ids=["int8", "power_of_two", "dpu"])
def test_every_tensor_reads_back_equal(format: Any, config: Any, tmp_path: Path) -> None:
    model = residual(config)
    done: list[int] = []
    record = write(model, GIVEN, tmp_path / "d", format=format, limit=5, progress=done.append)
    assert (record.batches, record.samples, done) == (2, 5, [1, 2])
    shorter = Batch(args=(GIVEN[1].args[0][:2],))
    for index, given in enumerate((GIVEN[0], shorter)):
        for name, q in values(model, given).items():
            back = read(tmp_path / "d", name, index)
            assert back.dtype == q.dtype and np.array_equal(back, q), name
    for name, _, fixed in Machine(model).parameters():
        assert np.array_equal(read(tmp_path / "d", name), fixed.q.numpy()), name
    index = json.loads((tmp_path / "d" / INDEX).read_text())
    assert [t["name"] for t in index["tensors"]] == [t.name for t in record.tensors]
    assert {t["role"] for t in index["tensors"]} == {"weight", "bias", "input", "output"}
    assert index["accumulators"] and index["target"] == model.target.name


def test_the_integers_times_the_scale_are_what_the_network_computes(tmp_path: Path) -> None:
    model = residual("int8")
    record = write(model, GIVEN[:1], tmp_path / "d")
    tensors = {t.name: t for t in record.tensors}
    seen: dict[str, Any] = {}
    machine = Machine(model)
    with torch.no_grad():
        model.compute(GIVEN[0], {node: lambda v, p=p: seen.update({p: v}) for p, node in machine.points.items()})
    for name, value in seen.items():
        found = tensors[name]
        real = (read(tmp_path / "d", name, 0).astype(np.int32) - found.zero_point[0]).astype(np.float32)
        assert np.array_equal(real * np.float32(found.scale[0]), value.numpy()), name


def test_the_files_are_those_of_vai_q_tensorflow2(tmp_path: Path) -> None:
    """1.4: dump_results_weights and dump_results_0, .bin of int8 and .txt, '/' and ':' made '_', _float variants."""
    model = residual(DPU)
    record = write(model, GIVEN, tmp_path / "d", format="vitis", floats=True)
    assert record.samples == 3  # the first batch, as the tool
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [INDEX, "dump_results_0", "dump_results_weights"]
    weight = next(t for t in record.tensors if t.name == "stem.weight")
    folder = tmp_path / "d" / "dump_results_weights"
    real, (position,) = model.graph.parameter("stem.weight").detach(), weight.position or (0,)
    flat = np.fromfile(folder / "stem.weight.bin", dtype=np.int8)
    away = np.trunc(real.numpy() * 2.0**position + np.copysign(0.5, real.numpy()))
    assert np.array_equal(flat, np.clip(away, -128, 127).astype(np.int8).reshape(-1))
    assert [int(line) for line in (folder / "stem.weight.txt").read_text().split()] == flat.tolist()
    floats = np.fromfile(folder / "stem.weight_float.bin", dtype=np.float32)
    assert np.array_equal(floats, (flat * 2.0**-position).astype(np.float32))
    assert np.allclose(np.loadtxt(folder / "stem.weight_float.txt"), floats)
    names = {p.name for p in (tmp_path / "d" / "dump_results_0").iterdir()}
    assert {"x_input.bin", "x_input.txt", "x_input_float.bin"} <= names and not any(":" in n or "/" in n for n in names)


def test_wider_integers_are_written_whole(tmp_path: Path) -> None:
    """The tool writes int8 whatever the width; here it is the width of the format, low byte first."""
    model = residual({"version": 1, "default": {"activation": {"format": "int16", "symmetric": True}}})
    record = write(model, GIVEN[:1], tmp_path / "d", format="vitis")
    found = next(t for t in record.tensors if t.name == "x:input")
    assert found.dtype == "int16"
    raw = np.fromfile(tmp_path / "d" / "dump_results_0" / "x_input.bin", dtype="<i2")
    assert np.array_equal(raw, values(model, GIVEN[0])["x:input"].reshape(-1))


def test_positions_are_said_where_scales_are_powers_of_two(tmp_path: Path) -> None:
    record = write(residual(DPU), GIVEN[:1], tmp_path / "a")
    for tensor in record.tensors:
        assert tensor.position is not None and tensor.scale == tuple(2.0**-p for p in tensor.position)
    other = write(residual("int8"), GIVEN[:1], tmp_path / "b")
    assert all(tensor.position is None for tensor in other.tensors if tensor.role == "input")


def test_a_dump_replaces_a_dump_whole_and_nothing_else(tmp_path: Path) -> None:
    model = residual("int8")
    write(model, GIVEN, tmp_path / "d", limit=7)
    assert (tmp_path / "d" / "activations_1.npz").exists()
    write(model, GIVEN, tmp_path / "d")
    assert not (tmp_path / "d" / "activations_1.npz").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("x")
    with pytest.raises(ArtifactError, match="something else"):
        write(model, GIVEN, tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_dump_that_fails_leaves_what_was_there(failure: BaseException, tmp_path: Path, monkeypatch: Any) -> None:
    model = residual("int8")
    write(model, GIVEN, tmp_path / "d")
    before = {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()}

    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr("quantwright.verify.integer.vectors._write_npz", fail)
    with pytest.raises(ArtifactError if isinstance(failure, OSError) else KeyboardInterrupt):
        write(model, GIVEN, tmp_path / "d")
    assert {p.name: p.read_bytes() for p in (tmp_path / "d").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_equal_runs_write_equal_files(tmp_path: Path) -> None:
    model = residual("int8")
    for name in ("a", "b"):
        write(model, GIVEN, tmp_path / name, format="vitis")
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file() and path.name != INDEX:
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_names_that_fall_together_get_files_of_their_own(tmp_path: Path) -> None:
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(4, 4)
            self.a_output = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a_output(torch.relu(self.a(x))))

    from quantwright.api import prepare

    model = prepare(Pair().eval(), "int8", torch.randn(2, 4)).calibrate([torch.randn(8, 4)])
    record = write(model, [Batch(args=(torch.randn(2, 4),))], tmp_path / "d", format="vitis")
    assert len({tensor.file for tensor in record.tensors}) == len(record.tensors)


def test_what_cannot_be_dumped_is_refused(tmp_path: Path) -> None:
    model = residual("int8")
    with pytest.raises(InputError, match="format 'csv'"):
        write(model, GIVEN, tmp_path / "d", format="csv")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not one batch"):
        write(model, [], tmp_path / "d")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArtifactError, match=INDEX):
        read(tmp_path, "x:input", 0)
    write(model, GIVEN, tmp_path / "d")
    with pytest.raises(ArtifactError, match="no tensor 'nobody'"):
        read(tmp_path / "d", "nobody")
