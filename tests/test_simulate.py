"""The simulation computes what the runtime computes: bit for bit, on whole networks, with sums that stay exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_models import ZOO
from numerics_helpers import one_thread  # noqa: F401
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from quantwright.api import PreparedModel, prepare
from quantwright.errors import InputError
from quantwright.graph import ops
from quantwright.numerics import affine
from quantwright.numerics.qparams import QParams
from quantwright.simulate.grids import grid_of
from quantwright.simulate.kernels import EXACT, Requantize, Scaled, ToGrid
from quantwright.simulate.products import cut, largest_sum
from quantwright.verify.runtime import OrtRunner

#: networks whose outputs are quantized: nothing is left to the order of a float sum
WHOLE = ("conv1d", "conv2d", "conv3d", "conv2d_same", "grouped", "depthwise", "depthwise1d", "batch_norm", "nearest",
         "pixel_shuffle", "bilinear", "pools", "arithmetic", "clamps", "products", "reductions", "movement", "pads",
         "indexing", "items", "dict", "reused", "in_place", "slice_write", "standardized", "weight_norm", "no_grad",
         "addmm")  # fmt: skip


class Residual(nn.Module):
    """Convolutions, additions of branches on different grids, a pool, a linear layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.two(torch.relu(self.one(x))) + x
        x = torch.nn.functional.relu6(x)
        return self.head(self.pool(x).flatten(1))


def prepared(model: nn.Module, config: Any, example: Any) -> PreparedModel:
    """Returns a calibrated model."""
    return prepare(model.eval(), config, example).calibrate([example, example])


def leaves(output: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(output) if isinstance(value, Tensor)]


def modules(model: PreparedModel) -> list[str]:
    """Returns the kinds of the steps of the lowered network."""
    with torch.no_grad():
        lowered = model.simulation.module()
    return [type(lowered.get_submodule(str(n.target))).__name__ for n in lowered.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_runtimes_fused_kernels_give_the_same_bits(name: str, tmp_path: Path) -> None:
    make, example, _ = ZOO[name]
    torch.manual_seed(0)
    model = prepared(make(), "int8", example)
    model.export(tmp_path / "m.onnx")
    theirs = OrtRunner(tmp_path / "m.onnx", threads=1).run(model.example)
    for ours, value in zip(leaves(model.run(model.example)), theirs, strict=True):
        assert torch.equal(ours, torch.from_numpy(value))


@pytest.mark.parametrize("activation", [{"format": "int8", "symmetric": True}, {"format": "uint8", "symmetric": False}])
@pytest.mark.parametrize("seed", range(3))
def test_residual_networks_are_equal_on_many_values(activation: dict[str, Any], seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    model = prepared(Residual(), {"version": 1, "default": {"activation": activation}}, torch.randn(2, 3, 12, 12))
    model.export(tmp_path / "m.onnx")
    batch = type(model.example)(args=(torch.randn(64, 3, 12, 12),), kwargs={})
    assert torch.equal(model.run(batch), torch.from_numpy(OrtRunner(tmp_path / "m.onnx", threads=1).run(batch)[0]))
    assert {"Requantize", "AddOnGrid"} <= set(modules(model))


def test_linear_layers_on_sequences_are_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48, bias=False), nn.Linear(48, 16))
    model = prepared(layers, "int8", torch.randn(4, 9, 32))
    model.export(tmp_path / "m.onnx")
    batch = type(model.example)(args=(torch.randn(100, 9, 32),), kwargs={})
    assert torch.equal(model.run(batch), torch.from_numpy(OrtRunner(tmp_path / "m.onnx", threads=1).run(batch)[0]))
    assert modules(model).count("Scaled") == 2  # with a bias, the runtime adds it in float


def test_half_up_files_with_exact_nodes_are_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prepared(Residual(), {"version": 1, "target": "dpu"}, torch.randn(2, 3, 12, 12))
    model.export(tmp_path / "m.onnx", exact_rounding=True)
    batch = type(model.example)(args=(torch.randn(64, 3, 12, 12),), kwargs={})
    assert torch.equal(model.run(batch), torch.from_numpy(OrtRunner(tmp_path / "m.onnx", threads=1).run(batch)[0]))


def test_shifts_change_no_bit_of_the_fake_quantized_network() -> None:
    torch.manual_seed(1)
    model = prepared(Residual(), {"version": 1, "target": "dpu"}, torch.randn(2, 3, 12, 12))
    x = torch.randn(16, 3, 12, 12)
    assert "Requantize" in modules(model)
    with torch.no_grad():
        assert torch.equal(model(x), model.graph(x))


def test_a_target_that_computes_in_float_is_left_alone() -> None:
    model = prepared(Residual(), {"version": 1, "target": "vitis_cpu"}, torch.randn(2, 3, 12, 12))
    with torch.no_grad():
        assert not model.simulation.applies()


def test_with_gradients_the_network_is_fake_quantized_and_differentiable() -> None:
    torch.manual_seed(0)
    model = prepared(Residual(), "int8", torch.randn(2, 3, 12, 12))
    x = torch.randn(4, 3, 12, 12, requires_grad=True)
    output = model(x)
    output.sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)
    close = (output.detach() - model.run(type(model.example)(args=(x.detach(),), kwargs={}))).abs()
    assert float(close.max()) <= 0.05 * float(output.detach().abs().max())


def test_a_changed_parameter_or_scale_is_seen() -> None:
    torch.manual_seed(0)
    model = prepared(Residual(), "int8", torch.randn(2, 3, 12, 12))
    before = model.run(model.example).clone()
    model.graph.set_parameter("head.bias", model.graph.parameter("head.bias") + 1.0)
    changed = model.run(model.example)
    assert not torch.equal(before, changed)
    quantizer = model.quantizers["stem.weight"]
    assert quantizer.scale is not None
    quantizer.scale.mul_(64.0)
    assert not torch.equal(changed, model.run(model.example))


def test_new_qparams_are_seen_although_their_memory_is_that_of_the_old_ones() -> None:
    torch.manual_seed(0)
    model = prepared(Residual(), "int8", torch.randn(2, 3, 12, 12))
    name = next(name for name, q in model.quantizers.items() if q.point.role == "input")
    first = model.quantizers[name].qparams
    assert first is not None
    for power in range(20):  # the allocator hands freed memory out again
        scale = first.scale * 2.0 ** (power % 2)
        model.quantizers[name].qparams = QParams(scale=scale.clone(), zero_point=first.zero_point.clone())
        del scale
        steps = [m.grid.step for m in model.simulation.module().modules() if isinstance(m, ToGrid)]
        assert float(first.scale.float()) * 2.0 ** (power % 2) in steps


def test_sums_beyond_float32_are_computed_in_halves_or_in_float64() -> None:
    torch.manual_seed(0)
    wide, wider = nn.Linear(900, 3), nn.Linear(4000, 3)
    for layer in (wide, wider):
        nn.init.constant_(layer.weight, 0.5)
    for layer, step in ((wide, "narrow"), (wider, "double")):
        model = prepared(layer, "int8", torch.rand(2, layer.in_features) + 0.5)
        with torch.no_grad():
            lowered = model.simulation.module()
        names = {getattr(n.target, "__name__", n.target) for n in lowered.graph.nodes}
        assert step in names
        accumulators = _accumulators(lowered, model.example.args[0])
        exact = _exact(model, model.example.args[0])
        assert torch.equal(accumulators.double(), exact.float().double())


def _accumulators(lowered: fx.GraphModule, x: Tensor) -> Tensor:
    """Returns what is requantized last, or scaled, as a runtime's int32 converted to float32."""
    seen: list[Tensor] = []
    for module in lowered.modules():
        if isinstance(module, (Requantize, Scaled)):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].float().clone()))
    with torch.no_grad():
        lowered(x)
    return seen[-1]


def _exact(model: PreparedModel, x: Tensor) -> Tensor:
    """Returns the accumulators in 64-bit integers, from the definition."""

    def whole(point: str, value: Tensor) -> Tensor:
        quantizer = model.quantizers[point]
        assert quantizer.qparams is not None
        q = affine.quantize(value, quantizer.qparams, quantizer.spec).long()
        zero = quantizer.qparams.zero_point.long()
        return q - (zero if point.endswith("input") else zero.reshape(-1, *(1,) * (q.dim() - 1)))

    name = next(iter(model.quantizers))
    return whole(name, x) @ whole("weight", model.graph.parameter("weight")).T + whole(
        "bias", model.graph.parameter("bias")
    )


def test_the_bound_is_never_exceeded_and_halves_add_up() -> None:
    torch.manual_seed(0)
    model = prepared(nn.Conv2d(64, 4, 5), "int8", torch.rand(1, 64, 5, 5))
    node = next(n for n in model.graph.module.graph.nodes if ops.op_name(n) == "conv2d")
    info = ops.conv_info(node)
    assert info is not None
    grid = grid_of(model.quantizers[next(iter(model.quantizers))], model.target)
    assert grid is not None
    whole = torch.randint(-127, 128, (4, 64, 5, 5)).float()
    worst = torch.where(whole > 0, float(grid.high), float(grid.low))
    sums = (whole * worst).sum((1, 2, 3)), (whole * torch.where(whole > 0, grid.low, grid.high)).sum((1, 2, 3))
    assert largest_sum(whole, 0, grid, None) == max(float(s.abs().max()) for s in sums)
    assert largest_sum(whole, 0, grid, None) < EXACT
    assert cut(info, whole, grid, None) == 32
    assert cut(info, whole * 100, grid, None) is None


def test_every_point_can_be_seen_and_replaced() -> None:
    torch.manual_seed(0)
    model = prepared(Residual(), "int8", torch.randn(2, 3, 12, 12))
    points = {n.meta["point"]: n.name for n in model.graph.module.graph.nodes if ops.is_quantizer(n)}
    activations = {p: name for p, name in points.items() if model.quantizers[p].point.role in ("input", "output")}
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        whole = model.compute(model.example, {name: _keep(seen, p) for p, name in activations.items()})
        assert set(seen) == set(activations)
        assert torch.equal(whole, model.run(model.example))
        first = next(iter(activations.values()))
        replaced = model.compute(model.example, {first: torch.zeros_like})
    assert not torch.equal(whole, replaced)
    assert torch.equal(replaced[0], replaced[1])  # both samples are the same now


def _keep(seen: dict[str, Tensor], point: str) -> Any:
    def tap(value: Tensor) -> None:
        seen[point] = value.clone()

    return tap


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_runs_give_the_same_bits() -> None:
    torch.manual_seed(0)
    model = prepare(Residual().eval(), "int8", torch.randn(2, 3, 12, 12), compile=True)
    model.calibrate([torch.randn(4, 3, 12, 12)])
    x = torch.randn(32, 3, 12, 12)
    with torch.no_grad():
        compiled = model(x)
        model.simulation.compiled = False
        assert torch.equal(compiled, model(x))


def test_compiling_needs_a_graph() -> None:
    with pytest.raises(InputError, match="compile=True needs a graph"):
        prepare(Residual(), "int8", torch.randn(2, 3, 12, 12), capture="modules", compile=True)
