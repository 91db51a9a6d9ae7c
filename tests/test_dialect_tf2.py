"""vai_q_tensorflow2: strategies, keys, handy keys, quantizers, the document's samples, writing, damaged files."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright import registry
from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Step
from quantwright.config.document import Document, read_document
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.dialects import _tf2_steps, vai_q_pytorch
from quantwright.dialects._tf2_strategies import ADJUST, NAMES, OPTIMIZE, QUANTIZE, REFINE, user_keys
from quantwright.dialects.vai_q_tensorflow2 import PRESETS, plugin
from quantwright.errors import ConfigError

FLAT = {"layer_type": "tensorflow.keras.layers.Conv2D", "quantizable_weights": ["kernel"]}
P8 = {"quantizer_type": "Pof2SQuantizer", "quantizer_params": {"bit_width": 8, "method": 1, "round_mode": 0}}


def read(document: Any) -> QuantConfig:
    return plugin.read(Document(value=document))[0]


def codes(document: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plugin.read(Document(value=document))
    assert all(problem.fix for problem in caught.value.problems), "every problem says what to do"
    return sorted(problem.code for problem in caught.value.problems)


def quantizer(kind: str = "Pof2SQuantizer", **params: Any) -> dict[str, Any]:
    return {"quantizer_type": kind, "quantizer_params": params}


def weight_of(kind: str = "FSQuantizer", layer: str = "Conv2D", strategy: str = "fsx", **params: Any) -> QuantSpec:
    """Returns the weight spec of an entry for one class with one quantizer."""
    entry = {"layer_type": layer, "quantizable_weights": ["kernel"], "weight_quantizers": [quantizer(kind, **params)]}
    config = read({"quantize_strategy": strategy, "layer_quantize_config": [entry]})
    (rule,) = [rule for rule in config.rules if rule.source.text == f"layer type {layer}"]
    assert rule.weight is not None
    return rule.weight


def notes(document: Any) -> str:
    return "\n".join(read(document).notes)


# -- strategies ---------------------------------------------------------------------------------------------------
def test_pof2s_is_the_default_and_has_no_rules() -> None:
    config = read({"quantize_strategy": "pof2s"})
    grid = {"format": "int8", "granularity": Granularity(), "symmetric": True, "narrow_range": False,
            "scale": "power_of_two", "exponent": "ceil", "fit": "sides", "min_scale": 2.0**-52}  # fmt: skip
    search = ObserverSpec(name="min_mse_position", params={"scope": 5})
    parameter = QuantSpec(rounding="half_even", observer=search, statistic="all", **grid)
    value = QuantSpec(rounding="half_up", observer=search, statistic="modal", **grid)
    seen = value.model_copy(update={"observer": ObserverSpec(name="minmax")})
    assert config.default == RoleSpecs(weight=parameter, bias=parameter, input=seen, output=value)
    assert config.rules == () and config.target == "vitis_keras_dpu"
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="batch", modal_ties="first")
    dpu = {"method": "vitis_tensorflow2", "convert_sigmoid_to_hard_sigmoid": True}
    assert config.optimize == (
        Step(name="fold_batchnorm", params={"scope": "vitis_keras"}),
        Step(name="cross_layer_equalization", params={"method": "vitis_keras"}),
        Step(name="dpu_operators", params=dpu),
    )
    assert config.refine == (Step(name="position_adjustment", params={"method": "vitis_tensorflow2"}),)
    assert all(source.kind == "dialect" for source in config.default_sources.values())
    assert plugin.default is not None and plugin.default().default == config.default
    assert read({"weight_bit": 8}).default == config.default, "no strategy is pof2s"


@pytest.mark.parametrize("name", list(NAMES))
def test_every_name_is_a_preset_and_is_what_its_target_does(name: str) -> None:
    config = PRESETS[name]()
    target = registry.load("targets", config.target or "")
    for role in ("weight", "bias", "input", "output"):
        mine, theirs = config.default.get(role), target.defaults.get(role)
        assert mine is not None and theirs is not None
        if name in ("pof2s", "8bit", "fs", "fsx", "bfp"):
            assert mine == theirs, role
    assert config == PRESETS[NAMES[name]]().model_copy(update={"source": config.source, "notes": config.notes})


def test_fs_quantizes_kernels_and_what_they_read() -> None:
    config = PRESETS["fs"]()
    kernel = config.default.weight
    assert kernel is not None and kernel.granularity == Granularity(kind="per_channel") and kernel.scale == "float"
    assert config.default.bias == QuantSpec(format="float32")
    seen = config.default.input
    assert seen is not None and seen.observer == ObserverSpec(name="growing_histogram") and seen.fit == "span", (
        "4.5: [-A, A]"
    )
    assert config.optimize == (Step(name="cross_layer_equalization", params={"method": "vitis_keras"}),), "no folding"
    (rule,) = config.rules
    assert rule.match == Match(function="conv_transpose2d") and rule.if_unmatched == "ignore"
    assert rule.weight is not None and rule.weight.granularity == Granularity(kind="per_channel", axis=0), (
        "HWOI: -1 is I"
    )
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="running", modal_ties="first")


def test_gpu_has_biases_of_32_bits_and_no_equalization() -> None:
    config = PRESETS["gpu"]()
    assert config.default.bias is not None and config.default.bias.format == "int32"
    assert config.default.output is not None and config.default.output.observer == ObserverSpec(name="minmax")
    assert config.optimize == (Step(name="fold_batchnorm", params={"scope": "vitis_keras"}),)
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="running", modal_ties="first")


def test_tqt_takes_the_last_batch_and_says_that_nothing_is_trained() -> None:
    config = PRESETS["tqt"]()
    assert config.default.output is not None and config.default.output.statistic == "last"
    assert config.default.input is not None and config.default.input.statistic == "modal", "2.2: inputs are Pof2S"
    assert "training them (TQT) is not available yet" in "\n".join(config.notes)
    assert "pof2s_tqt" in "\n".join(config.notes)


def test_bfp_is_block_floating_point() -> None:
    config = PRESETS["bfp"]()
    blocks = QuantSpec(
        format="bfp15", granularity=Granularity(kind="per_group", group_size=8), scale="e8m0", exponent="floor",
        min_scale=2.0**-23, rounding="half_even",
    )  # fmt: skip
    passing = blocks.model_copy(update={"dynamic": True})
    assert config.default.weight == blocks and config.default.input == passing and config.optimize == ()
    norm = next(rule for rule in config.rules if rule.match.function == "kind:layer_norm")
    assert norm.weight == QuantSpec(format="bfloat16") == norm.input


def test_what_is_missing_by_default_is_a_note_and_asked_for_it_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy runs without what this version does not have; a document that asks for it is refused by that name."""
    monkeypatch.setattr(_tf2_steps, "missing", lambda kind: {"dpu_operators", "position_adjustment"})
    plain = read({"quantize_strategy": "pof2s"})
    assert "positions stay as they were found" in "\n".join(plain.notes) and plain.refine == ()
    assert "pooling, sigmoid and leaky ReLU" in "\n".join(plain.notes)
    assert not plugin.write(plain)[1]
    asked = read({"align_pool": True, "convert_leaky_relu_to_dpu_version": True, "include_fast_ft": True})
    assert [step.name for step in asked.refine] == ["position_adjustment", "fast_finetune"]
    assert asked.optimize is not None and asked.optimize[-1].name == "dpu_operators"


def test_switches_of_the_dpu() -> None:
    off = read(dict.fromkeys(ADJUST, False))
    assert off.refine == () and "positions" not in "\n".join(off.notes)
    some = read({"align_pool": False, "convert_softmax_to_dpu_version": True, "replace_sigmoid": False})
    assert some.refine[0].params == {"method": "vitis_tensorflow2", "pool": False}
    assert (some.optimize or ())[-1].params == {
        "method": "vitis_tensorflow2", "convert_softmax_to_dpu_version": True,
    }  # fmt: skip
    softmax = next(rule for rule in some.rules if rule.match.function == "softmax")
    assert softmax.output is not None and softmax.output.rounding == "floor" and softmax.output.narrow_range
    assert softmax.include, "2.2: only converted it is in the registry"


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"include_cle": False}, ["fold_batchnorm"]),
        ({"convert_bn_to_dwconv": False, "include_cle": False}, ["fold_batchnorm"]),
        ({"fold_conv_bn": False, "include_cle": False}, ["batchnorm_to_depthwise"]),
        ({"fold_conv_bn": False, "fold_bn": False, "include_cle": False}, []),
        ({"replace_relu6": True}, ["relu6_to_relu", "fold_batchnorm", "cross_layer_equalization"]),
        ({"train_with_bn": True}, ["train_with_batchnorm", "fold_batchnorm", "cross_layer_equalization"]),
    ],
)
def test_the_optimize_pipeline(keys: dict[str, Any], steps: list[str]) -> None:
    config = read(keys)
    names = [step.name for step in config.optimize or () if step.name != "dpu_operators"]
    assert names == steps


def test_the_parameters_of_steps() -> None:
    config = read({"cle_steps": 3, "balance_method": "avg", "forced_cle": True, "include_bias_corr": True})
    cle = next(step for step in config.optimize or () if step.name == "cross_layer_equalization")
    assert cle.params == {"method": "vitis_keras", "steps": 3, "balance": "avg", "through_relu6": True}
    assert config.refine[-1] == Step(name="bias_correction")
    told = "\n".join(config.notes)
    assert (
        "the old spelling of 'cle_balance_method'" in told
        and "the tool itself accepts the key and does nothing" in told
    )
    assert "no effect: include_cle is off" in notes({"include_cle": False, "cle_steps": 3})


def test_sections_and_single_keys_and_the_file_of_the_tool() -> None:
    nested = {
        "quantize_strategy": "fsx",
        "custom_quantize_strategy": {"optimize_pipeline_config": {"cle_steps": 2}},
        "quantize_registry_config": {"user_defined_quantize_config": {"activation_bit": 4, "weight_bit": None}},
        "cle_weight_threshold": 0.2,
    }
    config = read(nested)
    assert config.default.output is not None and config.default.output.format == "int4"
    assert (config.optimize or ())[-1].params == {"method": "vitis_keras", "steps": 2, "threshold": 0.2}
    file = read_document(shared("configs", "vai_q_tensorflow2", "vitis_fs_quantize_strategy.json"))
    whole = plugin.read(file)[0]
    assert whole.target == "vitis_keras_fs" and whole.default == PRESETS["fs"]().default
    assert whole.optimize == PRESETS["fs"]().optimize and whole.calibration == PRESETS["fs"]().calibration
    assert "fits fs" in "\n".join(whole.notes)
    assert whole.rules[0].field_sources["weight.format"].line == 102


def test_a_quantizer_type_of_an_older_version_is_refused() -> None:
    path = shared("configs", "vai_q_tensorflow2", "my_quantize_strategy.json")
    with pytest.raises(ConfigError) as caught:
        plugin.read(read_document(path))
    assert {problem.code for problem in caught.value.problems} == {"tf2_quantizer"}
    assert [problem.line for problem in caught.value.problems] == [11, 15, 22]


# -- handy keys (2.3) ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", ["pof2s", "pof2s_tqt", "fs", "fsx", "gpu"])
@pytest.mark.parametrize("group", ["weight", "bias", "activation", "input"])
@pytest.mark.parametrize(
    ("handy", "value", "field", "want"),
    [
        ("bit", 4, "format", "int4"),
        ("round_mode", "HALF_AWAY_FROM_ZERO", "rounding", "half_away"),
        ("narrow_range", True, "narrow_range", True),
        ("symmetry", False, "symmetric", False),
    ],
)
def test_handy_keys(strategy: str, group: str, handy: str, value: Any, field: str, want: Any) -> None:
    document = {"quantize_strategy": strategy, f"{group}_{handy}": value, "use_framework_quant": False}
    config = read(document)
    spec = config.default.get({"activation": "output"}.get(group, group))  # type: ignore[arg-type]
    without = strategy == "fs" and group in ("bias", "activation")
    if without:
        assert "no effect: no quantizer of strategy fs has it" in "\n".join(config.notes)
    else:
        assert spec is not None and getattr(spec, field) == want


def test_activation_unsigned_changes_relus_only_while_activations_are_symmetric() -> None:
    config = read({"activation_unsigned": True})
    assert config.default.output is not None and config.default.output.format == "int8"
    (rule,) = config.rules
    assert rule.match.function == "relu|relu6|clamp|hardtanh" and rule.output is not None
    assert rule.output.format == "uint8"
    free = read({"activation_unsigned": True, "activation_symmetry": False})
    assert free.default.output is not None and free.default.output.format == "uint8" and free.rules == ()


def test_beta_follows_the_weights_as_in_the_tool() -> None:
    (rule, layer_norm) = read({"bias_bit": 16}).rules
    assert rule.match.function == "kind:batch_norm" and layer_norm.match.function == "kind:layer_norm"
    assert rule.bias is not None and rule.bias.format == "int8" and rule.weight is None


def test_keys_reach_no_quantizer_that_leaves_the_parameter_out() -> None:
    entry = {**FLAT, "weight_quantizers": [quantizer(method=0)]}
    config = read({"layer_quantize_config": [entry], "weight_bit": 4})
    rule = next(rule for rule in config.rules if rule.source.text == "layer type Conv2D")
    assert rule.weight is not None and rule.weight.format == "int8"
    assert "'weight_bit' does not reach this quantizer" in "\n".join(config.notes)


def test_layers_by_name() -> None:
    config = read({"ignore_layers": ["a"], "layer_config": {"b": "int16", "c": "float32", "d": "bfloat16"}})
    by_name = {rule.match.name: rule for rule in config.rules}
    assert by_name["a"].exclude and by_name["a"].if_unmatched == "warn" and by_name["c"].exclude
    assert by_name["b"].weight == by_name["b"].bias == by_name["b"].output == QuantSpec(format="int16")
    assert by_name["d"].output == QuantSpec(format="bfloat16")
    assert read({"convert_datatype": "bfloat16"}).default.weight == QuantSpec(format="bfloat16")


def test_what_is_not_carried_over_is_told() -> None:
    document = {"input_layers": ["a"], "target": "DPUCZDX8G", "calib_steps": 3, "use_fixneuron_quant": 1,
                "output_format": "onnx", "custom_quantize_strategy": "a.json"}  # fmt: skip
    _, unmapped = plugin.read(Document(value=document))
    assert {item.path for item in unmapped} == set(document)
    assert all(item.message and item.effect for item in unmapped)


# -- errors -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "want"),
    [
        ({"quantize_strategy": "fs", "align_pool": True}, ["tf2_foreign_key"]),  # 3.4: Invalid configs
        ({"weight_bits": 4}, ["unknown_key"]),
        ({"quantize_strategy": "int8"}, ["tf2_strategy"]),  # 3.4: KeyError
        ({"layer_quantize_config": [{**FLAT, "weight_quantizers": []}]}, ["tf2_length"]),
        ({"layer_quantize_config": [{**FLAT, "weight_quantizers": [quantizer(bits=8)]}]}, ["unknown_key"]),
        ({"layer_quantize_config": [{**FLAT, "weight_quantizers": [quantizer("MyQuantizer")]}]}, ["tf2_quantizer"]),
        ({"layer_quantize_config": [{"layer_type": "3D"}]}, ["tf2_layer_type"]),
        ({"layer_quantize_config": [{"quantizable_weights": []}]}, ["missing_key"]),
        ({"weight_method": 2}, ["tf2_method"]),  # 0.7: Invalid method
        ({"quantize_strategy": "pof2s_tqt", "activation_method": 1}, ["tf2_method"]),
        ({"quantize_strategy": "pof2s_tqt", "weight_per_channel": True}, ["tf2_tqt_per_channel"]),
        ({"quantize_strategy": "fsx", "weight_round_mode": 0}, ["tf2_framework_round"]),
        ({"quantize_strategy": "fs", "input_method_percentile": 101}, ["tf2_method_percentile"]),
        ({"output_format": "onnx2", "include_cle": 1, "cle_steps": "ten"}, ["tf2_bool", "tf2_cle_steps", "tf2_word"]),
        ({"optimize_pipeline_config": [], "user_quantize_config": 3}, ["type", "type"]),
        ({"weight_bit": 1, "bias_bit": 64, "activation_bit": "8"}, ["tf2_bit_width"] * 3),
    ],
)
def test_refused(document: Any, want: list[str]) -> None:
    assert sorted(set(codes(document))) == sorted(set(want))


def test_all_problems_come_at_once_with_their_lines() -> None:
    text = '{\n"quantize_strategy": "fs",\n"align_pool": true,\n"weight_bitt": 4,\n"input_bit": 0\n}'
    with pytest.raises(ConfigError) as caught:
        plugin.read(read_document(text))
    assert [(problem.code, problem.line) for problem in caught.value.problems] == [
        ("tf2_foreign_key", 3), ("unknown_key", 4), ("tf2_bit_width", 5),
    ]  # fmt: skip
    assert "weight_bit" in str(caught.value.problems[1].fix)


# -- quantizers ---------------------------------------------------------------------------------------------------
SAMPLES = [
    ("Pof2SQuantizer", {"symmetry": True, "per_channel": False, "min_quantize_pos": -52, "max_quantize_pos": 52}),
    ("FSQuantizer", {"symmetry": False, "per_channel": True, "use_framework_quantizer": True}),
    ("MAFSQuantizer", {"symmetry": True, "per_channel": False, "ema_decay": 0.999}),
    ("TQTQuantizer", {"symmetry": True, "per_channel": False}),
]
_OBSERVED = {"No_OF": "minmax", "Min_KL": "growing_histogram", "Percentile": "growing_histogram"}


@pytest.mark.parametrize(("kind", "own"), SAMPLES)
@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize("method", ["No_OF", "Min_MSE", "Min_KL", "Percentile"])
@pytest.mark.parametrize("rounding", ["HALF_TO_EVEN", "HALF_UP", "HALF_TO_ZERO"])
@pytest.mark.parametrize("data_format", ["INT", "UINT"])
def test_the_quantizers_of_the_document(
    kind: str, own: dict[str, Any], bits: int, method: str, rounding: str, data_format: str
) -> None:
    """Every sample of the document, with every one of its alternatives."""
    params = {"bit_width": bits, "data_format": data_format, "method": method, "round_mode": rounding, **own,
              "channel_axis": -1, "unsigned": False, "narrow_range": False, "epsilon": 1e-7}  # fmt: skip
    target = {"target_name": "kernel", "target_type": "weight", "quantizer_config": {"type": kind, "params": params}}
    entry = {"layer_type": "Conv2D", "quant_config": [target]}
    document = {"layer_quantize_config": [entry]}
    if kind == "FSQuantizer" and rounding != "HALF_UP":  # 4.5: the framework's kernel rounds half up, else error
        assert codes(document) == ["tf2_framework_round"]
        return
    (rule,) = read(document).rules
    spec = rule.weight
    assert spec is not None and spec.format == f"{'u' if data_format == 'UINT' else ''}int{bits}"
    assert spec.rounding == {"HALF_TO_EVEN": "half_even", "HALF_UP": "half_up", "HALF_TO_ZERO": "half_away"}[rounding]
    assert spec.symmetric == own["symmetry"] and spec.granularity is not None and spec.observer is not None
    assert spec.granularity.kind == ("per_channel" if own["per_channel"] else "per_tensor")
    power = kind in ("Pof2SQuantizer", "TQTQuantizer")
    assert spec.scale == ("power_of_two" if power else "float")
    search = "min_mse_position" if power else "mse"
    if own["per_channel"]:  # 4.5: the tool has no histogram for channels
        assert spec.observer.name == {"Min_KL": "entropy", "Percentile": "percentile"}.get(
            method, _OBSERVED.get(method, search)
        )
    else:
        assert spec.observer.name == _OBSERVED.get(method, search)
    assert spec.min_scale == (2.0**-23 if power else 1e-7), "epsilon: no step is smaller"


@pytest.mark.parametrize(
    ("kind", "params", "field", "want"),
    [
        ("FSQuantizer", {"data_format": "FP16"}, "format", "float16"),
        ("FSQuantizer", {"data_format": "BFP16"}, "format", "bfp16"),
        ("BFPQuantizer", {"data_format": "bf16"}, "format", "bfloat16"),
        ("BFPQuantizer", {"data_format": "msfp", "bit_width": 13}, "format", "msfp13"),
        ("Pof2SQuantizer", {"max_quantize_pos": 12}, "min_scale", 2.0**-12),
        ("Pof2SQuantizer", {"method": 0, "min_quantize_pos": 3}, "observer",
         ObserverSpec(name="min_mse_position", params={"scope": 1, "lowest": 3})),
        ("Pof2SQuantizer", {"method": 1, "per_channel": True}, "observer",
         ObserverSpec(name="min_mse_position", params={"scope": 5, "together": True})),
        ("FSQuantizer", {"method": 3, "method_percentile": 99.5}, "observer",
         ObserverSpec(name="growing_histogram", params={"criterion": "percentile", "percentile": 99.5})),
        ("FSQuantizer", {"method": 3}, "observer",
         ObserverSpec(name="growing_histogram", params={"criterion": "percentile", "percentile": 99.99})),
        ("FSQuantizer", {"method": 1}, "observer", ObserverSpec(name="minmax")),
        ("FSQuantizer", {"method": 2}, "fit", "span"),
        ("FSQuantizer", {"method": 0}, "fit", "sides"),
    ],
)  # fmt: skip
def test_parameters(kind: str, params: dict[str, Any], field: str, want: Any) -> None:
    assert getattr(weight_of(kind, **params), field) == want


def test_averages_are_for_values() -> None:
    entry = {"layer_type": "Add", "quantizable_outputs": ["0"], "output_quantizers": [
        quantizer("MAFSQuantizer", ema_decay=0.9)]}  # fmt: skip
    rule = read({"layer_quantize_config": [entry]}).rules[0]
    assert rule.output is not None and rule.output.statistic == "ema" and rule.output.ema_decay == 0.9
    assert weight_of("MAFSQuantizer", ema_decay=0.9).statistic == "all"


@pytest.mark.parametrize(
    ("layer", "axis", "want"),
    [
        ("Conv2D", -1, Granularity(kind="per_channel")),
        ("Conv2D", 2, Granularity(kind="per_channel", axis=1)),
        ("Conv2D", 0, Granularity(kind="per_channel", axis=2)),
        ("DepthwiseConv2D", 2, Granularity(kind="per_channel")),
        ("DepthwiseConv2D", -1, Granularity()),
        ("Conv2DTranspose", -1, Granularity(kind="per_channel", axis=0)),
        ("Conv2DTranspose", 2, Granularity(kind="per_channel")),
        ("Dense", -1, Granularity(kind="per_channel")),
        ("Dense", 0, Granularity(kind="per_channel", axis=1)),
    ],
)
def test_axes_are_those_of_keras(layer: str, axis: int, want: Granularity) -> None:
    assert weight_of("FSQuantizer", layer, per_channel=True, channel_axis=axis).granularity == want


def test_an_axis_the_weight_does_not_have() -> None:
    entry = {"layer_type": "Dense", "quantizable_weights": ["kernel"],
             "weight_quantizers": [quantizer(per_channel=True, channel_axis=3)]}  # fmt: skip
    assert codes({"layer_quantize_config": [entry]}) == ["tf2_channel_axis"]


# -- entries of the shipped schema --------------------------------------------------------------------------------
def test_an_entry_replaces_the_class_and_leaves_the_rest_float() -> None:
    config = read({"layer_quantize_config": [{**FLAT, "weight_quantizers": [P8]}]})
    rule = config.rules[0]
    assert rule.match == Match(function="kind:conv2d"), "no depthwise convolution"
    assert rule.bias == rule.output == QuantSpec(format="float32") and not rule.include
    assert rule.source.path == "layer_quantize_config[0]"
    again = [rule.match.function for rule in config.rules[1:]]
    assert any("relu" in (text or "") for text in again), "what is fused behind it keeps its own quantizer"
    twice = read({"layer_quantize_config": [{**FLAT, "weight_quantizers": [quantizer(bit_width=b)]} for b in (4, 6)]})
    assert twice.rules[0].weight is not None and twice.rules[0].weight.format == "int6", "the last one counts"


def test_layers_that_the_strategy_leaves_float_are_included() -> None:
    soft = {"layer_type": "Softmax", "quantizable_outputs": ["0"], "output_quantizers": [P8]}
    own = {"layer_type": "my_package.layers.MyLayer", "quantizable_weights": ["w", "b"], "weight_quantizers": [P8, P8]}
    rules = read({"layer_quantize_config": [soft, own]}).rules
    mine = next(rule for rule in rules if rule.match.type)
    assert mine.match.type == "my_package.layers.MyLayer|MyLayer" and mine.include
    assert mine.weight == mine.bias and mine.weight is not None
    softmax = next(rule for rule in rules if rule.match.function == "softmax")
    assert softmax.include and softmax.output is not None
    conv = {**FLAT, "quantizable_activations": ["activation"], "activation_quantizers": [quantizer("FSQuantizer")]}
    conv |= {"weight_quantizers": [quantizer("FSQuantizer")]}
    fs = read({"quantize_strategy": "fs", "layer_quantize_config": [conv]}).rules
    assert next(rule for rule in fs if rule.match.function == "kind:conv2d").include, (
        "fs leaves outputs to their readers"
    )
    nothing = read({"layer_quantize_config": [{"layer_type": "MaxPooling2D"}]}).rules[0]
    assert nothing.exclude and nothing.match.function == "max_pool"


# -- reading and writing ------------------------------------------------------------------------------------------
DOCUMENTS: list[dict[str, Any]] = [
    *({"quantize_strategy": name} for name in NAMES),
    {"weight_bit": 4, "bias_bit": 16, "activation_bit": 16, "weight_per_channel": True},
    {"quantize_strategy": "gpu", "input_bit": 4, "bias_bit": 16, "include_cle": True, "cle_steps": 3},
    {"quantize_strategy": "fs", "weight_bit": 4, "fold_conv_bn": True, "convert_bn_to_dwconv": True},
    {"activation_unsigned": True, "ignore_layers": ["a"], "layer_config": {"b": "int16"}},
    {"include_fast_ft": True, "include_bias_corr": True, "align_pool": True, "replace_sigmoid": True},
    {"layer_quantize_config": [{**FLAT, "weight_quantizers": [P8]}]},
    {"weight_bit": 4, "layer_quantize_config": [{**FLAT, "weight_quantizers": [quantizer(bit_width=6)]}]},
    {"layer_quantize_config": [{"layer_type": "MaxPooling2D"}]},
    {"quantize_strategy": "fsx", "layer_quantize_config": [
        {"layer_type": "Dense", "quantizable_weights": ["kernel"],
         "weight_quantizers": [quantizer("FSQuantizer", method="Min_MSE", epsilon=1e-6, round_mode=2)]}]},
    {"layer_quantize_config": [
        {"layer_type": "Add", "quantizable_outputs": ["0"],
         "output_quantizers": [quantizer("MAFSQuantizer", ema_decay=0.9, per_channel=True)]}]},
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=[json.dumps(d)[:60] for d in DOCUMENTS])
def test_what_was_read_is_written_again_without_loss(document: dict[str, Any]) -> None:
    config = read(copy.deepcopy(document))
    text, unmapped = plugin.write(config)
    assert not unmapped, [str(item) for item in unmapped]
    back = plugin.read(read_document(text))[0]
    assert back.default == config.default and back.optimize == config.optimize and back.refine == config.refine
    assert [(rule.match, rule.weight) for rule in back.rules if rule.weight] == [
        (rule.match, rule.weight) for rule in config.rules if rule.weight
    ]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Rule(match=Match(name="layer4.*"), weight=QuantSpec(format="int4")), "no version of the tool reads"),
        (Rule(match=Match(function="roll"), output=QuantSpec(format="int4")), "cannot be said"),
    ],
)
def test_what_cannot_be_written_is_told(rule: Rule, says: str) -> None:
    config = PRESETS["pof2s"]().model_copy(update={"rules": (rule,)})
    _, unmapped = plugin.write(config)
    assert any(says in item.message for item in unmapped) and all(item.effect for item in unmapped)


def test_other_tools_configurations_are_written_with_their_losses() -> None:
    config, _ = vai_q_pytorch.plugin.read(Document(value={"target_device": "DPU"}))
    text, unmapped = plugin.write(config)
    assert json.loads(text)["quantize_strategy"] == "pof2s"
    assert {item.path for item in unmapped} >= {"target", "default.weight.rounding", "calibration"} - {
        "default.weight.rounding"
    }


# -- detection ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "ours", "theirs"),
    [
        ({"quantize_strategy": "fs", "include_cle": False}, True, False),
        ({"weight_bit": 4, "include_cle": False}, True, False),
        ({"layer_quantize_config": [{"layer_type": "Conv2D", "quant_config": []}]}, True, False),
        ({"layer_quantize_config": [FLAT]}, True, False),
        ({"layer_quantize_config": [{"layer_type": "torch.nn.Conv2d", "quantizable_data_type": []}]}, False, True),
        ({"include_cle": True, "bit_width": 8}, False, True),
        ({"target_device": "DPU", "layer_quantize_config": []}, False, True),
        ([], False, False),
    ],
)
def test_detection_tells_the_two_tools_apart(document: Any, ours: bool, theirs: bool) -> None:
    assert (plugin.detect(Document(value=document)) is not None) == ours
    assert (vai_q_pytorch.plugin.detect(Document(value=document)) is not None) == theirs


def test_the_tables_of_keys_agree_with_the_strategies() -> None:
    assert OPTIMIZE["fs"]["fold_conv_bn"] is False and OPTIMIZE["gpu"]["include_cle"] is False
    assert not any(OPTIMIZE["bfp"][key] for key in ("remove_dropout", "include_cle", "fold_conv_bn"))
    assert "no_quant_in_conv_act" not in QUANTIZE["pof2s"] and QUANTIZE["bfp"]["no_quant_in_conv_act"] is False
    assert "adjust_dpu_shift_bias_leakyrelu" not in REFINE["pof2s_tqt"] and "align_pool" not in REFINE["fs"]
    assert "layer_config" in user_keys("pof2s") and "layer_config" not in user_keys("fs")
    assert "input_method_percentile" in user_keys("fs") and "input_method_percentile" not in user_keys("pof2s")


# -- damaged documents --------------------------------------------------------------------------------------------
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6) | st.sampled_from(["fs", "Conv2D", "Pof2SQuantizer", "re:(", "a|b", "weight"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_WHOLE = {
    "quantize_strategy": "pof2s",
    "optimize_pipeline_config": dict(OPTIMIZE["pof2s"]),
    "quantize_registry_config": {
        "user_quantize_config": {"weight_bit": 8, "ignore_layers": ["a"], "layer_config": {"b": "int8"}},
        "input_quantize_config": {"input_layers": [], "input_quantizer": P8},
        "layer_quantize_config": [
            {**FLAT, "weight_quantizers": [P8], "quantizable_outputs": [0], "output_quantizers": [P8]},
            {"pattern_name": "a", "layer_type": "ReLU|Activation", "layer_params": {"max_value": 6},
             "layer_inputs": [{"layer_type": "Add", "layer_name": "x.*", "layer_inputs": [{"pattern": "b"}, {}]}],
             "quant_config": [{"target_name": "o", "target_type": "output",
                               "quantizer_config": {"name": "q", "type": "FSQuantizer", "params": {"method": 2}}}]},
            {"pattern_name": "b", "layer_type": "Conv2D", "quant_config": []},
        ],
    },
}  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(_places(_WHOLE)[1:]), _JSON, st.booleans())
def test_a_damaged_document_is_a_config_or_an_error(path: tuple[Any, ...], value: Any, drop: bool) -> None:
    document = copy.deepcopy(_WHOLE)
    holder: Any = document
    for step in path[:-1]:
        holder = holder[step]
    if drop:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    try:
        config, unmapped = plugin.read(Document(value=document))
    except ConfigError as error:
        assert all(problem.message for problem in error.problems)
        return
    assert isinstance(config, QuantConfig) and isinstance(unmapped, list)
    text, _ = plugin.write(config)
    assert plugin.read(read_document(text))


def test_steps_are_never_below_what_float32_holds() -> None:
    spec = weight_of("Pof2SQuantizer", max_quantize_pos=126)
    assert spec.min_scale is not None and math.log2(spec.min_scale) == -126
