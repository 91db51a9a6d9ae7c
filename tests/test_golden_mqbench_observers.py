"""Every observer recorded from MQBench: the same scale and zero point, by the spec our reader makes of its name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import mq_models
import pytest
import torch
from conftest import golden

import quantwright
from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.config.document import Document
from quantwright.config.spec import QuantSpec
from quantwright.dialects.mqbench import plugin
from quantwright.errors import ConfigError, UnknownNameError

#: what is not compared, and why
NOT_AVAILABLE = {"LSQObserver": "lsq_init is known and comes with training", "LSQPlusObserver": "4: unregistered"}

FIXED = ("FixedFakeQuantize", "LearnableFakeQuantize", "TqtFakeQuantize")


def document(case: dict[str, Any]) -> dict[str, Any]:
    """Returns the qconfig that a recorded case is about."""
    half = "w" if case["input"] == "wt" else "a"
    qconfig = {f"{half}_observer": case["observer"], f"{half}_qscheme": case["scheme_dict"]}
    if case["extra"]:
        qconfig[f"{half}_observer_extra_args"] = case["extra"]
    backend = "Vitis" if case["observer"] in ("MinMaxFloorObserver", "PoTModeObserver") else "Tensorrt"
    return {"backend": backend, "extra_qconfig_dict": qconfig}


def spec_of(case: dict[str, Any]) -> QuantSpec:
    """Returns the complete spec of a case."""
    config, _ = plugin.read(Document(value=document(case)))
    assert isinstance(config, QuantConfig) and config.target is not None
    role = "weight" if case["input"] == "wt" else "output"
    base = registry.load("targets", config.target).defaults
    spec = (getattr(config.default, role)).over(getattr(base, role))
    if case["quant_type"] == "input":  # 4: one exponent for inputs of the network
        spec = spec.model_copy(update={"observer": type(spec.observer)(name="min_mse_position", params={"scope": 1})})
    if case["quant_type"] == "param":  # weights round half to even
        spec = spec.model_copy(update={"rounding": "half_even"})
    return spec if role == "output" else spec.model_copy(update={"statistic": "last"})


def compared(case: dict[str, Any]) -> str:
    """Returns how a case came out: ``equal`` after every batch, refused as recorded, or why it was not compared."""
    if case["observer"] in NOT_AVAILABLE:
        return NOT_AVAILABLE[case["observer"]]
    if case.get("error_type"):
        return refused(case)
    spec = spec_of(case)
    recipes = golden("mqbench_sophgo.json")["mqbench"]["observer_inputs"][case["input"]]
    batches = [mq_models.recorded_input(recipe) for recipe in recipes]
    for number, step in enumerate(case["steps"], start=1):
        found = quantwright.observe(batches[:number], spec)
        scale = torch.tensor(step["scale"], dtype=torch.float64).reshape(-1)
        assert found.scale.float().double().tolist() == scale.tolist(), (case["observer"], case["scheme"], number)
        assert found.zero_point.tolist() == [int(zero) for zero in torch.tensor(step["zero_point"]).reshape(-1)]
    return "equal"


def refused(case: dict[str, Any]) -> str:
    """Returns why a case that the tool refuses is refused here, or what is done instead."""
    if case["error_type"] == "OverflowError":  # 4: "asym with qmin=0 -> OverflowError"
        with pytest.raises(ConfigError) as caught:
            plugin.read(Document(value=document(case)))
        assert [problem.code for problem in caught.value.problems] == ["mq_floor_asymmetric"]
        return "refused alike"
    if case["error_type"] == "ValueError":  # 4: "quant_type unset -> ValueError": only Vitis sets it
        plugin.read(Document(value=document(case)))
        return "accepted: the kind of a tensor is known here"
    assert case["observer"] == "EMAQuantileObserver" and case["scheme_dict"]["per_channel"]
    quantwright.observe(torch.randn(4, 8), spec_of(case))
    return "accepted: a quantile per channel is no harder"


def test_every_recorded_observer() -> None:
    cases = golden("mqbench_sophgo.json")["mqbench"]["observers"]
    counts = Counter(compared(case) for case in cases)
    assert counts == {
        "equal": 91,
        "refused alike": 2,
        "accepted: the kind of a tensor is known here": 2,
        "accepted: a quantile per channel is no harder": 1,
        NOT_AVAILABLE["LSQObserver"]: 13,
        NOT_AVAILABLE["LSQPlusObserver"]: 13,
    }


def test_lsq_is_known_and_refused_by_name_and_lsq_plus_is_no_observer() -> None:
    config, _ = plugin.read(
        Document(value={"backend": "Tensorrt", "extra_qconfig_dict": {"a_observer": "LSQObserver"}})
    )
    assert config.default.output is not None and config.default.output.observer is not None
    assert config.default.output.observer.name == "lsq_init"
    with pytest.raises(UnknownNameError, match="lsq_init"):
        quantwright.observe(torch.randn(8), config.default.output)
    with pytest.raises(ConfigError) as caught:
        plugin.read(Document(value={"backend": "Tensorrt", "extra_qconfig_dict": {"a_observer": "LSQPlusObserver"}}))
    (problem,) = caught.value.problems
    assert problem.code == "mq_observer" and "LSQObserver" in str(problem.fix)


def test_every_fake_quantizer_that_is_fixed_gives_the_recorded_values() -> None:
    """Fixed, Learnable before training and TQT compute what a fixed grid computes; the others are refused by name."""
    recorded = golden("mqbench_sophgo.json")["mqbench"]
    counts: Counter[str] = Counter()
    for case in recorded["fake_quantizers"]:
        if "observer" not in case or case["fake_quantize"] not in FIXED:
            counts["known, not available yet"] += 1
            continue
        if case.get("error_type") or case["force_scale"] is not None:
            counts["no run of observer and quantizer"] += 1
            continue
        scheme, half = case["scheme_dict"], "w" if case["input"] == "w" else "a"
        qconfig = {
            f"{half}_{key}": value
            for key, value in {
                "observer": case["observer"],
                "fakequantize": case["fake_quantize"],
                "qscheme": scheme,
            }.items()
        }
        backend = "Vitis" if case["fake_quantize"] == "TqtFakeQuantize" else "Tensorrt"
        config, _ = plugin.read(Document(value={"backend": backend, "extra_qconfig_dict": qconfig}))
        role = "weight" if half == "w" else "output"
        spec = getattr(config.default, role).over(getattr(registry.load("targets", config.target).defaults, role))
        spec = spec.model_copy(update={"statistic": "last"})
        if case["quant_type"] == "param":
            spec = spec.model_copy(update={"rounding": "half_even"})
        if spec.observer.name == "lsq_init":
            counts["known, not available yet"] += 1
            continue
        first, second = (mq_models.recorded_input(recorded["fq_inputs"][case[key]]) for key in ("input", "input2"))
        found = quantwright.observe(first, spec)
        assert found.scale.float().double().tolist() == torch.tensor(case["after_calib"]["scale"]).double().tolist()
        ours = quantwright.fake_quantize(second, spec, found, arithmetic="reciprocal")
        torch.testing.assert_close(ours, torch.tensor(case["out"]), rtol=3e-7, atol=0.0)
        counts["equal to one unit in the last place"] += 1
    assert counts["equal to one unit in the last place"] == 15, counts
    assert sum(counts.values()) == len(recorded["fake_quantizers"])
