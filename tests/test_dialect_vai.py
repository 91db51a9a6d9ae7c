"""vai_q_pytorch: what each key becomes, what is noted, the document's own samples, names, writing, damaged files."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Source, Step
from quantwright.config.document import Document, read_document
from quantwright.config.load import load_config, read_config, write_config
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.dialects import native
from quantwright.dialects._vai_names import Unresolved, resolve
from quantwright.dialects.vai_q_pytorch import default_config, plugin
from quantwright.errors import ConfigError, Problem

CPU = {
    "target_device": "CPU",
    "overall_quantize_config": {
        "bit_width": 8, "method": "maxmin", "round_mode": "half_even", "symmetry": True, "per_channel": False,
        "signed": True, "narrow_range": False, "scale_type": "float", "calib_statistic_method": "max",
    },
}  # fmt: skip
DPU = {"target_device": "DPU"}
LAYER = {"quantizable_data_type": ["weights", "bias", "activation"]}


def cpu(**overall: Any) -> dict[str, Any]:
    """Returns a legal CPU document with some parameters changed."""
    return {"target_device": "CPU", "overall_quantize_config": {**CPU["overall_quantize_config"], **overall}}  # type: ignore[dict-item]


def problems(document: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_config(document, dialect="vai_q_pytorch")
    return list(caught.value.problems)


def codes(document: Any) -> list[str]:
    return [problem.code for problem in problems(document)]


def test_the_tool_without_a_file() -> None:
    config = default_config()
    grid = {"granularity": Granularity(), "symmetric": True, "narrow_range": False, "scale": "power_of_two",
            "observer": ObserverSpec(name="diffs", params={"scope": 5}), "min_scale": 2.0**-12}  # fmt: skip
    parameter = QuantSpec(format="int8", rounding="half_away", statistic="all", **grid)
    activation = QuantSpec(format="int8", rounding="half_up", statistic="modal", **grid)
    assert config.default == RoleSpecs(weight=parameter, bias=parameter, input=activation, output=activation)
    assert config.target == "dpu"
    assert config.optimize == (
        Step(name="relu6_to_relu", params={"modules_only": True}),
        Step(name="fold_batchnorm", params={"scope": "vitis"}),
        Step(name="cross_layer_equalization", params={"method": "vitis"}),
        Step(name="dpu_operators", params={"method": "vitis_pytorch"}),
    )
    assert config.refine == (
        Step(name="bias_correction", params={"method": "vitis"}),
        Step(name="position_adjustment", params={"method": "vitis_pytorch"}),
    )
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="running", modal_ties="larger_scale")
    (rule,) = config.rules
    assert rule.match == Match(function="input") and rule.if_unmatched == "warn" and rule.output is not None
    assert rule.output.observer == ObserverSpec(name="diffs", params={"scope": 1}), "3.4: inputs always scope 1"
    assert rule.output.rounding == "half_up", "0.3"
    assert all(source.kind == "dialect" for source in config.default_sources.values()), "the tool's implicit defaults"
    assert config == load_config("vai_q_pytorch")


def test_cpu_and_the_seed_of_every_field(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**cpu(), "tensor_quantize_config": {"activation": {"method": "mse"}}}, indent=1))
    config = load_config(path)
    assert config.default.output is not None and config.default.weight is not None
    assert config.default.output.observer == ObserverSpec(name="mse", params={"histogram": "exact"})
    assert config.default.output.statistic == "max" and config.default.weight.statistic == "all"
    assert config.target == "vitis_cpu" and config.default.weight.min_scale == 0.0
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="running", modal_ties="smaller_scale")
    lines = path.read_text().splitlines()
    for key, word in (("output.observer", '"mse"'), ("weight.observer", '"maxmin"'), ("weight.rounding", "half_even")):
        source = config.default_sources[key]
        assert source.kind == "file" and source.line is not None and word in lines[source.line - 1]
    assert set(config.default_sources) >= {f"{role}.{name}" for role in ("weight", "bias", "input", "output")
                                           for name in config.default.weight.fields_set()}  # fmt: skip


@pytest.mark.parametrize(
    ("overall", "want"),
    [
        ({"method": "percentile", "percentage": 99.5}, {"percentile": 99.5, "histogram": "exact"}),
        ({"method": "percentile"}, {"percentile": 99.99, "histogram": "exact"}),
        ({"method": "entropy"}, {"histogram": "exact"}),
        ({"method": "diffs", "scale_type": "poweroftwo", "calib_statistic_method": "modal"}, {"scope": 5}),
        ({"method": "maxmin", "scale_type": "poweroftwo", "calib_statistic_method": "modal"}, {"scope": 1}),
    ],
)
def test_methods(overall: dict[str, Any], want: dict[str, Any]) -> None:
    config = load_config(cpu(**overall))
    assert config.default.weight is not None and config.default.weight.observer is not None
    assert config.default.weight.observer.params == want


def test_wide_power_of_two_scales_stop_at_15() -> None:
    """3.4: positions are capped at 12 up to 8 bits and at 15 beyond."""
    config = load_config(cpu(bit_width=16, scale_type="poweroftwo", method="diffs", calib_statistic_method="modal"))
    assert config.default.weight is not None and config.default.weight.min_scale == 2.0**-15


@pytest.mark.parametrize(
    ("overall", "grid"),
    [
        ({"symmetry": False}, (0, 255, "uint8", False)),
        ({"symmetry": False, "signed": False, "narrow_range": True}, (0, 255, "uint8", False)),
        ({"signed": False}, (0, 255, "uint8", True)),
        ({"narrow_range": True}, (-127, 127, "int8", True)),
        ({"bit_width": 4}, (-8, 7, "int4", True)),
    ],
)
def test_grids(overall: dict[str, Any], grid: tuple[int, int, str, bool]) -> None:
    """2.3: signed and narrow_range are ignored when asymmetric."""
    spec = load_config(cpu(**overall)).default.output
    assert spec is not None and (spec.qmin, spec.qmax, spec.format, spec.symmetric) == grid


def test_graph_switches() -> None:
    steps = lambda document: [s.name for s in load_config(document).optimize or ()]  # noqa: E731
    off = {"include_cle": False, "include_bias_corr": False}
    always = ["fold_batchnorm", "dpu_operators"]  # 4.6: device arithmetic on every target
    assert steps({**DPU, **off}) == steps({**cpu(), **off}) == always
    assert [step.name for step in load_config({**DPU, **off}).refine] == ["position_adjustment"]
    assert load_config({**cpu(), **off}).refine == ()
    assert steps({**DPU, **off, "convert_relu6_to_relu": True}) == ["relu6_to_relu", *always]
    assert steps({**DPU, **off, "convert_silu_to_hswish": True}) == ["silu_to_hardswish", *always]
    assert steps(DPU)[0] == "relu6_to_relu", "0.4: equalization replaces ReLU6 even when the switch says no"


def test_alignment_switches_reach_the_adjustment_and_survive_writing() -> None:
    asked = {"change_concat_input_fix": True, "change_pool_input_fix": True, "include_bias_corr": False}
    (step,) = load_config({**DPU, **asked}).refine
    assert step.params == {"method": "vitis_pytorch", "concat": True, "pool": True}
    (step,) = load_config({**cpu(), **asked}).refine
    limits = ("shift_cut", "shift_bias", "hard_sigmoid", "hard_swish")
    assert step.params == {"method": "vitis_pytorch", "concat": True, "pool": True, **dict.fromkeys(limits, False)}
    for document in ({**DPU, **asked}, {**cpu(), **asked}, {**DPU, "change_pool_input_fix": True}):
        text, unmapped = write_config(load_config(document), "vai_q_pytorch")
        assert not unmapped and load_config(text).refine == load_config(document).refine


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**DPU, "overall_quantize_config": {"narrow_range": True}}, "full range"),
        ({**DPU, "overall_quantize_config": {"signed": False}}, "ignores it"),
        ({**DPU, "overall_quantize_config": {"method": "maxmin"}}, "five positions"),
        ({**DPU, "tensor_quantize_config": {"activation": {"round_mode": "std_round"}}}, "half up"),
        ({**DPU, "quantizable_data_type": ["weights"]}, "input, bias, activation are quantized all the same"),
        ({**DPU, "keep_first_last_layer_accuracy": True}, "no layer is left float"),
        ({**cpu(datatype="bfloat16"), "change_pool_input_fix": True}, "does nothing beside a float datatype"),
        ({**DPU, "onnx_opset_version": 14}, "opset 14"),
        ({**DPU, "target_device": "FLEXML"}, "dpu target"),
        ({**cpu(), "tensor_quantize_config": {"input": {"bit_width": 16}}}, "those of 'input' differ (bit_width)"),
        (cpu(percentage=99.0), "no effect: the method is maxmin"),
        (cpu(signed=False), "negative values of weights become 0"),
        (cpu(symmetry=False, narrow_range=True), "no effect: an asymmetric"),
        ({**cpu(), "tensor_quantize_config": {"weights": {"bit_width": 4}}}, "different widths"),
        (cpu(bit_width=None), "null is read as not given"),
    ],
)
def test_what_the_tool_does_silently_is_said(document: dict[str, Any], says: str) -> None:
    config, unmapped = read_config(document)
    assert any(says in note for note in config.notes), config.notes
    assert all(any(item.message in note for note in config.notes) for item in unmapped)


def test_dropped_keys_are_unmapped() -> None:
    document = {**DPU, "onnx_opset_version": 13, "change_concat_input_fix": True, "keep_add_layer_accuracy": True}
    _, unmapped = read_config(document)
    assert {item.path for item in unmapped} == {
        "onnx_opset_version",
        "keep_add_layer_accuracy",
    }
    assert read_config({**DPU, "onnx_opset_version": -1})[1] == [], "-1 is the tool's own choice"


@pytest.mark.parametrize(
    ("document", "code", "path"),
    [
        ({"overall_quantize_config": {}}, "vai_target_missing", ""),
        ({"target_device": "dpu"}, "vai_target", "target_device"),
        ({**DPU, "include_bias_corr": "false"}, "vai_flag", "include_bias_corr"),
        ({**DPU, "quantizable_data_type": ["weight"]}, "vai_word", "quantizable_data_type[0]"),
        ({**DPU, "onnx_opset_version": "13"}, "type", "onnx_opset_version"),
        ({**DPU, "overall_quantize_config": {"per_channel": True}}, "vai_dpu_per_channel", ""),
        ({**DPU, "overall_quantize_config": {"calib_statistic_method": "max"}}, "vai_dpu_statistic", ""),
        ({**DPU, "overall_quantize_config": {"datatype": "bfloat16"}}, "vai_dpu_datatype", ""),
        ({**DPU, "tensor_quantize_config": {"activation": {"round_mode": "half_even"}}}, "vai_dpu_round_mode", ""),
        ({**DPU, "tensor_quantize_config": {"weights": {"round_mode": "half_up"}}}, "vai_dpu_round_mode", ""),
        (cpu(method="percentile", percentage=99), "vai_percentage", "overall_quantize_config.percentage"),
        (cpu(method="percentile", percentage=0.0), "vai_percentage", ""),
        (cpu(method="percentile", percentage=100.5), "vai_percentage", ""),
        (cpu(bit_width=True), "vai_bit_width", "overall_quantize_config.bit_width"),
        (cpu(bit_width=24), "vai_bit_width", ""),
        (cpu(method="MaxMin"), "vai_word", "overall_quantize_config.method"),
        (cpu(scale_type="poweroftwo"), "vai_cpu_pow2_statistic", "overall_quantize_config.calib_statistic_method"),
        ({**cpu(), "tensor_quantize_config": {"bias": {"per_channel": True}}}, "vai_cpu_per_channel_tensor", ""),
        ({**cpu(), "layer_quantize_config": {}}, "type", "layer_quantize_config"),
        ({**cpu(), "layer_quantize_config": [{**LAYER}]}, "missing_key", "layer_quantize_config[0]"),
        (
            {**cpu(), "layer_quantize_config": [{**LAYER, "layer_type": 3}]},
            "type",
            "layer_quantize_config[0].layer_type",
        ),
        ({**cpu(), "layer_quantize_config": [{"layer_type": "Conv2d", "quantizable_data_type": []}]}, "no_effect", ""),
        ({**cpu(), "layer_quantize_config": [{**LAYER, "layer_name": "Net::Net/ret.19"}]}, "vai_layer_name", ""),
        ({**cpu(), "layer_quantize_config": [{**LAYER, "layer_type": "Conv2d", "method": 1}]}, "unknown_key", ""),
    ],
)
def test_refusals(document: dict[str, Any], code: str, path: str) -> None:
    found = problems(document)
    assert [problem.code for problem in found] == [code], found
    assert found[0].fix and (not path or found[0].path == path)


def test_all_problems_of_a_file_at_once_with_lines(tmp_path: Path) -> None:
    bad = {
        "include_cle": "yes", "target_device": "CPU", "foo": 1,
        "overall_quantize_config": {**CPU["overall_quantize_config"], "method": "diffs", "bit_width": 8.0},  # type: ignore[dict-item]
        "tensor_quantize_config": {"activation": {"calib_statistic_method": "modal"}, "acts": {}},
        "layer_quantize_config": [{"layer_type": "torch.nn.Conv2d", "layer_name": "Net::nndct_conv2d_1"},
                                  {"layer_name": "Net::nndct_conv2d_1", "quantizable_data_type": ["weights"]}],
    }  # fmt: skip
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad, indent=2))
    found = problems(path)
    assert [problem.code for problem in found] == [
        "vai_flag", "unknown_key", "vai_bit_width", "vai_cpu_float_method", "vai_cpu_float_statistic", "unknown_key",
        "vai_layer_types", "vai_layer_name",
    ]  # fmt: skip
    lines = path.read_text().splitlines()
    for problem in found:
        assert problem.line is not None and problem.file == str(path)
        assert (
            problem.path.rpartition(".")[2].split("[")[0] in lines[problem.line - 1]
            or problem.code == "vai_layer_types"
        )


def test_one_setting_at_fault_is_one_problem() -> None:
    (problem,) = problems(cpu(method="diffs"))
    assert problem.message.startswith("method is diffs for input, weights, bias, activation")
    (missing,) = problems(
        {"target_device": "CPU", "overall_quantize_config": {"method": "maxmin", "scale_type": "float"}}
    )
    assert "(the tool's default)" in missing.message and missing.code == "vai_cpu_float_statistic"


def test_layers() -> None:
    entry = {**LAYER, "overall_quantize_config": {"bit_width": 4}}
    config = load_config(
        {
            **cpu(method="mse"),
            "layer_quantize_config": [
                {**entry, "layer_name": "fc", "layer_type": None},
                {**entry, "layer_type": "torch.nn.Linear"},
                {"layer_type": "nn.Conv2d", "quantizable_data_type": ["weights"]},
                {**entry, "layer_type": "Linear", "overall_quantize_config": {"bit_width": 6}},
                {**entry, "layer_name": "Net::Net/Linear[fc]/ret", "overall_quantize_config": {"bit_width": 5}},
            ],
        }
    )
    rules = [
        (str(rule.match), rule.output.format if rule.output else None, rule.if_unmatched) for rule in config.rules[1:]
    ]
    assert rules == [("type Conv2d", None, "warn"), ("type Linear", "int6", "warn"), ("name fc", "int5", "error")]
    assert config.rules[1].weight == config.default.weight, "inherited whole from the model"
    assert sum("replaced by a later entry" in note for note in config.notes) == 2
    both = load_config({**cpu(), "layer_quantize_config": [{**LAYER, "layer_type": "Conv2d", "layer_name": "conv1"}]})
    assert both.rules[1].match == Match(type="Conv2d") and any("layer_type is given" in note for note in both.notes)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ResNet::ResNet/Conv2d[conv1]/input.2", "conv1"),
        ("ResNet::ResNet/Sequential[layer1]/BasicBlock[0]/Conv2d[conv1]/input.5", "layer1.0.conv1"),
        ("#Net::Net/Conv2d[c1]/ret.1(Net::nndct_conv2d_1)", "c1"),
        ("Net::Net/Sequential[features]/ReLU6[2]/input", "features.2"),
        ("Net::Net/Linear[fc]/105", "fc"),
        ("DigitsNet::DigitsNet/Conv2d[stem.conv]/input.2", "stem.conv"),
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("fc", "fc"),
    ],
)
def test_layer_names(name: str, path: str) -> None:
    assert resolve(name) == path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Net::Net/ret.19", "no module to find it by"),
        ("Net::nndct_conv2d_1", "only the tool builds"),
        ("ResNet::ResNet/Sequential[layer1]/BasicBlock[0]/input.9", "inside the module 'layer1.0' (BasicBlock)"),
        ("::x", "not a layer name"),
        ("a b", "not a layer name"),
    ],
)
def test_layer_names_that_no_module_answers_to(name: str, says: str) -> None:
    found = resolve(name)
    assert isinstance(found, Unresolved) and says in found.message and found.fix


def test_float_datatypes() -> None:
    """3.7: casts; a mixture leaves the inputs of the network float."""
    half = load_config({"target_device": "CPU", "overall_quantize_config": {"datatype": "bfloat16"}})
    assert half.default.weight == half.default.output == QuantSpec(format="bfloat16")
    assert half.rules[0].output == QuantSpec(format="bfloat16")
    mixed = load_config({**cpu(), "tensor_quantize_config": {"bias": {"datatype": "float16"}}})
    assert mixed.default.bias == QuantSpec(format="float16") and mixed.rules[0].output == QuantSpec(format="float32")
    assert any("stay float" in note for note in mixed.notes)


def samples() -> list[str]:
    """Returns every JSON block of the tool's own document."""
    text = next(shared("seeds").glob("000_*.txt")).read_text(encoding="utf-8")
    blocks = re.findall(r"```\w* ?\n(.*?)```", text, re.S)
    return [block for block in blocks if re.match(r"\s*[{\"]", block)]


def test_every_sample_of_the_document_loads() -> None:
    """Fragments are completed as the document means them; its default block stands at the top level, as printed."""
    found = samples()
    assert len(found) == 5
    default, model, tensor, by_type, by_name = (b if b.lstrip().startswith("{") else "{" + b + "}" for b in found)
    config = load_config(default)
    assert native.to_plain(config) == native.to_plain(default_config()), "the document's default is the tool's"
    assert any("half up" in note for note in config.notes), "0.5: it says std_round for activations on the DPU"
    whole = json.loads(model)
    assert load_config(whole).default.weight == load_config(CPU).default.weight
    whole |= json.loads(tensor)
    whole["layer_quantize_config"] = [json.loads(by_type), json.loads(by_name)]
    published = load_config(shared("configs", "vai_q_pytorch", "pytorch_quantize_config.json"))
    assert native.to_plain(load_config(whole)) == native.to_plain(published)
    assert [str(rule.match) for rule in published.rules] == ["function input", "type Conv2d", "name conv1"]
    conv, name = published.rules[1:]
    assert conv.weight and conv.weight.granularity == Granularity(kind="per_channel")
    assert conv.output and conv.output.observer and conv.output.observer.name == "entropy"
    assert name.output and name.output.rounding == "half_up"


def test_real_files_load_and_survive_writing() -> None:
    paths = sorted(shared("configs", "vai_q_pytorch").glob("*.json"))
    assert paths
    for path in paths:
        config = load_config(path)
        text, unmapped = write_config(config, "vai_q_pytorch")
        assert native.to_plain(load_config(text)) == native.to_plain(config)
        assert all(item.path.endswith("match.name") for item in unmapped)
        assert native.to_plain(load_config(write_config(config)[0])) == native.to_plain(config), (
            "through native YAML too"
        )


PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "bit_width": st.sampled_from([2, 4, 6, 8, 16]),
        "method": st.sampled_from(["maxmin", "percentile", "entropy", "mse", "diffs"]),
        "round_mode": st.sampled_from(["half_even", "half_up", "half_down", "std_round"]), "symmetry": st.booleans(),
        "per_channel": st.booleans(), "signed": st.booleans(), "narrow_range": st.booleans(),
        "scale_type": st.sampled_from(["float", "poweroftwo"]), "percentage": st.floats(1, 100),
        "calib_statistic_method": st.sampled_from(["modal", "max", "mean", "median"]),
        "datatype": st.sampled_from(["int", "int", "int", "bfloat16", "float32"]),
    },
)  # fmt: skip
TENSORS = st.dictionaries(st.sampled_from(["input", "weights", "bias", "activation"]), PARAMS, max_size=2)
LAYERS = st.fixed_dictionaries(
    {"layer_type": st.sampled_from(["torch.nn.Conv2d", "Linear", None]), "layer_name": st.sampled_from(["a.b", "fc"]),
     "quantizable_data_type": st.lists(st.sampled_from(["weights", "bias", "activation"]), min_size=1, unique=True)},
    optional={"overall_quantize_config": PARAMS},
)  # fmt: skip
DOCUMENTS = st.fixed_dictionaries(
    {"target_device": st.sampled_from(["DPU", "CPU", "CPU", "GPU"])},
    optional={
        **{name: st.booleans() for name in ("convert_relu6_to_relu", "convert_silu_to_hswish", "include_cle")},
        "include_bias_corr": st.booleans(), "overall_quantize_config": PARAMS, "tensor_quantize_config": TENSORS,
        "layer_quantize_config": st.lists(LAYERS, max_size=3),
    },
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(document=DOCUMENTS, base=st.booleans())
def test_written_and_read_again_is_the_same(document: dict[str, Any], base: bool) -> None:
    if base and document["target_device"] != "DPU":  # half of them legal on purpose
        own = document.get("overall_quantize_config", {})
        document = {**document, "overall_quantize_config": {**CPU["overall_quantize_config"], **own}}  # type: ignore[dict-item]
    try:
        config, _ = plugin.read(Document(value=copy.deepcopy(document)))
    except ConfigError as error:
        assert all(problem.fix for problem in error.problems)
        return
    text, unmapped = plugin.write(config)
    again, _ = plugin.read(read_document(text))
    assert native.to_plain(again) == native.to_plain(config)
    assert all(item.path.endswith("match.name") for item in unmapped)


def test_writing_says_what_cannot_be_expressed() -> None:
    spec = QuantSpec(format="int8", symmetric=True, scale="float", rounding="floor", statistic="all",
                     observer=ObserverSpec(name="moving_average"))  # fmt: skip
    config = QuantConfig(
        default=RoleSpecs(output=spec, bias=QuantSpec(format="int32", scale="derived")),
        rules=(
            Rule(match=Match(type="Conv2d"), weight=QuantSpec(format="int4")),
            Rule(match=Match(name="head.*"), exclude=True, source=Source()),
            Rule(match=Match(name="re:x"), weight=QuantSpec(format="int4")),
        ),
        optimize=(Step(name="fold_batchnorm"),),
    )
    text, unmapped = write_config(config, "vai_q_pytorch")
    said = {item.path: f"{item.message}; {item.effect}" for item in unmapped}
    assert "rounding floor cannot be said; the tool has half_even" in said["default.output.rounding"]
    assert "moving_average" in said["default.output.observer"] and "all" in said["default.output.statistic"]
    assert "derived" in said["default.bias.scale"] and "optimize" in said and "calibration" in said
    assert "excludes" in said["rules[1]"] and "name re:x" in said["rules[2]"]
    assert "default.weight.format" not in said, "what can be said is not listed"
    back = load_config(text)
    assert back.rules[1].weight is not None and back.rules[1].weight.format == "int4"


def test_what_the_tool_refuses_is_written_as_the_nearest_it_accepts() -> None:
    spec = QuantSpec(format="int8", symmetric=True, scale="float", granularity=Granularity(kind="per_channel"),
                     observer=ObserverSpec(name="mse"))  # fmt: skip
    text, unmapped = write_config(QuantConfig(target="vitis_cpu", default=RoleSpecs(weight=spec)), "vai_q_pytorch")
    (lost,) = (item for item in unmapped if item.path == "default.weight.observer")
    assert (lost.message, lost.effect) == ("observer mse cannot be said", "the tool has minmax")
    assert load_config(text, dialect="vai_q_pytorch").default.weight is not None
    wide = QuantSpec(format="int20", symmetric=False, scale="power_of_two", statistic="max", rounding="floor")
    for target in ("dpu", "vitis_cpu"):
        config = QuantConfig(target=target, default=RoleSpecs(weight=wide, output=wide, input=wide))
        text, unmapped = write_config(config, "vai_q_pytorch")
        assert load_config(text, dialect="vai_q_pytorch").target == target
        assert not [item for item in unmapped if "refuses" in item.effect]
        assert {"default.weight.format", "default.output.symmetric"} <= {item.path for item in unmapped}


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_fuzz_real_files(data: st.DataObject) -> None:
    """A damaged file gives a config, or a ConfigError whose problems say where; nothing else."""
    paths = sorted(shared("configs", "vai_q_pytorch").glob("*.json"))
    text = data.draw(st.sampled_from([path.read_text(encoding="utf-8") for path in paths]))
    if data.draw(st.booleans()):
        text = _damage_text(text, data)
    else:
        text = json.dumps(_damage_value(json.loads(text), data))
    try:
        config, _ = plugin.read(read_document(text + "\n", file="fuzz.json"))
    except ConfigError as error:
        assert error.problems and all("fuzz.json" in problem.where for problem in error.problems)
        return
    assert native.to_plain(plugin.read(read_document(plugin.write(config)[0]))[0]) == native.to_plain(config)


def _damage_text(text: str, data: st.DataObject) -> str:
    for _ in range(data.draw(st.integers(1, 3))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 40))
        insert = data.draw(st.sampled_from(["", "{", "}", "[", '"', ",", "null", "true", "1", "\\", "é", "\x00"]))
        text = text[:at] + insert + text[at + cut :]
    return text if text.strip() else "{"


ODD = st.sampled_from(
    [None, True, False, 0, 1, -1, 3.5, 8, "x", "", "CPU", "maxmin", [], {}, ["weights"], [{}], {"a": 1}]
)


def _damage_value(value: Any, data: st.DataObject) -> Any:
    """Returns the value with one to three values replaced, removed or renamed."""
    for _ in range(data.draw(st.integers(1, 3))):
        holder = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            inner = holder[key]
            if isinstance(inner, (dict, list)) and inner and data.draw(st.integers(0, 3)):
                holder = inner
                continue
            action = data.draw(st.sampled_from(["replace", "remove", "rename"]))
            if action == "replace" or isinstance(holder, list):
                holder[key] = copy.deepcopy(data.draw(ODD))
            else:
                old = holder.pop(key)
                if action == "rename":
                    holder[key + "x"] = old
            break
    return value
