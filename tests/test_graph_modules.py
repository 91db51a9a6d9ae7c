"""capture="modules" sees what the graph sees, module by module, and says what it does not see."""

from __future__ import annotations

from typing import Any

import graph_models
import pytest
import torch
from torch import Tensor, nn

from quantwright.config import kinds
from quantwright.data import Batch
from quantwright.errors import CaptureError, DataError
from quantwright.graph.capture import capture
from quantwright.graph.modules import Modules, capture_modules
from quantwright.plan.facts import NodeFacts


def modules_of(model: nn.Module, *args: Any, **kwargs: Any) -> Modules:
    return capture_modules(model, Batch(args=args, kwargs=kwargs))


def node_of(found: Modules, path: str) -> NodeFacts:
    site = next(site for site in found.sites if site.path == path)
    return found.facts.node(site.node)


LAYERED = {"conv1d": 2, "conv3d": 2, "grouped": 2, "depthwise": 2, "linear": 2, "transformer": 4, "pixel_shuffle": 3,
           "pools": 5, "activations": 13, "dict": 2, "counter": 1, "in_place": 2, "tied": 3}  # fmt: skip


@pytest.mark.parametrize("name", LAYERED)
def test_modules_have_the_kinds_parameters_and_shapes_that_the_graph_gives_them(name: str) -> None:
    model, args = graph_models.build(name)
    found = modules_of(model, *args)
    graph = capture(model, args).facts()
    compared = 0
    for site in found.sites:
        mine = found.facts.node(site.node)
        theirs = [n for n in graph.nodes if n.origins and n.origins[0].module_path == site.path and site.path]
        theirs = [n for n in theirs if n.kind not in (*kinds.MOVEMENT, "pad", "constant") or n.kind == mine.kind]
        if len(theirs) != 1:
            continue
        compared += 1
        assert (mine.kind, mine.weight, mine.bias) == (theirs[0].kind, theirs[0].weight, theirs[0].bias)
        assert mine.shape == theirs[0].shape
        assert mine.keeps_grid == theirs[0].keeps_grid
    assert compared == LAYERED[name]


class Mixed(nn.Module):
    """Functions between modules, a reused layer, a reused activation, a module nobody calls, a compound module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU()
        self.twice, self.idle, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), graph_models.HandRMSNorm(6)

    def forward(self, x: Tensor, *, gate: Tensor | None = None) -> Tensor:
        y = self.act(self.a(x)) + x
        z = self.act(self.twice(self.twice(y).flatten(1)))
        return self.b(self.norm(z) if gate is None else self.norm(z) * gate)


def test_functions_reused_and_unreached_modules_are_told_apart() -> None:
    found = modules_of(Mixed(), torch.randn(3, 6))
    by_name = found.facts.by_name
    assert [site.path for site in found.sites] == ["a", "twice", "norm", "b"]
    assert by_name["add"].kind == kinds.UNSEEN
    assert by_name["add"].origins[0].line.startswith("test_graph_modules.py:")
    assert [by_name[n].kind for n in ("act", "act_1")] == [kinds.UNSEEN] * 2, "called twice: which is which may vary"
    assert by_name["flatten"].inputs == ("twice",)
    assert by_name["flatten"].keeps_grid
    assert by_name["twice"].inputs == ("twice_input",)
    assert set(by_name["twice_input"].inputs) == {"add", "flatten"}
    assert node_of(found, "norm").kind == "norm_part"
    notes = " ".join(found.notes)
    for words in ("add (1)", "'twice' is called 2 times", "did not reach idle"):
        assert words in notes
    assert by_name["idle"].weight is not None
    assert by_name["output"].inputs == ("b",)
    assert by_name["add"].users == ("twice_input",)


def test_inputs_have_the_names_of_forward_and_of_what_is_nested_in_them() -> None:
    found = modules_of(Mixed(), torch.randn(3, 6), gate=torch.ones(3, 6))
    assert found.facts.inputs == ("x", "gate")
    assert found.input_names == ("x", "gate")
    found = modules_of(*(lambda pair: (pair[0], *pair[1]))(graph_models.build("dict")))
    assert found.facts.inputs == ("batch_left", "batch_right")
    with pytest.raises(DataError, match="does not fit forward"):
        modules_of(Mixed(), torch.randn(3, 6), mask=1)


def test_the_users_model_is_neither_changed_nor_shared() -> None:
    model = graph_models.build("tied")[0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = modules_of(model, torch.arange(6).reshape(2, 3))
    own: Any = found.model
    assert type(own) is type(model)
    assert own.head.weight is own.embed.weight, "tied parameters stay one"
    assert own.head.weight is not model.head.weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (model, own) for m in net.modules())


def test_a_tied_weight_is_one_parameter_and_aliases_are_known() -> None:
    found = modules_of(*(lambda pair: (pair[0], *pair[1]))(graph_models.build("tied")))
    weights = [node_of(found, path).weight for path in ("embed", "head")]
    assert {weight.name for weight in weights if weight is not None} == {"embed.weight"}
    model, args = graph_models.build("reused")
    assert node_of(modules_of(model, *args), "first").origins[0].aliases == ("again",)


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such size")


class Uncopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.kept = self.fc.weight * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.kept.sum()


def test_what_cannot_be_captured_is_refused_with_the_place_and_the_way_on() -> None:
    with pytest.raises(CaptureError, match=r"test_graph_modules.py:\d+: .*no such size"):
        modules_of(Wrong(), torch.ones(1))
    with pytest.raises(CaptureError, match=r"cannot be copied(.|\n)*deepcopy"):
        modules_of(Uncopied(), torch.ones(1, 2))
    with pytest.raises(CaptureError, match="no module of Functional"):
        modules_of(graph_models.function(lambda x: x + 1 - x)(), torch.ones(1))


def test_a_transposed_linear_layer_and_a_padded_convolution_are_one_operation() -> None:
    model, args = graph_models.build("addmm")
    assert modules_of(nn.Sequential(model, nn.Linear(6, 2)), *args).facts.node("_0").kind == kinds.UNSEEN, (
        "two products"
    )
    transformers = pytest.importorskip("transformers.pytorch_utils", reason="needs the extra zoo")
    found = modules_of(nn.Sequential(transformers.Conv1D(6, 4)), *args)
    weight = node_of(found, "0").weight
    assert weight is not None
    assert (weight.shape, weight.channel_axis, weight.input_axis) == ((4, 6), 1, 0)
    circular = modules_of(nn.Sequential(nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")), torch.ones(1, 4, 5, 5))
    assert node_of(circular, "0").kind == "conv2d"
