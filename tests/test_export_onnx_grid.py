"""A max pool or movement that nothing quantizes: the exported file still loads in ONNX Runtime and agrees."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import quantwright
from quantwright.exporters._onnx_grid import quantize_grid_values


class Pooled(nn.Module):
    """A value that a convolution reads and, pooled, a concat: vai_q_pytorch quantizes only the concat."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.cat([self.branch(x).relu(), self.pool(x)], 1))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Returns a session at the default optimization level."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("target", ["dpu", "vitis_cpu"])
def test_a_pool_that_only_a_concat_reads_loads_and_agrees(target: str, tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    prepared = quantwright.prepare(Pooled().eval(), {"version": 1, "target": target}, x).calibrate([x])
    prepared.export(tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    (pool,) = [node for node in model.graph.node if node.op_type == "MaxPool"]
    readers = [node.op_type for node in model.graph.node if pool.output[0] in node.input]
    assert readers == ["QuantizeLinear"]
    assert prepared.verify(tmp_path / "m.onnx", [x]).ok


def graph(movement: str) -> ir.Model:
    """Returns an IR model: quantized input -> movement -> Add with itself, with int8 or per-channel scales."""
    text = {
        "MaxPool": "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)",
        "Transpose": "y = Transpose <perm = [0, 1, 3, 2]> (d)",
        "Relu": "y = Relu (d)",
    }[movement]
    return ir.serde.deserialize_model(
        onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 2, 4, 4] x) => (float[1, 2, H, W] z)
        <float s = {{0.5}}, int8 o = {{0}}>
        {{ q = QuantizeLinear (x, s, o)  d = DequantizeLinear (q, s, o)  {text}  z = Add (y, y) }}
        """)
    )


@pytest.mark.parametrize("movement", ["MaxPool", "Transpose", "Relu"])
def test_pairs_are_added_once_and_change_nothing(movement: str) -> None:
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(2)).numpy()
    model = graph(movement)
    (before,) = session(ir.serde.serialize_model(model)).run(None, {"x": x})
    assert quantize_grid_values(model.graph) == (0 if movement == "Relu" else 1)
    assert quantize_grid_values(model.graph) == 0
    after = ir.serde.serialize_model(model)
    onnx.checker.check_model(after, full_check=True)
    assert (session(after).run(None, {"x": x})[0] == before).all()
