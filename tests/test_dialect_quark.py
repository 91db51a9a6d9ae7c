"""The dialect quark: what every key means, what is refused, what is noted, and what writing loses.

Section numbers are those of the behavioural spec of amd-quark 0.13.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st
from quark_documents import CHANNEL, GROUP, INT8, config_of, document, layer, read, refused, weight

from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule, Step
from quantwright.config.document import Document, read_document
from quantwright.config.load import load_config, read_any, write_config
from quantwright.config.spec import BASE_SPEC, Granularity, ObserverSpec, QuantSpec
from quantwright.dialects import native
from quantwright.dialects._quark_write import complete
from quantwright.dialects.quark import plugin
from quantwright.errors import ConfigError

FLOAT = QuantSpec(format="float32")


# -- which documents are Quark's ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["quark_config_sample.json", "quark_hf_config_sample.json"])
def test_the_files_of_the_tool_are_recognised_read_and_written_again(name: str) -> None:
    reading = read_any(shared("configs", "quark", name))
    assert reading.dialect == "quark" and reading.config.target == "quark_eager"
    text, lost = write_config(reading.config, "quark")
    assert not lost, "all of it came from this tool, so all of it can be said"
    again = read_any(text)
    assert again.dialect == "quark" and native.to_plain(again.config) == native.to_plain(reading.config)
    translated, lost = write_config(reading.config, "native")
    assert not lost and native.to_plain(load_config(translated)) == native.to_plain(reading.config)


def test_of_a_hugging_face_config_only_the_quantization_is_ours() -> None:
    reading = read_any(shared("configs", "quark", "quark_hf_config_sample.json"))
    assert "quantization_config" in reading.why
    ours, export = reading.unmapped
    assert "architectures" in ours.message and ours.effect == "only 'quantization_config' is read" and ours.line == 1
    assert export.path == "quantization_config.export" and export.line == 46
    sources = reading.config.default_sources
    assert sources["weight.granularity"].path == "quantization_config.global_quant_config.weight.qscheme"
    assert sources["weight.format"].line == 61


def test_the_quantization_config_alone_is_recognised_too() -> None:
    whole = json.loads(shared("configs", "quark", "quark_hf_config_sample.json").read_text())
    alone = read_any(whole["quantization_config"])
    assert alone.dialect == "quark"
    assert native.to_plain(alone.config) == native.to_plain(read_any(whole).config)


@pytest.mark.parametrize(
    ("value", "mine"),
    [
        ({"global_quant_config": {}}, True),
        ({"quant_method": "quark"}, True),
        ({"quantization_config": {"quant_method": "awq"}}, False),
        ({"version": 1}, False),
        ([], False),
        ("global_quant_config", False),
    ],
)
def test_detection(value: Any, mine: bool) -> None:
    assert (plugin.detect(Document(value=value)) is not None) is mine


# -- one tensor -----------------------------------------------------------------------------------------------------
def test_an_int8_weight_with_the_numbers_of_the_tool() -> None:
    config = config_of(weight(CHANNEL))
    assert config.default.weight == QuantSpec(
        format="int8", granularity=Granularity(kind="per_channel", axis=0), symmetric=True, rounding="half_even",
        scale="float", observer=ObserverSpec(name="minmax"), statistic="all", fit="span", min_scale=2.0**-23,
    )  # fmt: skip
    assert config.default.bias == config.default.input == config.default.output == FLOAT
    why = config.default_sources
    assert why["weight.fit"].kind == "dialect" and "127.5" in why["weight.fit"].text
    assert why["weight.symmetric"].path == "global_quant_config.weight.symmetric"


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({"dtype": "uint8", "symmetric": False}, {"format": "uint8", "symmetric": False, "fit": None}),
        ({"dtype": "uint16", "symmetric": False}, {"format": "uint16"}),
        ({"dtype": "int2"}, {"format": "int2"}),
        ({"scale_type": "bfloat16"}, {"scale": "bfloat16"}),
        ({"scale_type": "pof2"}, {"scale": "power_of_two", "exponent": "nearest"}),
        ({"scale_type": "float8_e8m0fnu"}, {"scale": "e8m0"}),
        ({"round_method": "floor"}, {"rounding": "floor"}),
        ({"round_method": "round"}, {"rounding": "half_away"}),
        ({"observer_cls": "PerTensorMSEObserver"}, {"observer": ObserverSpec(name="mse")}),
        ({"observer_cls": "quark.torch.quantization.observer.observer.PerTensorMSEObserver"},
         {"observer": ObserverSpec(name="mse")}),
        ({"observer_cls": "PerTensorHistogramObserverPro"},
         {"observer": ObserverSpec(name="histogram_l2", params={"bins": 256})}),
        ({"observer_cls": "PerTensorPowOf2MinMaxObserver"},
         {"scale": "power_of_two", "exponent": "nearest", "min_scale": 0.0, "observer": ObserverSpec(name="minmax")}),
        ({"observer_cls": "PerTensorPowOf2MinMSEObserver"},
         {"scale": "power_of_two", "exponent": "cover", "observer": ObserverSpec(name="diffs", params={"scope": 5})}),
        ({"observer_cls": "PerTensorPowOf2MinMSEObserver", "symmetric": False},
         {"scale": "power_of_two", "exponent": "ceil", "observer": ObserverSpec(name="mse")}),
        ({"observer_cls": "TQTObserver", "qat_spec": {"threshold_init_meth": "_KL_J"}},
         {"scale": "power_of_two", "observer": ObserverSpec(name="tqt_init", params={"method": "kl_j"})}),
        ({"observer_cls": "LSQObserver"}, {"observer": ObserverSpec(name="lsq_init")}),
        ({"dtype": "fp8_e4m3"}, {"format": "fp8_e4m3", "scale": "float", "min_scale": None}),
    ],
)  # fmt: skip
def test_what_a_field_means(changed: dict[str, Any], want: dict[str, Any]) -> None:
    spec = config_of(weight({**INT8, **changed})).default.weight
    assert spec is not None
    assert {name: getattr(spec, name) for name in want} == want


def test_a_percentile_is_the_tools_and_can_be_set() -> None:
    spec = {**INT8, "observer_cls": "PerTensorPercentileObserver"}
    config = config_of(document(global_quant_config=layer(input_tensors=spec)))
    assert config.default.input and config.default.input.observer
    assert config.default.input.observer.params == {"percentile": 99.99999999}
    config = config_of(document(global_quant_config=layer(input_tensors={**spec, "percentile": 99.9})))
    assert config.default.input and config.default.input.observer
    assert config.default.input.observer.params == {"percentile": 99.9}
    assert refused(weight({**spec, "percentile": 101})) == {"global_quant_config.weight.percentile": "quark_number"}


def test_power_of_two_activations_take_the_most_frequent_scale() -> None:
    power = {**INT8, "observer_cls": "PerTensorPowOf2MinMaxObserver"}
    config = config_of(document(global_quant_config=layer(output_tensors=power, weight=power)))
    assert config.default.output and config.default.output.statistic == "modal"
    assert config.default.weight and config.default.weight.statistic == "all"


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({**GROUP}, Granularity(kind="per_group", axis=-1, group_size=32)),
        ({**GROUP, "observer_cls": "PerChannelMinMaxObserver"}, Granularity(kind="per_group", axis=-1, group_size=32)),
        ({**GROUP, "group_size": -1}, Granularity(kind="per_channel", axis=0)),
        ({**CHANNEL, "ch_axis": 1}, Granularity(kind="per_channel", axis=1)),
    ],
)
def test_granularity(spec: dict[str, Any], want: Granularity) -> None:
    found = config_of(weight(spec)).default.weight
    assert found is not None and found.granularity == want


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"dtype": "mx", "mx_element_dtype": "fp4", "ch_axis": -1, "group_size": 32, "scale_calculation_mode": "even"},
         ("fp4_e2m1", "e8m0", "even", 32)),
        ({"dtype": "mx", "mx_element_dtype": "int8", "ch_axis": -1, "group_size": 32}, ("mxint8", "e8m0", "floor", 32)),
        ({"dtype": "mx9", "ch_axis": -1, "group_size": 16, "scale_calculation_mode": "even"},
         ("mx9", "e8m0", "even", 16)),
        ({"dtype": "fp6_e3m2", "observer_cls": "PerBlockMXObserver", "qscheme": "per_group", "ch_axis": -1,
          "group_size": 32, "is_dynamic": True, "scale_format": "e8m0", "scale_calculation_mode": "ceil"},
         ("fp6_e3m2", "e8m0", "ceil", 32)),
        ({"dtype": "fp4", "observer_cls": "PerBlockMXObserver", "qscheme": "per_group", "ch_axis": -1,
          "group_size": 16, "is_dynamic": True, "scale_format": "e5m3"}, ("fp4_e2m1", "e5m3", None, 16)),
    ],
)  # fmt: skip
def test_block_formats(spec: dict[str, Any], want: tuple[Any, ...]) -> None:
    found = config_of(weight(spec)).default.weight
    assert found is not None and found.granularity is not None
    assert (found.format, found.scale, found.exponent, found.granularity.group_size) == want


def test_two_stages_are_a_two_level_scale_or_a_loss() -> None:
    """1.7: ScaleQuantSpec quantizes the scales (NVFP4), ProgressiveSpec the values once more."""
    fp4 = {
        "dtype": "fp4", "observer_cls": "PerBlockMXObserver", "qscheme": "per_group", "ch_axis": -1, "group_size": 16,
        "is_dynamic": True,
    }  # fmt: skip
    fp8 = {"dtype": "fp8_e4m3", "observer_cls": "PerTensorMinMaxObserver", "qscheme": "per_tensor", "is_dynamic": False}
    config, lost = read(weight([fp4, {**fp8, "is_scale_quant": True}]))
    assert config.default.weight and (config.default.weight.format, config.default.weight.scale) == ("fp4_e2m1", "e4m3")
    assert not lost
    config, lost = read(weight([fp8, {**CHANNEL, "dtype": "int4"}]))
    assert config.default.weight and config.default.weight.format == "int4"
    assert [item.path for item in lost] == ["global_quant_config.weight[0]"] and "once" in lost[0].effect
    assert refused(weight([])) == {"global_quant_config.weight": "quark_stages"}


def test_legacy_keys() -> None:
    """1.5: ``dynamic`` and ``axis`` are those of older versions."""
    old = {
        "dtype": "int8", "dynamic": False, "qscheme": "per_channel", "axis": 1, "group_size": None, "symmetric": True,
        "round_method": "half_even", "scale_type": "float", "observer_cls": "PerChannelMinMaxObserver",
    }  # fmt: skip
    config = config_of(weight(old))
    assert config.default.weight and config.default.weight.granularity == Granularity(kind="per_channel", axis=1)
    assert refused(weight({**old, "axis": "one"})) == {"global_quant_config.weight.axis": "quark_number"}


def test_a_missing_field_is_filled_in_globally_and_inherited_in_a_layer() -> None:
    """1.3: the tool refuses an integer without them; the document says that None defers to a higher level."""
    config = config_of(
        document(
            global_quant_config=layer(weight={"dtype": "int8", "qscheme": None}),
            layer_quant_config={"fc": layer(weight={"dtype": "int4"})},
        )
    )
    whole = config.default.weight
    assert whole and (whole.symmetric, whole.rounding, whole.scale) == (True, "half_even", "float")
    assert config.default_sources["weight.rounding"].kind == "dialect"
    embeddings, rule = config.rules
    assert embeddings.include and embeddings.match.type == "torch.nn.Embedding|torch.nn.EmbeddingBag"
    assert rule.weight and rule.weight.fields_set() == ("format", "min_scale")
    assert sum("refuses" in note for note in config.notes) == 2


# -- what is refused, all at once -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({**INT8, "dtype": None}, "quark_dtype"),
        ({**INT8, "dtype": "int9"}, "quark_word"),
        ({**INT8, "qscheme": "per_chanel"}, "quark_word"),
        ({**INT8, "symmetric": "yes"}, "quark_flag"),
        ({**INT8, "observer_cls": "MinMax"}, "quark_observer"),
        ({**INT8, "observer_cls": "PlaceholderObserver"}, "quark_placeholder"),
        ({**INT8, "observer_cls": "PerChannelMinMaxObserver"}, "quark_observer_scheme"),
        ({**CHANNEL, "ch_axis": None}, "quark_ch_axis"),
        ({**GROUP, "group_size": None}, "quark_group_size"),
        ({**GROUP, "group_size": 0}, "quark_number"),
        ({**INT8, "qscheme": "per_block", "observer_cls": "PerBlock2DMinMaxObserver", "block_size": [8, 8]},
         "quark_per_block"),
        ({"dtype": "float16", "observer_cls": "PerTensorMinMaxObserver"}, "quark_cast_observer"),
        ({"dtype": "mx", "ch_axis": -1, "group_size": 32}, "quark_mx_element"),
        ({"dtype": "mx6", "ch_axis": -1}, "quark_group_size"),
        ({"dtype": "mx9", "ch_axis": -1, "group_size": 15}, "quark_number"),
        ({**CHANNEL, "ch_axis": 10**30}, "quark_number"),
        ({**INT8, "dtype": "int4", "observer_cls": "PerTensorHistogramObserverPro"}, "quark_observer_dtype"),
        ({**INT8, "qat_spec": {"threshold_init_meth": "4SD"}}, "quark_word"),
        ("int8", "type"),
        (7, "type"),
        ({**INT8, "simmetric": True}, "unknown_key"),
    ],
)  # fmt: skip
def test_specs_that_are_refused(spec: Any, code: str) -> None:
    found = refused(weight(spec))
    assert list(found.values()) == [code]
    assert all(path.startswith("global_quant_config.weight") for path in found)


def test_static_groups_of_an_activation_are_refused_as_by_the_tool() -> None:
    found = refused(document(global_quant_config=layer(input_tensors=GROUP)))
    assert found == {"global_quant_config.input_tensors.qscheme": "quark_group_static"}


def test_groups_of_a_bias_are_refused() -> None:
    found = refused(document(global_quant_config=layer(bias=GROUP)))
    assert found == {"global_quant_config.bias.qscheme": "quark_bias_groups"}


def test_an_entry_that_sets_nothing_is_noted() -> None:
    config = config_of(document(layer_quant_config={"fc": layer()}, layer_type_quant_config={"Linear": layer()}))
    assert not config.rules and sum("sets nothing" in note for note in config.notes) == 2


def test_all_problems_come_at_once_with_their_lines() -> None:
    text = json.dumps(
        document(
            global_quant_config=layer(weight={**INT8, "dtype": "int9"}),
            exclude=["fc", 3],
            layer_type_quant_config={"LayerNorm": layer(weight=INT8)},
            algo_config=[{"name": "gptp"}, {"name": "gptq", "blocksize": 64}, {"name": "gptq", "static_groups": False}],
            quant_mode="eager",
            typo=1,
        ),
        indent=1,
    )
    with pytest.raises(ConfigError) as caught:
        plugin.read(read_document(text, file="q.json"))
    problems = caught.value.problems
    assert {problem.code for problem in problems} == {
        "quark_word", "type", "quark_layer_type", "quark_algorithm", "unknown_key", "quark_gptq_groups",
    }  # fmt: skip
    assert len(problems) == 8 and [p.line for p in problems] == sorted(p.line or 0 for p in problems)
    near = {p.path: p.fix for p in problems}
    assert near["algo_config[0].name"] == "did you mean 'gptq' or 'gptaq'?"
    assert near["algo_config[1].blocksize"] == "did you mean 'block_size'?"


def test_the_global_entry_is_required() -> None:
    assert refused({"quant_method": "quark"}) == {"": "quark_global"}
    assert refused({"quant_method": "quark", "global_quant_config": "hello"}) == {"global_quant_config": "type"}
    assert refused([]) == {"": "type"}


# -- layers ---------------------------------------------------------------------------------------------------------
def test_priority_is_exclude_then_name_then_pattern_then_type() -> None:
    """1.4: exact name first, then the first pattern, then the first type; here the last rule wins."""
    config = config_of(
        document(
            exclude=["head"],
            layer_quant_config={"a.*": layer(weight=INT8), "a.b": layer(weight=GROUP), "*": layer(weight=CHANNEL)},
            layer_type_quant_config={"Linear": layer(weight=GROUP), "Conv2d": layer(weight=CHANNEL)},
        )
    )
    assert [str(rule.match) for rule in config.rules if not (rule.match.name and rule.match.type)] == [
        "type torch.nn.Conv2d", "type torch.nn.Linear", "name module:*", "name module:a.*", "name a.b",
        "name head",
    ]  # fmt: skip
    assert config.rules[-1].exclude and all(rule.if_unmatched != "error" for rule in config.rules)


def test_null_inherits_as_the_document_promises_and_there_is_an_opt_out() -> None:
    """1.4: the tool replaces the whole entry; ``inherit_none: false`` asks for that."""
    layers = {"Linear": layer(weight=GROUP)}
    (rule,) = config_of(document(layer_type_quant_config=layers)).rules
    assert rule.weight is not None and rule.input is None and rule.output is None and rule.bias is None
    (rule,) = config_of(document(layer_type_quant_config=layers, inherit_none=False)).rules
    assert rule.weight is not None and rule.input == rule.output == rule.bias == FLOAT


@pytest.mark.parametrize("name", ["Linear", "nn.Linear", "torch.nn.Linear", "torch.nn.modules.linear.Linear"])
def test_layer_types_in_every_spelling(name: str) -> None:
    (rule,) = config_of(document(layer_type_quant_config={name: layer(weight=GROUP)})).rules
    assert rule.match.type == "torch.nn.Linear" and not rule.include


def test_an_embedding_is_quantized_on_demand() -> None:
    (rule,) = config_of(document(layer_type_quant_config={"Embedding": layer(weight=CHANNEL)})).rules
    assert rule.include and rule.match.type == "torch.nn.Embedding"
    assert refused(document(layer_type_quant_config={"mine.Linear": layer(weight=INT8)})) == {
        "layer_type_quant_config.mine.Linear": "quark_layer_type"
    }


def test_patterns_that_only_we_would_read_otherwise() -> None:
    config = config_of(document(exclude=["re:x", "a|b", " fc "]))
    assert [rule.match.name for rule in config.rules] == ["module:re:x", "module:a?b", "fc"]


def test_cache_softmax_and_export() -> None:
    config, lost = read(
        document(
            kv_cache_quant_config={"*k_proj": layer(output_tensors=INT8)},
            softmax_quant_spec=INT8,
            exclude=["*k_proj"],
            kv_cache_post_rope=True,
            export={"min_kv_scale": 0.5, "pack_method": "reorder"},
        )
    )
    softmax, cache, _ = config.rules
    assert softmax.include and softmax.match.function == "softmax" and softmax.input == FLOAT
    assert cache.output and cache.output.min_scale == 0.5
    assert any("stays float" in note for note in config.notes)
    assert {item.path for item in lost} == {"kv_cache_post_rope", "export"}


def test_algorithms_of_both_generations() -> None:
    config = config_of(
        document(
            pre_quant_opt_config={"name": "smooth", "alpha": 0.5, "num_attention_heads": 8},
            algo_config={"name": "quarot", "random": True},
        )
    )
    smooth, rotation = config.refine
    assert smooth == Step(name="smoothquant", params={"alpha": 0.5})
    assert rotation.name == "rotation" and rotation.params["r4"] and rotation.params["random_r2"]
    names = ("awq", "gptq", "gptaq", "autosmoothquant", "qronos", "svdquant", "twobitscalar", "autoround")
    config = config_of(document(algo_config=[{"name": name} for name in names]))
    assert [step.name for step in config.refine] == [
        "awq", "gptq", "gptaq", "auto_smoothquant", "qronos", "svdquant", "two_bit_scalar", "autoround",
    ]  # fmt: skip


def test_graph_mode() -> None:
    """1.4, 4: biases get input scale times weight scale; type entries hold here; the rewrites are not done."""
    config = config_of(
        document(
            quant_mode="fx_graph_mode",
            global_quant_config=layer(weight=INT8, bias={**INT8, "dtype": "int32"}),
            layer_type_quant_config={"Linear": layer(weight=GROUP)},
        )
    )
    assert config.target == "quark_fx" and len(config.rules) == 1
    assert config.default.bias == QuantSpec(format="int32", symmetric=True, scale="derived")
    assert any("rewrites" in note for note in config.notes) and any("type entries" in note for note in config.notes)


# -- what is noted --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"round_method": "floor"}, "rounds half to even whatever this says"),
        ({"scale_type": "pof2"}, "PowOf2 observers only"),
        ({"dtype": "uint8"}, "zero point in the middle"),
        ({"zero_point_type": "float32", "symmetric": False}, "it is an integer"),
        ({"observer_cls": "PerTensorMSEObserver"}, "last three bins"),
        ({"observer_cls": "PerTensorHistogramObserver"}, "never sets a range"),
        ({"observer_cls": "PerTensorPercentileObserver", "symmetric": False}, "collapses"),
        ({"observer_cls": "PerTensorPowOf2MinMSEObserver"}, "last batch"),
        ({"observer_cls": "LSQObserver"}, "training (LSQ) is not available yet"),
        ({"ch_axis": 0}, "no effect with per_tensor of int8: ch_axis"),
        ({"is_dynamic": True}, "does not change from batch to batch"),
        ({"enable_buffer_reuse": True}, "saves memory"),
        ({"is_scale_quant": True}, "is_scale_quant"),
    ],
)  # fmt: skip
def test_what_the_tool_does_otherwise_is_noted(changed: dict[str, Any], words: str) -> None:
    config = config_of(weight({**INT8, **changed}))
    assert any(words in note for note in config.notes), config.notes


def test_fields_of_the_python_object_are_noted() -> None:
    config, lost = read(
        document(shared_scale_groups=[["q", "k"]], quant_flow="file2file", gpu_resident_blocks=2, log_severity_level=3)
    )
    assert {item.path for item in lost} == {"shared_scale_groups", "quant_flow", "gpu_resident_blocks"}
    assert config.notes
    assert not config_of(document(gpu_resident_blocks=0, keep_prequantized_layers=True)).notes


# -- writing --------------------------------------------------------------------------------------------------------
DOCUMENTS = {
    "the sample of the tool": document(),
    "everything": document(
        exclude=["head", "a.*"],
        layer_quant_config={"a.b": layer(weight=GROUP, bias=INT8), "*": layer(input_tensors=INT8)},
        layer_type_quant_config={"Linear": layer(weight=CHANNEL), "Embedding": layer(weight=CHANNEL)},
        softmax_quant_spec=INT8,
        algo_config=[{"name": "awq", "scaling_layers": []}, {"name": "rotation", "scaling_layers": {}}],
    ),
    "replacing": document(layer_type_quant_config={"Linear": layer(weight=GROUP)}, inherit_none=False),
    "graph mode": document(
        quant_mode="fx_graph_mode", global_quant_config=layer(weight=INT8, bias={**INT8, "dtype": "int32"})
    ),
    "nvfp4": weight([
        {"dtype": "fp4", "observer_cls": "PerBlockMXObserver", "qscheme": "per_group", "ch_axis": -1, "group_size": 16,
         "is_dynamic": True, "scale_format": "float32"},
        {"dtype": "fp8_e4m3", "observer_cls": "PerTensorMinMaxObserver", "qscheme": "per_tensor", "is_dynamic": False,
         "is_scale_quant": True},
    ]),
    **{
        f"{name}": document(global_quant_config=layer(weight={**INT8, **changed}, input_tensors={**INT8, **changed}))
        for name, changed in {
            "pow2": {"observer_cls": "PerTensorPowOf2MinMaxObserver"},
            "pow2 mse": {"observer_cls": "PerTensorPowOf2MinMSEObserver"},
            "pow2 mse asymmetric": {"observer_cls": "PerTensorPowOf2MinMSEObserver", "symmetric": False},
            "percentile": {"observer_cls": "PerTensorPercentileObserver"},
            "mse": {"observer_cls": "PerTensorMSEObserver"},
            "pro": {"observer_cls": "PerTensorHistogramObserverPro"},
            "lsq": {"observer_cls": "LSQObserver"},
            "tqt": {"observer_cls": "TQTObserver"},
            "bfloat16 scales": {"scale_type": "bfloat16"},
            "floor": {"round_method": "floor"},
            "fp8": {"dtype": "fp8_e4m3", "symmetric": None},
            "uint4": {"dtype": "uint4", "symmetric": False},
            "dynamic": {"is_dynamic": True},
        }.items()
    },
    "mx": weight({"dtype": "mx", "mx_element_dtype": "fp6_e2m3", "ch_axis": -1, "group_size": 32,
                  "scale_calculation_mode": "even"}),
    "mx9": weight({"dtype": "mx9", "ch_axis": -1, "group_size": 16, "scale_calculation_mode": "floor"}),
    "bfp16": weight({"dtype": "bfp16", "ch_axis": -1, "group_size": 8, "scale_calculation_mode": "floor"}),
    "float16": weight({"dtype": "float16", "observer_cls": "PlaceholderObserver"}),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_written_and_read_again_is_the_same(name: str) -> None:
    config = config_of(DOCUMENTS[name])
    text, lost = plugin.write(config)
    assert lost == [], "it came from this tool"
    again = config_of(json.loads(text))
    assert complete(again) == complete(config)
    assert [(r.match, r.exclude, r.include) for r in again.rules] == [
        (r.match, r.exclude, r.include) for r in config.rules
    ]
    assert (again.target, again.refine) == (config.target, config.refine)
    assert plugin.write(again)[0] == text


def test_every_loss_of_another_tools_config_is_told() -> None:
    config = QuantConfig(
        target="onnxruntime",
        default=RoleSpecs(
            weight=QuantSpec(format="int8", narrow_range=True),
            output=QuantSpec(format="int5", observer=ObserverSpec(name="entropy")),
        ),
        rules=(
            Rule(match=Match(function="add"), output=QuantSpec(format="int8")),
            Rule(match=Match(name="re:x.*"), exclude=True),
            Rule(match=Match(name="body"), exclude=True),
            Rule(match=Match(type="Conv2d"), weight=QuantSpec(format="int4")),
        ),
        refine=(Step(name="bias_correction"),),
    )
    text, lost = plugin.write(config)
    paths = {item.path for item in lost}
    assert {
        "rules[0]", "rules[1]", "refine[0]", "target", "default.weight.narrow_range", "default.weight.fit",
        "default.output.format", "default.output.observer", "default.bias.scale",
    } <= paths, paths  # fmt: skip
    assert all(item.effect for item in lost)
    written = json.loads(text)
    assert written["exclude"] == ["body", "body.*"], "1.4: a pattern of the tool does not cover what is inside"
    assert written["layer_type_quant_config"]["Conv2d"]["weight"]["dtype"] == "int4"
    assert written["global_quant_config"]["output_tensors"]["dtype"] == "int8", "the next wider one"


def test_leaving_a_role_float_in_a_layer_needs_entries_that_replace() -> None:
    config = QuantConfig(
        target="quark_eager",
        rules=(
            Rule(match=Match(name="fc"), input=FLOAT),
            Rule(match=Match(type="torch.nn.Linear"), weight=QuantSpec(format="int4")),
        ),
    )
    text, lost = plugin.write(config)
    written = json.loads(text)
    assert written["inherit_none"] is False and written["layer_quant_config"]["fc"]["input_tensors"] is None
    assert written["layer_quant_config"]["fc"]["weight"]["dtype"] == "int8"
    assert {item.path for item in lost} == {"rules", "rules[1]"}, "names win over types there"


# -- properties -----------------------------------------------------------------------------------------------------
NUMBERS = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(["int8", "per_group", "per_channel", "PerChannelMinMaxObserver", "gptq", "mx", "pof2", -1, 0])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns every path into a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in items for found in places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Returns a document with one value replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_any_document_is_a_config_or_a_config_error(data: st.DataObject) -> None:
    value = DOCUMENTS[data.draw(st.sampled_from(sorted(DOCUMENTS)))]
    for _ in range(data.draw(st.integers(1, 3))):
        value = put(value, data.draw(st.sampled_from(places(value))), data.draw(ANY))
    try:
        config, lost = read(value)
    except ConfigError as error:
        assert all(problem.message for problem in error.problems)
        return
    assert isinstance(config, QuantConfig) and all(item.effect for item in lost)
    text, _ = plugin.write(config)
    json.loads(text)
    native.read(read_document(native.write(config)[0]))


SPECS = st.builds(
    QuantSpec,
    format=st.sampled_from(["int8", "uint8", "int4", "int6", "int16", "float16", "float32", "fp8_e4m3"]),
    symmetric=st.booleans(),
    scale=st.sampled_from(["float", "power_of_two"]),
    exponent=st.sampled_from(["cover", "nearest", "ceil"]),
    fit=st.sampled_from(["qmax", "span"]),
    rounding=st.sampled_from(["half_even", "half_up", "floor"]),
    granularity=st.sampled_from(
        [Granularity(), Granularity(kind="per_channel", axis=0), Granularity(kind="per_group", axis=-1, group_size=8)]
    ),
    observer=st.sampled_from([ObserverSpec(name=name) for name in ("minmax", "mse", "percentile", "entropy", "diffs")]),
    min_scale=st.sampled_from([0.0, 2.0**-23, 2.0**-12]),
)  # fmt: skip


@given(SPECS, SPECS)
@settings(max_examples=300, deadline=None)
def test_what_is_not_listed_as_lost_is_what_is_read_again(one: QuantSpec, two: QuantSpec) -> None:
    config = QuantConfig(
        target="quark_eager", default=RoleSpecs(weight=one.over(BASE_SPEC), output=two.over(BASE_SPEC))
    )
    text, lost = plugin.write(config)
    ours, back = complete(config), complete(config_of(json.loads(text)))
    told = {item.path for item in lost}
    for role in ("weight", "output"):
        mine, theirs = ours[role], back[role]  # type: ignore[index]
        if f"default.{role}.format" in told or not mine.is_integer:
            continue
        for name in ("format", "granularity", "symmetric", "scale", "observer"):
            assert getattr(mine, name) == getattr(theirs, name) or f"default.{role}.{name}" in told, (role, name, lost)
