"""Signed or unsigned, where a symmetric activation's format is left open."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plan_builder import Build
from torch import nn

import quantwright as qw
from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Rule
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Plan, SameAs
from quantwright.plan.resolve import resolve
from quantwright.plan.sign import never_negative


def plan(facts: ModelFacts, *rules: Rule, target: str = "onnxruntime", **activation: Any) -> Plan:
    default = RoleSpecs.model_validate({"activation": activation})
    return resolve(QuantConfig(default=default, rules=rules), facts, registry.load("targets", target))


def formats(p: Plan) -> dict[str, str]:
    """Returns node -> format of its value."""
    return {
        d.point.tensor: str(d.spec.format) for d in p.quantized() if d.point.role in ("input", "output") and d.spec
    }


def small() -> ModelFacts:
    b = Build()
    y = b.op("relu", b.layer("conv2d", b.input(), "one"), at="relu")
    z = b.op("add", b.layer("conv2d", b.op("max_pool", y, at="pool"), "two"), y)
    return b.facts(b.op("cat", b.op("relu", z, at="last"), y))


def test_what_cannot_be_negative_is_unsigned_and_everything_else_signed() -> None:
    found = formats(plan(small(), symmetric=True))
    assert found == {
        "x": "int8", "relu": "uint8", "max_pool": "uint8", "conv2d_1": "int8", "relu_1": "uint8", "cat": "uint8",
    }  # fmt: skip


def test_the_reason_is_in_the_plan() -> None:
    p = plan(small(), symmetric=True)
    reasons = [str(reason) for reason in p["x:input"].reasons["format"]]
    assert reasons[-1].startswith("int8 <- plan: the value can be negative")
    assert "uint8 <- target onnxruntime" in reasons
    assert all("plan:" not in str(r) for r in p["relu:output"].reasons["format"])  # it is what the target says anyway


@pytest.mark.parametrize("asked", ["int8", "uint8", "int16"])
def test_a_format_that_was_asked_for_stays(asked: str) -> None:
    assert set(formats(plan(small(), symmetric=True, format=asked)).values()) == {asked}


def test_a_rule_that_asks_for_a_format_is_obeyed_alone() -> None:
    signed = Rule.model_validate({"match": {"name": "relu"}, "output": {"format": "int8"}})
    found = formats(plan(small(), signed, symmetric=True))
    assert found["relu"] == "int8" and found["x"] == "int8" and found["relu_1"] == "uint8"


def test_a_grid_with_a_zero_point_and_a_device_without_choice_keep_their_format() -> None:
    assert set(formats(plan(small(), symmetric=False)).values()) == {"uint8"}
    assert set(formats(plan(small(), target="dpu")).values()) == {"int8"}


def test_a_concat_of_both_kinds_is_signed_and_so_is_what_shares_its_scale() -> None:
    b = Build()
    x = b.input()
    y = b.op("relu", b.layer("conv2d", x, "one"), at="relu")
    found = plan(b.facts(b.op("cat", b.layer("conv2d", x, "two"), y)), symmetric=True)
    assert formats(found)["cat"] == formats(found)["relu"] == formats(found)["conv2d_1"] == "int8"
    assert isinstance(found["relu:output"].relation, SameAs) and "concatenated" in found["relu:output"].relation.why
    assert found.root("relu:output").point.name == found.root("two:output").point.name


def test_sums_products_and_averages_of_what_is_not_negative_are_not_either() -> None:
    b = Build()
    x = b.input()
    one, two = b.op("relu", x, at="r"), b.op("sigmoid", x, at="s")
    total, product, minus = b.op("add", one, two), b.op("mul", one, two), b.op("sub", one, two)
    constant = b.op("add", one, function="plus")  # the other operand is a constant, which may be negative
    mean, mixed = b.op("mean", product), b.op("cat", one, minus)
    facts = b.facts(total, minus, constant, mean, mixed)
    assert never_negative(facts) == {one, two, total, product, mean}


def test_a_symmetric_network_keeps_what_is_below_zero() -> None:
    """Before, the unsigned default of the target cut every negative value of a symmetric activation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(16, 3, 12, 12)
    asked = {"version": 1, "target": "onnxruntime", "default": {"activation": {"symmetric": True}}}
    prepared = qw.prepare(model, asked, x).calibrate([x])
    signed = qw.prepare(model, {**asked, "default": {"activation": {"symmetric": True, "format": "int8"}}}, x)
    signed.calibrate([x])
    with torch.no_grad():
        want = model.eval()(x)
        noise = [float((p.run(p.example) - want).square().mean()) for p in (prepared, signed)]
    assert noise[0] < noise[1] < 1e-2 * float(want.square().mean())
    hidden = [p.quantizers["1:output"].qparams for p in (prepared, signed)]
    torch.testing.assert_close(hidden[1].scale, hidden[0].scale * (255 / 127))
