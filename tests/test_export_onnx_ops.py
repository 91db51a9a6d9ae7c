"""Operators, exported and run in ONNX Runtime: every point within one step of the simulation, fused and unfused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx_models import Branches, Call, prepared
from torch import Tensor, nn
from torch.nn import functional as F

from quantwright.data import Batch
from quantwright.exporters.onnx import ExportRecord, export
from quantwright.numerics.qparams import QParams
from quantwright.verify.verify import Verdict, verify


class TwoInputs(nn.Module):
    """Two inputs, two outputs, add, sub, mul and matmul."""

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Returns two tensors."""
        return (first + second) * second, (first - second) @ second.transpose(-1, -2)


class Attention(nn.Module):
    """Self-attention with a residual and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        y = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return y + self.down(F.gelu(self.up(y)))


def _chain(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "conv1d": (lambda: _chain(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 1)), (4, 3, 12), "Conv"),
    "conv2d_stride_dilation": (lambda: nn.Conv2d(3, 6, 3, stride=2, dilation=2, padding=2), (4, 3, 11, 9), "Conv"),
    "conv2d_same_no_bias": (lambda: nn.Conv2d(3, 6, 3, padding="same", bias=False), (4, 3, 8, 8), "Conv"),
    "conv3d": (lambda: _chain(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU()), (2, 2, 5, 6, 5), "Conv"),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), (4, 8, 7, 7), "Conv"),
    "depthwise": (lambda: _chain(nn.Conv2d(6, 6, 3, groups=6), nn.ReLU6()), (4, 6, 7, 7), "Conv"),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1), (3, 4, 7), "ConvTranspose"),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (3, 4, 5, 5), "ConvTranspose"),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 8, 2, 2, groups=2), (3, 4, 5, 5), "ConvTranspose"),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 3, 2, 2), (2, 2, 3, 3, 3), "ConvTranspose"),
    "linear": (lambda: _chain(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5)), (6, 12), "Gemm"),
    "linear_3d": (lambda: nn.Linear(12, 9), (3, 4, 12), "MatMul"),
    "average_pools": (
        lambda: Call(lambda m, x: F.adaptive_avg_pool2d(F.avg_pool2d(x, 2), 1).flatten(1)), (3, 4, 8, 8), "AveragePool",
    ),
    "max_pool": (lambda: _chain(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), (3, 3, 8, 8), "MaxPool"),
    "resize_nearest": (lambda: nn.Upsample(scale_factor=2, mode="nearest"), (3, 4, 5, 5), "Resize"),
    "resize_bilinear": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (3, 4, 5, 5), "Resize"),
    "pad": (lambda: Call(lambda m, x: m.c(F.pad(x, (1, 2, 0, 1))), c=nn.Conv2d(3, 4, 3)), (3, 3, 6, 6), "Pad"),
    "cat_chunk": (
        lambda: Call(lambda m, x: torch.cat([m.a(x), *x.chunk(2, 1)], 1), a=nn.Conv2d(4, 2, 1)), (3, 4, 6, 6), "Concat",
    ),
    "softmax": (lambda: Call(lambda m, x: m.a(x).softmax(-1), a=nn.Linear(8, 8)), (3, 8), "Softmax"),
    "layer_norm": (lambda: _chain(nn.LayerNorm(12), nn.Linear(12, 4)), (3, 12), "LayerNormalization"),
    "attention": (Attention, (3, 5, 16), "MatMul"),
    "pixel_shuffle": (lambda: _chain(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 1)), (2, 3, 4, 4), "Conv"),
    "batch_norm": (
        lambda: _chain(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.Conv2d(4, 2, 1)), (3, 3, 5, 5),
        "BatchNormalization",
    ),
    "reused": (lambda: Call(lambda m, x: m.a(m.a(x).relu()), a=nn.Conv2d(4, 4, 1)), (3, 4, 5, 5), "Conv"),
    "reshape_permute": (
        lambda: Call(lambda m, x: m.a(x.flatten(2).permute(0, 2, 1)).mean(1), a=nn.Linear(3, 6)), (2, 3, 4, 4),
        "MatMul",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportRecord, Verdict, onnx.ModelProto]:
    """All cases as branches of one network: exported once, verified on 5 + 1 fresh samples."""
    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("operators") / "model.onnx"
    shapes = {name: shape for name, (_, shape, _) in CASES.items()}
    example = {name: torch.randn(4, *shape[1:]) for name, shape in shapes.items()}
    made = prepared(Branches({name: make() for name, (make, _, _) in CASES.items()}), Batch(args=(example,)))
    record = export(made, path)
    fresh = [{name: torch.randn(n, *shape[1:]) for name, shape in shapes.items()} for n in (5, 1)]
    return record, verify(made, path, [Batch(args=(item,)) for item in fresh]), onnx.load(path)


def test_every_point_is_within_one_step(exported: tuple[ExportRecord, Verdict, onnx.ModelProto]) -> None:
    record, verdict, _ = exported
    assert verdict.ok, verdict.render()
    assert verdict.samples == 6
    assert len(verdict.points) > 70
    assert max(p.local_max_lsb for p in verdict.points) <= 1.001
    assert sum(p.values for p in verdict.points) > 50_000
    assert sum(p.local_differing for p in verdict.points) < 0.001 * sum(p.values for p in verdict.points)
    assert record.outputs == tuple(CASES)


@pytest.mark.parametrize("name", CASES)
def test_operator_reads_and_feeds_quantized_values(
    name: str, exported: tuple[ExportRecord, Verdict, onnx.ModelProto]
) -> None:
    """The branch's output is dequantized, and its operator reads dequantized values only: what runtimes can fuse."""
    record, verdict, model = exported
    report = verdict.outputs[record.outputs.index(name)]
    assert report.max_lsb_fused is not None and report.max_lsb_fused <= 2.001
    made_by = {value: node for node in model.graph.node for value in node.output}
    assert made_by[name].op_type == "DequantizeLinear"
    reached, queue = [], [made_by[name]]
    while queue:
        node = queue.pop()
        reached.append(node)
        queue += [made_by[value] for value in node.input if value in made_by]
    operators = [node for node in reached if node.op_type == CASES[name][2]]
    assert operators, f"no {CASES[name][2]} before {name}"
    for node in operators:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "AveragePool", "Concat", "Resize", "LayerNormalization"):
            sources = [made_by[v].op_type for v in node.input[:1]]
            assert sources == ["DequantizeLinear"], (name, node.name, sources)


def test_two_inputs_and_two_outputs_keep_their_order(tmp_path: Path) -> None:
    torch.manual_seed(3)
    example = (torch.randn(3, 4, 6), torch.randn(3, 4, 6))
    made = prepared(TwoInputs(), Batch(args=example))
    record = export(made, tmp_path / "model.onnx")
    assert record.inputs == ("first", "second")
    assert record.outputs == ("output_0", "output_1")
    verdict = verify(made, tmp_path / "model.onnx", [Batch(args=(example[1], example[0]))])
    assert verdict.ok, verdict.render()
    by_name = verify(made, tmp_path / "model.onnx", [Batch(kwargs={"second": example[0], "first": example[1]})])
    assert by_name.ok and by_name.outputs == verdict.outputs


@pytest.mark.parametrize(("top", "guarded"), [(0.4, True), (1.0, False)])
def test_a_softmax_beyond_its_grid_saturates_in_the_runtime_too(tmp_path: Path, top: float, guarded: bool) -> None:
    """ONNX Runtime's QLinearSoftmax wraps around where a value is above the grid; a guard keeps it from being used."""
    torch.manual_seed(0)
    batch = Batch(args=(3 * torch.randn(16, 8),))
    model = prepared(_chain(nn.Linear(8, 3), nn.Softmax(-1), nn.Linear(3, 2)), batch)
    softmax = model.quantizers["softmax:output"]
    assert softmax.qparams is not None
    softmax.qparams = QParams(scale=torch.tensor([top / 255]), zero_point=torch.tensor([0], dtype=torch.int32))
    model.link()  # the bias of the last layer has a scale derived from this one
    record = export(model, tmp_path / "m.onnx")
    assert (record.nodes.get("Max", 0) == 1) is guarded
    verdict = verify(model, tmp_path / "m.onnx", [batch])
    assert verdict.outputs[0].sqnr_fused_db > 25, "a wrapped value is a whole grid away"


def test_attention_without_heads_is_exported(tmp_path: Path) -> None:
    class OneHead(nn.Module):
        def forward(self, q: Tensor, mask: Tensor) -> Tensor:
            causal = F.scaled_dot_product_attention(q, q, q, is_causal=True)
            return F.scaled_dot_product_attention(q, q, q, mask) + causal

    batch = Batch(args=(torch.randn(2, 5, 8), torch.rand(2, 5, 5) > 0.2))
    model = prepared(OneHead(), batch)
    export(model, tmp_path / "m.onnx")
    assert verify(model, tmp_path / "m.onnx", [batch]).ok
