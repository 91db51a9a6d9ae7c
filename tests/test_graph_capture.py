"""Capture: the graph computes what the model does, for every kind of model, and leaves the model alone."""

from __future__ import annotations

from typing import Any

import graph_models
import pytest
import torch
import torch.nn.functional as F
from conftest import shared
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import CaptureError, DataError, ModelError, QuantwrightError
from quantwright.graph.build import build
from quantwright.graph.capture import capture, capture_archive
from quantwright.graph.graph import Graph
from quantwright.graph.origins import ModuleNames

CACHE: dict[str, Graph] = {}


def captured(name: str) -> Graph:
    """Returns the graph of a zoo model, captured once."""
    if name not in CACHE:
        model, args = graph_models.build(name)
        CACHE[name] = capture(model, Batch(args=args))
    return CACHE[name]


def clones(tree: Any) -> Any:
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, tree)


def bigger(tree: Any) -> Any:
    return pytree.tree_map(lambda v: torch.cat([v, v, v[:1]]) if isinstance(v, Tensor) else v, tree)


@torch.no_grad()
def assert_same(model: nn.Module, graph: Graph, args: Any) -> None:
    want, got = model(*clones(args)), graph(*clones(args))
    assert pytree.tree_structure(want) == pytree.tree_structure(got)
    for a, b in zip(pytree.tree_leaves(want), pytree.tree_leaves(got), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_computes_the_same_at_another_batch_size(name: str) -> None:
    model, args = graph_models.build(name)
    graph = captured(name)
    assert_same(model, graph, args)
    assert_same(model, graph, bigger(args))
    assert all(spec.shape[0] == -1 for spec in graph.inputs if spec.dtype is not None)


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_kinds(name: str) -> None:
    found = {node.kind for node in captured(name).facts().nodes}
    assert graph_models.ZOO[name][2] <= found
    if name not in ("lstm", "gru", "rnn", "slice_write"):
        assert "other" not in found


@pytest.mark.parametrize("name", graph_models.ZOO)
def test_only_functional_operators_are_left(name: str) -> None:
    for node in captured(name).module.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable
            assert "dropout" not in str(node.target)
        assert node.op != "call_module"
        assert node.users or node.op in ("output", "placeholder")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet20", (1, 3, 32, 32)), ("resnet8", (1, 3, 32, 32)), ("mobilenet", (1, 3, 64, 64)),
     ("squeezenet", (1, 3, 96, 96)), ("smallcnn", (1, 1, 28, 28)), ("gpt", None)],
)  # fmt: skip
def test_trained_models(dev_models: Any, name: str, shape: tuple[int, ...] | None) -> None:
    shared("data", "weights")
    model = getattr(dev_models, name)()
    x = torch.randn(shape) if shape else torch.randint(0, 200, (1, 16))
    graph = capture(model, x)
    assert_same(model, graph, (x,))
    assert_same(model, graph, (torch.cat([x] * 3),))
    known = {*model.state_dict(), *dict(model.named_buffers())}
    assert all(tensor in known or tensor.startswith("constants.") for tensor in graph.tensors())


def test_model_is_left_alone_and_shares_nothing() -> None:
    model, args = graph_models.build("in_place")
    model.train()
    model.bn.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = args[0].clone()
    graph = capture(model, example)
    assert model.training and not model.bn.training and model.conv.training
    assert torch.equal(example, args[0])
    with torch.no_grad():
        for value in graph.tensors().values():
            value.zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_gradients_reach_the_parameters() -> None:
    graph = captured("conv2d").copy()
    graph(graph_models.IMAGE).sum().backward()
    assert graph.parameter("0.weight").grad is not None


def test_batch_of_one_is_still_dynamic() -> None:
    graph = capture(nn.Linear(4, 3), torch.randn(1, 4))
    assert graph.inputs[0].shape == (-1, 4)
    assert graph(torch.randn(7, 4)).shape == (7, 3)


def test_fixed_batch_is_noted_and_checked() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 4) * 2

    graph = capture(Fixed(), torch.randn(2, 4))
    assert graph.inputs[0].shape == (2, 4)
    assert "batch size is fixed at 2" in graph.notes[0]
    with pytest.raises(DataError, match="exactly 2"):
        graph(torch.randn(3, 4))


def test_python_loop_over_the_batch_is_not_taken_for_dynamic() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for index in range(x.shape[0]):
                x = x + index
            return x

    graph = capture(Loop(), torch.randn(2, 4))
    assert graph.inputs[0].shape == (2, 4)


def test_tied_weights_are_one_parameter() -> None:
    graph = captured("tied")
    assert graph.aliases == {"head.weight": "embed.weight"}
    assert graph.parameter("head.weight") is graph.parameter("embed.weight")
    assert "head.weight" not in graph.tensors()


def test_reused_module_reads_one_parameter_by_its_first_name() -> None:
    graph = captured("reused")
    nodes = [n for n in graph.facts().nodes if n.kind == "conv2d"]
    assert [n.weight.name for n in nodes if n.weight] == ["first.weight"] * 2
    assert [n.origins[0].module_path for n in nodes] == ["first", "first"]
    assert nodes[0].origins[0].aliases == ("again",)
    assert {"first", "again", "relu"} <= {path for path, _ in graph.module_paths}


def test_computed_weights_become_parameters() -> None:
    model, _ = graph_models.build("standardized")
    graph = captured("standardized")
    w = model[0].weight.detach()
    want = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    torch.testing.assert_close(graph.parameter("0.weight").detach(), want)
    assert isinstance(graph.parameter("0.weight"), nn.Parameter)
    assert any("0.weight is computed" in note for note in graph.notes)
    assert not any("parametrizations" in name for name in captured("weight_norm").tensors())


def test_counter_is_noted_and_float_state_is_refused() -> None:
    assert any("'calls'" in note for note in captured("counter").notes)

    class Running(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("state", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.state += x.mean(0)
            return x + self.state

    with pytest.raises(CaptureError, match="changes its own tensor 'state'"):
        capture(Running(), torch.randn(2, 4))


def test_optional_and_keyword_inputs() -> None:
    torch.manual_seed(0)
    model = graph_models.Optional_().eval()
    x, bias = torch.randn(2, 4), torch.randn(2, 4)
    graph = capture(model, Batch(args=(x, None), kwargs={"bias": bias}))
    torch.testing.assert_close(graph(x, None, bias=bias), model(x, bias=bias))
    torch.testing.assert_close(graph(bias=bias, mask=None, x=x), model(x, bias=bias))
    with pytest.raises(DataError, match="captured again|capture the model again"):
        graph(x, torch.ones(2, 4), bias=bias)
    with pytest.raises(DataError, match="inputs missing: bias"):
        graph(x, None)
    with pytest.raises(DataError, match="did you mean 'bias'"):
        graph(x, None, bais=bias)
    with pytest.raises(DataError, match="given twice"):
        graph(x, None, x=x, bias=bias)
    with pytest.raises(DataError, match="positional"):
        graph(x, None, bias, bias)


def test_dict_inputs_in_any_key_order() -> None:
    model, (batch, *_) = graph_models.build("dict")
    graph = captured("dict")
    swapped = {"right": batch["right"], "left": batch["left"]}
    torch.testing.assert_close(graph(swapped)["sum"], model(batch)["sum"])
    with pytest.raises(DataError, match="nested"):
        graph({"left": batch["left"]})
    with pytest.raises(DataError, match="disagree: 2 and 3"):
        graph({"left": batch["left"], "right": torch.randn(3, 5)})


@pytest.mark.parametrize(
    ("bad", "message"),
    [(torch.randn(2, 4, 8), "shape"), (torch.randn(2, 3, 8, 8), "float32 tensor of shape \\[N, 4, 8, 8\\]"),
     (torch.randn(2, 4, 8, 8).double(), "x.to\\(torch.float32\\)"), ([1, 2], "nested|is a list"), (None, "NoneType"),
     (3.0, "is a float")],
)  # fmt: skip
def test_wrong_inputs_are_refused(bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        captured("conv2d")(bad)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # THE LINE
            return x
        return -x


def test_data_dependent_control_flow_names_file_and_line(capfd: pytest.CaptureFixture[str]) -> None:
    line = next(i for i, text in enumerate(open(__file__), 1) if "# THE LINE" in text)
    with pytest.raises(CaptureError) as error:
        capture(Branch(), torch.randn(2, 4))
    assert error.value.where == f"{__file__}:{line}"
    assert "depends on the values of a tensor" in str(error.value)
    assert "torch.where" in str(error.value.fix)
    assert capfd.readouterr().err == ""


def always_random(x: Tensor) -> Tensor:
    return F.dropout(x, training=True)


def control_flow(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (x,))


def mixed(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ x.t()).float()


@pytest.mark.parametrize(("body", "message"), [(always_random, "deterministic"), (control_flow, "graphs of its own"),
                                               (mixed, "autocast")])  # fmt: skip
def test_what_cannot_be_captured(body: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(graph_models.function(body)(), torch.randn(2, 4))


def test_autocast_that_is_switched_off_is_no_wrapper() -> None:
    def kept_wide(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x @ x.t()

    graph = capture(graph_models.function(kept_wide)(), torch.randn(2, 4))
    assert [node.kind for node in graph.facts().nodes].count("matmul") == 1


def test_a_folded_table_may_be_called_like_a_method_of_a_module() -> None:
    def masked(x: Tensor) -> Tensor:
        return x + torch.ones(4, 4, dtype=torch.bool).triu().to(torch.float32).expand(len(x), -1, -1)

    names = capture(graph_models.function(masked)(), torch.randn(2, 4, 4)).tensors()
    assert any(name.startswith("constants.to") for name in names), names


def test_bad_examples_and_bad_models() -> None:
    with pytest.raises(CaptureError, match=r"fails on the example(.|\n)*tried float32\[2, 5\]"):
        capture(nn.Linear(4, 3), torch.randn(2, 5))
    with pytest.raises(DataError, match="no tensor"):
        capture(nn.Linear(4, 3), ())
    with pytest.raises(CaptureError, match="no model"):
        capture(lambda x: x, torch.randn(2, 5))  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="TorchScript"):
        capture(torch.jit.trace(nn.Linear(4, 3), torch.randn(2, 4)), torch.randn(2, 4))


def test_wrappers_are_taken_off() -> None:
    graph = capture(nn.DataParallel(nn.Linear(4, 3)), torch.randn(2, 4))
    assert graph.name == "Linear" and set(graph.tensors()) == {"weight", "bias"}
    assert "DataParallel" in graph.notes[0]


def test_archive(tmp_path: Any) -> None:
    model, args = graph_models.build("in_place")
    program = torch.export.export(model, args, dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, tmp_path / "model.pt2")
    graph = capture_archive(tmp_path / "model.pt2")
    assert graph.name == "InPlace" and graph.inputs[0].shape[0] == -1
    assert_same(model, graph, args)
    conv = next(n for n in graph.facts().nodes if n.kind == "conv2d")
    assert conv.origins[0].module_path == "conv" and conv.origins[0].module_type.endswith("Conv2d")
    data = (tmp_path / "model.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        capture_archive(tmp_path / "cut.pt2")
    with pytest.raises(ModelError, match="no such file"):
        capture_archive(tmp_path / "none.pt2")


def test_taps_see_and_replace_values() -> None:
    graph = captured("conv2d")
    conv = next(n.name for n in graph.facts().nodes if n.kind == "conv2d")
    seen: list[Tensor] = []
    output = graph.run((graph_models.IMAGE,), None, {conv: seen.append})
    torch.testing.assert_close(output, graph(graph_models.IMAGE))
    torch.testing.assert_close(seen[0].clamp(0, 6), output)
    replaced = graph.run((graph_models.IMAGE,), {}, {conv: torch.ones_like})
    assert torch.equal(replaced, torch.ones_like(output))
    with pytest.raises(QuantwrightError, match="no node is called nowhere"):
        graph.run((graph_models.IMAGE,), {}, {"nowhere": seen.append})


def test_run_keeps_the_structure_of_outputs() -> None:
    model, args = graph_models.build("dict")
    want, got = model(*args), captured("dict").run(args, None, {})
    assert pytree.tree_structure(want) == pytree.tree_structure(got)


def test_check_finds_a_changed_parameter() -> None:
    model, args = graph_models.build("linear")
    graph = captured("linear").copy()
    reference = model(*args).detach()
    assert graph.check(args, {}, reference) < 1e-6
    graph.set_parameter("0.bias", graph.parameter("0.bias") + 0.5)
    with pytest.raises(CaptureError, match="differs"):
        graph.check(args, {}, reference)


@pytest.mark.parametrize("name", ["in_place", "reused", "tied", "dict"])
def test_strict_and_non_strict_export_give_the_same_facts(name: str) -> None:
    model, args = graph_models.build(name)
    graphs = []
    for strict in (False, True):
        program = torch.export.export(model, args, strict=strict)
        graphs.append(build(program, name, ModuleNames.of(model), model))
    paths = lambda n: [(o.module_path, o.fx_name) for o in n.origins]  # noqa: E731
    found = [[(n.kind, n.weight, paths(n)) for n in g.facts().nodes] for g in graphs]
    assert found[0] == found[1]
    assert graphs[0].tensors().keys() == graphs[1].tensors().keys()
