"""Facts and origins: kinds, operands, axes, users, and names as torch.fx gives them."""

from __future__ import annotations

import operator
from typing import Any

import graph_models
import pytest
import torch
import torch.nn.functional as F
from test_graph_capture import captured
from torch import Tensor, fx, nn

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph.capture import capture
from quantwright.plan.facts import NodeFacts


def one(name: str, kind: str) -> NodeFacts:
    """Returns the first node of a kind in a zoo model."""
    return next(node for node in captured(name).facts().nodes if node.kind == kind)


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_facts_hang_together(name: str) -> None:
    facts = captured(name).facts()
    names = [node.name for node in facts.nodes]
    assert len(set(names)) == len(names)
    tensors = captured(name).tensors()
    for node in facts.nodes:
        assert node.kind in kinds.ALL
        assert all(names.index(source) < names.index(node.name) for source in node.inputs)
        assert all(node.name in facts.node(user).inputs for user in node.users)
        assert all(node.name in facts.node(source).users for source in node.inputs)
        for part in (node.weight, node.bias):
            assert part is None or part.shape == tuple(tensors[part.name].shape)
    assert all(facts.node(i).kind == "input" for i in facts.inputs)
    assert set(facts.outputs) <= set(names)


@pytest.mark.parametrize(
    ("name", "kind", "channel", "reduced", "groups"),
    [("conv1d", "conv1d", 0, 1, 1), ("grouped", "conv2d", 0, 1, 2), ("depthwise", "depthwise_conv2d", 0, 1, 4),
     ("conv_transpose2d", "conv_transpose2d", 1, 0, 2), ("linear", "linear", 0, 1, 1), ("addmm", "matmul", 1, 0, 1),
     ("tied", "embedding", 0, 1, 1)],
)  # fmt: skip
def test_weight_axes(name: str, kind: str, channel: int, reduced: int, groups: int) -> None:
    weight = one(name, kind).weight
    assert weight is not None
    assert (weight.channel_axis, weight.input_axis, weight.groups) == (channel, reduced, groups)


def test_matmul_by_a_parameter_has_a_weight_and_by_a_value_has_none() -> None:
    products = [n for n in captured("addmm").facts().nodes if n.kind == "matmul"]
    assert [n.weight.name for n in products if n.weight] == ["weight", "weight"]
    assert [n.bias.name if n.bias else None for n in products] == ["bias", None]
    assert all(n.weight is None for n in captured("products").facts().nodes)


def test_conv_operands() -> None:
    model = nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 0), dilation=2, groups=2, bias=False)
    graph = capture(model, torch.randn(2, 4, 16, 16))
    info = ops.conv_info(graph.node("conv2d"))
    assert info is not None and info.bias is None and not info.transposed
    assert (info.spatial, info.stride, info.padding, info.dilation, info.groups) == (2, (1, 2), (1, 0), (2, 2), 2)
    assert info.x.target == graph.inputs[0].name == "input" and ops.parameter_of(info.weight) == "weight"


def test_batch_norm_operands() -> None:
    graph = capture(nn.BatchNorm1d(4, eps=0.25, affine=False).eval(), torch.randn(3, 4))
    info = ops.batch_norm_info(graph.node("batch_norm"))
    assert info is not None and info.weight is None and info.bias is None and info.eps == 0.25
    assert ops.parameter_of(info.mean) == "running_mean" and ops.parameter_of(info.var) == "running_var"
    assert ops.batch_norm_info(captured("conv2d").node("conv2d")) is None


def test_items_stand_for_operators_with_several_outputs() -> None:
    facts = captured("items").facts()
    chunks = [n for n in facts.nodes if n.kind == "chunk"]
    assert len(chunks) == 2 and all(n.inputs == ("x",) and n.keeps_grid and n.is_float for n in chunks)
    assert [n.shape for n in facts.nodes if n.kind == "split"] == [(-1, 1), (-1, 2)]
    values, indices = (n for n in facts.nodes if n.kind == "max")
    assert values.is_float and values.keeps_grid and not indices.is_float
    assert one("lstm", "lstm").inputs[0] == "x"


def test_grid_is_kept_by_movement_and_zero_padding_only() -> None:
    pads = [n.keeps_grid for n in captured("pads").facts().nodes if n.kind == "pad"]
    assert pads == [True, True, False]
    kept = {n.kind for n in captured("pools").facts().nodes if n.keeps_grid}
    assert kept == {"max_pool", "adaptive_max_pool", "flatten"}
    assert one("nearest", "resize_nearest").keeps_grid and not one("bilinear", "resize").keeps_grid
    assert not one("conv2d", "relu6").keeps_grid


def test_hand_written_norm_is_marked_and_its_surroundings_are_not() -> None:
    by_kind: dict[str, list[str]] = {}
    for node in captured("tokens").facts().nodes:
        by_kind.setdefault(node.kind, []).append(node.name)
    assert len(by_kind["norm_part"]) == 6  # pow, mean, add eps, rsqrt, two products
    assert len(by_kind["add"]) == 1 and len(by_kind["linear"]) == 1


def test_size_arithmetic_is_not_a_reader() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(x)
            return y.reshape(y.shape[0] * 2, -1) + 1

    facts = capture(Sized(), torch.randn(3, 4)).facts()
    assert next(n for n in facts.nodes if n.kind == "relu").users == ("reshape",)
    assert {n.kind for n in facts.nodes} == {"input", "relu", "reshape", "add", "output"}


def test_quantizers_are_looked_through() -> None:
    graph = captured("conv2d").copy()
    plain = graph.facts()
    for node in [n for n in graph.module.graph.nodes if n.op == "get_attr" or n.name == "conv2d"]:
        path = f"quantizers.{node.name}"
        graph.module.add_submodule(path, nn.Identity())
        with graph.module.graph.inserting_after(node):
            quantizer = graph.module.graph.call_module(path, (node,))
        quantizer.meta.update(kind="quantizer", point=node.name)
        for user in [u for u in node.users if u is not quantizer]:
            user.replace_input_with(node, quantizer)
    graph.module.recompile()
    assert graph.facts() == plain
    torch.testing.assert_close(graph(graph_models.IMAGE), captured("conv2d")(graph_models.IMAGE))


class Mixed(nn.Module):
    """Functions, operators, methods, nested and reused modules, module names that collide with functions."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.Stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1)), nn.Sequential(nn.Conv2d(4, 4, 1))])

    def forward(self, x: Tensor) -> Tensor:
        x = self.Stem(x)
        for block in self.blocks:
            x = F.relu(block(x) + x) * 2
            x = self.relu(x - 1) / 3
        y = torch.cat([x, -x], 1).mean((2, 3))
        z = torch.add(y, 1) @ y.t()
        z += 1
        return torch.flatten(1 - z**2, 1).sum(1) + y.view(-1, 8).max()


def traced_names(model: nn.Module) -> set[str]:
    """Returns the node names of torch.fx's own trace, without inputs, sizes and layers that compute nothing."""
    traced = fx.symbolic_trace(model)
    idle = {path for path, module in model.named_modules() if isinstance(module, (nn.Identity, nn.Dropout))}
    skipped = ("getattr", "getitem", "size", "chunk")
    return {
        node.name for node in traced.graph.nodes
        if node.op.startswith("call") and node.target not in idle and not node.name.startswith(skipped)
    }  # fmt: skip


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.add(x, y) * x + (x - y) / 2
        return torch.maximum(z, x / 2) + torch.minimum(x, 1 - y) @ y.transpose(2, 3)


def test_fx_names_are_those_of_symbolic_trace(dev_models: Any) -> None:
    image = torch.randn(2, 3, 32, 32)
    cases: list[tuple[nn.Module, tuple[Tensor, ...]]] = [
        (Mixed(), (image,)), (TwoInputs(), (graph_models.IMAGE, graph_models.IMAGE)), (dev_models.resnet20(), (image,)),
        (dev_models.smallcnn(), (torch.randn(2, 1, 28, 28),)),
    ]  # fmt: skip
    cases += [graph_models.build(name) for name in ("conv2d", "reused", "activations", "pools", "linear")]
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.ReLU())
    cases.append((encoder, (torch.randn(2, 3, 8),)))
    for model, args in cases:
        graph = capture(model.eval(), tuple(arg.clone() for arg in args))
        wanted = traced_names(model)
        got = {n.origins[0].fx_name for n in graph.facts().nodes if n.kind not in ("input", "output")}
        assert {name for name in got if not name.startswith("getitem")} == wanted, type(model).__name__


def test_origin_of_a_layer_and_of_a_function() -> None:
    graph = capture(Mixed().eval(), torch.randn(2, 3, 4, 4))
    conv = graph.facts().node("conv2d_1").origins[0]
    assert (conv.module_path, conv.module_type) == ("blocks.0.0", "torch.nn.modules.conv.Conv2d")
    assert conv.function == "conv2d" and conv.aten == "aten.conv2d.default" and conv.fx_name == "blocks_0_0"
    assert conv.parents[-1] == ("blocks.0", "torch.nn.modules.container.Sequential")
    assert conv.line.startswith("test_graph_ops.py:")
    add = next(n for n in graph.facts().nodes if n.kind == "add")
    assert add.origins[0].module_path == "" and add.origins[0].parents[-1] == ("", f"{__name__}.Mixed")
    assert add.label == add.name and graph.facts().node("conv2d").label == "Stem.0"


def test_arguments_by_name() -> None:
    graph = captured("conv2d").copy()
    conv = graph.node("conv2d")
    assert ops.argument(conv, "groups") == 1 and ops.argument(conv, "padding") == [1, 1]
    ops.set_argument(conv, "groups", 1)
    assert len(conv.args) == 7 and ops.argument(conv, "dilation") == [1, 1]
    graph.module.recompile()
    torch.testing.assert_close(graph(graph_models.IMAGE), captured("conv2d")(graph_models.IMAGE))


def test_unknown_nodes_are_other() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert ops.kind_of(graph.call_function(operator.mul, (x, x))) == "other"
    assert ops.kind_of(graph.call_function(torch.ops.aten.fft_fft.default, (x,))) == "other"
    assert ops.kind_of(graph.call_module("m", (x,))) == "other"
