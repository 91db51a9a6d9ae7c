"""Rules by graph pattern: what a place is, which operation a rule is about, and grids that are shared inside one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plan_builder import Build
from torch import nn

import quantwright
from quantwright import registry
from quantwright.api import decide
from quantwright.config.config import Pattern, pattern_at
from quantwright.config.load import write_config
from quantwright.errors import ConfigError
from quantwright.plan.facts import ModelFacts, Origin
from quantwright.plan.match import match_rules
from quantwright.plan.plan import Plan, SameAs
from quantwright.plan.resolve import resolve


def residual() -> ModelFacts:
    """Returns relu(conv a) -> conv b -> add with the relu -> relu -> flatten -> linear."""
    b = Build("Residual")
    y = b.op("relu", b.layer("conv2d", b.input(), "a", params={"stride": [1, 1], "kernel_size": [3, 3]}), at="r")
    z = b.layer("conv2d", y, "b", params={"stride": [2, 2], "kernel_size": [1, 1]})
    w = b.op("relu", b.op("add", y, z), at="r2")
    return b.facts(b.layer("linear", b.op("flatten", w), "fc"))


def matched(facts: ModelFacts, match: dict[str, Any]) -> tuple[str, ...]:
    config = quantwright.load_config({"version": 1, "rules": [{"match": match, "exclude": True}]})
    return match_rules(config.rules, facts).of_rule[0]


CONV = {"type": "Conv2d"}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ({"type": "ReLU", "inputs": [CONV]}, ("relu",)),
        ({"type": "ReLU", "inputs": [{"function": "add"}]}, ("relu_1",)),
        ({"type": "ReLU"}, ("relu", "relu_1")),
        ({"type": "ReLU|Linear"}, ("relu", "relu_1", "linear")),
        ({"function": "add", "inputs": [{}, CONV]}, ("add",)),
        ({"function": "add", "inputs": [CONV, {}]}, ()),  # the order counts
        ({"function": "add", "inputs": [{}]}, ()),  # and so does the number
        ({"function": "add", "inputs": [{"type": "ReLU"}, {}]}, ()),  # the relu has another reader
        ({"type": "Linear", "inputs": [{"type": "ReLU"}]}, ("linear",)),  # looking through flatten
        ({"type": "Linear", "inputs": [{"function": "flatten", "inputs": [{"type": "ReLU"}]}]}, ("linear",)),
        ({"type": "Conv2d", "params": {"kernel_size": 3}}, ("conv2d",)),
        ({"type": "Conv2d", "params": {"kernel_size": [1, 1]}}, ("conv2d_1",)),
        ({"type": "Conv2d", "params": {"stride": "re:\\[2, .\\]"}}, ("conv2d_1",)),
        ({"type": "Conv2d", "params": {"kernel_size": 3, "stride": 2}}, ()),
        ({"type": "Conv2d", "params": {"kernel_sise": 3}}, ()),
        ({"name": "re:[ab]", "inputs": [{"type": "ReLU"}]}, ()),  # b reads the relu, which the add reads too
        ({"params": {"stride": 2}}, ("conv2d_1",)),
    ],
)
def test_places_of_a_pattern(pattern: dict[str, Any], found: tuple[str, ...]) -> None:
    assert matched(residual(), {"pattern": pattern}) == found


def test_a_rule_is_about_the_part_that_at_says() -> None:
    pattern = {"function": "relu", "inputs": [{"function": "add", "inputs": [{}, CONV]}]}
    assert matched(residual(), {"pattern": pattern, "at": "0.1"}) == ("conv2d_1",)
    assert matched(residual(), {"pattern": pattern, "at": "0.0"}) == ("relu",)
    assert matched(residual(), {"pattern": pattern, "at": "0"}) == ("add",)


def test_words_beside_a_pattern_are_about_its_head() -> None:
    assert matched(residual(), {"pattern": {"inputs": [CONV]}, "name": "r"}) == ("relu",)
    assert matched(residual(), {"pattern": {"inputs": [CONV]}, "name": "r2"}) == ()


def test_a_folded_batch_norm_is_still_a_part() -> None:
    b = Build("Folded")
    norm = Origin(module_path="bn", module_type="torch.nn.modules.batchnorm.BatchNorm2d", function="batch_norm")
    facts = b.facts(b.op("relu", b.layer("conv2d", b.input(), "c", also=(norm,)), at="r"))
    whole = {"type": "ReLU", "inputs": [{"type": "BatchNorm2d", "inputs": [CONV]}]}
    assert matched(facts, {"pattern": whole}) == ("relu",)
    assert matched(facts, {"pattern": whole, "at": "0.0"}) == ("conv2d",)
    assert matched(facts, {"pattern": {"type": "ReLU", "inputs": [CONV]}}) == ("relu",)
    turned = {"type": "ReLU", "inputs": [{"type": "Conv2d", "inputs": [{"type": "BatchNorm2d"}]}]}
    assert matched(facts, {"pattern": turned}) == ()


def test_alternatives_in_every_word() -> None:
    assert matched(residual(), {"type": "Conv2d|Linear"}) == ("conv2d", "conv2d_1", "linear")
    assert matched(residual(), {"name": "a | fc"}) == ("conv2d", "linear")
    assert matched(residual(), {"function": "add|flatten"}) == ("add", "flatten")
    assert matched(residual(), {"name": "re:a|fc"}) == ("conv2d", "linear")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.c2 = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 36, 4))
        self.softmax = nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn(self.c1(x)))
        y = torch.relu(y + self.c2(y))
        return self.softmax(self.head(nn.functional.leaky_relu(y, 0.2)))


def plan(*rules: dict[str, Any], target: str = "generic") -> Plan:
    config = {"version": 1, "target": target, "rules": list(rules)}
    return decide(Net().eval(), config, torch.randn(2, 3, 6, 6)).plan


def test_patterns_of_a_captured_network_know_its_arguments() -> None:
    leaky = {"function": "leaky_relu", "params": {"negative_slope": 0.2}, "inputs": [{"function": "relu"}]}
    stem = {"type": "BatchNorm2d", "inputs": [{"type": "Conv2d", "params": {"padding": 1, "out_channels": 8}}]}
    made = plan(
        {"match": {"pattern": leaky, "at": "0"}, "output": {"format": "uint4"}},
        {"match": {"pattern": {"function": "relu", "inputs": [stem]}, "at": "0.0"}, "weight": {"format": "int4"}},
        {"match": {"pattern": {"type": "Linear", "params": {"in_features": 288}}}, "weight": {"format": "int2"}},
    )
    assert made["relu_1:output"].spec.format == "uint4"  # type: ignore[union-attr]
    assert made["c1.weight"].spec.format == "int4"  # type: ignore[union-attr]
    assert made["head.1.weight"].spec.format == "int2"  # type: ignore[union-attr]
    assert made["c2.weight"].spec.format == "int8"  # type: ignore[union-attr]


def test_outputs_of_one_place_share_a_grid_and_calibrate() -> None:
    place = {"function": "add", "inputs": [{}, CONV]}
    config = {"version": 1, "target": "onnxruntime", "rules": [{"match": {"pattern": place, "at": "1"}, "share": "0"}]}
    x = torch.randn(4, 3, 6, 6)
    prepared = quantwright.prepare(Net().eval(), config, x).calibrate([x])
    relation = prepared.plan["c2:output"].relation
    assert isinstance(relation, SameAs)
    assert relation.point == "relu:output"
    assert "rule 1" in relation.why
    one, two = (prepared.quantizers[name].qparams for name in ("c2:output", "relu:output"))
    assert one is not None
    assert two is not None
    assert torch.equal(one.scale, two.scale)


def test_sharing_what_is_float_is_an_error() -> None:
    place = {"type": "Softmax", "inputs": [{"type": "Linear"}]}
    with pytest.raises(ConfigError, match="not both of the outputs are on a grid"):
        plan({"match": {"pattern": place}, "share": "0"})


def test_a_pattern_that_fits_nowhere_says_what_could() -> None:
    facts, target = residual(), registry.load("targets", "generic")

    def message(pattern: dict[str, Any]) -> str:
        rule = {"match": {"pattern": pattern}, "exclude": True}
        with pytest.raises(ConfigError) as caught:
            resolve(quantwright.load_config({"version": 1, "rules": [rule]}), facts, target)
        return str(caught.value)

    assert "did you mean 'Conv2d'" in message({"type": "ReLU", "inputs": [{"type": "Conv2D"}]})
    assert "no place of the model" in message({"type": "Linear", "inputs": [CONV]})


@pytest.mark.parametrize(
    ("match", "path", "said"),
    [
        ({"pattern": {"type": "ReLU", "input": []}}, "rules[0].match.pattern.input", "unknown key 'input'"),
        ({"pattern": {"inputs": [{"type": 3}]}}, "rules[0].match.pattern.inputs[0].type", "not text"),
        ({"pattern": {"params": {"stride": {}}}}, "rules[0].match.pattern.params.stride", "a mapping"),
        ({"pattern": {"name": "re:("}}, "rules[0].match.pattern.name", "not a regular expression"),
        ({"pattern": {"inputs": [CONV]}, "at": "1"}, "rules[0].match.at", "no place"),
        ({"type": "ReLU", "at": "0"}, "rules[0].match.at", "no effect without a pattern"),
        ({"pattern": []}, "rules[0].match.pattern", "not a mapping"),
    ],
)
def test_a_wrong_pattern_is_named_by_its_path(match: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        quantwright.load_config({"version": 1, "rules": [{"match": match, "exclude": True}]})
    assert [problem.path for problem in caught.value.problems] == [path]
    assert said in caught.value.problems[0].message


def test_share_needs_another_place_of_a_pattern() -> None:
    for rule, said in (
        ({"match": {"type": "ReLU"}, "share": "0"}, "no effect without a pattern"),
        ({"match": {"pattern": {"inputs": [{}]}}, "share": ""}, "its own grid"),
        ({"match": {"pattern": {"inputs": [{}]}}, "share": 0, "exclude": True}, "'exclude' and 'share'"),
    ):
        with pytest.raises(ConfigError, match=said):
            quantwright.load_config({"version": 1, "rules": [rule]})


def test_patterns_are_written_as_they_are_read() -> None:
    pattern = {"type": "ReLU", "params": {"inplace": True}, "inputs": [{"function": "add", "inputs": [{}, CONV]}]}
    rules = [
        {"match": {"pattern": pattern, "at": "0.1"}, "share": "0.0", "weight": {"format": "int4"}},
        {"match": {"pattern": {"name": "stem.*"}}, "include": True},
    ]
    config = quantwright.load_config({"version": 1, "rules": rules})
    text, lost = write_config(config)
    again = quantwright.load_config(text)
    assert not lost
    assert [rule.match for rule in again.rules] == [rule.match for rule in config.rules]
    assert [(rule.share, rule.include) for rule in again.rules] == [("0.0", False), (None, True)]


def test_places_inside_a_pattern() -> None:
    pattern = Pattern(inputs=(Pattern(), Pattern(inputs=(Pattern(type="X"),))))
    assert pattern_at(pattern, "1.0") == Pattern(type="X")
    assert pattern_at(pattern, "") is pattern
    for wrong in ("2", "0.0", "x", "1.", "-1"):
        assert pattern_at(pattern, wrong) is None


def test_include_quantizes_what_the_target_leaves_float() -> None:
    before, after = plan(), plan({"match": {"type": "Softmax"}, "include": True})
    assert before["softmax:output"].spec is None
    assert after["softmax:output"].spec is not None
    assert after["head.1:output"].spec is not None  # what it reads is on a grid now


def test_include_and_exclude_the_later_one_counts() -> None:
    whole, one = {"match": {"name": "c*"}, "exclude": True}, {"match": {"name": "c2"}, "include": True}
    assert plan(whole, one)["c2.weight"].spec is not None
    assert plan(whole, one)["c1.weight"].spec is None
    assert plan({"match": {"type": "Softmax"}, "include": True}, {"match": {"name": "softmax"}, "exclude": True})[
        "softmax:output"
    ].why_float.startswith("excluded by rule 2")


def test_include_of_what_is_quantized_anyway_is_told() -> None:
    assert any("quantized anyway" in text for text in plan({"match": {"type": "Linear"}, "include": True}).warnings)
