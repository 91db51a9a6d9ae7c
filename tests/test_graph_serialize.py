"""The file form: every zoo graph survives it exactly, and a hostile file is refused before anything runs."""

from __future__ import annotations

import copy
import json
from typing import Any

import graph_models
import pytest
import torch
from test_graph_capture import assert_same, captured
from torch import Tensor, nn

from quantwright.errors import ArtifactError, ExportError
from quantwright.graph import edit, ops
from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.graph.serialize import from_json, to_json


def reloaded(graph: Graph) -> Graph:
    """Returns the graph after a round trip through JSON text."""
    return from_json(json.loads(json.dumps(to_json(graph))), graph.tensors())


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_round_trip(name: str) -> None:
    graph = captured(name)
    again = reloaded(graph)
    assert again.facts() == graph.facts()
    assert (again.name, again.inputs, again.notes, again.aliases, again.module_paths) == (
        graph.name, graph.inputs, graph.notes, graph.aliases, graph.module_paths
    )  # fmt: skip
    assert json.dumps(to_json(again)) == json.dumps(to_json(graph))
    model, args = graph_models.build(name)
    assert_same(model, again, args)
    assert not {id(v) for v in again.tensors().values()} & {id(v) for v in graph.tensors().values()}
    kinds = {n: (type(v), v.requires_grad) for n, v in graph.tensors().items()}
    assert {n: (type(v), v.requires_grad) for n, v in again.tensors().items()} == kinds


def test_bit_equal_outputs() -> None:
    graph, x = captured("transformer"), graph_models.ZOO["transformer"][1][0]
    with torch.no_grad():
        assert torch.equal(reloaded(graph)(x), graph(x))


def test_two_captures_give_the_same_text() -> None:
    def text() -> str:
        model, args = graph_models.build("dict")
        return json.dumps(to_json(capture(model, args)))

    assert text() == text()


def test_a_pass_survives() -> None:
    graph = captured("in_place").copy()
    x = graph_models.ZOO["in_place"][1][0]
    edit.merge_origins(graph.node("conv2d"), graph.node("batch_norm"))
    edit.erase(graph, graph.node("batch_norm"), graph.node("conv2d"))
    edit.set_bias(graph, graph.node("conv2d"), torch.ones(4))
    edit.clean(graph)
    assert torch.equal(reloaded(graph)(x), graph(x))
    assert reloaded(graph).facts().node("conv2d").origins == graph.facts().node("conv2d").origins


def test_quantizers_are_called_by_name() -> None:
    graph = captured("conv2d").copy()
    graph.module.add_submodule("quantizers.conv", nn.Tanh())
    node = edit.insert_after(graph, graph.node("conv2d"), "quantizers.conv")
    node.meta["kind"] = "quantizer"
    edit.clean(graph)
    data = to_json(graph)
    again = from_json(data, graph.tensors(), modules={"quantizers.conv": nn.Tanh()})
    torch.testing.assert_close(again(graph_models.IMAGE), graph(graph_models.IMAGE))
    assert ops.is_quantizer(again.node(node.name))
    with pytest.raises(ArtifactError, match="quantizers.conv"):
        from_json(data, graph.tensors())


def test_what_has_no_file_form_is_refused_when_saving() -> None:
    graph = captured("conv2d").copy()
    edit.insert_after(graph, graph.node("conv2d"), torch.relu)
    with pytest.raises(ExportError, match="has no file form"):
        to_json(graph)
    graph = captured("conv2d").copy()
    edit.insert_after(graph, graph.node("conv2d"), torch.ops.aten.relu.default, kwargs={"x": object()})
    with pytest.raises(ExportError, match="argument of type object"):
        to_json(graph)


def test_special_values_survive() -> None:
    class Special(nn.Module):
        def forward(self, x: Tensor) -> tuple[Any, ...]:
            filled = x.masked_fill(x > 0, float("-inf"))
            wide = torch.zeros(x.shape[0], 2, dtype=torch.float64)
            return filled, wide, x.to(torch.float16), x.double().clamp(max=float("inf"))

    graph = capture(Special(), torch.randn(3, 2))
    x = torch.randn(5, 2)
    for a, b in zip(graph(x), reloaded(graph)(x), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert "NaN" not in json.dumps(to_json(graph)) and "Infinity" not in json.dumps(to_json(graph))


def damaged(change: Any) -> dict[str, Any]:
    data = copy.deepcopy(to_json(captured("conv2d")))
    change(data)
    return data


def find(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(node for node in data["nodes"] if node["name"] == name)


INJECTION = 'x"); __import__("os").system("touch /tmp/injected"); ("'


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=99),
        lambda d: d.pop("nodes"),
        lambda d: d.update(nodes=7),
        lambda d: d.update(in_spec="not a spec"),
        lambda d: d.update(in_spec='[1, {"type": "os.system", "context": "null", "children_spec": []}]'),
        lambda d: d.update(positional=[INJECTION]),
        lambda d: d["nodes"].reverse(),
        lambda d: d["nodes"].append(d["nodes"][0]),
        lambda d: find(d, "conv2d").update(target="aten.no_such_operator.default"),
        lambda d: find(d, "conv2d").update(target="aten.from_file.default"),
        lambda d: find(d, "conv2d").update(target="os.system"),
        lambda d: find(d, "conv2d").update(target="aten.__class__.default"),
        lambda d: find(d, "conv2d").update(op="call_method"),
        lambda d: find(d, "conv2d").update(name="import"),
        lambda d: find(d, "conv2d").update(name=INJECTION),
        lambda d: find(d, "conv2d").update(kwargs={INJECTION: 1}),
        lambda d: find(d, "conv2d").update(args=[{"node": "nowhere"}]),
        lambda d: find(d, "conv2d").update(args=[{"dtype": "nn"}]),
        lambda d: find(d, "conv2d").update(args=[{"exec": "1"}]),
        lambda d: find(d, "conv2d").update(dtype="load", shape=[]),
        lambda d: next(n for n in d["nodes"] if n["op"] == "get_attr").update(target="missing.weight"),
        lambda d: next(n for n in d["nodes"] if n["op"] == "get_attr").update(target=INJECTION),
        lambda d: next(n for n in d["nodes"] if n["op"] == "placeholder").update(target=INJECTION),
    ],
)
def test_damaged_and_hostile_files_are_refused(change: Any) -> None:
    with pytest.raises(ArtifactError):
        from_json(damaged(change), captured("conv2d").tensors() | {INJECTION: torch.ones(1)})


def test_no_graph_at_all() -> None:
    with pytest.raises(ArtifactError, match="version list"):
        from_json([], {})  # type: ignore[arg-type]
