"""The whole job on every small model of the zoo: prepare, calibrate, refine, export, run in ONNX Runtime, compare."""

from __future__ import annotations

import math
from pathlib import Path

import graph_models
import pytest
import torch
from torch import nn

from quantwright.api import prepare
from quantwright.data import Batch
from quantwright.errors import ConfigError, DataError
from quantwright.graph.capture import capture
from quantwright.pipeline import quantize

#: one per kind of thing an exporter can trip over; tests of capture and of single operators cover the others
MODELS = ["conv1d", "conv3d", "grouped", "conv_transpose2d", "attention", "transformer", "lstm", "gru", "pools",
          "arithmetic", "clamps", "products", "reductions", "pads", "items", "dict", "reused", "tied", "in_place",
          "slice_write", "weight_norm", "tokens", "addmm"]  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_file_computes_what_was_simulated(name: str, tmp_path: Path) -> None:
    model, args = graph_models.build(name)
    batch = Batch(args=args)
    prepared = prepare(model, "int8", batch).calibrate([batch, batch]).refine([batch])
    prepared.export(tmp_path / "model.onnx")
    verdict = prepared.verify(tmp_path / "model.onnx", [batch])
    assert verdict.ok, verdict.render()
    assert verdict.samples == batch.size


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def labelled(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)) for _ in range(count)]


def test_one_call_does_it_all_and_records_it(tmp_path: Path) -> None:
    done: list[tuple[str, int]] = []
    model = quantize(
        small(), "int8", labelled(), out=tmp_path / "out", evaluate=True, seed=3,
        progress=lambda stage, count, total: done.append((stage, count)),
    )  # fmt: skip
    record = model.record
    assert record is not None and record.seed == 3 and record.verdict is not None and record.verdict["ok"]
    assert [row["name"] for row in record.evaluation] == ["float", "simulated", "exported"]
    assert all(row["samples"] == 12 and row["top1"] is not None for row in record.evaluation)
    assert {"prepare", "calibrate", "refine", "export", "verify", "measure", "evaluate"} == set(record.timings)
    assert ("calibrate", 3) in done and ("evaluate", 3) in done
    assert {"model.onnx", "plan.json", "run.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = quantize(small(), "int8", iter(labelled()), evaluate=True)
    assert model.record is not None and [row["name"] for row in model.record.evaluation] == ["float", "simulated"]
    assert list(tmp_path.iterdir()) == []


def test_a_graph_is_compared_with_what_it_was_before_passes() -> None:
    class Clipped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu6(x).flatten(1)

    config = {"version": 1, "optimize": ["relu6_to_relu"]}  # changes what the network computes
    data = [torch.full((4, 3, 2, 2), 9.0)]
    record = quantize(capture(Clipped(), data[0]), config, data, evaluate=True).record
    assert record is not None and record.evaluation[1]["sqnr_db"] == pytest.approx(10 * math.log10(36 / 9), abs=0.1)


def test_config_notes_are_told_once() -> None:
    config = {"target_device": "CPU", "keep_add_layer_accuracy": True, "include_cle": False, "include_bias_corr": False}
    record = quantize(small(), config, labelled()).record
    assert record is not None and record.config_notes
    assert not set(record.config_notes) & set(record.notes)


def test_the_users_model_keeps_its_mode() -> None:
    model = small().train()
    model[1].eval()
    quantize(model, "int8", labelled(), evaluate=True)
    assert [module.training for module in model] == [True, False, True, True]


@pytest.mark.parametrize(
    ("data", "config", "error", "words"),
    [
        ([], "int8", DataError, "not one batch"),
        ([{}], "int8", DataError, "no tensor"),
        (labelled(), {"version": 1, "target": "onnxruntimes"}, ConfigError, "did you mean 'onnxruntime'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, data: list[object], config: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        quantize(small(), config, data, out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
