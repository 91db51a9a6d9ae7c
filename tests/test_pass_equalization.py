"""Cross-layer equalization on graphs: the function is kept, ranges are alike, and chains end where they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from quantwright.errors import ConfigError, UnknownNameError
from quantwright.graph import ops
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.passes import Change, fold_batchnorm, relu6_to_relu
from quantwright.passes._chains import find_pairs
from quantwright.passes._channels import input_range, output_range
from quantwright.passes.cross_layer_equalization import METHODS, run


class Net(nn.Module):
    """Wraps a forward function around named layers."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


@torch.no_grad()
def uneven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns ``model`` in eval mode with channel ranges that differ by orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1:
            axis = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
            size = [-1 if i == axis else 1 for i in range(weight.ndim)]
            weight.mul_(torch.exp(1.5 * torch.randn(weight.shape[axis], generator=generator)).view(size))
    return model.eval()


def equalize(model: nn.Module, x: Tensor, **params: Any) -> tuple[Graph, list[Change]]:
    """Returns the graph and what was done, after checking that outputs stay and that a second run finds nothing."""
    graph = capture(model, x)
    changes = run(graph, **params)
    with torch.no_grad():
        for got, want in zip(*(out if isinstance(out, tuple) else (out,) for out in (graph(x), model(x))), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert run(graph, **params) == []
    return graph, changes


def pairs(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.node, str(change.data["second"])) for change in changes]


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 6, 1, groups=2, bias=False), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.AvgPool2d(2), nn.Conv2d(6, 4, 1),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_chain_of_every_kind_of_convolution(method: str) -> None:
    model = uneven(chain())
    graph, changes = equalize(model, torch.randn(2, 3, 12, 12), method=method)
    assert len(changes) == 5
    assert all(change.data["largest"] > 1.01 or change.data["smallest"] < 0.99 for change in changes)
    weights = [name for name in graph.tensors() if name.endswith("weight")]
    assert all(not torch.equal(graph.parameter(name), model.state_dict()[name]) for name in weights)


def test_dfq_makes_the_ranges_of_every_pair_equal() -> None:
    graph, _ = equalize(uneven(chain()), torch.randn(2, 3, 12, 12))
    method = METHODS["dfq"]
    for pair in find_pairs(graph, members=method.members, through=method.through):
        r1, r2 = output_range(pair.first.weight_view(graph)), input_range(pair.second.weight_view(graph))
        torch.testing.assert_close(r1, r2, rtol=5e-3, atol=0)


@settings(deadline=None, max_examples=6)
@given(
    st.lists(
        st.sampled_from(["conv", "depthwise", "grouped", "transposed", "pool", "leaky", "bare"]), min_size=2, max_size=4
    ),
    st.sampled_from(["flatten", "mean"]),
    st.integers(0, 100),
)
def test_random_networks_keep_their_function(blocks: list[str], end: str, seed: int) -> None:
    made = {
        "conv": lambda: [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()],
        "depthwise": lambda: [nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()],
        "grouped": lambda: [nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.ReLU()],
        "transposed": lambda: [nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2), nn.ReLU()],
        "pool": lambda: [nn.AvgPool2d(3, 1, 1)],
        "leaky": lambda: [nn.Conv2d(4, 4, 1), nn.LeakyReLU(0.2)],
        "bare": lambda: [nn.Conv2d(4, 4, 1)],
    }
    torch.manual_seed(seed)
    layers = [layer for block in blocks for layer in made[block]()]
    tail = (
        [nn.Flatten(), nn.Linear(64, 5)]
        if end == "flatten"
        else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    )
    _, changes = equalize(uneven(nn.Sequential(*layers, *tail), seed), torch.randn(2, 4, 4, 4))
    assert len(changes) == sum(block != "pool" for block in blocks)  # every layer but the last one starts a pair


def _after_first(step: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    return lambda m, x: m.b(step(m, m.a(x)))


BREAKS: dict[str, Callable[[Any, Tensor], Any]] = {
    "relu6": _after_first(lambda m, y: F.relu6(y)),
    "sigmoid": _after_first(lambda m, y: y.sigmoid()),
    "residual": _after_first(lambda m, y: y.relu() + y),
    "concat": _after_first(lambda m, y: torch.cat([y, y.relu()], 1)[:, :4]),
    "moved channels": _after_first(lambda m, y: y.relu().transpose(1, 2)),
    "padded with a constant": _after_first(lambda m, y: F.pad(y, (1, 1), value=1.0)[..., 1:5]),
    "padded channels": _after_first(lambda m, y: F.pad(y, (0, 0, 0, 0, 1, 0))[:, :4]),
    "second output": lambda m, x: (lambda y: (m.b(y), y))(m.a(x).relu()),
    "two readers": lambda m, x: (lambda y: m.b(y) + m.c(y))(m.a(x).relu()),
    "shared weight": lambda m, x: m.c(m.a(x).relu()) + m.a(x * 2),
    "weight as input": lambda m, x: m.b(m.a(x).relu()) * (x.sum() * m.a.weight).sum(),
    "batch norm": _after_first(lambda m, y: m.bn(y)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_ends_a_chain(name: str) -> None:
    layers = {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(4, 4, 1), "bn": nn.BatchNorm2d(4)}
    _, changes = equalize(uneven(Net(BREAKS[name], **layers)), torch.randn(2, 4, 4, 4))
    assert changes == []


CONTINUES: dict[str, Callable[[Any, Tensor], Any]] = {
    "nothing": _after_first(lambda m, y: y),
    "relu": _after_first(lambda m, y: y.relu()),
    "prelu": _after_first(lambda m, y: m.act(y)),
    "zero padding": _after_first(lambda m, y: F.pad(y, (1, 1, 1, 1))),
    "nearest": _after_first(lambda m, y: F.interpolate(y, scale_factor=2)),
    "bilinear": _after_first(lambda m, y: F.interpolate(y, scale_factor=2, mode="bilinear")),
    "spatial mean": _after_first(lambda m, y: y.mean((2, 3), keepdim=True)),
    "a size that is read": lambda m, x: (lambda y: m.b(y).view(y.shape[0], -1))(m.a(x).relu()),
}


@pytest.mark.parametrize("name", CONTINUES)
def test_what_a_chain_goes_through(name: str) -> None:
    layers = {"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1), "act": nn.PReLU(4)}
    _, changes = equalize(uneven(Net(CONTINUES[name], **layers)), torch.randn(2, 4, 4, 4))
    assert pairs(changes) == [("conv2d", "conv2d_1")]


def test_linear_layers_on_vectors_and_on_sequences() -> None:
    net = uneven(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    for x in (torch.randn(3, 4), torch.randn(2, 7, 4)):
        assert pairs(equalize(net, x)[1]) == [("linear", "linear_1"), ("linear_1", "linear_2")]
    over_width = Net(lambda m, x: m.fc(m.a(x).relu()), a=nn.Conv2d(4, 4, 1), fc=nn.Linear(4, 4))
    assert equalize(uneven(over_width), torch.randn(2, 4, 4, 4))[1] == []


def test_vitis_chains_are_narrower() -> None:
    for module in (nn.LeakyReLU(), nn.Identity()):
        model = uneven(nn.Sequential(nn.Conv2d(3, 4, 1), module, nn.Conv2d(4, 4, 1)))
        changes = equalize(model, torch.randn(2, 3, 4, 4), method="vitis")[1]
        assert bool(changes) == isinstance(module, nn.Identity)
    one_dimension = nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU(), nn.Conv1d(4, 4, 1))
    assert equalize(uneven(one_dimension), torch.randn(2, 3, 4), method="vitis")[1] == []
    linear = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    assert equalize(uneven(linear), torch.randn(2, 3, 4, 4), method="vitis")[1] == []


def test_vitis_copies_shared_convolutions_and_equalizes_each_use() -> None:
    net = uneven(Net(lambda m, x: m.a(m.a(x).relu()), a=nn.Conv2d(4, 4, 1)))
    graph, changes = equalize(net, torch.randn(2, 4, 4, 4), method="vitis")
    assert {"a.weight", "a.weight_1", "a.bias", "a.bias_1"} == set(graph.tensors())
    assert sum("is shared" in change.text for change in changes) == 2
    assert sum("/ s" in change.text for change in changes) == 1


def with_statistics(padding: int = 0, variance: float = 1e-4, between: nn.Module | None = None) -> nn.Module:
    """Returns conv, norm, ReLU, conv whose first channels lie far above zero."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([5.0, 3.0, 0.5, 0.0, -1.0, 2.0]))
        norm.weight.copy_(torch.tensor([0.1, -0.2, 0.3, 1.0, 1.0, 1.0]))
        norm.running_var.fill_(variance)
    middle = between if between is not None else nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 6, 1), norm, middle, nn.Conv2d(6, 4, 3, padding=padding, bias=False)).eval()


def absorbed(model: nn.Module, x: Tensor, **params: Any) -> tuple[Graph, list[Change]]:
    graph = capture(model, x)
    fold_batchnorm.run(graph)
    return graph, [change for change in run(graph, absorb_bias=True, **params) if "absorbed" in change.text]


def settle(model: nn.Module, x: Tensor) -> None:
    """Gives the norm of ``model`` the statistics of ``x`` itself, so that its outputs are what gamma and beta say."""
    with torch.no_grad():
        y = model[0](x)
        model[1].running_mean.copy_(y.mean((0, 2, 3)))
        model[1].running_var.copy_(y.var((0, 2, 3), unbiased=False))


def test_absorption_moves_what_relu_never_cuts_and_keeps_the_function() -> None:
    model, x = with_statistics(), torch.rand(4, 3, 8, 8)  # uniform: nothing is 3 deviations below its mean
    settle(model, x)
    graph, changes = absorbed(model, x)
    assert [change.data["channels"] for change in changes] == [2]  # 5 - 3 * 0.1 and 3 - 3 * 0.2 only
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-4)
    assert "3.bias" in graph.tensors()
    assert [c for c in run(graph, absorb_bias=True) if "absorbed" in c.text] == []


def test_absorption_is_the_formula_of_the_paper() -> None:
    model, x = with_statistics(), torch.rand(4, 3, 8, 8)
    settle(model, x)
    plain = capture(model, x)
    fold_batchnorm.run(plain)
    run(plain)
    graph, _ = absorbed(model, x)
    gamma, beta = plain.node("conv2d").meta["batchnorm"]
    c = (beta - 3 * gamma.abs()).clamp_min(0)
    torch.testing.assert_close(graph.parameter("0.bias"), plain.parameter("0.bias") - c, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        graph.parameter("3.bias"), (plain.parameter("3.weight") * c.view(1, -1, 1, 1)).sum((1, 2, 3))
    )
    more = absorbed(model, x, sigmas=1.0)[1][0]
    assert more.data["channels"] == 4 and more.data["largest"] > float(c.max())


def test_statistics_follow_the_scales() -> None:
    model, x = with_statistics(), torch.rand(4, 3, 8, 8)
    graph = capture(model, x)
    fold_batchnorm.run(graph)
    before = graph.parameter("0.bias").detach().clone()
    run(graph)
    s = before / graph.parameter("0.bias").detach()
    gamma, beta = graph.node("conv2d").meta["batchnorm"]
    torch.testing.assert_close(gamma * s, model[1].weight.detach())
    torch.testing.assert_close(beta * s, model[1].bias.detach())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (with_statistics(padding=1), 0),
        (with_statistics(between=nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, padding=1))), 0),
        (with_statistics(between=nn.Sequential(nn.ReLU(), nn.AvgPool2d(2, padding=1, count_include_pad=False))), 1),
        (with_statistics(between=nn.Sequential(nn.ReLU(), nn.ZeroPad2d(1))), 0),
        (with_statistics(between=nn.Sequential(nn.ReLU(), nn.ReflectionPad2d(1), nn.MaxPool2d(2))), 1),
    ],
)
def test_absorption_is_exact_at_the_border_too(model: nn.Module, expected: int) -> None:
    x = torch.rand(4, 3, 8, 8)
    settle(model, x)
    graph, changes = absorbed(model, x)
    assert len(changes) == expected
    with torch.no_grad():
        torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-4)


def test_absorption_into_padded_layers_on_request_is_right_away_from_the_border() -> None:
    model, x = with_statistics(padding=1), torch.rand(4, 3, 8, 8)
    settle(model, x)
    graph, changes = absorbed(model, x, absorb_padded=True)
    assert len(changes) == 1
    with torch.no_grad():
        got, want = graph(x), model(x)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert float((got - want).abs().max()) > 0.01


def test_parameters_that_would_do_nothing_are_refused_all_at_once() -> None:
    graph = capture(chain().eval(), torch.randn(2, 3, 12, 12))
    with pytest.raises(UnknownNameError, match="did you mean 'vitis'"):
        run(graph, method="vitus")
    with pytest.raises(ConfigError) as error:
        run(graph, sigmas=4.0, absorb_padded=True)
    assert [problem.code for problem in error.value.problems] == ["no_effect"] * 2
    with pytest.raises(ConfigError, match="absorbs no biases"):
        run(graph, method="vitis", absorb_bias=True)


@torch.no_grad()
def rounded(graph: Graph) -> Graph:
    """Returns a copy whose weights are rounded to int8, symmetric, one scale per tensor."""
    copy = graph.copy()
    for node in copy.module.graph.nodes:
        info = ops.layer_info(node)
        if info is not None:
            name = str(ops.parameter_of(info.weight))
            weight = copy.parameter(name)
            step = weight.abs().max() / 127
            copy.set_parameter(name, torch.round(weight / step) * step)
    return copy


def sqnr(want: Tensor, got: Tensor) -> float:
    """Returns the signal-to-noise ratio. Units: dB."""
    return float(10 * torch.log10(want.square().sum() / (want - got).square().sum()))


@torch.no_grad()
def test_mobilenet_with_one_scale_per_weight_is_saved_by_equalization(dev_models: Any) -> None:
    x = dev_models.PREP["up128"](dev_models.data("cifar10_dev.npz")["test_x"][:8])
    model = dev_models.mobilenet()
    graph = capture(model, x[:2])
    relu6_to_relu.run(graph)
    fold_batchnorm.run(graph)
    want = model(x)
    before = sqnr(want, rounded(graph)(x))
    for method in METHODS:
        equalized = graph.copy()
        assert len(run(equalized, method=method)) == {"dfq": 38, "vitis": 37}[method]  # dfq: the linear head too
        assert sqnr(want, equalized(x)) > 90  # float32 noise
        assert sqnr(want, rounded(equalized)(x)) > before + 8
