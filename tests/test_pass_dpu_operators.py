"""Operators as a DPU computes them: recorded numbers of both tools, each switch, graphs, export, files, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import golden
from torch import Tensor, nn
from torch.nn import functional

import quantwright
from quantwright.errors import UnknownNameError
from quantwright.graph import ops, serialize
from quantwright.graph.capture import capture
from quantwright.graph.device_ops import OPERATORS
from quantwright.graph.graph import Graph
from quantwright.numerics import dpu
from quantwright.passes import dpu_operators

TF2 = {"method": "vitis_tensorflow2"}


@pytest.fixture(scope="module")
def tf2() -> Any:
    return golden("vai_q_tensorflow2.json")


def data(seed: int, shape: list[int], kind: str = "randn") -> Tensor:
    """Returns the recorded input ("meta.input_recipe")."""
    values = np.random.RandomState(seed).randn(*shape)
    return torch.from_numpy((values * 3 + 0.5 if kind == "randn3+0.5" else values).astype(np.float32))


class Call(nn.Module):
    """Returns a module that calls a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def converted(model: nn.Module, x: Tensor, **params: Any) -> tuple[Graph, list[Any]]:
    graph = capture(model.eval(), (x,))
    changes = dpu_operators.run(graph, **params)
    assert all(change.by == "dpu_operators" and change.text for change in changes)
    return graph, changes


def factor(model: nn.Module, x: Tensor, **params: Any) -> float:
    """Returns what an average is multiplied by."""
    graph, changes = converted(model, x, **params)
    found = float(changes[0].data["factor"]) if changes else 1.0
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x) * found)
    return found


# -- recorded numbers ----------------------------------------------------------------------------------------------
def test_hard_sigmoid_is_exact(tf2: Any) -> None:
    recorded = tf2["hard_sigmoid_dpu"]
    x = torch.tensor(recorded["x"])
    graph, _ = converted(nn.Hardsigmoid(), x[None])
    assert torch.equal(graph(x[None])[0], torch.tensor(recorded["y"]))


@pytest.mark.parametrize("size", [f"{n}x{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14, 16, 32, 56, 112, 12)])
def test_square_pools_are_exact(tf2: Any, size: str) -> None:
    side = int(size.split("x")[0])
    model, x = nn.AvgPool2d(side), torch.rand(1, 1, side + 1, side + 1)
    assert factor(model, x, **TF2) == tf2["avgpool_scale"][size]
    assert factor(model, x) == tf2["avgpool_scale"][size]


def test_every_recorded_factor_is_exact(tf2: Any, vai: Any) -> None:
    for size, wanted in tf2["avgpool_scale"].items():
        sides = [int(side) for side in size.split("x")]
        assert dpu.average_factor(sides, dpu.LARGEST) == wanted, size
    for item in vai["avgpool_scale"]:
        if item["kernel"] != [6, 3]:
            assert dpu.average_factor(item["kernel"]) == item["scale"], item


def test_a_kernel_of_six_by_three_has_its_own_area(vai: Any) -> None:
    """P4.6: the tool multiplies it by what belongs to 6x6, an area twice as large."""
    (recorded,) = [item["scale"] for item in vai["avgpool_scale"] if item["kernel"] == [6, 3]]
    model, x = nn.AvgPool2d((6, 3)), torch.rand(1, 1, 12, 12)
    assert factor(model, x, compatible=True) == recorded == 36 * 7 / 256
    assert factor(model, x) == pytest.approx(1.001953125)


def test_kernels_that_are_not_square_are_rescaled(tf2: Any) -> None:
    """T5.2: the tool leaves them alone unless they are global."""
    model, x = nn.AvgPool2d((3, 2)), torch.rand(1, 1, 12, 12)
    assert factor(model, x, **TF2, compatible=True) == 1.0
    assert factor(model, x, **TF2) == tf2["avgpool_scale"]["3x2"]
    assert factor(model, x[..., :3, :2], **TF2, compatible=True) == dpu.average_factor((6, 6)), "global: as 6x6"


def test_global_pools_are_exact(tf2: Any) -> None:
    for case in tf2["gap_dpu"]:
        x = data(case["seed"], case["shape"]).permute(0, 3, 1, 2)
        pool, mean = nn.AdaptiveAvgPool2d(1), Call(lambda v: v.mean((2, 3)))
        for model in (pool, mean):
            assert factor(model, x, **TF2) == case["rescale"], case["shape"]
        graph, _ = converted(pool, x, **TF2)
        np.testing.assert_allclose(graph(x).detach().flatten().numpy(), case["y"], rtol=0, atol=2e-7)


def test_softmax_is_exact(tf2: Any) -> None:
    recorded = tf2["softmax_dpu"]
    x = data(recorded["seed"], recorded["shape"])
    graph, changes = converted(nn.Softmax(-1), x, convert_softmax_to_dpu_version=True)
    assert len(changes) == 1 and graph(x).flatten()[:32].tolist() == recorded["y_first32"]


def test_layer_norm_is_exact(tf2: Any) -> None:
    recorded = tf2["layernorm_dpu"]
    x = data(recorded["seed"], recorded["shape"], recorded["kind"])
    graph, _ = converted(nn.LayerNorm(32, eps=recorded["epsilon"]), x, convert_layernorm_to_dpu_version=True)
    assert graph(x).flatten()[:32].tolist() == recorded["y_first32"]


# -- what else there is --------------------------------------------------------------------------------------------
def test_hard_swish_has_a_gate_of_eight_bits() -> None:
    x = torch.linspace(-4, 4, 513)[None]
    graph, _ = converted(nn.Hardswish(), x)
    gate = torch.floor((x + 3).clamp(0, 6) * 2731 / 16384 * 128 + 0.5).clamp(-128, 127) / 128
    assert torch.equal(graph(x), x * gate)
    apart, _ = converted(nn.Hardswish(), x, **TF2)
    assert [ops.op_name(n) for n in apart.module.graph.nodes if ops.op_name(n)] == ["dpu_hardsigmoid", "mul"]
    assert torch.equal(apart(x), x * dpu.hard_sigmoid(x))


@pytest.mark.parametrize("params", [{}, TF2])
def test_sigmoid_and_silu_only_when_asked(params: dict[str, Any]) -> None:
    x = torch.randn(2, 8)
    for module, piecewise in ((nn.Sigmoid(), functional.hardsigmoid), (nn.SiLU(), functional.hardswish)):
        assert converted(module, x, **params)[1] == []
        graph, changes = converted(module, x, convert_sigmoid_to_hard_sigmoid=True, **params)
        assert len(changes) == 2
        torch.testing.assert_close(graph(x), piecewise(x), rtol=0, atol=0.02)
        plain, _ = converted(
            module, x, convert_sigmoid_to_hard_sigmoid=True, convert_hard_sigmoid_to_dpu_version=False, **params
        )
        assert torch.equal(plain(x), piecewise(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.relu6(x + 3) / 6,
        lambda x: functional.relu6(3 + x) * (1 / 6),
        lambda x: (1 / 6) * torch.clamp(x + 3, 0, 6),
    ],
)
def test_a_hard_sigmoid_written_out_is_recognised(function: Any) -> None:
    x = torch.randn(2, 8)
    graph, changes = converted(Call(function), x)
    assert len(changes) == 1 and torch.equal(graph(x), dpu.hard_sigmoid(x))


@pytest.mark.parametrize(
    "function",
    [lambda x: functional.relu6(x + 2) / 6, lambda x: functional.relu6(x + 3) / 5, lambda x: torch.relu(x + 3) / 6,
     lambda x: 6 / (functional.relu6(x + 3) + 1), lambda x: (lambda g: g / 6 + g)(functional.relu6(x + 3))],
)  # fmt: skip
def test_what_only_looks_like_one_is_left_alone(function: Any) -> None:
    x = torch.randn(2, 8)
    graph, changes = converted(Call(function), x)
    assert changes == [] and torch.equal(graph(x), function(x))


def test_slopes_of_leaky_relu() -> None:
    x = torch.randn(2, 8)
    for slope in (0.1, 0.2):
        graph, (change,) = converted(nn.LeakyReLU(slope), x)
        assert torch.equal(graph(x), functional.leaky_relu(x, 26 / 256))
        assert (change.data["before"], change.data["after"]) == (slope, 26 / 256)
    assert len(converted(nn.LeakyReLU(0.1), x, **TF2)[1]) == 1
    assert converted(nn.LeakyReLU(0.2), x, **TF2)[1] == [], "T5.2: only 0.1"
    assert converted(nn.LeakyReLU(26 / 256), x)[1] == []


def test_means_and_windows_of_other_sizes() -> None:
    x = torch.rand(2, 3, 7, 7)
    assert factor(Call(lambda v: v.mean(1)), x) == dpu.count_factor(3)
    assert factor(Call(lambda v: v.mean(1)), x, **TF2) == 1.0, "no pooling layer"
    assert factor(Call(lambda v: v.mean((2, 3), keepdim=True)), x) == dpu.count_factor(49)
    assert converted(Call(lambda v: v.mean()), x)[1] == []
    assert converted(nn.AdaptiveAvgPool2d(3), x)[1] == [], "P4.6: 7 is no multiple of 3"
    assert factor(nn.AdaptiveAvgPool2d((7, 1)), x) == dpu.average_factor((1, 7))
    assert converted(Call(lambda v: functional.avg_pool2d(v, 3, divisor_override=4)), x)[1] == []


def test_softmax_and_layer_norm_need_their_lanes() -> None:
    both = {"convert_softmax_to_dpu_version": True, "convert_layernorm_to_dpu_version": True}
    for module, x in (
        (nn.Softmax(1), torch.randn(2, 16, 4)),
        (nn.Softmax(-1), torch.randn(2, 12)),
        (nn.LayerNorm(12), torch.randn(2, 12)),
        (nn.LayerNorm([4, 8]), torch.randn(2, 4, 8)),
    ):
        assert converted(module, x, **both)[1] == []
    wide = torch.randn(3, 5, 64) * 4
    for module in (nn.Softmax(-1), nn.LayerNorm(64)):
        graph, changes = converted(module, wide, **both)
        assert len(changes) == 1
        torch.testing.assert_close(graph(wide), module(wide), rtol=0.02, atol=0.02)


def test_every_switch_switches() -> None:
    names = [name for name in dpu_operators.PARAMS if name.startswith("convert")]
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.AvgPool2d(3), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Hardsigmoid(),
                          nn.LayerNorm(16), nn.Softmax(-1))  # fmt: skip
    x = torch.randn(1, 3, 48, 48)
    count = {name: len(converted(model, x, **{other: other == name for other in names})[1]) for name in names}
    assert count == dict.fromkeys(names, 1)
    assert converted(model, x, **dict.fromkeys(names, False))[1] == []


def test_methods_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="vitis_tensorflow2"):
        converted(nn.Hardswish(), torch.randn(1, 4), method="tensorflow")


# -- graphs, files, gradients ------------------------------------------------------------------------------------------
class Everything(nn.Module):
    """Something for every operator of the device."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.s, self.p = nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.AvgPool2d(3)
        self.d, self.h, self.l = nn.Conv2d(16, 16, 1), nn.Hardsigmoid(), nn.LeakyReLU(0.1)
        self.g, self.n, self.f, self.m = nn.AdaptiveAvgPool2d(1), nn.LayerNorm(16), nn.Linear(16, 16), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.d(self.p(self.s(self.c(x))))
        z = self.l(y) * self.h(y)
        return self.m(self.f(self.n(self.g(z).flatten(1) + z.mean((2, 3)))))


ALL = {name: True for name in dpu_operators.PARAMS if name.startswith("convert")}


@pytest.mark.parametrize("method", dpu_operators.METHODS)
def test_quantized_exported_saved_and_loaded_with_the_same_numbers(method: str, tmp_path: Path) -> None:
    batches = [torch.randn(4, 3, 21, 21, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    config = {"version": 1, "target": "dpu", "optimize": [{"dpu_operators": {"method": method, **ALL}}],
              "refine": [{"position_adjustment": {"method": method}}]}  # fmt: skip
    prepared = quantwright.prepare(Everything(), config, batches[0])
    prepared.calibrate(batches)
    prepared.refine(())
    used = {ops.op_name(node) for node in prepared.graph.module.graph.nodes} & set(OPERATORS)
    assert used == set(OPERATORS) - ({"dpu_hardswish"} if method == "vitis_tensorflow2" else set())
    with torch.no_grad():
        outputs = [prepared(batch) for batch in batches]
    prepared.export(tmp_path / "model.onnx", exact_rounding=True)
    verdict = prepared.verify(tmp_path / "model.onnx", batches)
    assert verdict.ok, verdict
    prepared.save(tmp_path / "saved")
    again = quantwright.load(tmp_path / "saved")
    with torch.no_grad():
        assert all(torch.equal(again(batch), wanted) for batch, wanted in zip(batches, outputs, strict=True))


def test_each_is_one_operation_of_its_kind_with_one_point() -> None:
    x = torch.randn(1, 3, 21, 21)
    graph, _ = converted(Everything(), x, **ALL)
    kinds = [node.kind for node in graph.facts().nodes]
    plain = [node.kind for node in capture(Everything().eval(), (x,)).facts().nodes]
    assert kinds == [{"silu": "hardswish"}.get(kind, kind) for kind in plain]
    weights = {n.name: n.weight.name for n in graph.facts().nodes if n.weight is not None and n.kind == "layer_norm"}
    assert list(weights.values()) == ["n.weight"]


def test_the_file_form_of_a_graph_knows_them() -> None:
    x = torch.randn(1, 3, 21, 21)
    graph, _ = converted(Everything(), x, **ALL)
    again = serialize.from_json(serialize.to_json(graph), graph.tensors())
    assert torch.equal(again(x), graph(x))


def test_gradients_are_those_of_the_smooth_function() -> None:
    x = torch.randn(4, 32, requires_grad=True)
    for exact, smooth in (
        (dpu.softmax, lambda v: v.softmax(-1)),
        (lambda v: dpu.layer_norm(v, None, None, 1e-5), lambda v: functional.layer_norm(v, (32,))),
        (dpu.hard_swish, lambda v: v * dpu.hard_sigmoid(v)),
    ):
        weights = torch.randn(4, 32)
        (ours,) = torch.autograd.grad((exact(x) * weights).sum(), x)
        (wanted,) = torch.autograd.grad((smooth(x) * weights).sum(), x)
        torch.testing.assert_close(ours, wanted, rtol=0.02, atol=0.02)
        torch.testing.assert_close(exact(x), exact(x.detach()), rtol=0, atol=1e-6)


def test_exponents_are_exact_at_every_power_of_two() -> None:
    exponents = torch.arange(-100, 100).float()
    powers = torch.exp2(exponents.double()).float()
    below, above = (torch.nextafter(powers, torch.full_like(powers, end)) for end in (0.0, torch.inf))
    for x, wanted in ((powers, exponents), (below, exponents - 1), (above, exponents)):
        assert torch.equal(dpu._power_of(x), wanted)
