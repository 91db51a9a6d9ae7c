"""Every case of ``prepare_by_platform`` recorded from sophgo-mq: the same quantizers and settings, or refused alike.

Section numbers are those of the behavioural spec. Where we differ on purpose, DELIBERATE says what we do and why.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import mq_models
import pytest
from conftest import golden

from quantwright.config.config import QuantConfig
from quantwright.config.document import Document, read_document
from quantwright.config.spec import QuantSpec
from quantwright.dialects.sophgo import plugin
from quantwright.errors import ConfigError

E4M3, E5M2 = "E4M3FakeQuantize", "E5M2FakeQuantize"
TENSOR = {"bit": 8, "symmetry": True, "per_channel": False, "pot_scale": False}
ENTRY_A = {"mode": "activation", "afakequantize": "LearnableFakeQuantize", "aobserver": "MinMaxObserver"}
ENTRY_W = {"mode": "weight", "wfakequantize": "FixedFakeQuantize", "wobserver": "MinMaxObserver"}


def formats(fake: str, *, both: bool = False) -> dict[str, Any]:
    """Returns a qconfig with this fake quantizer for weights, or both halves, one scale per tensor."""
    halves = "wa" if both else "w"
    return {f"{half}_{key}": value for half in halves for key, value in (("fakequantize", fake), ("qscheme", TENSOR))}


#: the note of a recorded case -> (extra_qconfig_dict, extra_quantizer_dict)
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({}, {}),
    "exclude head": ({}, {"exclude_module_name": ["head"]}),
    "only_observer": ({}, {"module_only_enable_observer": ["x_post_act_fake_quantizer"]}),
    "module_name bit='8' (str, as in seed doc)": ({"module_name": {"layer1.0": {**ENTRY_A, "bit": "8"}}}, {}),
    "module_name activation 8": ({"module_name": {"layer1.0": {**ENTRY_A, "bit": 8}}}, {}),
    "module_name weight 4": ({"module_name": {"layer1.2": {**ENTRY_W, "bit": 4}}}, {}),
    "object_type Conv2d_sophgo weight 4": ({"object_type": {"Conv2d_sophgo": {**ENTRY_W, "bit": 4}}}, {}),
    "bad mode": ({"object_type": {"Conv2d_sophgo": {**ENTRY_W, "bit": 4, "mode": "both"}}}, {}),
    "int4_op": ({"int4_op": ["layer1.2"]}, {}),
    "E4M3FakeQuantize per-tensor (doc)": (formats(E4M3, both=True), {}),
    "E5M2FakeQuantize per-tensor (doc)": (formats(E5M2, both=True), {}),
    "E5M2FakeQuantize chip-default per-channel weights": ({"w_fakequantize": E5M2, "a_fakequantize": E5M2}, {}),
    "BF16FakeQuantize weights": (formats("BF16FakeQuantize"), {}),
    "FP4FakeQuantize weights": (formats("FP4FakeQuantize"), {}),
    "GPTQFakeQuantize weights": (formats("GPTQFakeQuantize"), {}),
    "BM1684X a bit 4": ({"a_qscheme": {**TENSOR, "bit": 4}}, {}),
    "BM1684X w bit 2": ({"w_qscheme": {**TENSOR, "bit": 2}}, {}),
    "no strategy": ({}, {}),
    "no quantmode": ({}, {}),
}
REFUSED = {  # (error, note) -> our code
    "weight_only CNN": "sophgo_weight_only",
    "bad mode": "sophgo_mode",
    "BM1684X a bit 4": "sophgo_bits",
    "no strategy": "missing_key",
    "no quantmode": "missing_key",
}
#: case -> ("accepted" or our code, why)
DELIBERATE = {
    "SG2260": ("accepted", "7: the name before BM1690; HEAD stops with an UnboundLocalError"),
    "Transformer": ("accepted", "7: every layer's input counts; HEAD forgets those fused with a batch norm"),
    "strategy Foo": ("sophgo_strategy", "7: an unknown strategy is silently half of Transformer"),
    "quantmode Foo": ("sophgo_quantmode", "7: an unknown quantmode is silently weight_only"),
    "bf16_mix_prec": ("accepted", "7: what listed operations give is rounded to bfloat16, not every edge apart"),
    "Deconv": ("accepted", "7: deconv and batch norm are folded; at torch 2 the tool does not"),
    "module_name bit='8' (str, as in seed doc)": ("accepted", "7: the document's text '8'; the tool's TypeError"),
    "module_name activation 8": ("accepted", "7: the unnamed half keeps the global settings; a crash there"),
    "module_name weight 4": ("accepted", "7: the same, an AttributeError there"),
    "object_type Conv2d_sophgo weight 4": ("accepted", "7: mode weight changes weights; there only activations"),
    "E5M2FakeQuantize chip-default per-channel weights": (
        "accepted",
        "7: per channel is no harder; an assertion there",
    ),
    "BF16FakeQuantize weights": ("accepted", "7: a cast needs no scale; the tool's bias quantization stops"),
}
FORMATS = {"E4M3FakeQuantize": "fp8_e4m3", "E5M2FakeQuantize": "fp8_e5m2", "FP4FakeQuantize": "fp6_e2m3"}


def name_of(case: dict[str, Any]) -> str:
    """Returns what DELIBERATE and REFUSED call a case."""
    modes = case["quant_dict"]
    if case["note"]:
        return str(case["note"])
    if "Foo" in modes.values():
        return "strategy Foo" if modes["strategy"] == "Foo" else "quantmode Foo"
    if modes["quantmode"] == "weight_only":
        return "weight_only CNN"
    if modes.get("bf16_mix_prec"):
        return "bf16_mix_prec"
    if case["case"] == "Deconv":
        return "Deconv"
    return "SG2260" if modes["chip"] == "SG2260" else "Transformer" if modes["strategy"] == "Transformer" else ""


def read(case: dict[str, Any]) -> QuantConfig | list[str]:
    """Returns the config of a case, or the codes of all problems."""
    qconfig, quantizer = CONFIGS[case["note"]]
    document: dict[str, Any] = {"quant_dict": case["quant_dict"]}
    document |= {"extra_qconfig_dict": qconfig} if qconfig else {}
    document |= {"extra_quantizer_dict": quantizer} if quantizer else {}
    try:
        return plugin.read(Document(value=document))[0]
    except ConfigError as error:
        assert all(problem.fix for problem in error.problems), "every problem says what to do"
        return [problem.code for problem in error.problems]


def assert_same(case: dict[str, Any], config: QuantConfig) -> None:
    """Compares the quantizers of a plan with those recorded: names, grids, formats, observers, channels."""
    plan, facts = mq_models.planned(case["case"], config)
    ours = mq_models.activations(plan, facts)
    theirs = {item["name"]: item for item in case["act"] if not item["only_obs"]}
    assert set(ours) == set(theirs), (set(ours) - set(theirs), set(theirs) - set(ours))
    for name, want in theirs.items():
        assert_grid(ours[name].spec, want, want["cls"])
        assert ours[name].spec.statistic == {"EMAMinMaxObserver": "ema", "MinMaxObserver": "all"}[want["obs"]]
    weights, recorded = mq_models.weights(plan), {item["name"]: item for item in case["weight"]}
    assert set(weights) == set(recorded)
    for name, want in recorded.items():
        spec = weights[name].spec
        axis = spec.granularity.axis if spec.granularity.kind == "per_channel" else -1
        assert axis == want["ch_axis"], name
        assert_grid(spec, want, want["fq"])
    for decision in plan.decisions:  # 7: a bias is quantized where its layer has an input quantizer
        if decision.point.role == "bias" and decision.spec is not None:
            assert recorded[decision.point.tensor.removesuffix(".bias")]["has_in"]


def assert_grid(spec: QuantSpec, want: dict[str, Any], fake: str) -> None:
    """Compares the grid of one point."""
    if fake in FORMATS:
        assert spec.format == FORMATS[fake]
        return
    assert (spec.qmin, spec.qmax) == (want["qmin"], want["qmax"]), want["name"]
    assert spec.fake_quant is not None
    assert spec.fake_quant.name == {"GPTQFakeQuantize": "gptq"}.get(fake, "fixed")


def test_every_recorded_case() -> None:
    counts: Counter[str] = Counter()
    seen = set()
    for case in golden("mqbench_sophgo.json")["sophgo"]["prepare_cases"]:
        name, got = name_of(case), read(case)
        if name in DELIBERATE:
            seen.add(name)
            want, _ = DELIBERATE[name]
            if want == "accepted":
                assert isinstance(got, QuantConfig), (name, got)
                if "error_type" not in case:
                    with pytest.raises(AssertionError):
                        assert_same(case, got)
            else:
                assert got == [want], (name, got)
            counts["deliberately different"] += 1
        elif "error_type" in case:
            assert got == [REFUSED[name]], (name, got)
            counts["refused for the same reason"] += 1
        else:
            assert isinstance(got, QuantConfig), (name, got)
            assert_same(case, got)
            counts["same quantizers"] += 1
    assert seen == set(DELIBERATE), set(DELIBERATE) - seen
    assert counts == {"same quantizers": 15, "refused for the same reason": 5, "deliberately different": 13}


def test_every_recorded_config_comes_back_with_the_same_plan() -> None:
    compared = 0
    for case in golden("mqbench_sophgo.json")["sophgo"]["prepare_cases"]:
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
