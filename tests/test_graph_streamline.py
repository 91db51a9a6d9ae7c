"""The form of the graph that calibration runs: the values of every network of the zoo, in place, in channels last."""

from __future__ import annotations

import math
from typing import Any

import graph_models
import pytest
import torch
from numerics_helpers import noise
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import quantwright
from quantwright.api import prepare
from quantwright.config.spec import Granularity
from quantwright.data import Batch
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.graph.streamline import Streamlined, streamlined
from quantwright.numerics.granularity import group_view, unordered_view


def nothing(path: str) -> bool:
    return False


def captured(name: str) -> tuple[Graph, Batch]:
    model, args = graph_models.build(name)
    batch = Batch(args=tuple(args), kwargs={})
    return capture(model, batch), batch


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_it_computes_what_the_graph_computes(name: str) -> None:
    graph, batch = captured(name)
    before = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, batch.args)
    with torch.no_grad():
        wanted = graph(*batch.args)
        fast = Streamlined(graph, nothing)
        for _ in range(2):  # the second run finds the same parameters and inputs
            found = fast.run(batch)
    assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(pytree.tree_leaves(batch.args), pytree.tree_leaves(before), strict=True):
        assert not isinstance(a, Tensor) or torch.equal(a, b), "an input was written over"


class Residual(nn.Module):
    """Returns a block whose sum may be written over the convolution, but not over what is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        y = torch.relu(self.b(x) + x)
        kept = torch.sigmoid(y)
        return self.head((y + 1.0).view(y.shape[0], -1)), kept


def residual() -> tuple[Graph, Batch]:
    torch.manual_seed(3)
    batch = Batch(args=(noise(0, 2, 4, 8, 8),), kwargs={})
    return capture(Residual().eval(), batch), batch


def test_what_nobody_else_reads_is_written_over_and_nothing_more() -> None:
    graph, batch = residual()
    module, channels_last = streamlined(graph.module, nothing)
    assert channels_last
    names = [str(getattr(node.target, "__name__", node.target)) for node in module.graph.nodes]
    assert sum("relu_" in name for name in names) == 2 and sum("add_into" in name for name in names) == 1
    assert not any("sigmoid_" in name for name in names), "y is read again"
    assert not any("aten.view" in name or name == "view.default" for name in names)
    held = {parameter.data_ptr() for parameter in graph.module.parameters()}
    assert {parameter.data_ptr() for parameter in module.parameters()} == held, "parameters are shared, not copied"
    assert any("relu.default" in str(node.target) for node in graph.module.graph.nodes), "the graph itself stays"


def test_a_batch_of_one_does_not_freeze_what_may_be_written_over() -> None:
    """Two values of one shape at export need not have one shape later."""

    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Parameter(noise(1, 1, 6)), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.table) + x

    model, big = Broadcast().eval(), Batch(args=(noise(2, 7, 6),), kwargs={})
    graph = capture(model, Batch(args=(noise(3, 2, 6),), kwargs={}))
    with torch.no_grad():
        torch.testing.assert_close(Streamlined(graph, nothing).run(big), model(*big.args))


def test_a_layout_that_means_something_is_left_alone() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.as_strided(y, (2, 4), (4 * 36, 36))

    model, batch = Strided().eval(), Batch(args=(noise(4, 2, 3, 8, 8),), kwargs={})
    with torch.no_grad():
        exported = torch.export.export(model, batch.args).module()
        _, channels_last = streamlined(exported, nothing)
    assert not channels_last


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse"])
def test_calibration_sees_the_values_of_the_network(observer: str) -> None:
    """The ranges against those measured, value by value, on a plain run of the float network."""
    graph, batch = residual()
    config: dict[str, Any] = {"version": 1, "default": {"activation": {"observer": observer}}, "optimize": []}
    prepared = prepare(graph, config, batch)
    prepared.calibrate([batch])
    values: dict[str, Tensor] = {}
    taps = {
        q.point.tensor: lambda x, name=name: values.__setitem__(name, x.clone())
        for name, q in prepared.quantizers.items()
        if q.point.role in ("input", "output")
    }
    with torch.no_grad(), prepared.floating():
        prepared.compute(batch, taps)
    assert len(values) >= 4
    for name, x in values.items():
        quantizer = prepared.quantizers[name]
        if prepared.root(name) == name:
            assert quantizer.qparams is not None
            wanted = quantwright.observe(x, quantizer.spec)
            torch.testing.assert_close(quantizer.qparams.scale, wanted.scale, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 7), (2, 3, 4, 5, 6), (5,), ()])
def test_an_unordered_view_holds_the_same_values_without_a_copy(shape: tuple[int, ...]) -> None:
    g = Granularity()
    x = noise(5, max(1, math.prod(shape))).reshape(shape)
    layouts = [x, x.mT] if len(shape) == 2 else [x]
    if len(shape) == 4:
        layouts += [x.contiguous(memory_format=torch.channels_last), x.permute(3, 1, 0, 2)]
    for y in layouts:
        view = unordered_view(y, g)
        assert view.shape == (1, y.numel()) and view.data_ptr() == y.data_ptr()
        assert torch.equal(view.flatten().sort().values, group_view(y, g).flatten().sort().values)
    gaps = noise(6, 8, 8)[:, ::2]
    assert torch.equal(unordered_view(gaps, g).sort().values, gaps.reshape(1, -1).sort().values)
