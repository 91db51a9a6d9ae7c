"""Every configuration recorded from vai_q_pytorch: the same effective settings, or refused for the same reason.

Section numbers are those of the behavioural spec. Where we differ on purpose, DELIBERATE says what we do and why.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from conftest import golden

from quantwright.config.config import QuantConfig, Rule
from quantwright.config.document import Document
from quantwright.config.spec import QuantSpec
from quantwright.dialects import native
from quantwright.dialects.vai_q_pytorch import plugin
from quantwright.errors import ConfigError

CODES = {  # recorded reason -> our code for it
    "E_UNKNOWN_KEY": "unknown_key",
    "E_BIT_WIDTH": "vai_bit_width",
    "E_BOOL": "vai_bool",
    "E_ENUM": "vai_word",
    "E_DPU_SYMMETRY": "vai_dpu_symmetry",
    "E_DPU_METHOD": "vai_dpu_method",
    "E_DPU_SCALE_TYPE": "vai_dpu_scale_type",
    "E_DPU_ACT_BIAS_BITS": "vai_dpu_bias_bits",
    "E_PT_FLOAT_STAT": "vai_cpu_float_statistic",
    "E_PT_FLOAT_METHOD": "vai_cpu_float_method",
    "E_PT_FLOAT_ASYM_METHOD": "vai_cpu_float_asymmetric_method",
    "E_PT_POW2_METHOD": "vai_cpu_pow2_method",
    "E_PT_POW2_ASYM": "vai_cpu_pow2_asymmetric",
    "E_PT_POW2_UNSIGNED": "vai_cpu_pow2_unsigned",
    "E_PC_FLOAT_NEEDS_MAXMIN": "vai_cpu_per_channel_float_method",
    "E_PC_POW2_METHOD": "vai_cpu_per_channel_pow2_method",
    "E_PC_POW2_ASYM": "vai_cpu_per_channel_pow2_asymmetric",
    "E_PC_POW2_UNSIGNED": "vai_cpu_per_channel_pow2_unsigned",
    "E_INTERNAL_KeyError_target_device": "vai_target_missing",
    "E_INTERNAL_TypeError": "vai_layer_types",
}
#: note of the case -> (what we do: "accepted" or our code, why)
DELIBERATE = {
    "dpu narrow_range=True": ("accepted", "0.5: the document demands what the tool refuses; the full range it is"),
    "unknown target_device": ("vai_target", "2.1: the tool skips every check for an unknown device and crashes later"),
    "bit_width=0": ("vai_bit_width", "2.1: the tool silently keeps 8 bits; 0 may be meant to leave tensors float"),
    "bit_width=1": ("vai_bit_width", "2.3: a signed grid of one bit is {-1, 0}, no format here has it"),
    "include_cle non bool ignored": ("vai_flag", "2.1: the tool silently ignores it and keeps equalization on"),
    "layer tensor config outside quantizable types": ("vai_layer_tensor", "2.2: a later KeyError in the tool"),
    "dpu layer weights only -> KeyError": ("accepted", "2.2: a crash, not a rule; the model's settings hold"),
}
BASE = {
    "bit_width": 8, "method": "maxmin", "round_mode": "half_even", "symmetry": True, "per_channel": False,
    "signed": True, "narrow_range": False, "scale_type": "float", "calib_statistic_method": "max",
}  # fmt: skip
ROUND = {"half_even": "half_even", "half_up": "half_up", "half_down": "half_down", "std_round": "half_away"}
ROLE = {"weights": "weight", "bias": "bias", "activation": "output"}


def outcome(document: dict[str, Any]) -> QuantConfig | list[str]:
    """Returns the config, or the codes of all problems."""
    try:
        return plugin.read(Document(value=document))[0]
    except ConfigError as error:
        assert all(problem.fix for problem in error.problems), "every problem says what to do"
        return [problem.code for problem in error.problems]


def assert_same(spec: QuantSpec | None, want: dict[str, Any], tensor: str, on_dpu: bool) -> None:
    """Compares one of our specs with the settings the tool ended up with."""
    assert spec is not None
    if want["datatype"] != "int":
        assert spec == QuantSpec(format=want["datatype"])
        return
    assert spec.bits == want["bit_width"]
    assert spec.granularity is not None and spec.granularity.kind == want["granularity"]
    assert spec.symmetric == (want["symmetric_mode"] == "symmetric")
    assert spec.scale == {"float": "float", "poweroftwo": "power_of_two"}[want["scale_type"]]
    assert spec.rounding == ROUND[want["round_method"]]
    statistic = "all" if tensor in ("weights", "bias") else want["calib_statistic_method"]
    assert spec.statistic == statistic
    observer = spec.observer
    assert observer is not None
    if on_dpu:  # 0.1, 3.5: the engine ignores signed, and searches five positions for maxmin and diffs alike
        assert (spec.qmin, spec.qmax) == (-(2 ** (spec.bits - 1)), 2 ** (spec.bits - 1) - 1)
        assert (observer.name, observer.params) == ("diffs", {"scope": 5})
        return
    assert (spec.qmin, spec.qmax) == (want["quant_min"], want["quant_max"])
    if want["scale_type"] == "poweroftwo":  # 3.4: maxmin is the first position, diffs looks at five
        assert (observer.name, observer.params["scope"]) == ("diffs", {"maxmin": 1, "diffs": 5}[want["method"]])
    else:
        assert observer.name == {"maxmin": "minmax"}.get(want["method"], want["method"])
        assert observer.params.get("percentile") == want.get("percentage")


def config_cases() -> list[dict[str, Any]]:
    return list(golden("vai_q_pytorch.json")["config"])


def test_every_recorded_config() -> None:
    counts: Counter[str] = Counter()
    seen = set()
    for case in config_cases():
        note, got = case["note"], outcome(case["cfg"])
        if note in DELIBERATE:
            seen.add(note)
            want, _ = DELIBERATE[note]
            assert isinstance(got, QuantConfig) if want == "accepted" else got == [want], note
            counts["deliberately different"] += 1
        elif "error" in case:
            assert isinstance(got, list) and got[0] == CODES[case["error"]["code"]], (note, got)
            counts["refused for the same reason"] += 1
        else:
            assert isinstance(got, QuantConfig), (note, got)
            for tensor, role in ROLE.items():
                spec = getattr(got.default, role)
                assert_same(spec, case["effective"][tensor], tensor, case["cfg"]["target_device"] == "DPU")
            assert got.default.input == got.default.output, "0.3: what a layer reads has the activation settings"
            assert_layers(got, case["layers"])
            counts["same settings"] += 1
    assert seen == set(DELIBERATE), "a deliberate difference that no case shows"
    assert counts == {"same settings": 19, "refused for the same reason": 22, "deliberately different": 7}


def assert_layers(config: QuantConfig, want: dict[str, Any]) -> None:
    rules: dict[str, Rule] = {rule.match.type or rule.match.name or "": rule for rule in config.rules[1:]}
    assert set(rules) == {*want["type"], *want["name"]}
    for key, entry in {**want["type"], **want["name"]}.items():
        for tensor, role in ROLE.items():
            spec = getattr(rules[key], role)
            assert (spec is not None) == (tensor in entry["quantizable_data_type"])
            if spec is not None:
                assert_same(spec, entry[tensor], tensor, on_dpu=False)


def test_legality_of_weights_on_cpu_is_exactly_the_tools() -> None:
    counts: Counter[str] = Counter()
    for case in golden("vai_q_pytorch.json")["weights_config_legality_cpu"]:
        got = outcome(
            {
                "target_device": "CPU",
                "overall_quantize_config": BASE,
                "tensor_quantize_config": {"weights": case["cfg"]},
            }
        )
        if case["error"] is None:
            assert isinstance(got, QuantConfig), (case, got)
        else:  # the tool stops at its first reason; ours comes first too
            assert isinstance(got, list) and got[0] == CODES[case["error"]], (case, got)
        counts["legal" if case["error"] is None else "refused"] += 1
    assert counts == {"legal": 195, "refused": 646}


@pytest.mark.parametrize("number", range(48))
def test_written_and_read_again_is_the_same(number: int) -> None:
    got = outcome(config_cases()[number]["cfg"])
    if isinstance(got, list):
        assert got, "refused with a reason"
        return
    text, unmapped = plugin.write(got)
    assert not unmapped, "all of it came from this tool, so all of it can be said"
    again = outcome(json.loads(text))
    assert isinstance(again, QuantConfig)
    assert native.to_plain(again) == native.to_plain(got)


def test_percentage_goes_back_in_every_block_that_lacks_it() -> None:
    """2.1 [V]: 99.5 for the model, and 99.99 again where the tensor's block says nothing."""
    (case,) = [case for case in config_cases() if case["note"] == "percentage reset by tensor override"]
    config = outcome(case["cfg"])
    assert isinstance(config, QuantConfig) and config.default.weight and config.default.output
    assert config.default.weight.observer and config.default.weight.observer.params["percentile"] == 99.5
    assert config.default.output.observer and config.default.output.observer.params["percentile"] == 99.99
    assert any("goes back to 99.99" in note for note in config.notes)


def test_deliberate_acceptances_say_what_is_done() -> None:
    by_note = {case["note"]: case["cfg"] for case in config_cases()}
    narrow = outcome(by_note["dpu narrow_range=True"])
    assert isinstance(narrow, QuantConfig) and any("full range" in note for note in narrow.notes)
    assert narrow.default.weight is not None and narrow.default.weight.qmin == -128
    partial = outcome(by_note["dpu layer weights only -> KeyError"])
    assert isinstance(partial, QuantConfig) and partial.rules[1].output is None and partial.rules[1].weight is not None


def test_configs_of_the_recorded_runs() -> None:
    for name, run in golden("vai_q_pytorch.json")["e2e"].items():
        config = plugin.default() if run["config"] is None and plugin.default else outcome(run["config"])
        assert isinstance(config, QuantConfig), (name, config)
        on_dpu = run["config"] is None or run["config"]["target_device"] == "DPU"
        assert config.target == ("dpu" if on_dpu else "vitis_cpu")
