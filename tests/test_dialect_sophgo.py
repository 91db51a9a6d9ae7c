"""sophgo-mq: the document's samples, layers by type and name, the example's YAML, problems, writing, damaged files."""

from __future__ import annotations

import copy
import json
from typing import Any

import mq_models
import pytest
import torch
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule
from quantwright.config.document import Document, read_document
from quantwright.config.load import choose_dialect, load_config, read_config, write_config
from quantwright.config.spec import FakeQuantSpec, Granularity, ObserverSpec, QuantSpec
from quantwright.dialects._mq_compare import complete
from quantwright.dialects._mq_words import CHIPS, SOPHGO_FAKE_QUANTS
from quantwright.dialects.sophgo import plugin
from quantwright.errors import ConfigError, Problem

MODES = {"chip": "SG2260", "quantmode": "weight_activation", "strategy": "CNN"}
ACTIVATION = {"mode": "activation", "bit": "8", "afakequantize": "LearnableFakeQuantize", "aobserver": "MinMaxObserver"}
WEIGHT = {"mode": "weight", "bit": "8", "wfakequantize": "FixedFakeQuantize", "wobserver": "MinMaxObserver"}
SCHEME = {"bit": 8, "symmetry": True, "per_channel": False, "pot_scale": False}


class ConvBnReLU2d_sophgo(nn.Module):
    """Stands for the tool's class of that name."""


class ConvReLU2d_sophgo(nn.Module):
    """Stands for the tool's class of that name."""


#: the samples of the tool's document
SEED: dict[str, Any] = {
    "quant_dict": MODES,
    "extra_qconfig_dict": {
        "w_observer": "MinMaxObserver",
        "a_observer": "EMAMinMaxObserver",
        "w_fakequantize": "E4M3FakeQuantize",
        "a_fakequantize": "E4M3FakeQuantize",
        "w_qscheme": SCHEME,
        "a_qscheme": SCHEME,
        "object_type": {ConvBnReLU2d_sophgo: ACTIVATION, ConvReLU2d_sophgo: WEIGHT},
        "module_name": {"layer1.conv1": ACTIVATION, "layer2.conv2": WEIGHT},
    },
    "extra_quantizer_dict": {
        "module_only_enable_observer": ["features.0.0.weight_fake_quant"],
        "exclude_module_name": ["layer3.conv3"],
        "exclude_function_type": [torch.nn.functional.sigmoid],
    },
}


def sophgo(
    qconfig: dict[str, Any] | None = None, quantizer: dict[str, Any] | None = None, **modes: Any
) -> dict[str, Any]:
    """Returns a document for BM1690."""
    document: dict[str, Any] = {"quant_dict": {**MODES, "chip": "BM1690", **modes}}
    document |= {"extra_qconfig_dict": qconfig} if qconfig is not None else {}
    return document | ({"extra_quantizer_dict": quantizer} if quantizer is not None else {})


def problems(document: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        plugin.read(Document(value=document))
    return list(caught.value.problems)


def test_the_samples_of_the_document() -> None:
    config = load_config(SEED)
    assert config.target == "sophgo_bm1690" and any("read as BM1690" in note for note in config.notes)
    assert sum("read as a number" in note for note in config.notes) == 4, "the document writes bit: '8'"
    weight, output = config.default.weight, config.default.output
    assert weight is not None and output is not None
    assert (weight.format, output.format, output.dynamic) == ("fp8_e4m3", "fp8_e4m3", True)
    bn_relu, relu, one, two, excluded, function, observed = config.rules
    assert str(bn_relu.match) == str(relu.match).replace("torch.nn.Conv2d", "torch.nn.Conv2d, function kind:conv2d")
    assert bn_relu.match.at == "0" and bn_relu.output is not None and relu.weight is not None
    assert (one.match, two.match) == (Match(name="layer1.conv1"), Match(name="layer2.conv2"))
    assert one.output is not None and one.weight is None and two.weight is not None and two.output is None
    assert one.output.format == two.weight.format == "int8"
    assert excluded.exclude and function.match.function == "torch.nn.functional.sigmoid"
    assert observed.match == Match(name="features.0.0") and observed.weight == QuantSpec(format="float32")


def test_the_key_that_stands_twice_in_the_document() -> None:
    """In Python the second ``extra_qconfig_dict`` replaces the first: its keys are the quantizer's."""
    slip = {"quant_dict": MODES, "extra_qconfig_dict": SEED["extra_quantizer_dict"]}
    config = load_config(slip)
    assert [rule.exclude for rule in config.rules] == [True, True, False]
    assert any("has that slip" in note for note in config.notes)
    both = {**slip, "extra_quantizer_dict": {"exclude_module_name": ["a"]}}
    assert [problem.code for problem in problems(read_document(both).value)] == ["duplicate_key"]
    wrapped = {"prepare_custom_config_dict": SEED}
    assert load_config(wrapped).rules == load_config(SEED).rules or load_config(wrapped).target == "sophgo_bm1690"


@pytest.mark.parametrize("chip", CHIPS)
def test_chips_and_strategies(chip: str) -> None:
    for strategy in ("CNN", "Transformer"):
        config = load_config(sophgo(chip=chip, strategy=strategy))
        suffix = "_transformer" if strategy == "Transformer" and chip != "Academic" else ""
        assert config.target == f"sophgo_{chip.lower()}{suffix}" and config.default == RoleSpecs()
        text, unmapped = write_config(config, "sophgo")
        assert not unmapped and load_config(text).target == config.target
    only = load_config(sophgo(chip=chip, strategy="Transformer", quantmode="weight_only"))
    assert only.default.output == only.default.input == only.default.bias == QuantSpec(format="float32")
    plan, facts = mq_models.planned("Nest", only)
    assert not mq_models.activations(plan, facts) and len(mq_models.weights(plan)) == 3
    assert not write_config(only, "sophgo")[1]


@pytest.mark.parametrize("name", SOPHGO_FAKE_QUANTS)
def test_fake_quantizers_and_their_formats(name: str) -> None:
    known = SOPHGO_FAKE_QUANTS[name]
    scheme = {"w_qscheme": SCHEME} if name == "TqtFakeQuantize" else {}  # 4: one scale per tensor only
    config = load_config(sophgo({"w_fakequantize": name, **scheme}, chip="Academic"))
    weight = config.default.weight
    assert weight is not None and weight.format == (known.format or "int8")
    if known.format not in ("float16", "bfloat16"):
        assert weight.fake_quant is not None and weight.fake_quant.name == known.name
    assert not write_config(config, "sophgo")[1]


def test_codebooks() -> None:
    config = load_config(sophgo({"w_fakequantize": "FP4FakeQuantize", "w_fakeq_params": {"data_type": "nf4"}}))
    assert config.default.weight is not None and config.default.weight.format == "nf4"
    wrong = sophgo({"w_fakequantize": "FP4FakeQuantize", "w_fakeq_params": {"data_type": "nf5"}})
    assert [problem.code for problem in problems(wrong)] == ["mq_codebook"]


def test_a_half_that_an_entry_does_not_name_keeps_the_global_settings() -> None:
    rules = load_config(sophgo({"module_name": {"layer1.2": {**WEIGHT, "bit": 4}}})).rules
    (rule,) = rules
    assert rule.output is None and rule.weight is not None
    assert rule.weight.granularity == Granularity() and rule.weight.observer == ObserverSpec(name="minmax")
    plan, facts = mq_models.planned("Nest", load_config(sophgo({"module_name": {"layer1.2": {**WEIGHT, "bit": 4}}})))
    formats = {name: d.spec.format for name, d in mq_models.weights(plan).items()}
    assert formats == {"layer1.0": "int8", "layer1.2": "int4", "head": "int8"}


def test_a_type_is_the_layer_as_the_tool_fuses_it() -> None:
    """Conv2d_sophgo is a convolution without ReLU, ConvReLU2d_sophgo one with it; layer1.0 of the network has one."""
    cases = {"Conv2d_sophgo": {"layer1.2", "head"}, "ConvReLU2d_sophgo": {"layer1.0"}, nn.Conv2d: {"layer1.2", "head"}}
    for key, four in cases.items():
        plan, _ = mq_models.planned("Nest", load_config(sophgo({"object_type": {key: {**WEIGHT, "bit": 4}}})))
        found = {name for name, d in mq_models.weights(plan).items() if d.spec.format == "int4"}
        assert found == four, key
    both = {"Conv2d_sophgo": {**WEIGHT, "bit": 4}, "ConvReLU2d_sophgo": {**WEIGHT, "bit": 2}}
    plan, _ = mq_models.planned("Nest", load_config(sophgo({"object_type": both})))
    assert {n: d.spec.format for n, d in mq_models.weights(plan).items()} == {
        "layer1.0": "int2", "layer1.2": "int4", "head": "int4",
    }  # fmt: skip


def test_lists_of_layers() -> None:
    lists = {"int4_op": ["layer1.2"], "int8_op": ["layer1.0"], "f16_op": ["head"]}
    plan, facts = mq_models.planned("Nest", load_config(sophgo(lists)))
    assert plan["layer1.2.weight"].spec is not None and plan["layer1.2.weight"].spec.format == "int4"
    assert plan["layer1.0.weight"].spec is not None and plan["layer1.0.weight"].spec.granularity == Granularity()
    assert plan["head.weight"].spec is not None and plan["head.weight"].spec.format == "float16"
    edges = [d for d in plan.decisions if d.point.consumers and d.spec is not None]
    assert [d.spec.format for d in edges if d.spec] == ["int4"] and edges[0].point.node.startswith("conv2d")


def test_only_observed() -> None:
    names = ["layer1.0.weight_fake_quant", "x_post_act_fake_quantizer", "layer1_0_post_act_fake_quantizer"]
    config = load_config(sophgo(quantizer={"module_only_enable_observer": names}))
    plan, facts = mq_models.planned("Nest", config)
    acts = {name.removesuffix("_post_act_fake_quantizer") for name in mq_models.activations(plan, facts)}
    assert acts == {"layer1_2", "head"} and set(mq_models.weights(plan)) == {"layer1.2", "head"}
    assert not write_config(config, "sophgo")[1]
    ignored = sophgo(quantizer={"module_only_enable_observer": names}, quantmode="weight_only", strategy="Transformer")
    assert any("weight_activation only" in note for note in load_config(ignored).notes)


def test_mixed_with_bfloat16() -> None:
    config, unmapped = read_config(sophgo(bf16_mix_prec=True))
    plan, facts = mq_models.planned("Ops", config)
    formats = {d.spec.format for d in mq_models.activations(plan, facts).values()}
    assert formats == {"int8", "bfloat16"} and [item.path for item in unmapped] == ["quant_dict.bf16_mix_prec"]
    assert all(d.spec.format == "int8" for d in mq_models.weights(plan).values())
    text, lost = write_config(config, "sophgo")
    assert not lost and json.loads(text)["quant_dict"]["bf16_mix_prec"] is True


def test_the_example_of_the_tool() -> None:
    path = shared("configs", "sophgo", "nlp_example_config-fp8.yaml")
    config, unmapped = read_config(path)
    assert (config.dialect, config.target) == ("sophgo", "sophgo_bm1690_transformer")
    weight = config.default.weight
    assert weight is not None and weight.format == "fp8_e5m2" and weight.granularity == Granularity()
    assert config.default.output == QuantSpec(format="float32"), "quantmode weight_only"
    assert {item.path for item in unmapped} >= {"data", "model", "train", "progress", "quant.calibrate"}
    assert any("Transformer" in note for note in config.notes)
    assert config.default_sources["weight.format"].line == 9


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ["missing_key"]),
        ({"quant_dict": {"chip": "BM1690"}}, ["missing_key", "missing_key"]),
        (sophgo(chip="BM1680"), ["sophgo_chip"]),
        (sophgo(strategy="cnn"), ["sophgo_strategy"]),
        (sophgo(quantmode="Foo"), ["sophgo_quantmode"]),
        (sophgo(quantmode="weight_only"), ["sophgo_weight_only"]),
        (sophgo({"a_qscheme": {"bit": 4}}), ["sophgo_bits"]),
        (sophgo({"a_qscheme": {"bit": 6}, "w_qscheme": {"bit": 2}}, chip="BM1688"), ["sophgo_bits", "sophgo_bits"]),
        (sophgo({"w_fakequantize": "NNIEFakeQuantize"}), ["sophgo_nnie"]),
        (sophgo({"object_type": {"Conv2d": {"bit": 8}}}), ["missing_key"]),
        (sophgo({"object_type": {"Conv2d": {"mode": "both"}}}), ["sophgo_mode"]),
        (sophgo({"module_name": {"a": {"mode": "weight", "bit": "eight"}}}), ["type"]),
        (sophgo({"module_name": {"a": 8}}), ["type"]),
        (sophgo({"int4_op": {"a": 1}}), ["type"]),
        (sophgo(quantizer={"module_only_enable_observer": ["features.0"]}), ["sophgo_quantizer"]),
        (sophgo({"modul_name": {}}), ["unknown_key"]),
        ({"quant": {"chip": "BM1690"}}, ["missing_key"]),
        (3, ["type"]),
    ],
)
def test_problems_come_all_at_once_with_a_fix(document: Any, expected: list[str]) -> None:
    found = problems(document)
    assert [problem.code for problem in found] == expected, found
    assert all(problem.fix or problem.allowed for problem in found)


def test_detection() -> None:
    assert choose_dialect(read_document(SEED))[0] == "sophgo"
    assert choose_dialect(Document(value={"extra_qconfig_dict": {"int4_op": []}, "quant_dict": {}}))[0] == "sophgo"
    assert plugin.detect(Document(value={"backend": "Tensorrt", "extra_qconfig_dict": {}})) is None
    assert plugin.detect(Document(value={"quant": 3})) is None
    for document in ({"extra_qconfig_dict": {"w_observer": "MSEObserver"}}, {"extra_quantizer_dict": {}}):
        with pytest.raises(ConfigError, match="mqbench or sophgo"):
            choose_dialect(Document(value=document))


def test_writing_says_what_is_lost() -> None:
    config = QuantConfig(
        target="generic",
        default=RoleSpecs(weight=QuantSpec(format="int4", granularity=Granularity(kind="per_group", group_size=32))),
        rules=(
            Rule(match=Match(type="torch.nn.Linear"), weight=QuantSpec(format="int8")),
            Rule(match=Match(name="re:head.*"), exclude=True),
            Rule(match=Match(name="head"), weight=QuantSpec(format="int4"), output=QuantSpec(format="int8")),
        ),
    )
    text, unmapped = write_config(config, "sophgo")
    paths = {item.path for item in unmapped}
    assert {"rules[1]", "rules[2]", "target", "default.weight.granularity"} <= paths
    assert json.loads(text)["extra_qconfig_dict"]["object_type"]["torch.nn.Linear"]["bit"] == 8
    assert load_config(text).dialect == "sophgo"


_NAMES = st.lists(st.sampled_from(["a", "b.c", "layer1.0"]), max_size=2, unique=True)
_ENTRIES = st.fixed_dictionaries(
    {"mode": st.sampled_from(["weight", "activation"]), "bit": st.sampled_from([8, 6])},
    optional={
        "wobserver": st.just("MSEObserver"),
        "aobserver": st.just("EMAMinMaxObserver"),
        "wperchannel": st.booleans(),
    },
)
_DOCUMENTS = st.builds(
    lambda chip, strategy, qconfig, quantizer: {
        "quant_dict": {"chip": chip, "strategy": strategy, "quantmode": "weight_activation"},
        "extra_qconfig_dict": qconfig, "extra_quantizer_dict": quantizer,
    },
    st.sampled_from([chip for chip in CHIPS if chip.startswith(("CV", "MARS", "Aca"))]),
    st.sampled_from(["CNN", "Transformer"]),
    st.fixed_dictionaries(
        {},
        optional={
            "w_observer": st.sampled_from(["MSEObserver", "KLDObserver"]), "a_observer": st.just("MinMaxObserver"),
            "w_qscheme": st.fixed_dictionaries({"bit": st.integers(2, 8), "symmetry": st.booleans()}),
            "int4_op": _NAMES, "int8_op": _NAMES, "f16_op": _NAMES,
            "module_name": st.dictionaries(st.sampled_from(["x.y", "z"]), _ENTRIES, max_size=2),
            "object_type": st.dictionaries(st.sampled_from(["Conv2d_sophgo", "LinearReLU_sophgo"]), _ENTRIES),
        },
    ),
    st.fixed_dictionaries({}, optional={"exclude_module_name": _NAMES, "additional_function_type": _NAMES}),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(document=_DOCUMENTS)
def test_every_document_comes_back_the_same(document: dict[str, Any]) -> None:
    config, _ = plugin.read(Document(value=document))
    text, unmapped = plugin.write(config)
    again, _ = plugin.read(read_document(text))
    assert not unmapped, unmapped
    assert complete(again) == complete(config)
    assert [(r.match, r.exclude, r.include) for r in again.rules] == [
        (r.match, r.exclude, r.include) for r in config.rules
    ]


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of everything inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


SCRIPT = {
    "quant": {
        "a_qconfig": {"quantizer": "FixedFakeQuantize", "bit": 8, "symmetric": True}, "pot_scale": False,
        "scaling_method": "mean", "chip": "BM1690", "quantmode": "weight_activation",
    },
    "data": {},
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data(), junk=_JUNK, script=st.booleans())
def test_damaged_documents_are_read_or_refused(data: st.DataObject, junk: Any, script: bool) -> None:
    whole = read_document(SCRIPT if script else {**SEED, "quant_dict": {**MODES, "bf16_mix_prec": True}}).value
    damaged = copy.deepcopy(whole)
    place = data.draw(st.sampled_from(places(whole)[1:]))
    holder = damaged
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = junk
    try:
        config, _ = plugin.read(Document(value=damaged))
    except ConfigError as error:
        assert all(problem.message for problem in error.problems)
    else:
        plugin.write(config)


def test_presets_with_a_learnable_quantizer_are_fixed_ones() -> None:
    config = load_config(sophgo({"w_fakequantize": "LearnableFakeQuantize"}))
    assert config.default.weight is not None and config.default.weight.fake_quant == FakeQuantSpec(name="fixed")
