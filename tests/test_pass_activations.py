"""ReLU6 -> ReLU and SiLU -> Hardswish: which spellings are replaced, and what the network computes afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantwright.graph import ops
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.passes import relu6_to_relu, silu_to_hardswish

X = torch.linspace(-9, 9, 37).repeat(2, 1)


class Apply(nn.Module):
    """Calls a function between two layers, with a module at hand."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], module: nn.Module) -> None:
        super().__init__()
        self.module, self._function = module, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self.module, x)


def graph_of(function: Callable[[nn.Module, Tensor], Tensor], module: nn.Module | None = None) -> Graph:
    return capture(Apply(function, module or nn.Identity()).eval(), X)


def kinds_of(graph: Graph) -> list[str]:
    return [ops.kind_of(node) for node in graph.module.graph.nodes if node.op == "call_function"]


RELU6 = {
    "module": (lambda m, x: m(x), nn.ReLU6()),
    "module in place": (lambda m, x: m(x * 1), nn.ReLU6(inplace=True)),
    "function": (lambda m, x: F.relu6(x), None),
    "hardtanh": (lambda m, x: F.hardtanh(x, 0, 6), None),
    "clamp": (lambda m, x: x.clamp(0, 6), None),
}


@pytest.mark.parametrize("spelling", RELU6)
def test_every_spelling_of_relu6_becomes_relu(spelling: str) -> None:
    graph = graph_of(*RELU6[spelling])
    changes = relu6_to_relu.run(graph)
    assert len(changes) == 1 and changes[0].data == {"was": "relu6", "is": "relu"}
    assert torch.equal(graph(X), X.relu())
    assert relu6_to_relu.run(graph) == []


@pytest.mark.parametrize("spelling", RELU6)
def test_modules_only_leaves_functions_alone(spelling: str) -> None:
    graph = graph_of(*RELU6[spelling])
    assert len(relu6_to_relu.run(graph, modules_only=True)) == ("module" in spelling)
    want = X.relu() if "module" in spelling else X.clamp(0, 6)
    assert torch.equal(graph(X), want)


@pytest.mark.parametrize(
    "function", [F.relu, lambda x: x.clamp(0, 4), lambda x: x.clamp(-1, 6), lambda x: x.clamp(max=6)]
)
def test_other_clamps_stay(function: Callable[[Tensor], Tensor]) -> None:
    graph = graph_of(lambda m, x: function(x))
    assert relu6_to_relu.run(graph) == [] and torch.equal(graph(X), function(X))


def test_a_relu6_that_is_used_twice_changes_at_both_places_and_keeps_its_origin() -> None:
    graph = graph_of(lambda m, x: m(m(x) * 2), nn.ReLU6())
    assert len(relu6_to_relu.run(graph)) == 2
    assert torch.equal(graph(X), X.relu() * 2)
    relus = [node for node in graph.module.graph.nodes if ops.kind_of(node) == "relu"]
    assert [node.meta["origins"][0].module_type.rpartition(".")[2] for node in relus] == ["ReLU6"] * 2
    assert [facts.kind for facts in graph.facts().nodes].count("relu") == 2


SILU = {
    "module": (lambda m, x: m(x), nn.SiLU()),
    "function": (lambda m, x: F.silu(x), None),
    "product": (lambda m, x: x * torch.sigmoid(x), None),
    "product reversed": (lambda m, x: torch.sigmoid(x) * x, None),
}


@pytest.mark.parametrize("spelling", SILU)
def test_every_spelling_of_silu_becomes_hardswish(spelling: str) -> None:
    graph = graph_of(*SILU[spelling])
    assert len(silu_to_hardswish.run(graph)) == 1
    assert kinds_of(graph) == ["hardswish"]
    torch.testing.assert_close(graph(X), F.hardswish(X))
    assert float((graph(X) - F.silu(X)).abs().max()) == pytest.approx(0.1423, abs=1e-4)  # as the docstring says
    assert silu_to_hardswish.run(graph) == []


@pytest.mark.parametrize("spelling", SILU)
def test_modules_only_replaces_silu_modules_only(spelling: str) -> None:
    graph = graph_of(*SILU[spelling])
    assert len(silu_to_hardswish.run(graph, modules_only=True)) == (spelling == "module")


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.sigmoid(x + 1),  # a gate of something else
        lambda m, x: (lambda gate: x * gate + gate)(torch.sigmoid(x)),  # the gate is read elsewhere
        lambda m, x: 2 * torch.sigmoid(x),
        lambda m, x: x * x,
    ],
)
def test_other_products_stay(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    graph = graph_of(function)
    assert silu_to_hardswish.run(graph) == []
    assert torch.equal(graph(X), function(nn.Identity(), X))


def test_a_written_out_silu_keeps_the_origins_of_both_steps() -> None:
    graph = graph_of(lambda m, x: x * m(x), nn.Sigmoid())
    silu_to_hardswish.run(graph)
    (node,) = [node for node in graph.module.graph.nodes if ops.kind_of(node) == "hardswish"]
    assert {origin.function for origin in node.meta["origins"]} >= {"mul", "sigmoid"}
