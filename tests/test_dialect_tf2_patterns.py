"""The document's patterns of vai_q_tensorflow2: what they become, and which layers of real networks they find."""

from __future__ import annotations

from typing import Any

import keras_models
import pytest
import torch
from conftest import golden

from quantwright.api import decide
from quantwright.config.config import Match, Pattern, QuantConfig
from quantwright.config.document import Document, read_document
from quantwright.config.spec import QuantSpec
from quantwright.dialects import native
from quantwright.dialects.vai_q_tensorflow2 import plugin
from quantwright.errors import ConfigError
from quantwright.plan.plan import Plan


def quantizer(bits: int = 8, kind: str = "Pof2SQuantizer", name: str = "") -> dict[str, Any]:
    config: dict[str, Any] = {"type": kind, "params": {"bit_width": bits, "method": 1, "round_mode": 0}}
    return {"name": name, **config} if name else config


def target(kind: str, bits: int = 8, name: str = "", shared: str = "") -> dict[str, Any]:
    names = {"weight": "kernel", "bias": "bias", "output": "output"}
    how = {"shared_quantizer": shared} if shared else {"quantizer_config": quantizer(bits, name=name)}
    return {"target_name": names[kind], "target_type": kind, **how}


def read(*entries: dict[str, Any], **keys: Any) -> QuantConfig:
    return plugin.read(Document(value={"layer_quantize_config": list(entries), **keys}))[0]


def codes(*entries: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*entries)
    assert all(problem.fix and problem.path for problem in caught.value.problems)
    return [problem.code for problem in caught.value.problems]


def plan_of(network: str, *entries: dict[str, Any], **keys: Any) -> Plan:
    order = golden("vai_q_tensorflow2.json")["end_to_end"]["recipe"]["layer_order"][network]
    config = read(*entries, **{"include_cle": False, **keys})
    return decide(keras_models.build(network, order), config, torch.zeros(2, *keras_models.SHAPES[network][::-1])).plan


def formats(plan: Plan) -> dict[str, str | None]:
    return {d.point.name: None if d.spec is None else d.spec.format for d in plan.decisions}


# -- rules --------------------------------------------------------------------------------------------------------
def test_one_layer_by_type_and_by_name() -> None:
    config = read(
        {"layer_type": "Conv2D|Dense", "quant_config": [target("weight", 4)]},
        {"layer_name": "block1/.*_conv", "quant_config": [target("weight", 6)]},
        {"layer_name": "fc", "quant_config": []},
    )
    first, second, third = config.rules
    assert first.match == Match(function="kind:conv2d|linear")
    assert first.weight is not None and first.weight.format == "int4"
    assert first.bias == QuantSpec(format="float32"), "a parameter that is not listed is not quantized"
    assert first.output is None, "an output that is not listed keeps its quantizer"
    assert second.match == Match(name="re:block1/.*_conv") and second.bias is None
    assert third.match == Match(name="fc") and third.exclude


def test_nested_layers_become_rules_for_every_layer_with_a_quant_config() -> None:
    entry = {
        "pattern_name": "conv_relu",
        "layer_type": "ReLU|Activation",
        "layer_params": {"max_value": 6, "padding": "same|valid"},
        "layer_inputs": [
            {"layer_type": "Conv2D", "layer_params": {"kernel_size": [3, 3], "strides": 2},
             "quant_config": [target("weight", 4), target("bias", 16)]}
        ],
        "quant_config": [target("output", 6)],
    }  # fmt: skip
    inner, head = read(entry).rules
    pattern = head.match.pattern
    assert pattern is not None and head.match.at is None and inner.match.at == "0" and inner.match.pattern == pattern
    assert pattern.params == {"max_value": 6, "padding": "re:same|valid"}
    assert pattern.inputs == (Pattern(function="kind:conv2d", params={"kernel_size": [3, 3], "stride": 2}),)
    assert head.output is not None and head.output.format == "int6"
    assert inner.weight is not None and inner.weight.format == "int4"
    assert inner.output is None


def test_references_are_replaced_and_larger_patterns_come_later() -> None:
    large = {"pattern_name": "add", "layer_type": "Add", "layer_inputs": [{"pattern": "conv"}, {}],
             "quant_config": [target("output", 4)]}  # fmt: skip
    small = {"pattern_name": "conv", "layer_type": "Conv2D", "quant_config": [target("weight", 5)]}
    first, second = read(large, small).rules
    assert first.match == Match(function="kind:conv2d") and first.weight is not None
    assert second.match.pattern == Pattern(
        function="add", inputs=(Pattern(function="kind:conv2d"), Pattern())
    )  # fmt: skip
    assert second.weight is None, "the targets of a reference are those of its own entry"


def test_types_of_keras_and_of_the_users_own_are_told_apart() -> None:
    entry = {"layer_type": "ReLU|my.Swish", "layer_inputs": [{"layer_type": "my.Conv"}],
             "quant_config": [target("output")]}  # fmt: skip
    rules = read(entry).rules
    heads = [(rule.match.pattern.function, rule.match.pattern.type) for rule in rules if rule.match.pattern]
    assert heads == [("relu|relu6|clamp|hardtanh", None), (None, "my.Swish|Swish")]


def test_a_shared_quantizer_is_one_grid_for_two_outputs() -> None:
    entry = {
        "layer_type": "Add",
        "layer_inputs": [{"layer_type": "Conv2D", "quant_config": [target("output", 8, name="q")]}, {}],
        "quant_config": [target("output", shared="q")],
    }
    inner, head = read(entry).rules
    assert head.share == "0" and head.output == inner.output
    weights = {
        "layer_type": "Conv2D",
        "quant_config": [target("weight", 4, name="q"), target("bias", shared="q")],
    }
    config = read(weights)
    assert config.rules[0].bias == config.rules[0].weight and config.rules[0].share is None
    assert "a bias gets a grid of its own" in "\n".join(config.notes)


@pytest.mark.parametrize(
    ("entries", "want"),
    [
        ([{"layer_type": "Conv2D", "layer_inputs": [{"pattern": "x"}], "quant_config": []}], ["tf2_pattern_reference"]),
        ([{"pattern_name": "a", "layer_type": "Add", "layer_inputs": [{"pattern": "b"}], "quant_config": []},
          {"pattern_name": "b", "layer_type": "Add", "layer_inputs": [{"pattern": "a"}], "quant_config": []}],
         ["tf2_pattern_cycle"] * 2),
        ([{"pattern_name": "a", "layer_type": "Add", "quant_config": []}] * 2, ["tf2_pattern_name"]),
        ([{"layer_name": "(", "quant_config": []}], ["tf2_layer_name"]),
        ([{"layer_name": "a"}], ["tf2_no_quant_config"]),
        ([{"layer_type": "Add", "quant_config": [target("output", shared="q")]}], ["tf2_shared"]),
        ([{"layer_type": "Add", "quant_config": [{"target_type": "output"}]}], ["tf2_shared"]),
        ([{"layer_type": "Add", "quant_config": [{"target_type": "outputs", "quantizer_config": quantizer()}]}],
         ["tf2_target"]),
        ([{"layer_type": "Add", "quant_config": [{"quantizer_config": quantizer()}]}], ["missing_key"]),
        ([{"layer_type": "Add", "quant_configs": [], "layer_name": "a"}], ["unknown_key", "tf2_no_quant_config"]),
        ([{"layer_type": "Conv 2D", "quant_config": []}], ["tf2_layer_type"]),
        ([{"layer_type": "Conv2D", "layer_params": {"a": {}}, "quant_config": []}], ["type"]),
    ],
)  # fmt: skip
def test_broken_patterns_are_refused(entries: list[dict[str, Any]], want: list[str]) -> None:
    assert codes(*entries) == want


def test_a_pattern_that_doubles_at_every_reference_ends() -> None:
    entries = [
        {
            "pattern_name": f"p{i}",
            "layer_type": "Add",
            "layer_inputs": [{"pattern": f"p{i + 1}"}] * 2,
            "quant_config": [],
        }
        for i in range(30)
    ]
    entries.append({"pattern_name": "p30", "layer_type": "Conv2D", "quant_config": []})
    assert set(codes(*entries)) == {"tf2_pattern_size"}


# -- networks -----------------------------------------------------------------------------------------------------
def test_conv2d_is_no_depthwise_convolution_on_a_network() -> None:
    found = formats(plan_of("A", {"layer_type": "Conv2D", "quant_config": [target("weight", 4), target("output", 8)]}))
    assert found["c1.weight"] == found["pw.weight"] == "int4" and found["dw.weight"] == "int8"
    assert found["pw.bias"] is None and found["dw.bias"] == "int8"


def test_a_residual_block_by_its_shape() -> None:
    entry = {
        "pattern_name": "residual",
        "layer_type": "Add",
        "layer_inputs": [{}, {"layer_type": "Activation", "layer_inputs": [
            {"layer_type": "Conv2D", "layer_params": {"kernel_size": 1}, "quant_config": [target("weight", 4)]}]}],
        "quant_config": [target("output", 5)],
    }  # fmt: skip
    found = formats(plan_of("A", entry))
    assert found["pw.weight"] == "int4" and found["c1.weight"] == "int8" and found["add:output"] == "int5"
    assert found["pw_relu:output"] == "int8"


def test_a_rule_for_a_class_the_strategy_leaves_float() -> None:
    entry = {"layer_type": "Softmax", "quant_config": [target("output", 7)]}
    assert formats(plan_of("A"))["sm:output"] is None
    assert formats(plan_of("A", entry))["sm:output"] == "int7"


def test_outputs_that_share_a_quantizer_share_a_grid() -> None:
    entry = {
        "layer_type": "Add",
        "layer_inputs": [{"layer_type": "AveragePooling2D"}, {"layer_type": "Activation", "quant_config": [
            target("output", 8, name="q")]}],
        "quant_config": [target("output", shared="q")],
    }  # fmt: skip
    plan = plan_of("B", {**entry, "layer_inputs": [{}, entry["layer_inputs"][1]]})
    add = next(decision for decision in plan.decisions if decision.point.name == "add:output")
    assert add.relation is not None and getattr(add.relation, "point", "") == "cs_swish/silu:output"


def test_an_excluded_layer_and_a_name() -> None:
    found = formats(plan_of("A", {"layer_name": "p.", "quant_config": []}, {"layer_name": "fc", "quant_config": []}))
    assert found["pw.weight"] is None and found["fc.weight"] is None and found["c1.weight"] == "int8"


@pytest.mark.parametrize("strategy", ["pof2s", "tqt", "fs", "fsx", "gpu"])
@pytest.mark.parametrize("network", ["A", "B", "C"])
def test_every_strategy_plans_every_network_without_a_warning(strategy: str, network: str) -> None:
    plan = plan_of(network, quantize_strategy=strategy)
    assert plan.warnings == () and any(decision.spec is not None for decision in plan.decisions)


# -- round trips --------------------------------------------------------------------------------------------------
def decisions(config: QuantConfig, network: str) -> dict[str, Any]:
    order = golden("vai_q_tensorflow2.json")["end_to_end"]["recipe"]["layer_order"][network]
    made = decide(keras_models.build(network, order), config, torch.zeros(2, *keras_models.SHAPES[network][::-1]))
    return {d.point.name: (d.spec, d.relation) for d in made.plan.decisions}


def softened(config: QuantConfig) -> QuantConfig:
    """Returns a config whose rules may match nothing: the networks do not have every layer that a rule is about."""
    rules = tuple(rule.model_copy(update={"if_unmatched": "warn"}) for rule in config.rules)
    return config.model_copy(update={"rules": rules})


ENTRIES: list[dict[str, Any]] = [
    {"layer_type": "Conv2D|Dense", "quant_config": [target("weight", 4), target("bias", 8)]},
    {"layer_name": "p.*", "quant_config": [target("weight", 6)]},
    {"layer_type": "Add", "layer_inputs": [{}, {"layer_type": "Activation", "quant_config": [target("output", 5)]}],
     "quant_config": [target("output", 4)]},
    {"layer_type": "MaxPooling2D"},
]  # fmt: skip


@pytest.mark.parametrize("network", ["A", "C"])
@pytest.mark.parametrize(
    "document",
    [
        *({"quantize_strategy": name} for name in ("pof2s", "tqt", "fs", "fsx", "gpu", "bfp")),
        {"weight_bit": 4, "activation_unsigned": True, "activation_method": 0},
        {"bias_bit": 16, "ignore_layers": ["c1"], "layer_config": {"c2": "int16", "pw": "int16"}},
        {"quantize_strategy": "fsx", "input_method": 3, "input_method_percentile": 99.0},
        {"quantize_strategy": "fsx", "convert_bn_to_dwconv": False},
        *({"layer_quantize_config": [entry]} for entry in ENTRIES),
        {"weight_bit": 6, "layer_quantize_config": ENTRIES[:1]},
    ],
)
def test_a_plan_survives_both_languages(document: dict[str, Any], network: str) -> None:
    config = plugin.read(Document(value=document))[0]
    config = softened(config)
    want = decisions(config, network)
    for dialect in (plugin, native.plugin):
        text, unmapped = dialect.write(config)
        back = softened(dialect.read(read_document(text))[0])
        losses = [item for item in unmapped if "patterns of its document" not in item.message]
        if not losses:
            assert decisions(back, network) == want, dialect.name
        assert len(losses) <= 1, losses
