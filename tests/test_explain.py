"""Explain shows the decided spec, the chain of every field with file and line, and why the rest is float."""

from __future__ import annotations

import json

import pytest
from plan_builder import net

from quantwright import registry
from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule, Source
from quantwright.config.spec import QuantSpec
from quantwright.errors import UnknownNameError
from quantwright.plan.coverage import coverage
from quantwright.plan.explain import explain, render, to_json
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve

FILE = "my.yaml"


def make(target: str = "generic") -> Plan:
    weights = Rule(
        match=Match(type="Conv2d"),
        weight=QuantSpec(format="int4"),
        source=Source(kind="file", file=FILE, line=8),
        field_sources={"weight.format": Source(kind="file", file=FILE, line=9)},
    )
    head = Rule(match=Match(name="fc"), exclude=True, source=Source(kind="file", file=FILE, line=12))
    config = QuantConfig(
        default=RoleSpecs(weight=QuantSpec(format="int6")),
        default_sources={"weight.format": Source(kind="file", file=FILE, line=3)},
        rules=(weights, head),
    )
    return resolve(config, net(), registry.load("targets", target))


def test_the_chain_of_a_field_is_told_last_first() -> None:
    (found,) = explain(make(), "c1.weight")
    lines = {line.split()[0]: line for line in found.render().splitlines()[1:]}
    assert lines["format"].split("  ", 2)[2].strip().replace("  won over  ", "  over  ").split("  over  ") == [
        "int4 [rule 1 (type Conv2d) (my.yaml:9)]",
        "int6 [default (my.yaml:3)]",
        "int8 [target generic]",
        "int8 [built-in default]",
    ]
    assert "plan: the output-channel axis" in lines["granularity"]
    assert found.summary.startswith("int4, per_channel(axis 0), symmetric, scale float, rounding half_even")


def test_what_stays_float_says_why() -> None:
    (found,) = explain(make(), "fc.weight")
    assert found.summary == "float"
    assert "stays float: excluded by rule 2 (name fc) (my.yaml:12)" in found.render()
    line = found.render().splitlines()[-1]
    assert line.startswith("  format  float32 [rule 2 (name fc) (my.yaml:12)]  won over  int6 [default (my.yaml:3)]")


def test_relations_are_told() -> None:
    p = make()
    assert "scale = scale of 'x:input' * scale of 'c1.weight'" in render(explain(p, "c1.bias"))
    assert "uses the scale of 'p:output'" in render(explain(p, "flatten:output"))
    assert "on that grid already" in render(explain(p, "flatten:output"))


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("c1", ["c1.weight", "c1.bias", "c1:output"]),
        ("c?.weight", ["c1.weight", "c2.weight"]),
        ("x", ["x:input"]),
        ("*:input", ["x:input"]),
    ],
)
def test_patterns(pattern: str, want: list[str]) -> None:
    assert [found.point for found in explain(make(), pattern)] == want


def test_everything_in_execution_order_without_a_pattern() -> None:
    p = make()
    assert [found.point for found in explain(p)] == [d.point.name for d in p.decisions]
    assert render(explain(p)).count("\n\n") == len(p.decisions) - 1


def test_near_misses() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'c1.weight'"):
        explain(make(), "c1.wieght")
    with pytest.raises(UnknownNameError, match="no point of the plan is called 'layer9"):
        explain(make(), "layer9.*")


def test_json_is_plain_and_complete() -> None:
    data = json.loads(json.dumps(to_json(explain(make(), "c1.weight"))))
    steps = data[0]["fields"]["format"]
    assert [(step["value"], step["file"], step["line"]) for step in steps] == [
        ("int8", None, None), ("int8", None, None), ("int6", FILE, 3), ("int4", FILE, 9)]  # fmt: skip
    assert data[0]["why_float"] == "" and data[0]["role"] == "weight"


def test_coverage_counts_every_tensor_once() -> None:
    p = make()
    found = coverage(p)
    reasons = found["why float"]
    assert found["quantized"] + found["shared"] + found["fused"] + found["float"] == len(p.decisions)
    assert found["fused"] == 2  # c1 and dw, before their activations
    assert found["shared"] == 3  # lr and hs follow the concat, flatten the pool
    assert reasons == {"excluded by rule 2 (name fc) (my.yaml:12)": 3}
    assert json.loads(json.dumps(found)) == found
