"""The placement of quantizers equals the recorded one: names of quant_info.json of every recorded run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from plan_builder import chain, net

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve

#: node name in the recorded runs (optype_k) -> label here
NET = {"input_0": "x", "relu_2": "r1", "relu6_2": "r1", "relu_4": "r2", "conv2d_5": "c2", "hswish_6": "hs",
       "concat_9": "cat", "adaptive_avg_pool2d_10": "p", "dense_12": "fc"}  # fmt: skip
CHAIN = {"input_0": "x", "relu_2": "ra", "relu_4": "rb", "maxpool_5": "mp", "conv2d_6": "c"}
DPU_RUNS = ("net_default", "net_default_nocle_nobc", "net_dpu_maxmin", "net_uif", "chain_default")
CPU_RUNS = ("net_cpu_maxmin", "net_cpu_off", "net_cpu_asym", "net_cpu_w4_inputq")


def placed(p: Plan, roles: tuple[str, ...]) -> list[str]:
    """Returns where quantizers sit, in execution order."""
    return [
        re.sub(r":(in|out)put$", "", d.point.name) for d in p.quantized() if d.point.role in roles and not d.redundant
    ]


@pytest.mark.parametrize("run", [*DPU_RUNS, *CPU_RUNS])
def test_quantizers_sit_where_the_tool_puts_them(run: str, vai: Any) -> None:
    recorded = vai["e2e"][run]["quant_info"]
    relu6 = any("relu6" in name for name in recorded["output"])
    facts: ModelFacts = chain() if run.startswith("chain") else net("relu6" if relu6 else "relu")
    names = CHAIN if run.startswith("chain") else NET
    p = resolve(QuantConfig(), facts, registry.load("targets", "dpu" if run in DPU_RUNS else "vitis_cpu"))
    want = [names[name.partition("::nndct_")[2]] for name in recorded["output"]]
    assert sorted(placed(p, ("input", "output"))) == sorted(want)
    params = [name.partition("::")[2] for name in recorded["param"]]
    assert sorted(placed(p, ("weight", "bias"))) == sorted(params)


def test_dpu_defaults_are_the_tools_defaults(vai: Any) -> None:
    effective = next(case for case in vai["config"] if case["note"] == "dpu legal")["effective"]
    rounding = {"std_round": "half_away", "half_up": "half_up", "half_even": "half_even"}
    p = resolve(QuantConfig(), net(), registry.load("targets", "dpu"))
    for tensor, point in (("weights", "c1.weight"), ("bias", "c1.bias"), ("activation", "r1:output")):
        spec, recorded = p[point].spec, effective[tensor]
        assert spec is not None and spec.granularity is not None and spec.observer is not None
        assert (spec.qmin, spec.qmax, spec.bits) == (
            recorded["quant_min"], recorded["quant_max"], recorded["bit_width"])  # fmt: skip
        assert spec.rounding == rounding[recorded["round_method"]]
        assert spec.granularity.kind == recorded["granularity"]
        assert spec.observer.name == recorded["method"]
        assert spec.symmetric and spec.scale == "power_of_two" and not spec.narrow_range
        assert recorded["scale_type"] == "poweroftwo"
    assert p["r1:output"].spec is not None and p["r1:output"].spec.statistic == "modal"


def test_what_is_cast_is_what_the_tool_casts(vai: Any) -> None:
    recorded = vai["e2e"]["net_cpu_bf16"]["quant_info"]["dtype"]
    spec = {"format": "bfloat16"}
    config = QuantConfig.model_validate({"default": {"weight": spec, "bias": spec, "activation": spec}})
    p = resolve(config, net("relu6"), registry.load("targets", "vitis_cpu"))
    values = [d for d in p.quantized() if d.point.role in ("input", "output")]
    assert len(values) == len(recorded["output"]) + 1  # and the network's input, which the tool casts in c1
    assert sorted(placed(p, ("weight", "bias"))) == sorted(name.partition("::")[2] for name in recorded["param"])
