"""Folding batch norms: the function is kept for every layer that takes one, and nothing else is touched."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantwright import registry
from quantwright.errors import UnknownNameError
from quantwright.graph import ops
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.passes.fold_batchnorm import run

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Returns ``model`` in eval mode with batch norms that do something, some of their gammas negative."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def fold(model: nn.Module, x: Any, **params: Any) -> Graph:
    """Returns the graph after folding, checked to compute what the model does; a second run must find nothing."""
    args = x if isinstance(x, tuple) else (x,)
    graph = capture(model, args)
    graph.changes = run(graph, **params)  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(graph(*args), model(*args), rtol=1e-4, atol=1e-4)
        again = {name: value.clone() for name, value in graph.tensors().items()}
        assert run(graph, **params) == []
        assert all(torch.equal(value, again[name]) for name, value in graph.tensors().items())
    return graph


def kinds_of(graph: Graph) -> list[str]:
    return [ops.kind_of(node) for node in graph.module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("spatial", "transposed", "groups", "bias"),
    [
        *itertools.product((1, 2, 3), (False, True), (1,), (True,)),
        (2, False, 4, False),
        (2, True, 2, False),
        (1, False, 2, True),
    ],
)
def test_folds_into_every_convolution(spatial: int, transposed: bool, groups: int, bias: bool) -> None:
    layer = (CONV_TRANSPOSE if transposed else CONV)[spatial](4, 8, 2, groups=groups, bias=bias)
    model = randomize(nn.Sequential(layer, NORM[spatial](8, affine=spatial != 3), nn.ReLU()))
    graph = fold(model, torch.randn(2, 4, *[5] * spatial))
    assert "batch_norm" not in kinds_of(graph)
    assert sorted(graph.tensors()) == ["0.bias", "0.weight"]


def test_folds_into_linear_and_keeps_the_origin_and_statistics_of_the_norm() -> None:
    model = randomize(nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)))
    graph = fold(model, torch.randn(3, 4))
    (node,) = [n for n in graph.module.graph.nodes if ops.kind_of(n) == "linear"]
    assert [origin.module_path for origin in node.meta["origins"]] == ["0", "1"]
    gamma, beta = node.meta["batchnorm"]
    assert torch.equal(gamma, model[1].weight) and torch.equal(beta, model[1].bias)
    (change,) = graph.changes
    assert (change.by, change.node) == ("fold_batchnorm", node.name)


class Net(nn.Module):
    """Wraps a forward function around named layers."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda m, x: m.bn(m.conv(x)) + m.conv2(m.conv(x) * 0 + x)[:, :3] * 0 + m.conv(x)[:, :3], "a shared weight"),
        (lambda m, x: (lambda y: m.bn(y) + y)(m.conv(x)), "the convolution is read by the sum too"),
        (lambda m, x: m.bn(m.conv(x).relu()), "a ReLU stands between"),
        (lambda m, x: m.bn(m.conv(x).transpose(1, 2).transpose(1, 3).contiguous()[:, :3]), "other axes"),
    ],
)
def test_keeps_the_function_where_folding_is_in_question(forward: Any, why: str) -> None:
    net = Net(forward, conv=nn.Conv2d(3, 3, 1), conv2=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(3))
    graph = fold(randomize(net), torch.randn(2, 3, 3, 3))
    assert ("batch_norm" in kinds_of(graph)) == (why != "a shared weight")


def test_a_linear_layer_on_sequences_is_normalized_along_another_axis_and_stays() -> None:
    net = Net(lambda m, x: m.bn(m.fc(x)), fc=nn.Linear(4, 5), bn=nn.BatchNorm1d(3))
    assert kinds_of(fold(randomize(net), torch.randn(2, 3, 4))) == ["linear", "batch_norm"]


def test_batch_statistics_are_not_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert fold(net, torch.randn(4, 3, 3, 3)).changes == []


def test_folds_through_a_concat_of_layers_only() -> None:
    layers = {"a": nn.Conv2d(3, 2, 1), "b": nn.ConvTranspose2d(3, 4, 1, bias=False), "bn": nn.BatchNorm2d(6)}
    graph = fold(randomize(Net(lambda m, x: m.bn(torch.cat([m.a(x), m.b(x)], 1)), **layers)), torch.randn(2, 3, 4, 4))
    assert sorted(graph.tensors()) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert [change.data["batchnorm"] for change in graph.changes] == ["batch_norm"] * 2
    mixed = Net(lambda m, x: m.bn(torch.cat([m.a(x), m.b(x)[:, :3], x[:, :1]], 1)), **layers)
    assert "batch_norm" in kinds_of(fold(randomize(mixed), torch.randn(2, 3, 4, 4)))


def test_several_norms_in_a_row_fold_one_after_the_other() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    graph = fold(model, torch.randn(2, 3, 3, 3))
    assert kinds_of(graph) == ["conv2d"]


def test_a_block_that_is_used_twice_stays_one_set_of_parameters() -> None:
    net = Net(lambda m, x: m.bn(m.conv(m.bn(m.conv(x)))), conv=nn.Conv2d(3, 3, 1, bias=False), bn=nn.BatchNorm2d(3))
    graph = fold(randomize(net), torch.randn(2, 3, 3, 3))
    assert sorted(graph.tensors()) == ["conv.bias", "conv.weight"]
    wide = fold(randomize(net), torch.randn(2, 3, 3, 3), scope="vitis")
    assert sorted(wide.tensors()) == ["conv.bias", "conv.bias_1", "conv.weight", "conv.weight_1"]


def test_a_shared_convolution_with_a_norm_per_use_is_copied() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b1(m.conv(x)) + m.b2(m.conv(x * 2)) + m.conv(x * 3)

    net = Net(forward, conv=nn.Conv2d(3, 3, 1), b1=nn.BatchNorm2d(3), b2=nn.BatchNorm2d(3))
    weight = net.conv.weight.detach().clone()
    graph = fold(randomize(net), torch.randn(2, 3, 3, 3))
    assert torch.equal(graph.parameter("conv.weight"), weight)  # the use without a norm keeps the original
    assert sorted(name for name in graph.tensors() if "weight" in name) == [
        "conv.weight",
        "conv.weight_1",
        "conv.weight_2",
    ]


def test_the_vitis_scope_leaves_1d_and_linear_and_simplifies_their_norms() -> None:
    layers = {
        "c1": nn.Conv1d(3, 4, 1),
        "b1": nn.BatchNorm1d(4, affine=False),
        "fc": nn.Linear(4, 5),
        "b2": nn.BatchNorm1d(5),
    }
    net = randomize(Net(lambda m, x: m.b2(m.fc(m.b1(m.c1(x)).mean(2))), **layers))
    graph = fold(net, torch.randn(2, 3, 6), scope="vitis")
    infos = [info for node in graph.module.graph.nodes if (info := ops.batch_norm_info(node))]
    assert len(infos) == 2
    for info, norm in zip(infos, (net.b1, net.b2), strict=True):
        g = (1 if norm.weight is None else norm.weight) / torch.sqrt(norm.running_var + norm.eps)
        shift = (0 if norm.bias is None else norm.bias) - norm.running_mean * g
        torch.testing.assert_close(graph.parameter(ops.parameter_of(info.weight)), g)
        torch.testing.assert_close(graph.parameter(ops.parameter_of(info.bias)), shift)
        assert (info.eps, graph.parameter(ops.parameter_of(info.mean)).abs().max()) == (0.0, 0.0)
        assert bool((graph.parameter(ops.parameter_of(info.var)) == 1).all())


def test_simplifying_a_norm_that_is_used_twice_happens_once() -> None:
    net = randomize(Net(lambda m, x: m.bn(m.bn(x.relu()).relu()), bn=nn.BatchNorm2d(3, affine=False)))
    graph = fold(net, torch.randn(2, 3, 3, 3), scope="vitis")
    assert len(graph.changes) == 2 and "bn.weight" in graph.tensors()


def test_half_precision_is_folded_in_float32_and_stays_half() -> None:
    model = randomize(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).to(torch.bfloat16)
    graph = capture(model, torch.randn(2, 3, 3, 3, dtype=torch.bfloat16))
    weight, norm = model[0].weight.float(), model[1]
    run(graph)
    g = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
    assert torch.equal(graph.parameter("0.weight"), (weight * g.view(-1, 1, 1, 1)).to(torch.bfloat16))


def test_an_unknown_scope_is_refused_with_what_exists() -> None:
    graph = capture(nn.Sequential(nn.Linear(2, 2)), torch.randn(2, 2))
    with pytest.raises(UnknownNameError, match="vitis"):
        run(graph, scope="vites")
    assert set(registry.parameters("passes", "fold_batchnorm")["scope"]["choices"]) == {"all", "vitis", "vitis_keras"}


@pytest.mark.parametrize(("name", "shape"), [("resnet8", (2, 3, 32, 32)), ("smallcnn", (2, 1, 28, 28))])
def test_real_networks_keep_their_outputs(dev_models: Any, name: str, shape: tuple[int, ...]) -> None:
    graph = fold(getattr(dev_models, name)(), torch.randn(shape))
    assert "batch_norm" not in kinds_of(graph)
