"""Where a Quark configuration puts quantizers on a torch model: as Quark does in eager mode, but never twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quark_documents import CHANNEL, GROUP, INT8, config_of, document, layer
from torch import Tensor, nn
from torch.nn import functional

from quantwright.api import decide
from quantwright.config.config import QuantConfig
from quantwright.config.load import load_config, write_config
from quantwright.plan.plan import Plan

EXACT = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
ALL = document(global_quant_config=layer(input_tensors=INT8, output_tensors=INT8, weight=CHANNEL, bias=INT8))


class Block(nn.Module):
    """Returns a residual block whose sum, pooling and activations Quark leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.line = nn.Conv1d(4, 4, 1)
        self.fc = nn.Linear(4, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x))) + x
        x = self.up(self.conv2(x))
        x = self.line(x.flatten(2)).mean(-1)
        return functional.linear(self.head(self.fc(x)), torch.ones(2, 2))


def plan_of(value: dict[str, Any], model: nn.Module | None = None, *shape: int) -> Plan:
    example = torch.randn(*(shape or (2, 4, 6, 6)))
    return decide((model or Block()).eval(), config_of(value), example).plan


def points(plan: Plan) -> set[str]:
    return {decision.point.name for decision in plan.quantized()}


def expected(model: nn.Module) -> set[str]:
    """Returns what Quark gives every module it replaces: weight, bias, output; its inputs come with the graph."""
    found = set()
    for name, module in model.named_modules():
        if type(module) in EXACT:
            found |= {f"{name}.weight", f"{name}:output", *([f"{name}.bias"] if module.bias is not None else [])}
    return found


def test_exactly_the_modules_that_quark_replaces() -> None:
    """4: type(m) is Conv2d, ConvTranspose2d or Linear; no Conv1d, no functions, no additions, norms or pools."""
    model = Block()
    inputs = {"x:input", "add:output", "mean:output"}  # of conv1, conv2 and fc
    assert points(plan_of(ALL, model)) == expected(model) | inputs


def test_neither_subclasses_nor_the_projections_of_torchs_own_attention() -> None:
    class Mine(nn.Linear):
        """Returns a linear layer of another class."""

    class Attention(nn.Module):
        """Returns attention and two layers."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.MultiheadAttention(8, 2, batch_first=True)
            self.b, self.c = Mine(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x, x, x, need_weights=False)[0]))

    plan = plan_of(document(global_quant_config=layer(weight=CHANNEL)), Attention(), 2, 3, 8)
    assert points(plan) == {"c.weight"}


ROUND_TRIPS = {
    "all": ALL,
    "weights": document(global_quant_config=layer(weight=CHANNEL)),
    "layers": document(
        exclude=["head"],
        layer_quant_config={"fc": layer(weight=GROUP), "*c*": layer(weight={**INT8, "dtype": "int4"})},
        layer_type_quant_config={"Linear": layer(weight={**INT8, "dtype": "int16"}, input_tensors=INT8)},
    ),
    "replacing": document(inherit_none=False, layer_type_quant_config={"Linear": layer(weight=CHANNEL)}),
    "powers of two": document(
        global_quant_config=layer(output_tensors={**INT8, "observer_cls": "PerTensorPowOf2MinMaxObserver"}, weight=INT8)
    ),
    "graph mode": {**ALL, "quant_mode": "fx_graph_mode"},
}


@pytest.mark.parametrize("dialect", ["quark", "native"])
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_written_and_read_again_the_plan_is_the_same(name: str, dialect: str) -> None:
    def decided(config: QuantConfig) -> list[Any]:
        plan = decide(Block().eval(), config, torch.randn(2, 4, 6, 6)).plan
        return [(d.point.name, d.point.role, d.spec, d.relation) for d in plan.decisions]

    config = config_of(ROUND_TRIPS[name])
    text, lost = write_config(config, dialect)
    assert not lost
    assert decided(load_config(text)) == decided(config)


def test_a_value_between_two_modules_is_quantized_once() -> None:
    """Deliberate: Quark puts the output quantizer of conv2 and the input quantizer of up behind each other."""
    plan = plan_of(ALL)
    assert not {name for name in points(plan) if name.startswith("up:input")}
    other = {**INT8, "dtype": "int4"}
    plan = plan_of({**ALL, "layer_quant_config": {"up": layer(input_tensors=other)}})
    (edge,) = [d for d in plan.quantized() if d.point.name == "up:input"]
    assert edge.spec is not None and edge.spec.format == "int4" and edge.point.consumers == ("conv_transpose2d",)


def test_without_output_quantizers_every_module_still_has_its_input() -> None:
    plan = plan_of(document(global_quant_config=layer(input_tensors=INT8, weight=CHANNEL)))
    assert {name for name in points(plan) if "weight" not in name} == {
        "x:input", "add:output", "up:input", "mean:output", "head:input",
    }  # fmt: skip


def test_weights_alone() -> None:
    plan = plan_of(document(global_quant_config=layer(weight=CHANNEL)))
    assert points(plan) == {name for name in expected(Block()) if name.endswith(".weight")}


def test_a_layer_without_bias_does_not_switch_off_the_others() -> None:
    """1.4, a defect of the tool: the first bias-less convolution does. conv1 has none here, and comes first."""
    assert {"conv2.bias", "up.bias", "fc.bias", "head.bias"} <= points(plan_of(ALL))


def test_priority_on_a_model() -> None:
    value = document(
        exclude=["head"],
        layer_quant_config={
            "fc": layer(weight={**GROUP, "group_size": 4}),
            "*c*": layer(weight={**INT8, "dtype": "int4"}),
        },
        layer_type_quant_config={"Linear": layer(weight={**INT8, "dtype": "int16"}), "Conv2d": layer(weight=INT8)},
    )
    plan = plan_of(value)
    found = {d.point.name: str(d.spec.format) + " " + str(d.spec.granularity) for d in plan.quantized() if d.spec}
    assert found["fc.weight"] == "int4 per_group(axis 1, group_size 4)", "the exact name"
    assert found["conv1.weight"] == "int4 per_tensor", "the pattern"
    assert found["up.weight"] == "int8 per_tensor", "the global entry"
    assert not {name for name in found if name.startswith("head")}, "excluded"


def test_null_inherits_on_a_model() -> None:
    value = document(layer_type_quant_config={"Linear": layer(weight=CHANNEL)})
    plan = plan_of(value)
    assert "mean:output" in points(plan), "the input of fc, by the global entry"
    assert "mean:output" not in points(plan_of({**value, "inherit_none": False}))


def test_a_pattern_is_about_modules_and_not_what_is_inside_or_how_nodes_are_called() -> None:
    """1.4: no implied children; and ``*conv*`` is no word for a module ``up`` with a transposed convolution in it."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    plan = plan_of(document(exclude=["[0]"]), model, 2, 4)
    assert {name for name in points(plan) if name.endswith("weight")} == {"0.0.weight", "0.1.weight", "1.weight"}
    assert plan.warnings
    assert "up.weight" in points(plan_of(document(exclude=["*conv*"])))
    assert "up.weight" not in points(plan_of(document(exclude=["u[pq]"])))


def test_the_plain_name_of_a_container_covers_what_is_inside() -> None:
    """Deliberate: in Quark it does nothing (1.4)."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))
    plan = plan_of(document(exclude=["0"]), model, 2, 4)
    assert {name for name in points(plan) if name.endswith("weight")} == {"1.weight"}


def test_what_matches_nothing_is_a_warning() -> None:
    plan = plan_of(document(exclude=["lm_head"], layer_quant_config={"a.*": layer(weight=INT8)}))
    assert sum("lm_head" in text or "a.*" in text for text in plan.warnings) == 2


def test_an_embedding_on_demand() -> None:
    class Words(nn.Module):
        """Returns an embedding and a layer."""

        def __init__(self) -> None:
            super().__init__()
            self.words, self.fc = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.words(x))

    def points_of(**keys: Any) -> set[str]:
        value = document(global_quant_config=layer(weight=CHANNEL), **keys)
        return points(decide(Words().eval(), config_of(value), torch.tensor([[1, 2]])).plan)

    assert points_of() == {"fc.weight"}
    entry = {"Embedding": layer(weight=CHANNEL)}
    assert points_of(layer_type_quant_config=entry) == {"fc.weight", "words.weight"}
    assert points_of(layer_quant_config={"words": layer(weight=CHANNEL)}) == {"fc.weight", "words.weight"}


def test_softmax() -> None:
    class Attention(nn.Module):
        """Returns a softmax between two layers."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.softmax(self.a(x), -1))

    value = document(global_quant_config=layer(weight=CHANNEL), softmax_quant_spec=INT8)
    assert points(plan_of(value, Attention(), 2, 4)) == {"a.weight", "b.weight", "softmax:output"}


def test_graph_mode_folds_and_quantizes_between_operators() -> None:
    value = {**ALL, "quant_mode": "fx_graph_mode"}
    value["global_quant_config"] = layer(
        input_tensors=INT8, output_tensors=INT8, weight=INT8, bias={**INT8, "dtype": "int32"}
    )
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    )
    plan = plan_of(value, model)
    named = points(plan)
    assert not {name for name in named if name.startswith("0:")}, "fused with the activation behind it"
    biases = [d for d in plan.quantized() if d.point.role == "bias"]
    assert len(biases) == 2 and all(d.spec is not None and d.spec.scale == "derived" for d in biases)
