"""The exported file itself: names, storage, determinism, the record, and what is refused."""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_models import WEIGHT, Branches, Call, Residual, plan_for, prepared, spec
from torch import Tensor, nn

from quantwright.config.config import QuantConfig, RoleSpecs
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, ExportError, MissingDependencyError, StateError
from quantwright.exporters.onnx import ExportRecord, export, export_float
from quantwright.graph.capture import capture
from quantwright.prepare import PreparedModel
from quantwright.targets import Target
from quantwright.verify.runtime import OrtRunner
from quantwright.verify.verify import verify

Residual8 = tuple[PreparedModel, ExportRecord, Path]


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Residual8:
    """The residual network at 8 bits."""
    torch.manual_seed(1)
    made = prepared(Residual(), torch.randn(4, 3, 8, 8))
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    return made, export(made, path), path


def test_weights_and_biases_are_integers_without_a_float_copy(residual: Residual8) -> None:
    made, record, path = residual
    stored = {value.name: value for value in onnx.load(path).graph.initializer}
    for name, quantizer in made.quantizers.items():
        if quantizer.point.role == "weight":
            assert stored[name].data_type == onnx.TensorProto.INT8
        if quantizer.point.role == "bias":
            assert stored[name].data_type == onnx.TensorProto.INT32
    floats = {name: value for name, value in stored.items() if value.data_type == onnx.TensorProto.FLOAT}
    assert all(name.endswith(".scale") for name in floats)
    assert record.weights == {"int32": {"tensors": 4, "bytes": 34 * 4}, "int8": {"tensors": 4, "bytes": 512}}


def test_scales_are_scalars_per_tensor_and_vectors_per_channel(residual: Residual8) -> None:
    made, _, path = residual
    stored = {value.name: value for value in onnx.load(path).graph.initializer}
    for name, quantizer in made.quantizers.items():
        channels = quantizer.qparams.scale.numel()  # type: ignore[union-attr]
        expected = [channels] if quantizer.point.role in ("weight", "bias") else []
        assert list(stored[f"{name}.scale"].dims) == expected
        exported = onnx.numpy_helper.to_array(stored[f"{name}.scale"])
        np.testing.assert_array_equal(exported.ravel(), quantizer.qparams.scale.float().numpy())  # type: ignore[union-attr]


def test_bias_scale_is_the_float32_product_of_input_and_weight_scale(residual: Residual8) -> None:
    _, _, path = residual
    stored = {value.name: onnx.numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(stored["stem.bias.scale"], stored["x:output.scale"] * stored["stem.weight.scale"])


def test_record_describes_the_file(residual: Residual8) -> None:
    _, record, path = residual
    assert record.size == path.stat().st_size
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record.inputs, record.outputs, record.opset) == (("x",), ("output_0",), 21)
    model = onnx.load(path)
    assert record.nodes["QuantizeLinear"] == sum(n.op_type == "QuantizeLinear" for n in model.graph.node) == 9
    values = {value for node in model.graph.node for value in node.output}
    assert set(record.points.values()) <= values
    assert record.points["relu:output"] == "relu:output"
    assert record.points["linear:output"] == "output_0"
    assert json.loads(json.dumps(record.to_json(), allow_nan=False))["points"] == dict(record.points)
    assert record.output_gap == {"unfused": 0.0, "fused": 0.0}


def test_file_holds_nothing_about_the_machine_or_the_trace(residual: Residual8) -> None:
    _, _, path = residual
    model = onnx.load(path)
    assert [entry.key for entry in model.metadata_props] == ["quantwright.points"]
    assert (model.producer_name, model.doc_string, model.graph.doc_string) == ("quantwright", "", "")
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        assert not part.doc_string and not part.metadata_props
    assert {entry.domain for entry in model.opset_import} == {""}
    text = path.read_bytes()
    assert str(Path.home()).encode() not in text and b".py" not in text and b"quantwright::" not in text


def test_batch_dimension_is_called_batch_and_takes_any_size(residual: Residual8) -> None:
    made, _, path = residual
    model = onnx.load(path)
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", 10]
    runner = OrtRunner(path, fused=False)
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        np.testing.assert_allclose(runner.run(Batch(args=(x,)))[0], made.run(Batch(args=(x,))).numpy(), atol=0.0041)


def test_same_inputs_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.manual_seed(6)\n"
        "from onnx_models import Residual, prepared\n"
        "from quantwright.exporters.onnx import export\n"
        "print(export(prepared(Residual(), torch.randn(4, 3, 8, 8)), sys.argv[2]).sha256)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "other.onnx")]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    torch.manual_seed(6)
    record = export(prepared(Residual(), torch.randn(4, 3, 8, 8)), tmp_path / "here.onnx")
    assert done.stderr == "", "the exporters below are silent"
    assert done.stdout.strip() == record.sha256
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


class Nested(nn.Module):
    """A positional input, a keyword dict, and a dict of outputs with one output twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)

    def forward(self, input: Tensor, extra: dict[str, Tensor], scale: float = 2.0) -> dict[str, Any]:
        """Returns nested outputs."""
        y = self.a(input) * scale + extra["left"]
        return {"scores": y, "all": [y, extra["right"] + y]}


def test_dict_inputs_and_outputs_get_the_users_names(tmp_path: Path) -> None:
    torch.manual_seed(8)
    extra = {"left": torch.randn(3, 4), "right": torch.randn(3, 4)}
    made = prepared(Nested(), Batch(args=(torch.randn(3, 6),), kwargs={"extra": extra}))
    record = export(made, tmp_path / "model.onnx")
    assert record.inputs == ("input", "extra_left", "extra_right")
    assert record.outputs == ("scores", "output_1", "output_2")
    batch = Batch(kwargs={"extra": {k: torch.randn(2, 4) for k in extra}, "input": torch.randn(2, 6)})
    verdict = verify(made, tmp_path / "model.onnx", [batch])
    assert verdict.ok and len(verdict.outputs) == 3, verdict.render()


def test_redundant_pairs_are_optional_and_change_no_value(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3))
    made = prepared(network, torch.randn(2, 3, 6, 6))
    record, lean = export(made, tmp_path / "full.onnx"), export(made, tmp_path / "lean.onnx", qdq_for_redundant=False)
    assert lean.nodes["QuantizeLinear"] == record.nodes["QuantizeLinear"] - 1
    assert set(record.points) - set(lean.points) == {d.point.name for d in made.plan.decisions if d.redundant}
    x = Batch(args=(torch.randn(3, 3, 6, 6),))
    first, second = (OrtRunner(tmp_path / name, fused=False).run(x)[0] for name in ("full.onnx", "lean.onnx"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("weight", [None, QuantSpec(format="float16", granularity=BASE_SPEC.granularity)])
def test_layers_left_float_stay_float_in_onnx_runtime(weight: QuantSpec | None, tmp_path: Path) -> None:
    """ONNX Runtime would quantize these weights to int8 by itself; the guard keeps the precision the plan asked for."""
    torch.manual_seed(12)
    made = prepared(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), torch.randn(2, 8, 9, 9), weight=weight, bias=None)
    fine = spec(format="uint16", symmetric=False, granularity=BASE_SPEC.granularity).over(BASE_SPEC)
    made8 = prepared(nn.Conv2d(8, 8, 3), torch.randn(2, 8, 9, 9), weight=weight, bias=None, activation=fine)
    for index, model in enumerate((made, made8)):
        record = export(model, tmp_path / f"{index}.onnx")
        assert record.nodes["Max"] == 1
        verdict = verify(model, tmp_path / f"{index}.onnx", [Batch(args=(torch.randn(4, 8, 9, 9),))])
        assert verdict.ok and verdict.outputs[0].max_lsb_fused is not None and verdict.outputs[0].max_lsb_fused <= 1.001
    assert "Max" not in export(made, tmp_path / "plain.onnx", keep_float_layers=False).nodes


def test_float_export_equals_the_float_network(residual: Residual8, tmp_path: Path) -> None:
    made, _, _ = residual
    path = export_float(made.graph, tmp_path / "float.onnx", made.example)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in onnx.load(path).graph.node}
    x = Batch(args=(torch.randn(5, 3, 8, 8),))
    with made.floating():
        expected = made.run(x)
    np.testing.assert_allclose(OrtRunner(path).run(x)[0], expected.numpy(), atol=1e-5)
    assert not torch.equal(made.run(x), expected), "the simulation quantizes again"


def test_weight_read_twice_is_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(13)
    shared = Call(lambda m, x: m.a(m.a(x).relu()) + m.b(x).relu(), a=nn.Linear(6, 6), b=nn.Linear(6, 6, bias=False))
    shared.b.weight = shared.a.weight  # type: ignore[union-attr]
    made = prepared(shared, torch.randn(4, 6), bias=None)
    record = export(made, tmp_path / "model.onnx")
    integers = [v for v in onnx.load(tmp_path / "model.onnx").graph.initializer if list(v.dims) == [6, 6]]
    assert [v.name for v in integers] == ["a.weight"]
    assert record.weights["int8"]["tensors"] == 1
    assert verify(made, tmp_path / "model.onnx", [made.example]).ok


# -- refusals ------------------------------------------------------------------------------------------------------
def test_an_uncalibrated_model_is_refused(tmp_path: Path) -> None:
    graph = capture(nn.Linear(4, 2), torch.randn(2, 4))
    plan = plan_for(graph.facts(), WEIGHT, BASE_SPEC, None)
    target = Target(name="hand", summary="", defaults=RoleSpecs(), kinds={}, parameters=())
    made = PreparedModel(graph, plan, QuantConfig(), target, Batch(args=(torch.randn(2, 4),)), [])
    with pytest.raises(StateError, match="no QParams"):
        export(made, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Eigenvalues(nn.Module):
    """An operator ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns eigenvalues."""
        return torch.linalg.eigvalsh(x @ x.transpose(1, 2))


def test_an_operator_without_translation_is_named_with_its_line(tmp_path: Path) -> None:
    made = prepared(Eigenvalues(), torch.randn(2, 3, 3))
    with pytest.raises(ExportError, match="linalg_eigh") as caught:
        export(made, tmp_path / "model.onnx")
    assert "test_export_onnx.py:" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_float64_model_is_refused_by_point(tmp_path: Path) -> None:
    made = prepared(nn.Linear(4, 2).double(), torch.randn(2, 4).double(), bias=None)
    with pytest.raises(ExportError, match="DOUBLE") as caught:
        export(made, tmp_path / "model.onnx")
    assert caught.value.where == "input_1:output"


def test_half_precision_models_are_written_with_casts(tmp_path: Path) -> None:
    torch.manual_seed(3)
    made = prepared(nn.Sequential(nn.Linear(6, 4), nn.ReLU()).half(), torch.randn(3, 6).half(), weight=None, bias=None)
    record = export(made, tmp_path / "model.onnx")
    assert record.nodes["Cast"] == 4
    verdict = verify(made, tmp_path / "model.onnx", [made.example])
    assert verdict.ok and verdict.points[0].differing == 0


def test_an_old_file_survives_a_failed_export(
    residual: Residual8, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = residual
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(OrtRunner, "run", lambda self, batch: [np.full((4, 10), np.nan, np.float32)])
    with pytest.raises(ExportError, match="NaN"):
        export(made, path)
    monkeypatch.setattr(OrtRunner, "run", lambda self, batch: [np.zeros((4, 9), np.float32)])
    with pytest.raises(ExportError, match="shape"):
        export(made, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_that_cannot_be_written_is_said(residual: Residual8, tmp_path: Path) -> None:
    made, _, _ = residual
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        export(made, tmp_path / "file" / "model.onnx")


def test_missing_packages_are_named_with_the_pip_line(residual: Residual8, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, _ = residual
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else real(name, *a))
    with pytest.raises(MissingDependencyError, match=r'pip install "quantwright\[onnx\]"') as caught:
        export(made, "never.onnx")
    assert "onnxscript" in str(caught.value) and not Path("never.onnx").exists()


def test_an_unknown_opset_lists_the_known_ones(residual: Residual8, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="21, 22, 23"):
        export(residual[0], tmp_path / "model.onnx", opset=13)


# -- the runner ----------------------------------------------------------------------------------------------------
def test_runner_takes_inputs_by_position_and_by_name(residual: Residual8) -> None:
    _, _, path = residual
    runner, x = OrtRunner(path, threads=1), torch.randn(2, 3, 8, 8)
    by_position, by_name = runner.run(Batch(args=(x,))), runner.run(Batch(kwargs={"x": x}))
    np.testing.assert_array_equal(by_position[0], by_name[0])
    assert torch.equal(runner(Batch(args=(x,)))[0], torch.from_numpy(by_position[0]))
    assert (runner.inputs, runner.outputs) == (("x",), ("output_0",))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (Batch(args=(torch.zeros(1, 3, 8, 8), torch.zeros(1))), "takes 1 inputs, the batch has 2"),
        (Batch(kwargs={"y": torch.zeros(1, 3, 8, 8)}), "takes 1 inputs"),
        (Batch(args=(torch.zeros(1, 3, 8, 8).double(),)), "float64"),
    ],
)
def test_runner_refuses_other_inputs(residual: Residual8, batch: Batch, words: str) -> None:
    with pytest.raises(DataError, match=words):
        OrtRunner(residual[2]).run(batch)


def test_runner_names_what_onnx_runtime_says(residual: Residual8, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such ONNX file"):
        OrtRunner(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(residual[2].read_bytes()[:500])
    with pytest.raises(ExportError, match="refuses the file"):
        OrtRunner(tmp_path / "broken.onnx")
    with pytest.raises(ExportError, match="cannot run"):
        OrtRunner(residual[2]).run(Batch(args=(torch.zeros(1, 3, 5),)))


def test_runner_without_onnxruntime_gives_the_pip_line(residual: Residual8, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install"):
        OrtRunner(residual[2])


def test_branches_keep_the_order_of_their_names() -> None:
    network = Branches({"b": nn.Identity(), "a": nn.ReLU()})
    assert list(network({"a": torch.ones(1), "b": torch.ones(1)})) == ["b", "a"]
