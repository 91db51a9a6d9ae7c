"""MQBench: the document's sample, live objects, the example's YAML, what is noted, problems, writing, damaged files."""

from __future__ import annotations

import copy
import enum
import json
import operator
from typing import Any

import pytest
import torch
from conftest import shared
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule, Step
from quantwright.config.document import Document, read_document
from quantwright.config.load import choose_dialect, load_config, read_config, write_config
from quantwright.config.spec import FakeQuantSpec, Granularity, ObserverSpec, QuantSpec
from quantwright.dialects import native
from quantwright.dialects._mq_compare import complete
from quantwright.dialects._mq_words import BACKENDS, FAKE_QUANTS, OBSERVERS
from quantwright.dialects.mqbench import plugin
from quantwright.errors import ConfigError, Problem


def fuse_linear_bn() -> None:
    """A fuser of the user's."""


class ConvBNReLUFusion:
    """A fusion of the user's."""


SCHEME = {"bit": 8, "symmetry": False, "per_channel": True, "pot_scale": False}
#: the sample of the tool's document, with live classes and functions where it has them
SEED: dict[str, Any] = {
    "extra_qconfig_dict": {
        "w_observer": "MSEObserver",
        "a_observer": "MSEObserver",
        "w_fakequantize": "FixedFakeQuantize",
        "a_fakequantize": "FixedFakeQuantize",
        "w_qscheme": SCHEME,
        "a_qscheme": SCHEME,
    },
    "extra_quantizer_dict": {
        "additional_function_type": [operator.add],
        "additional_module_type": (nn.Upsample),
        "additional_node_name": ["layer1_1_conv1"],
        "exclude_module_name": ["layer2.1.relu"],
        "exclude_function_type": [operator.mul],
        "exclude_node_name": ["layer1_1_conv1"],
    },
    "preserve_attr": {"": ["func1"], "backbone": ["func2"]},
    "extra_fuse_dict": {
        "additional_fuser_method_mapping": {(nn.Linear, nn.BatchNorm1d): fuse_linear_bn},
        "additional_fusion_pattern": {(nn.BatchNorm1d, nn.Linear): ConvBNReLUFusion},
        "additional_qat_module_mapping": {nn.ConvTranspose2d: nn.ConvTranspose2d},
    },
    "concrect_args": {},
}


def problems(document: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load_config(document, dialect="mqbench")
    return list(caught.value.problems)


def codes(document: Any) -> list[str]:
    return [problem.code for problem in problems(document)]


def qconfig(**keys: Any) -> dict[str, Any]:
    return {"backend": "Tensorrt", "extra_qconfig_dict": keys}


def test_the_sample_of_the_document() -> None:
    config, unmapped = read_config(SEED, dialect="mqbench")
    assert config.target == "mqbench_academic" and any("no backend is named" in note for note in config.notes)
    weight, output = config.default.weight, config.default.output
    assert weight is not None and output is not None and output == config.default.input
    assert weight.format == "uint8" and weight.granularity == Granularity(kind="per_channel")
    assert weight.observer == output.observer == ObserverSpec(name="mse_shrink")
    assert output.statistic == "all" and weight.statistic is None
    kinds = [(str(rule.match), rule.exclude, rule.include) for rule in config.rules]
    assert kinds == [
        ("name layer2.1.relu", True, False),
        ("function operator.mul", True, False),
        ("function operator.add", False, True),
        ("type torch.nn.modules.upsampling.Upsample", False, True),
        ("name fx:layer1_1_conv1", False, True),
    ]
    assert all(rule.if_unmatched == "warn" for rule in config.rules), "the tool matches nothing silently"
    assert {item.path for item in unmapped} == {"preserve_attr", "extra_fuse_dict.additional_qat_module_mapping"}
    told = "\n".join(config.notes)
    for part in ("wins", "concrete_args", "channel axis", "never reads it"):
        assert part in told, part
    assert load_config({"backend": "SNPE", **SEED}).target == "mqbench_snpe"


def test_live_objects_become_text() -> None:
    class BackendType(enum.Enum):
        Vitis = "Vitis"
        NNIE = 3

    for member, target in ((BackendType.Vitis, "mqbench_vitis"), (BackendType.NNIE, "mqbench_nnie")):
        assert load_config({"deploy_backend": member}).target == target
    assert load_config({"backend": "BackendType.STPU"}).target == "mqbench_stpu"
    given_value = {nn.Conv2d: {1, 2}, (nn.Linear, nn.BatchNorm1d): torch.cat, "x": [torch.Tensor.add, torch.float16]}
    assert read_document(given_value).value == {
        "torch.nn.modules.conv.Conv2d": [1, 2],
        "torch.nn.modules.linear.Linear, torch.nn.modules.batchnorm.BatchNorm1d": "torch.cat",
        "x": ["torch.Tensor.add", "torch.float16"],
    }
    spelled = read_document({"f": [nn.functional.interpolate, nn.functional.linear, len, operator.matmul]}).value["f"]
    assert spelled == ["torch.nn.functional.interpolate", "torch.nn.functional.linear", "len", "operator.matmul"]
    with pytest.raises(ConfigError, match="stands twice"):
        read_document({nn.Conv2d: 1, "torch.nn.modules.conv.Conv2d": 2})
    with pytest.raises(ConfigError, match="cannot hold"):
        read_document({"a": nn.Linear(2, 2).weight})


def test_the_example_of_the_tool() -> None:
    path = shared("configs", "mqbench", "adaround_r18_2_4.yaml")
    config, unmapped = read_config(path)
    assert config.dialect == "mqbench" and config.target == "mqbench_academic"
    weight, output = config.default.weight, config.default.output
    assert weight is not None and output is not None
    assert (weight.format, output.format) == ("uint2", "uint4") and output.statistic == "ema"
    assert weight.observer == ObserverSpec(name="mse_shrink", params={"power": 2.4}) == output.observer
    assert weight.fake_quant == FakeQuantSpec(name="adaround")
    (step,) = config.refine
    assert step.name == "adaround" and step.params["max_count"] == 20000 and step.params["b_range"] == [20, 2]
    assert {item.path for item in unmapped} == {"model", "data", "process", "quantize.cali_batchsize"}
    assert config.default_sources["weight.format"].line == 8


@pytest.mark.parametrize(
    ("change", "step"),
    [({"pattern": "block"}, "brecq"), ({"pattern": "block", "prob": 0.5}, "qdrop"), ({"prob": 0.5}, "adaround")],
)
def test_reconstructions(change: dict[str, Any], step: str) -> None:
    document = {"backend": "Tensorrt", "quantize": {"quantize_type": "advanced_ptq", "reconstruction": change}}
    config = load_config({**document, "extra_prepare_dict": {}})
    assert [item.name for item in config.refine] == [step]
    text, unmapped = write_config(config, "mqbench")
    assert not unmapped and load_config(text).refine == config.refine


def test_a_backend_alone_is_its_preset() -> None:
    for backend, target in BACKENDS.items():
        if backend.startswith("Academic"):
            needed = {"w_observer", "a_observer", "w_fakequantize", "a_fakequantize", "w_qscheme", "a_qscheme"}
            assert {p.message.split("'")[1] for p in problems({"backend": backend})} == needed
            continue
        config = load_config({"backend": backend})
        assert (config.target, config.default, config.rules) == (target, RoleSpecs(), ())


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers(name: str) -> None:
    config = load_config(qconfig(w_observer=name, a_observer=name))
    known, weight, output = OBSERVERS[name], config.default.weight, config.default.output
    assert weight is not None and output is not None and weight.observer is not None and output.observer is not None
    assert weight.observer.name == output.observer.name == known.observer
    assert output.statistic == known.statistic and weight.statistic is None
    assert output.ema_decay == (0.9 if known.statistic == "ema" else None)
    assert (output.scale == "power_of_two") == known.power_of_two
    text, unmapped = write_config(config, "mqbench")
    assert not unmapped, unmapped
    assert complete(load_config(text)) == complete(config)


@pytest.mark.parametrize("name", FAKE_QUANTS)
def test_fake_quantizers(name: str) -> None:
    config = load_config(qconfig(a_fakequantize=name))
    output = config.default.output
    assert output is not None and output.fake_quant is not None
    assert output.fake_quant.name == FAKE_QUANTS[name].name
    assert any("until it is trained" in note for note in config.notes) == (name == "LearnableFakeQuantize")
    if name == "TqtFakeQuantize":  # 4: the power of two above the observer's scale; nothing is learned
        assert (output.scale, output.exponent) == ("power_of_two", "ceil")
    assert not write_config(config, "mqbench")[1]


def test_a_qscheme_replaces_the_preset_entirely() -> None:
    config = load_config(qconfig(w_qscheme={"bit": 4}, a_qscheme={"symmetry": False, "ema_ratio": 0.5}))
    weight, output = config.default.weight, config.default.output
    assert weight is not None and output is not None
    assert weight.granularity == Granularity() and weight.narrow_range is False, "Tensorrt's are per channel, narrow"
    assert (output.format, output.statistic, output.ema_decay) == ("uint8", "ema", 0.5)
    assert config.default_sources["weight.format"].path == "extra_qconfig_dict.w_qscheme.bit"
    assert config.default_sources["weight.granularity"].kind == "dialect"
    power = load_config(qconfig(a_qscheme={"bit": 8, "pot_scale": True})).default.output
    assert power is not None and (power.scale, power.exponent) == ("power_of_two", "nearest")


def test_openvino_and_nnie_keep_their_grids() -> None:
    config = load_config({"backend": "OPENVINO", "extra_qconfig_dict": {"w_qscheme": {"bit": 4}}})
    assert config.default.weight is None and any("width of its own" in note for note in config.notes)
    narrow = load_config({"backend": "OPENVINO", "extra_quantizer_dict": {"academic_mode": True}})
    assert narrow.default.weight == QuantSpec(narrow_range=True) and narrow.optimize == ()
    assert complete(narrow)["weight"].qmin == -63
    keys = {"w_observer": "MSEObserver", "w_qscheme": {"bit": 4}, "a_fakequantize": "FixedFakeQuantize"}
    nnie = load_config({"backend": "NNIE", "extra_qconfig_dict": keys})
    assert nnie.default.output is None and nnie.default.weight is not None and nnie.default.weight.format is None
    assert sum("does not read" in note for note in nnie.notes) == 2


@pytest.mark.parametrize(("backend", "key"), [("Vitis", "additional_node_name"), ("ONNX_QNN", "additional_module_type"),
                                              ("OPENVINO", "additional_function_type")])  # fmt: skip
def test_lists_a_backend_does_not_read(backend: str, key: str) -> None:
    config = load_config({"backend": backend, "extra_quantizer_dict": {key: ["x"]}})
    assert not config.rules and any("does not read it" in note for note in config.notes)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"backend": "TensorRT"}, ["mq_backend"]),
        ({"extra_qconfig_dict": {}}, ["mq_backend"]),
        (qconfig(w_observer="MinMax"), ["mq_observer"]),
        (qconfig(w_observer=3, a_fakequantize=None), ["mq_observer", "mq_fakequantize"]),
        (qconfig(w_qscheme={"bit": 1}), ["value"]),
        (qconfig(w_qscheme={"bit": 8, "symmetry": "yes"}), ["type"]),
        (qconfig(w_qscheme={"bit": 8, "std_scale": 2.0}), ["mq_observer_argument"]),
        (qconfig(a_observer="MSEObserver", a_observer_extra_args={"p": "x"}), ["type"]),
        (qconfig(a_fakequantize="FixedFakeQuantize", a_fakeq_params={"alpha": 1}), ["mq_fake_argument"]),
        (qconfig(w_obsever="MinMaxObserver"), ["unknown_key"]),
        (qconfig(a_fakequantize="TqtFakeQuantize", a_qscheme={"symmetry": False}), ["mq_tqt"]),
        (qconfig(a_observer="PoTModeObserver", a_qscheme={"symmetry": False}), ["mq_floor_asymmetric"]),
        ({"backend": "QDQ", "extra_quantizer_dict": {"exclude_module_names": ["a"]}}, ["unknown_key"]),
        ({"backend": "QDQ", "extra_quantizer_dict": {"exclude_module_name": [3, ""]}}, ["type", "type"]),
        ({"backend": "QDQ", "extra_qconfig_dict": [], "extra_fuse_dict": 3}, ["type", "type"]),
        ({"backend": "QDQ", "deploy_backend": "STPU"}, ["mq_backend"]),
        ([], ["type"]),
    ],
)
def test_problems_come_all_at_once_with_a_fix(document: Any, expected: list[str]) -> None:
    found = read_problems(document)
    assert [problem.code for problem in found] == expected, found
    assert all(problem.fix or problem.allowed for problem in found)


def read_problems(document: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        plugin.read(Document(value=document))
    return list(caught.value.problems)


def test_what_the_tool_ignores_is_noted() -> None:
    config = load_config({"backend": "Tensorrt", "zzz": 1, "extra_qconfig_dict": {"qqq": 2}})
    assert [note.split(":")[-1] for note in config.notes if "no effect" in note] and len(config.notes) == 2


def test_detection() -> None:
    for document in ({"deploy_backend": "Vitis"}, {"backend": "STPU", **SEED}, {"extra_prepare_dict": {}}):
        assert choose_dialect(read_document(document))[0] == "mqbench"
    assert plugin.detect(Document(value={"quant_dict": {}, "extra_qconfig_dict": {}})) is None
    assert plugin.detect(Document(value={"backend": "cuda"})) is None
    with pytest.raises(ConfigError, match="mqbench or sophgo"):
        choose_dialect(Document(value={"extra_qconfig_dict": {"w_observer": "MinMaxObserver"}}))


def test_writing_says_what_is_lost() -> None:
    spec = QuantSpec(format="int8", observer=ObserverSpec(name="percentile"), rounding="half_up")
    config = QuantConfig(
        target="mqbench_tensorrt",
        default=RoleSpecs(output=spec, input=spec),
        rules=(
            Rule(match=Match(type="Conv2d"), weight=QuantSpec(format="int4")),
            Rule(match=Match(name="layer4.*"), exclude=True),
            Rule(match=Match(name="head"), exclude=True),
        ),
        refine=(Step(name="bias_correction"),),
    )
    text, unmapped = write_config(config, "mqbench")
    assert json.loads(text)["extra_quantizer_dict"] == {"exclude_module_name": ["head"]}
    paths = {item.path for item in unmapped}
    assert {"rules[0]", "rules[1]", "default.output.observer", "default.output.rounding", "refine"} <= paths
    assert all(item.effect for item in unmapped)


def test_written_from_another_tool_and_from_ours() -> None:
    for source in ("vai_q_pytorch", "int8"):
        text, unmapped = write_config(load_config(source), "mqbench")
        again = load_config(text, dialect="mqbench")
        assert unmapped and again.target == "mqbench_tensorrt"
        assert not write_config(again, "mqbench")[1], "what comes back is the tool's own"


_SCHEMES = st.fixed_dictionaries(
    {},
    optional={
        "bit": st.integers(2, 16), "symmetry": st.booleans(), "per_channel": st.booleans(), "pot_scale": st.booleans(),
        "symmetric_range": st.booleans(),
    },
)  # fmt: skip
_PLAIN_OBSERVERS = st.sampled_from(["MinMaxObserver", "EMAMinMaxObserver", "EMAQuantileObserver", "MSEObserver"])
_NAMES = st.lists(st.sampled_from(["a", "b.c", "layer1.0"]), max_size=2, unique=True)
_DOCUMENTS = st.fixed_dictionaries(
    {"backend": st.sampled_from([name for name in BACKENDS if name not in ("Academic", "Academic_NLP", "NNIE")])},
    optional={
        "extra_qconfig_dict": st.fixed_dictionaries(
            {},
            optional={
                "w_qscheme": _SCHEMES, "a_qscheme": _SCHEMES, "w_observer": _PLAIN_OBSERVERS,
                "a_observer": _PLAIN_OBSERVERS, "a_fakequantize": st.sampled_from(["FixedFakeQuantize"]),
            },
        ),
        "extra_quantizer_dict": st.fixed_dictionaries(
            {},
            optional={
                "exclude_module_name": _NAMES, "exclude_function_type": _NAMES, "exclude_node_name": _NAMES,
                "additional_node_name": _NAMES, "additional_function_type": _NAMES,
            },
        ),
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(document=_DOCUMENTS)
def test_every_document_comes_back_the_same(document: dict[str, Any]) -> None:
    try:
        config, _ = plugin.read(Document(value=document))
    except ConfigError as error:
        assert document["backend"] == "Vitis" and "asymmetric" in str(error), error  # the one thing refused here
        assume(False)
    text, unmapped = plugin.write(config)
    if document["backend"] == "Vitis" and {loss.path.rpartition(".")[2] for loss in unmapped} == {"exponent"}:
        return  # pot_scale with an observer of one's own: TQT's power of two is taken, and the writer says so
    again, _ = plugin.read(read_document(text))
    assert not unmapped, unmapped
    assert complete(again) == complete(config) or again.target == "mqbench_openvino"
    assert [(r.match, r.exclude, r.include) for r in again.rules] == [
        (r.match, r.exclude, r.include) for r in config.rules
    ]
    assert native.to_plain(again)["target"] == native.to_plain(config)["target"]


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of everything inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), junk=_JUNK)
def test_damaged_documents_are_read_or_refused(data: st.DataObject, junk: Any) -> None:
    whole = read_document({"backend": "Tensorrt", "quantize": {"reconstruction": {"prob": 1.0, "b_range": [20, 2]},
                           "quantize_type": "advanced_ptq"}, **SEED}).value  # fmt: skip
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
