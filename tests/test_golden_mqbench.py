"""Every case of ``prepare_by_platform`` recorded from MQBench: the same quantizers with the same settings, or refused.

Section numbers are those of the behavioural spec. Where we differ on purpose, DELIBERATE says what we do and why.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import mq_models
import pytest
import torch
from conftest import golden

from quantwright.config.config import QuantConfig
from quantwright.config.document import read_document
from quantwright.config.spec import QuantSpec
from quantwright.dialects.mqbench import plugin
from quantwright.errors import ConfigError

FOUR = {
    **{f"{half}_observer": name for half, name in (("w", "MinMaxObserver"), ("a", "EMAMinMaxObserver"))},
    **{f"{half}_fakequantize": "FixedFakeQuantize" for half in "wa"},
    **{f"{half}_qscheme": {"bit": 4, "symmetry": True, "per_channel": False, "pot_scale": False} for half in "wa"},
}
#: what the recorded label of a case stands for
CONFIGS: dict[str, dict[str, Any]] = {
    "": {},
    "4bit academic": {"extra_qconfig_dict": FOUR},
    "exclude_module_name=['layer1.2']": {"extra_quantizer_dict": {"exclude_module_name": ["layer1.2"]}},
    "exclude_node_name=['layer1_2']": {"extra_quantizer_dict": {"exclude_node_name": ["layer1_2"]}},
    "additional_node_name=['layer1_1']": {"extra_quantizer_dict": {"additional_node_name": ["layer1_1"]}},
    "exclude+additional same node": {
        "extra_quantizer_dict": {"exclude_node_name": ["layer1_2"], "additional_node_name": ["layer1_2"]}
    },
    "additional_module_type=(nn.ReLU) (not a tuple)": {
        "extra_quantizer_dict": {"additional_module_type": torch.nn.ReLU}
    },
    "exclude_function_type=[operator.mul]": {"extra_quantizer_dict": {"exclude_function_type": [operator.mul]}},
    "additional_function_type=[torch.cat]": {"extra_quantizer_dict": {"additional_function_type": [torch.cat]}},
    "EMAMinMaxFloorObserver": {"extra_qconfig_dict": {"a_observer": "EMAMinMaxFloorObserver"}},
    "unknown fakequantize": {"extra_qconfig_dict": {"a_fakequantize": "NoSuchFakeQuantize"}},
    "unknown keys": {"extra_qconfig_dict": {"zzz": 1}, "something_else": 2},
    "extra_fuse_dict.additional_fuser_method_mapping": {
        "extra_fuse_dict": {"additional_fuser_method_mapping": {(torch.nn.Linear, torch.nn.BatchNorm1d): len}}
    },
    "untraced control flow": {},
    "concrete_args flag False": {"concrete_args": {"flag": False}},
    "concrect_args (seed doc spelling)": {"concrect_args": {"flag": False}},
}
#: (network, label, backend or "*", train) -> what we do, and why
DELIBERATE = {
    (
        "Ops",
        "",
        "Tensorrt",
        "is_qat=False in train mode",
    ): "1: a model is captured in eval mode, so its batch norms fold",
    ("LinBn", "", "Tensorrt", ""): "2: the crash of a fuser, not a rule; a linear layer with batch norm is quantized",
    ("Nest", "additional_module_type=(nn.ReLU) (not a tuple)", "Tensorrt", ""): "3: the document itself writes a class",
    ("err", "EMAMinMaxFloorObserver", "Tensorrt", ""): "3: the document's name; PoTModeObserver is its successor",
    ("Dyn", "untraced control flow", "Tensorrt", ""): "torch.export takes the default of an argument that is not given",
    ("Dyn", "concrect_args (seed doc spelling)", "Tensorrt", ""): "3: the document's spelling is read",
    ("Deconv", "", "Tensorrt", "eval"): "2: an eval deconv with batch norm loses its weight quantizer; ours does not",
    ("Deconv", "", "SNPE", "eval"): "2: the same",
    ("Nest", "exclude_module_name=['layer1.2']", "Tensorrt", ""): "3: nested weights stay quantized by a slip of HEAD",
    ("Shared", "", "Tensorrt", ""): "1: a module called twice is copied; ours is one layer with one weight",
}
NOTHING_OBSERVED: dict[str, str] = {"EMAMinMaxObserver": "ema", "MinMaxObserver": "all"}


def key_of(case: dict[str, Any]) -> tuple[str, str, str, str]:
    """Returns what DELIBERATE calls a case."""
    eval_deconv = case["case"] == "Deconv" and not case["train"]
    unfolded = case["kw"].get("is_qat") == "False" and case["train"]
    special = "eval" if eval_deconv else "is_qat=False in train mode" if unfolded else ""
    return case["case"], case["cfg"], case["backend"], special


def read(case: dict[str, Any]) -> QuantConfig | list[str]:
    """Returns the config of a case, or the codes of all problems."""
    label = "4bit academic" if case["backend"] == "Academic" else case["cfg"]
    document = {"backend": case["backend"], **CONFIGS[label]}
    try:
        return plugin.read(read_document(document))[0]
    except ConfigError as error:
        assert all(problem.fix for problem in error.problems), "every problem says what to do"
        return [problem.code for problem in error.problems]


def same_grid(spec: QuantSpec, want: dict[str, Any]) -> bool:
    """Returns whether a spec has the recorded ends of its grid."""
    return (spec.qmin, spec.qmax) == (want["qmin"], want["qmax"])


def assert_same(case: dict[str, Any], config: QuantConfig) -> None:
    """Compares the quantizers of a plan with those recorded: names, grids, observers, channels."""
    plan, facts = mq_models.planned(case["case"], config)
    ours, theirs = mq_models.activations(plan, facts), {item["name"]: item for item in case["act"]}
    assert set(ours) == set(theirs), (set(ours) - set(theirs), set(theirs) - set(ours))
    for name, want in theirs.items():
        spec = ours[name].spec
        assert same_grid(spec, want) and spec.statistic == NOTHING_OBSERVED[want["obs"]], name
        assert spec.fake_quant.name == {"NNIEFakeQuantize": "nnie"}.get(want["cls"], "fixed")
    weights, recorded = mq_models.weights(plan), {item["name"]: item for item in case["weight"]}
    assert set(weights) == set(recorded)
    for name, want in recorded.items():
        spec = weights[name].spec
        axis = spec.granularity.axis if spec.granularity.kind == "per_channel" else -1
        assert same_grid(spec, want) and axis == want["ch_axis"], name
    assert not any(d.point.role == "bias" and d.spec is not None for d in plan.decisions), "5: biases stay float"


def test_every_recorded_case() -> None:
    counts: Counter[str] = Counter()
    seen = set()
    for case in golden("mqbench_sophgo.json")["mqbench"]["prepare_cases"]:
        key, got = key_of(case), read(case)
        if key in DELIBERATE:
            seen.add(key)
            assert isinstance(got, QuantConfig), (key, got)
            with pytest.raises(AssertionError):
                assert "act" in case
                assert_same(case, got)
            counts["deliberately different"] += 1
        elif "error_type" in case:
            assert got == ["mq_fakequantize"], (key, got)
            counts["refused for the same reason"] += 1
        else:
            assert isinstance(got, QuantConfig), (key, got)
            assert_same(case, got)
            counts["same quantizers"] += 1
    assert seen == set(DELIBERATE), set(DELIBERATE) - seen
    assert counts == {"same quantizers": 25, "refused for the same reason": 1, "deliberately different": 10}


def test_every_recorded_config_comes_back_with_the_same_plan() -> None:
    compared = 0
    for case in golden("mqbench_sophgo.json")["mqbench"]["prepare_cases"]:
        config = read(case)
        if isinstance(config, list):
            continue
        text, unmapped = plugin.write(config)
        assert not unmapped, (case, unmapped)
        again, _ = plugin.read(read_document(text))
        plan, _ = mq_models.planned(case["case"], config)
        twin, _ = mq_models.planned(case["case"], again)
        assert [(d.point, d.spec, d.relation) for d in plan.decisions] == [
            (d.point, d.spec, d.relation) for d in twin.decisions
        ]
        compared += 1
    assert compared >= 25
