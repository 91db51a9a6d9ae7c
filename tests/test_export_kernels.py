"""Files for the integer kernels of a runtime: other integers and other nodes, the same numbers bit for bit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import Residual
from torch import nn

import quantwright as qw
from quantwright.cli import main
from quantwright.exporters._onnx_clamp import clamp_integers
from quantwright.exporters.onnx import ExportRecord, export
from quantwright.verify.places import written_points
from quantwright.verify.verify import verify


class Mixed(Residual):
    """The residual network with clamps of other kinds, and a product of two activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns class scores."""
        y = nn.functional.relu6(self.stem(x))
        z = (self.point(self.depthwise(y).clamp(-0.5, 0.75)) + y).relu()
        scores = torch.matmul(z.flatten(2), y.flatten(2).transpose(1, 2)).unsqueeze(1)
        z = torch.cat([z, nn.functional.max_pool2d(y, 3, 1, 1)], 1)
        return self.head(z.mean((2, 3))) + scores.mean((1, 2, 3), keepdim=False).unsqueeze(1)


Made = tuple[Any, dict[str, Path], dict[str, ExportRecord], torch.Tensor]


def config(target: str = "onnxruntime", **activation: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "target": target,
        "default": {"activation": {"format": "int8", "symmetric": True, **activation}},
    }


@pytest.fixture(scope="module", params=[Residual, Mixed])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A signed plan, written for the kernels and written as planned."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("kernels")
    batches = [torch.randn(8, 3, 8, 8) for _ in range(2)]
    prepared = qw.prepare(request.param(), config(), batches[0]).calibrate(batches)
    files = {word: folder / f"{word}.onnx" for word in ("unsigned", "signed")}
    records = {word: export(prepared, path, keep_signed=word == "signed") for word, path in files.items()}
    return prepared, files, records, torch.randn(32, 3, 8, 8)


def integers(path: Path, x: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Returns point -> the integers it is stored in, every node computed as written."""
    model = onnx.load(path)
    makers = {node.output[0]: node for node in model.graph.node}
    stored = {
        point: makers[value].input[0]
        for point, value in written_points(model).items()
        if value in makers and makers[value].op_type == "DequantizeLinear" and makers[value].input[0] in makers
    }
    present = {value.name for value in model.graph.output}
    typed = {value.name: value for value in model.graph.value_info}
    for name in sorted(set(stored.values()) - present):
        model.graph.output.append(typed[name])
    session = _session(model)
    names = list(dict.fromkeys(stored.values()))
    values = dict(zip(names, session.run(names, {"x": x.numpy()}), strict=True))
    return {point: values[name] for point, name in stored.items()}


def _session(model: onnx.ModelProto | Path) -> Any:
    """Returns a session that computes every node as written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def rewritten(path: Path) -> Counter[str]:
    """Returns operator -> count of the graph ONNX Runtime makes of a file at its default level."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".fused"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_a_signed_plan_is_stored_128_higher_and_in_nothing_else_different(made: Made) -> None:
    prepared, files, records, x = made
    assert {d.spec.format for d in prepared.plan.quantized() if d.point.role in ("input", "output")} == {"int8"}
    plain, shifted = integers(files["signed"], x), integers(files["unsigned"], x)
    assert plain.keys() == shifted.keys() and len(plain) == records["unsigned"].shifted
    for point, q in plain.items():
        assert q.dtype == np.int8 and shifted[point].dtype == np.uint8, point
        np.testing.assert_array_equal(q.astype(np.int16) + 128, shifted[point], err_msg=point)
        assert np.unique(q).size > 8, point  # something is there to compare
    assert records["signed"].shifted == 0 and records["unsigned"].shifted >= 8


def test_verify_says_that_the_shift_changed_nothing(made: Made) -> None:
    prepared, files, records, x = made
    verdicts = {word: prepared.verify(path, [x]) for word, path in files.items()}
    assert verdicts["unsigned"].ok and verdicts["signed"].ok
    assert verdicts["unsigned"].points == verdicts["signed"].points
    (note,) = verdicts["unsigned"].notes
    assert note.startswith(f"{len(verdicts['unsigned'].points)} points are signed in the plan and unsigned in the file")
    assert verdicts["signed"].notes == ()
    assert json.loads(json.dumps(records["unsigned"].to_json()))["shifted"] > 0


def test_nothing_between_convolutions_is_left_in_float(made: Made) -> None:
    _, files, records, _ = made
    fused = rewritten(files["unsigned"])
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add", "Relu", "Concat"} & set(fused), fused
    assert fused["QLinearConv"] == 3 and fused["Clip"] == records["unsigned"].clamped > 0
    signed = rewritten(files["signed"])
    assert signed["Conv"] + signed["FusedConv"] + signed["Add"] >= 3  # the reason for all this


@pytest.mark.parametrize("what", ["zero_point", "scale"])
def test_verify_finds_a_grid_that_is_not_the_one_measured(made: Made, what: str, tmp_path: Path) -> None:
    prepared, files, _, x = made
    model = onnx.load(files["unsigned"])
    constant = next(value for value in model.graph.initializer if value.name == f"x:input.{what}")
    array = onnx.numpy_helper.to_array(constant)
    changed = array + np.uint8(1) if what == "zero_point" else np.nextafter(array, np.float32(9))
    constant.CopyFrom(onnx.numpy_helper.from_array(np.asarray(changed, array.dtype), constant.name))
    onnx.save(model, tmp_path / "changed.onnx")
    problems = prepared.verify(tmp_path / "changed.onnx", [x]).problems
    assert problems and problems[0].startswith(f"x:input has the {what.replace('_', ' ')} ")
    assert what == "scale" or "129" in problems[0]


@pytest.mark.parametrize(
    ("activation", "storage", "shift"),
    [
        ({"format": "int16"}, "INT16", 0),
        ({"format": "int4"}, "UINT8", 128),
        ({"format": "int8", "symmetric": False}, "UINT8", 128),
        ({"format": "uint8", "symmetric": False}, "UINT8", 0),
    ],
)
def test_other_formats_keep_every_value(
    activation: dict[str, Any], storage: str, shift: int, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    x = torch.randn(16, 3, 8, 8)
    target = "generic" if activation["format"] == "int4" else "onnxruntime"
    prepared = qw.prepare(Mixed(), config(target, **activation), x).calibrate([x])
    record = export(prepared, tmp_path / "model.onnx")
    verdict = verify(prepared, tmp_path / "model.onnx", [prepared.example])
    assert verdict.ok and (record.shifted > 0) == (shift > 0), verdict.problems
    zero = next(v for v in onnx.load(tmp_path / "model.onnx").graph.initializer if v.name == "x:input.zero_point")
    assert onnx.TensorProto.DataType.Name(zero.data_type) == storage
    measured = prepared.quantizers["x:input"].qparams
    assert int(onnx.numpy_helper.to_array(zero)) == int(measured.zero_point) + shift


def test_a_narrow_grid_is_clipped_on_its_integers(tmp_path: Path) -> None:
    x = torch.randn(16, 3, 8, 8) * torch.linspace(0.1, 3, 16).reshape(-1, 1, 1, 1)
    spec = config("generic", narrow_range=True, observer={"name": "percentile", "percentile": 97.0})
    prepared = qw.prepare(Residual(), spec, x).calibrate([x])
    export(prepared, tmp_path / "model.onnx")
    stored = integers(tmp_path / "model.onnx", x)
    assert min(int(q.min()) for q in stored.values()) == 1  # 0 would be -128
    assert verify(prepared, tmp_path / "model.onnx", [prepared.example]).ok
    assert "Conv" not in rewritten(tmp_path / "model.onnx")


def test_a_layer_left_float_stays_float(tmp_path: Path) -> None:
    torch.manual_seed(7)
    x = torch.randn(8, 3, 8, 8)
    asked = {**config(), "rules": [{"match": {"name": "depthwise"}, "exclude": True}]}
    prepared = qw.prepare(Residual(), asked, x).calibrate([x])
    prepared.export(tmp_path / "model.onnx")
    assert prepared.verify(tmp_path / "model.onnx", [x]).ok
    fused = rewritten(tmp_path / "model.onnx")
    assert fused["QLinearConv"] == 2 and fused["Conv"] + fused["FusedConv"] == 1


def test_targets_that_do_not_ask_for_it_get_signed_integers(tmp_path: Path) -> None:
    x = torch.randn(8, 3, 8, 8)
    prepared = qw.prepare(Residual(), "dpu", x).calibrate([x])
    record = export(prepared, tmp_path / "model.onnx")
    assert record.shifted == record.clamped == 0 and set(record.nodes) & {"Relu"}
    assert all(q.dtype == np.int8 for q in integers(tmp_path / "model.onnx", x).values())


def test_the_command_keeps_signed_integers_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(
        "version: 1\ntarget: onnxruntime\ndefault: {activation: {format: int8, symmetric: true}}\n"
    )
    (tmp_path / "model.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))\n"
        "def data():\n    return [torch.randn(4, 3, 8, 8) for _ in range(2)]\n"
    )
    common = ["quantize", f"{tmp_path}/model.py:net", "--config", f"{tmp_path}/config.yaml", "--data",
              f"{tmp_path}/model.py:data", "--json"]  # fmt: skip
    shifted = {}
    for word, flags in {"unsigned": [], "signed": ["--keep-signed"]}.items():
        assert main([*common, "--out", f"{tmp_path}/{word}", *flags]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["verdict"]["ok"] and not document["export"]["warnings"]
        shifted[word] = document["export"]["shifted"]
    assert shifted == {"unsigned": 3, "signed": 0}
    x = torch.randn(2, 3, 8, 8)
    outputs = [_session(tmp_path / word / "model.onnx").run(None, {"input": x.numpy()})[0] for word in shifted]
    np.testing.assert_array_equal(*outputs)


def test_keeping_what_is_not_shifted_is_said(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    prepared = qw.prepare(Residual(), "int8", x).calibrate([x])
    record = export(prepared, tmp_path / "model.onnx", keep_signed=True)
    assert record.warnings == ("keep_signed has no effect: no activation would have been written unsigned",)


@settings(max_examples=80, deadline=None)
@given(
    scale=st.floats(2.0**-10, 1.0, width=32),
    zero=st.integers(0, 255),
    low=st.one_of(st.none(), st.floats(-3, 3, width=32)),
    extent=st.one_of(st.none(), st.floats(0, 6, width=32)),
    relu=st.booleans(),
)
def test_a_clamp_behind_the_rounding_gives_the_same_integers(
    scale: float, zero: int, low: float | None, extent: float | None, relu: bool
) -> None:
    """ONNX Runtime computes both graphs, on values around every rounding tie and both bounds."""
    high = None if extent is None else float(np.float32((low or 0.0) + extent))
    model = _clamped(scale, zero, None if relu else low, None if relu else high, relu)
    moved = ir.from_proto(model)
    clamp_integers(moved.graph)
    kinds = [node.op_type for node in moved.graph]
    assert kinds[0] == "Relu" if relu and zero == 0 else kinds[0] == "QuantizeLinear"
    ties = (np.arange(-300, 300, dtype=np.float32) / 2) * np.float32(scale)
    bounds = np.float32([v for v in (low, high) if v is not None])
    x = np.concatenate([ties, bounds, np.nextafter(bounds, np.float32(9)), np.linspace(-4, 9, 999, dtype=np.float32)])
    want, got = (_run(m, x) for m in (model, ir.to_proto(moved)))
    np.testing.assert_array_equal(want, got)


def _clamped(scale: float, zero: int, low: float | None, high: float | None, relu: bool) -> onnx.ModelProto:
    """Returns a model of one clamp, QuantizeLinear and a reader."""
    make, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    bounds = {"lo": low, "hi": high}
    given_bounds = {name: value for name, value in bounds.items() if value is not None}
    names = [name if name in given_bounds else "" for name in bounds]
    clamp = make.make_node("Relu", ["x"], ["c"]) if relu else make.make_node("Clip", ["x", *names], ["c"])
    nodes = [clamp, make.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]), make.make_node("Identity", ["q"], ["y"])]
    constants = [to_tensor(np.float32(scale).reshape(()), "s"), to_tensor(np.uint8(zero).reshape(()), "z")]
    constants += [to_tensor(np.float32(value).reshape(()), name) for name, value in given_bounds.items()]
    x = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])
    y = make.make_tensor_value_info("y", onnx.TensorProto.UINT8, [None])
    graph = make.make_graph(nodes, "clamped", [x], [y], constants)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = _session(model)
    result: np.ndarray[Any, Any] = session.run(None, {"x": x})[0]
    return result
