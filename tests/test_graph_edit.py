"""Edits keep the function where they should, and keep names, origins and parameters in order."""

from __future__ import annotations

import graph_models
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_capture import captured
from torch import Tensor, nn

from quantwright.errors import QuantwrightError
from quantwright.graph import edit, ops
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph


def fresh(name: str) -> tuple[Graph, Tensor]:
    """Returns a copy of a zoo graph and its first example input."""
    return captured(name).copy(), graph_models.ZOO[name][1][0]


def test_copy_is_independent_and_equal() -> None:
    graph, x = fresh("in_place")
    assert [n.name for n in graph.module.graph.nodes] == [n.name for n in captured("in_place").module.graph.nodes]
    assert graph.facts() == captured("in_place").facts()
    before = captured("in_place")(x)
    graph.set_parameter("conv.weight", graph.parameter("conv.weight") * 2)
    edit.erase(graph, graph.node("batch_norm"), graph.node("conv2d"))
    edit.clean(graph)
    assert torch.equal(captured("in_place")(x), before)
    assert not torch.equal(graph(x), before)


def test_replace_node_keeps_origins_and_readers() -> None:
    graph, x = fresh("conv2d")
    old = next(n for n in graph.module.graph.nodes if ops.kind_of(n) == "relu6")
    origins = old.meta["origins"]
    new = edit.replace_node(graph, old, torch.ops.aten.relu.default, (old.args[0],))
    edit.clean(graph)
    assert new.meta["origins"] == origins and new.meta["kind"] == "relu"
    conv = nn.functional.conv2d(x, graph.parameter("0.weight"), graph.parameter("0.bias"), padding=1)
    torch.testing.assert_close(graph(x), conv.relu())
    assert "relu6" not in {n.kind for n in graph.facts().nodes}


def test_erase_merges_and_drops_parameters() -> None:
    graph, _ = fresh("in_place")
    norm, conv = graph.node("batch_norm"), graph.node("conv2d")
    edit.merge_origins(conv, norm)
    edit.merge_origins(conv, norm)
    edit.erase(graph, norm, conv)
    edit.clean(graph)
    assert [o.module_path for o in graph.facts().node("conv2d").origins] == ["conv", "bn"]
    assert set(graph.tensors()) == {"conv.weight", "conv.bias"}
    assert [name for name, _ in graph.module.named_parameters()] == ["conv.weight", "conv.bias"]
    assert not list(graph.module.named_buffers())


def test_insert_after_for_all_and_for_some_readers() -> None:
    graph, x = fresh("reused")
    want = captured("reused")(x.clone())
    value = graph.node("relu")
    readers = edit.users_of(value)
    node = edit.insert_after(graph, value, torch.ops.aten.neg.default, readers[:1])
    back = edit.insert_after(graph, node, torch.ops.aten.neg.default)
    edit.clean(graph)
    assert node in value.users and readers[0] in back.users and readers[0] not in value.users
    torch.testing.assert_close(graph(x.clone()), want)
    graph.module.add_module("same", nn.Identity())
    edit.insert_after(graph, back, "same")
    edit.clean(graph)
    torch.testing.assert_close(graph(x.clone()), want)


@pytest.mark.parametrize("name", ["conv2d_same", "conv_transpose2d", "linear", "addmm", "conv1d"])
def test_set_bias(name: str) -> None:
    graph, x = fresh(name)
    node = next(n for n in graph.module.graph.nodes if ops.op_name(n) in edit._TAKE_BIAS)
    info = ops.layer_info(node)
    assert info is not None
    channels = graph.parameter(str(ops.parameter_of(info.weight))).shape[info.channel_axis] * (
        info.groups if info.transposed else 1
    )
    seen: list[Tensor] = []
    zero = edit.set_bias(graph, node, torch.zeros(channels))
    edit.clean(graph)
    graph.run((x,), None, {node.name: seen.append})
    bias = torch.arange(channels).float()
    name = edit.set_bias(graph, node, bias)
    edit.clean(graph)
    graph.run((x,), None, {node.name: seen.append})
    assert name == zero and name.endswith("bias")
    shape = [1, channels] + [1] * (seen[0].ndim - 2)
    torch.testing.assert_close(seen[1] - seen[0], bias.reshape(shape).expand_as(seen[0]), rtol=1e-4, atol=1e-4)


def test_new_bias_is_called_after_its_weight() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            return self.stem(x)

    graph = capture(Net(), torch.randn(2, 3, 4, 4))
    assert edit.set_bias(graph, graph.node("conv2d"), torch.ones(4)) == "stem.0.bias"
    facts = graph.facts().node("conv2d")
    assert facts.bias is not None and facts.bias.shape == (4,)


def test_shared_parameters_are_told_apart_before_they_change() -> None:
    graph, x = fresh("reused")
    want = captured("reused")(x.clone())
    first, second = (n for n in graph.module.graph.nodes if ops.kind_of(n) == "conv2d")
    assert edit.own_weight(graph, second) == "first.weight_1"
    assert edit.own_weight(graph, second) == "first.weight_1"
    assert edit.own_weight(graph, first) == "first.weight"
    assert edit.set_bias(graph, second, graph.parameter("first.bias")) == "first.bias_1"
    edit.clean(graph)
    torch.testing.assert_close(graph(x.clone()), want)
    graph.set_parameter("first.weight_1", torch.zeros_like(graph.parameter("first.weight_1")))
    assert bool(graph.parameter("first.weight").any())


def test_set_parameter_in_place_or_in_another_shape() -> None:
    graph, _ = fresh("linear")
    held = graph.parameter("0.weight")
    version = held._version
    graph.set_parameter("0.weight", torch.ones(3, 4))
    assert graph.parameter("0.weight") is held and held._version > version and bool((held == 1).all())
    graph.set_parameter("0.weight", torch.ones(5, 4))
    graph.set_parameter("0.bias", torch.zeros(5))
    assert graph(torch.ones(2, 4)).shape == (2, 5)
    assert graph.facts().node("linear").weight.shape == (5, 4)  # type: ignore[union-attr]


def test_readers_and_names() -> None:
    graph, _ = fresh("tied")
    assert len(graph.readers("head.weight")) == len(graph.readers("embed.weight")) == 1
    assert graph.parameters_used_by(graph.node("linear")) == ("body.weight", "body.bias")
    assert edit.read(graph, "head.weight", graph.node("linear")) is graph.readers("embed.weight")[0]
    assert edit.only_user(graph.node("tanh")) is graph.node("linear_1")
    assert edit.only_user(graph.node("linear_1")) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda g: g.node("nope"), "no node 'nope'"), (lambda g: g.parameter("0.nope"), "no parameter"),
     (lambda g: g.add_parameter("0.weight", torch.ones(1)), "already"),
     (lambda g: g.add_parameter("a b", torch.ones(1)), "dotted"),
     (lambda g: edit.set_bias(g, g.node("hardtanh"), torch.ones(1)), "takes no bias"),
     (lambda g: edit.own_weight(g, g.node("hardtanh")), "no weight")],
)  # fmt: skip
def test_wrong_edits_are_refused(call: object, message: str) -> None:
    graph, _ = fresh("conv2d")
    with pytest.raises(QuantwrightError, match=message):
        call(graph)  # type: ignore[operator]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["relu", "neg", "copy", "param"]), max_size=6))
def test_any_sequence_of_neutral_edits_keeps_the_function(steps: list[str]) -> None:
    graph, x = fresh("in_place")
    want = captured("in_place")(x)
    for step in steps:
        relu = next(n for n in graph.module.graph.nodes if ops.kind_of(n) == "relu")
        if step == "relu":
            edit.insert_after(graph, relu, torch.ops.aten.relu.default)
        elif step == "neg":
            first = edit.insert_after(graph, relu, torch.ops.aten.neg.default)
            edit.insert_after(graph, first, torch.ops.aten.neg.default)
        elif step == "copy":
            graph = graph.copy()
        else:
            graph.set_parameter("conv.weight", graph.parameter("conv.weight").clone())
        edit.clean(graph)
    torch.testing.assert_close(graph(x), want)
