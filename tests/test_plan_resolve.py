"""What is quantized, where, with whose scale, and why the rest is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_builder import Build, net

from quantwright import registry
from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule, Source
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.errors import ConfigError
from quantwright.plan.facts import ModelFacts, ParamFacts
from quantwright.plan.plan import Decision, Plan, ProductOf, SameAs
from quantwright.plan.resolve import resolve
from quantwright.targets import Target

GENERIC: Target = registry.load("targets", "generic")
VITIS: Target = registry.load("targets", "vitis_cpu")


def rule(match: Mapping[str, str], **more: Any) -> Rule:
    """Returns a rule as a file would give it."""
    return Rule.model_validate({"match": match, **more})


def plan(facts: ModelFacts, *rules: Rule, target: Target = GENERIC, **default: Any) -> Plan:
    return resolve(QuantConfig(default=RoleSpecs.model_validate(default), rules=rules), facts, target)


def own(p: Plan) -> list[str]:
    """Returns the activation points that have a scale of their own."""
    return [d.point.name for d in p.quantized() if d.point.role in ("input", "output") and d.relation is None]


def why(p: Plan, name: str) -> str:
    """Returns why a point is float; fails when it is not."""
    assert p[name].spec is None, p[name]
    return p[name].why_float


def same_as(d: Decision) -> str:
    assert isinstance(d.relation, SameAs)
    return d.relation.point


# -- groups and shared scales ----------------------------------------------------------------------------------------
def test_a_fused_activation_is_quantized_once_at_its_end() -> None:
    b = Build()
    y = b.op("relu", b.layer("conv2d", b.input(), "conv"), at="relu")
    p = plan(b.facts(b.layer("linear", b.op("flatten", y), "fc")))
    assert own(p) == ["x:input", "relu:output"]
    assert why(p, "fc:output") == "a result of the network, and nothing computes on integers with it"
    assert "together with 'relu'" in why(p, "conv:output")
    assert same_as(p["flatten:output"]) == "relu:output"
    assert p["flatten:output"].redundant


def test_a_linear_layer_that_ends_the_network_gives_float_unless_a_rule_asks() -> None:
    b = Build()
    x = b.layer("linear", b.input(), "one")
    facts = b.facts(b.op("relu", b.layer("linear", x, "two"), at="end"), x)
    p = plan(facts)
    assert own(p) == ["x:input", "one:output"]  # 'two' computes on integers with the other result
    assert why(p, "end:output") == why(p, "two:output")
    assert why(p, "end:output") == "a result of the network, and nothing computes on integers with it"
    asked = plan(facts, rule({"name": "two"}, output={"symmetric": True}))
    assert own(asked) == ["x:input", "one:output", "end:output"]
    assert "end:output" in own(plan(facts, target=VITIS))


def test_movement_before_a_fused_activation_belongs_to_the_group() -> None:
    b = Build()
    y = b.op("relu", b.op("reshape", b.layer("conv2d", b.input(), "conv")), at="relu")
    p = plan(b.facts(y))
    assert own(p) == ["x:input", "relu:output"]
    assert p["reshape:output"].spec is None


def test_an_activation_is_not_fused_when_something_else_reads_what_it_reads() -> None:
    b = Build()
    c = b.layer("conv2d", b.input(), "conv")
    r = b.op("relu", c, at="relu")
    p = plan(b.facts(b.op("add", c, b.layer("conv2d", r, "next"))))
    assert own(p) == ["x:input", "conv:output", "relu:output", "next:output", "add:output"]
    b = Build()
    c = b.layer("conv2d", b.input(), "conv")
    p = plan(b.facts(c, b.op("relu", c, at="relu")))  # being returned counts as a reader
    assert own(p) == ["x:input", "conv:output"]
    assert "relu follows nothing" in why(p, "relu:output")


def test_a_lone_fused_operation_that_keeps_the_grid_shares_it() -> None:
    b = Build()
    c = b.layer("conv2d", b.input(), "conv")
    p = plan(b.facts(c, b.op("relu", c, at="relu", keeps_grid=True)))
    assert same_as(p["relu:output"]) == "conv:output"


def test_max_pool_and_zero_pad_share_and_other_pads_are_rounded() -> None:
    b = Build()
    y = b.op("max_pool", b.layer("conv2d", b.input(), "conv"), at="mp")
    y = b.op("pad", b.op("pad", y), keeps_grid=False)
    p = plan(b.facts(b.layer("conv2d", y, "last")))
    assert [(same_as(p[n]), p[n].redundant) for n in ("mp:output", "pad:output", "pad_1:output")] == [
        ("conv:output", True), ("mp:output", True), ("pad:output", False)]  # fmt: skip
    assert p.root("pad_1:output").point.name == "conv:output"


def test_a_float_operation_is_quantized_only_where_integers_are_computed_from_it() -> None:
    b = Build()
    s = b.op("softmax", b.layer("linear", b.input(), "a"), at="s")
    m = b.op("sigmoid", b.layer("linear", b.op("max_pool", s), "b"))
    p = plan(b.facts(m))
    assert own(p) == ["x:input", "a:output", "s:output", "b:output"]  # softmax: read through the max pool
    assert "sigmoid is computed in float on target generic; no quantized operation reads it" in why(p, "sigmoid:output")


def test_quantize_before_compute_off() -> None:
    lazy = dataclasses.replace(GENERIC, quantize_before_compute=False)
    p = plan(net(), target=lazy)
    assert "x:input" not in own(p)
    assert "input is float" in why(p, "c1.bias")
    assert p["dw.bias"].relation == ProductOf(input="r1:output", weight="dw.weight")


def test_inputs_of_the_network_that_nobody_computes_with_stay_float() -> None:
    b = Build()
    x, mask = b.input(), b.input("mask")
    p = plan(b.facts(b.op("other", b.layer("linear", x, "fc"), mask)))
    assert "no operation that is quantized reads" in why(p, "mask:input")


def concat(*, extra: bool = False) -> tuple[ModelFacts, str]:
    """Returns two convolutions (one behind a max pool) concatenated, once or twice."""
    b = Build()
    x = b.input()
    one, two = b.layer("conv2d", x, "one"), b.op("max_pool", b.layer("conv2d", x, "two"), at="mp")
    first = b.op("cat", one, two)
    out = (first, b.op("cat", one, b.layer("conv2d", x, "three"))) if extra else (b.layer("conv2d", first, "end"),)
    return b.facts(*out), "cat:output"


def test_concat_shares_one_scale_with_all_its_inputs() -> None:
    facts, cat = concat()
    p = plan(facts)
    assert own(p) == ["x:input", cat, "end:output"]
    assert same_as(p["one:output"]) == cat
    assert same_as(p["two:output"]) == cat
    assert same_as(p["mp:output"]) == "two:output"
    assert p.root("mp:output").point.name == cat
    assert not p["one:output"].redundant  # one:output is rounded, with the scale of the concat
    assert "concatenated by 'cat'" in str(p["one:output"].relation)


def test_a_value_follows_the_first_concat_that_reads_it() -> None:
    facts, _ = concat(extra=True)
    p = plan(facts)
    assert same_as(p["one:output"]) == "cat:output"
    assert same_as(p["three:output"]) == "cat_1:output"
    assert {"cat:output", "cat_1:output"} <= set(own(p))


def test_concat_of_concats_follows_the_last_one() -> None:
    b = Build()
    x = b.input()
    c = b.op("cat", b.layer("conv2d", x, "a"), b.layer("conv2d", x, "b"))
    p = plan(b.facts(b.op("cat", c, b.layer("conv2d", x, "c"))))
    assert p.root("a:output").point.name == "cat_1:output"
    assert [same_as(p[n]) for n in ("a:output", "cat:output", "c:output")] == [
        "cat:output",
        "cat_1:output",
        "cat_1:output",
    ]


def test_concat_does_not_bind_values_that_are_asked_to_be_different() -> None:
    facts, cat = concat()
    p = plan(facts, rule({"name": "one"}, output={"format": "int16", "symmetric": True}))
    assert "one:output" in own(p)
    assert any("'one' has another spec than 'cat'" in note for note in p.notes)
    loose = rule({"name": "one"}, output={"observer": "percentile"})  # another observer is no other grid
    assert same_as(plan(facts, loose)["one:output"]) == cat


def test_concat_of_float_values_stays_float_unless_integers_are_computed_from_it() -> None:
    b = Build()
    x = b.input()
    c = b.op("cat", b.op("sigmoid", x), b.op("softmax", x))
    assert own(plan(b.facts(c))) == []
    p = plan(b.facts(b.layer("linear", c, "fc")))
    assert own(p) == ["cat:output"]
    assert same_as(p["sigmoid:output"]) == "cat:output"


def test_concat_with_output_only_absorbs_what_nobody_else_reads() -> None:
    b = Build()
    x = b.input()
    one, two = b.layer("conv2d", x, "one"), b.layer("conv2d", x, "two")
    c = b.op("cat", one, b.op("reshape", two), b.op("sigmoid", x))
    p = plan(b.facts(b.op("relu", c, at="r"), one), target=VITIS)
    assert own(p) == ["x:input", "one:output", "r:output"]
    assert "together with 'cat', which alone reads it" in why(p, "two:output")
    assert "together with 'cat', which alone reads it" in why(p, "sigmoid:output")


# -- exclude ---------------------------------------------------------------------------------------------------------
def test_exclude_leaves_weight_bias_and_output_float_and_says_which_rule() -> None:
    source = Source(kind="file", file="my.yaml", line=14)
    p = plan(net(), Rule(match=Match(name="fc"), exclude=True, source=source))
    for name in ("fc.weight", "fc.bias", "fc:output"):
        assert why(p, name) == "excluded by rule 1 (name fc) (my.yaml:14)"
    assert "p:output" in own(p)  # avg pool computes on integers all the same


def test_a_value_of_an_excluded_operation_is_quantized_where_others_compute_with_it() -> None:
    p = plan(net(), rule({"name": "dw"}, exclude=True))
    assert "excluded by" in why(p, "dw:output")
    assert "r1:output" in own(p)  # the add reads it too
    assert "r2:output" in own(p)  # not excluded, reads float, read by c2: as input of c2
    assert p["r2:output"].point.role == "input"
    p = plan(net(), rule({"name": "r2"}, exclude=True))
    assert "dw:output" in own(p)  # the group ends where the exclusion begins
    assert p["r2:output"].spec is not None  # c2 computes with it


def test_an_excluded_block_is_float_inside() -> None:
    b = Build()
    x = b.layer("conv2d", b.input(), "stem")
    inside = (("head", "my.Head"),)
    y = b.op("relu", b.layer("conv2d", x, "head.conv", parents=inside), at="head.relu", parents=inside)
    y = b.op("flatten", b.op("max_pool", y, parents=inside), parents=inside)
    p = plan(b.facts(b.layer("linear", y, "head.fc", parents=inside)), rule({"name": "head"}, exclude=True))
    assert own(p) == ["x:input", "stem:output"] or own(p) == ["x:input", "stem:output"]
    assert {d.point.name for d in p.quantized()} == {"x:input", "stem.weight", "stem.bias", "stem:output"}


def test_exclude_binds_wherever_it_stands() -> None:
    int4 = rule({"type": "Conv2d"}, weight={"format": "int4"})
    p = plan(net(), rule({"name": "c2"}, exclude=True), int4)
    assert p["c2.weight"].spec is None
    assert p["dw.weight"].spec is not None and p["dw.weight"].spec.format == "int4"


def test_a_rule_on_excluded_layers_only_has_no_effect() -> None:
    with pytest.raises(ConfigError, match="rule 2 .* has no effect: 'c2' is excluded by rule 1"):
        plan(net(), rule({"name": "c2"}, exclude=True), rule({"name": "c2"}, weight={"format": "int4"}))


def test_excluding_what_is_float_anyway_is_a_warning() -> None:
    p = plan(net(), rule({"name": "hs"}, exclude=True))
    assert p.warnings == ("rule 1 (name hs) excludes operations that are float anyway",)


# -- weights and biases ----------------------------------------------------------------------------------------------
def test_axes_are_filled_in_by_the_plan() -> None:
    b = Build()
    y = b.layer("conv_transpose2d", b.layer("conv2d", b.input(), "c"), "t")
    facts = b.facts(y)
    p = plan(facts)
    grains = [str(p[n].spec.granularity) for n in ("c.weight", "c.bias", "t.weight", "t.bias")]  # type: ignore[union-attr]
    assert grains == ["per_channel(axis 0)", "per_channel(axis 0)", "per_channel(axis 1)", "per_channel(axis 0)"]
    assert "plan" in str(p["t.weight"].reasons["granularity"][-1].source)
    grouped = {"granularity": {"kind": "per_group", "group_size": 4}}
    p = plan(facts, weight=grouped)
    assert str(p["c.weight"].spec.granularity) == "per_group(axis 1, group_size 4)"  # type: ignore[union-attr]
    assert "per_group" in why(p, "c.bias")
    p = plan(facts, weight={"granularity": {"kind": "per_channel", "axis": -1}})
    assert str(p["c.weight"].spec.granularity) == "per_channel(axis 3)"  # type: ignore[union-attr]
    assert "not one per output channel" in why(p, "c.bias")


def test_activations_per_channel_and_per_token() -> None:
    p = plan(net(), rule({"name": "c1"}, output={"granularity": "per_channel"}))
    assert str(p["r1:output"].spec.granularity) == "per_channel(axis 1)"  # type: ignore[union-attr]
    assert "that is per_channel" in why(p, "dw.bias")
    p = plan(net(), rule({"name": "p"}, output={"granularity": "per_token"}))
    assert "do not move along" in why(p, "flatten:output")
    assert "input is float" in why(p, "fc.bias")


def test_an_axis_that_is_not_there_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r"'fc.weight': per_channel\(axis 3\) names an axis"):
        plan(net(), rule({"name": "fc"}, weight={"granularity": {"kind": "per_channel", "axis": 3}}))


def test_a_bias_needs_quantized_input_and_weight() -> None:
    p = plan(
        net(), rule({"name": "c2"}, weight={"format": "float32"}), rule({"name": "p"}, output={"format": "float32"})
    )
    assert why(p, "c2.weight") == "format float32 (rule 1 (name c2))"
    assert "weight is float" in why(p, "c2.bias")
    assert "format float32" in why(p, "p:output")
    assert "passes on 'p', which stays float" in why(p, "flatten:output")
    assert "input is float" in why(p, "fc.bias")
    assert p["dw.bias"].relation == ProductOf(input="r1:output", weight="dw.weight")
    assert p["dw.bias"].spec is not None and p["dw.bias"].spec.format == "int32"


def test_a_grouped_transposed_convolution_has_fewer_scales_than_biases() -> None:
    b = Build()
    weight = ParamFacts(name="t.weight", shape=(8, 4, 3, 3), channel_axis=1, input_axis=0, groups=2)
    y = b.op("conv_transpose2d", b.input(), at="t", weight=weight, bias=ParamFacts(name="t.bias", shape=(8,)))
    assert "not one per output channel" in why(plan(b.facts(y)), "t.bias")


def shared_weight(kind: str = "linear") -> ModelFacts:
    b = Build()
    e = b.layer("linear", b.input(), "embed", bias=False)
    weight = ParamFacts(name="embed.weight", shape=(8, 16), input_axis=1)
    return b.facts(b.op(kind, b.op("sigmoid", e), at="head", weight=weight))


def test_a_shared_weight_is_one_point_and_an_exclude_binds_it() -> None:
    p = plan(shared_weight())
    assert [d.point.name for d in p.decisions].count("embed.weight") == 1
    assert "(shared with 'head')" in why(plan(shared_weight(), rule({"name": "head"}, exclude=True)), "embed.weight")


def test_a_shared_weight_asked_to_be_two_things_becomes_the_last() -> None:
    four, six = rule({"name": "head"}, weight={"format": "int4"}), rule({"name": "embed"}, weight={"format": "int6"})
    p = plan(shared_weight(), four, six)
    assert p["embed.weight"].spec is not None and p["embed.weight"].spec.format == "int4"
    assert any("shared by 'embed', 'head'" in note for note in p.notes)


# -- float formats ---------------------------------------------------------------------------------------------------
def test_casts_are_points_at_every_operation() -> None:
    spec = {"format": "bfloat16"}
    p = plan(net("relu6"), target=VITIS, weight=spec, bias=spec, activation=spec)
    want = ["x", "c1", "r1", "dw", "r2", "c2", "hs", "add", "lr", "cat", "p", "fc"]  # golden net_cpu_bf16 "output" + x
    assert [name.partition(":")[0] for name in own(p)] == want
    assert same_as(p["flatten:output"]) == "p:output"
    assert all(d.spec is not None and d.spec.format == "bfloat16" for d in p.quantized())


# -- input specs and edges -------------------------------------------------------------------------------------------
def test_the_input_of_the_network_takes_role_input_and_rules_for_function_input() -> None:
    p = plan(net(), input={"format": "int8", "symmetric": True}, output={"format": "uint8"})
    assert p["x:input"].spec is not None and p["x:input"].spec.format == "int8"
    p = plan(net(), rule({"function": "input"}, output={"format": "int16", "symmetric": True}))
    assert p["x:input"].spec is not None and p["x:input"].spec.format == "int16"
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint8"
    p = plan(net(), rule({"name": "c1"}, input={"format": "uint4"}))
    assert p["x:input"].spec is not None and p["x:input"].spec.format == "uint4"
    assert not any(d.point.consumers for d in p.decisions)


def test_a_consumer_that_asks_for_another_spec_requantizes_its_own_edge() -> None:
    p = plan(net(), rule({"name": "dw"}, input={"format": "uint4"}))
    edge = p["dw:input"]
    assert (edge.point.tensor, edge.point.consumers, edge.point.role) == ("relu", ("conv2d_1",), "input")
    assert edge.spec is not None and edge.spec.format == "uint4"
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint8"
    assert p["dw.bias"].relation == ProductOf(input="dw:input", weight="dw.weight")
    names = [d.point.name for d in p.decisions]
    assert names.index("r1:output") < names.index("dw:input") < names.index("dw.bias")


def test_a_float_value_takes_what_all_its_consumers_ask_for() -> None:
    excluded, four = rule({"name": "c1"}, exclude=True), {"format": "uint4"}
    p = plan(net(), excluded, rule({"name": "dw"}, input=four))  # the add reads it as well and does not ask for this
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint8"
    assert p["dw:input"].spec is not None and p["dw:input"].spec.format == "uint4"
    p = plan(net(), excluded, rule({"name": "re:dw|add"}, input=four))
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint4"
    assert not any(d.point.tensor == "relu" and d.point.consumers for d in p.decisions)


def test_edges_are_numbered_by_operand_and_equal_specs_make_none() -> None:
    b = Build()
    x = b.input()
    one, two = b.layer("conv2d", x, "one"), b.layer("conv2d", x, "two")
    facts = b.facts(b.op("add", one, two), b.op("mul", one, one))
    p = plan(facts, rule({"name": "re:add|mul"}, input={"format": "int8", "symmetric": True}))
    assert [d.point.name for d in p.decisions if d.point.consumers] == ["add:input", "add:input.1", "mul:input"]
    p = plan(facts, rule({"function": "add"}, input={"format": "uint8"}))
    assert not any(d.point.consumers for d in p.decisions)


def test_an_edge_behind_movement_reads_the_moved_value() -> None:
    p = plan(net(), rule({"name": "fc"}, input={"format": "uint4"}))
    assert p["fc:input"].point.tensor == "flatten"


def test_a_finer_edge_gains_nothing_and_is_noted() -> None:
    p = plan(net(), rule({"name": "dw"}, input={"format": "uint16"}))
    assert any("set the output there to gain precision" in note for note in p.notes)


# -- rules -----------------------------------------------------------------------------------------------------------
def test_any_node_of_a_group_decides_its_output() -> None:
    p = plan(net(), rule({"name": "r1"}, output={"format": "uint4"}))
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint4"
    p = plan(net(), rule({"name": "c1"}, output={"format": "uint4"}), rule({"name": "r1"}, output={"format": "uint6"}))
    assert p["r1:output"].spec is not None and p["r1:output"].spec.format == "uint6"
    assert any("disagree, the later one wins" in note for note in p.notes)
    p = plan(
        net(), rule({"name": "r1"}, output={"format": "uint4"}), rule({"type": "Conv2d"}, output={"format": "uint6"})
    )
    assert not any("disagree" in note for note in p.notes)  # one by name, one by type


def test_rules_without_effect_are_problems_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(
            net(),
            rule({"type": "ReLU"}, weight={"format": "int4"}),
            rule({"function": "flatten"}, input={"format": "int4"}),
            rule({"name": "nothing"}, weight={"format": "int4"}),
            rule({"name": "fc"}),
        )
    found = [(p.code, p.path) for p in caught.value.problems]
    assert found == [("rule_matches_nothing", "rules[2]")] + [("rule_without_effect", f"rules[{i}]") for i in (0, 1, 3)]
    assert "it sets weight, and none of 'r1', 'r2' has one" in str(caught.value)


def test_rules_without_effect_may_be_softened_and_parts_are_warnings() -> None:
    soft = rule({"type": "ReLU"}, weight={"format": "int4"}, if_unmatched="warn")
    part = rule({"name": "c1"}, weight={"format": "int4"}, bias={"rounding": "half_up"}, input={"format": "uint8"})
    relu = rule({"type": "ReLU"}, activation={"format": "uint6"})  # says input too, which a relu does not have: fine
    p = plan(net(), soft, part, relu)
    assert len(p.warnings) == 1 and "has no effect" in p.warnings[0] and "ignored" in p.warnings[0]
    b = Build()
    p = plan(
        b.facts(b.layer("linear", b.input(), "fc", bias=False)), part.model_copy(update={"match": Match(name="fc")})
    )
    assert p.warnings == ("rule 1 (name fc): bias has no effect on any layer it matches",)


def test_problems_name_point_value_place_and_fix() -> None:
    places = {"output.rounding": Source(kind="file", file="my.yaml", line=7, path="default.activation.rounding")}
    config = QuantConfig(default=RoleSpecs(output=QuantSpec(rounding="floor")), default_sources=places)
    with pytest.raises(ConfigError) as caught:
        resolve(config, net(), registry.load("targets", "onnxruntime"))
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.value, problem.path) == (
        "my.yaml", 7, "floor", "default.activation.rounding")  # fmt: skip
    assert "'r1:output', 'r2:output', 'c2:output' and" in problem.message
    assert "floor" in problem.message and problem.fix == "use half_even"


def test_what_the_engine_cannot_do_is_refused_on_every_target() -> None:
    cases = {
        "power_of_two_asymmetric": {"output": {"scale": "power_of_two"}},
        "diffs_float": {"weight": {"observer": "diffs"}},
        "derived": {"weight": {"scale": "derived"}},
        "too_wide": {"output": {"format": "int24"}},
        "granularity": {"output": {"granularity": {"kind": "per_group", "group_size": 4}}},
        "exact_asymmetric": {"output": {"observer": {"name": "mse", "histogram": "exact"}, "statistic": "max"}},
        "modal_float": {"output": {"statistic": "modal"}},
    }
    for code, default in cases.items():
        with pytest.raises(ConfigError) as caught:
            plan(net(), **default)
        assert code in {problem.code for problem in caught.value.problems}, code
    with pytest.raises(ConfigError) as caught:  # several at once
        plan(net(), weight={"observer": "diffs"}, output={"scale": "power_of_two"})
    assert len(caught.value.problems) == 2


FORMATS = ["int4", "int6", "int8"]
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from(FORMATS),
        "rounding": st.sampled_from(["half_even", "half_up", "floor"]),
        "narrow_range": st.booleans(),
        "observer": st.sampled_from(["minmax", "percentile"]),
        "min_scale": st.sampled_from([0.0, 2.0**-10]),
    },
)
MATCHES = st.sampled_from([{"type": "Conv2d"}, {"name": "dw"}, {"name": "*"}, {"function": "conv2d"}, {"name": "c?"}])
HITS = {"type": True, "name": {"dw": True, "*": True, "c?": False}, "function": True}


@settings(deadline=None, max_examples=150)
@given(rules=st.lists(st.tuples(MATCHES, FIELDS), max_size=5), default=FIELDS)
def test_the_last_matching_rule_that_sets_a_field_wins(rules: list[Any], default: dict[str, Any]) -> None:
    given_rules = [rule(match, weight=fields, if_unmatched="warn") for match, fields in rules]
    decision = plan(net(), *given_rules, weight=default)["dw.weight"]
    want: dict[str, Any] = {**BASE_SPEC.model_dump(), **GENERIC.defaults.weight.to_json(), **default}  # type: ignore[union-attr]
    chain: dict[str, int] = {}
    for match, fields in rules:
        key, pattern = next(iter(match.items()))
        if HITS[key] is True or HITS[key][pattern]:  # type: ignore[index]
            want.update(fields)
            chain = {name: chain.get(name, 0) + (name in fields) for name in {*chain, *fields}}
    got = decision.spec
    assert got is not None
    for name in ("format", "rounding", "narrow_range", "min_scale"):
        assert getattr(got, name) == want[name], name
        assert decision.reasons[name][-1].value == want[name]
        base = 1 + (getattr(GENERIC.defaults.weight, name) is not None) + (name in default)
        assert len(decision.reasons[name]) == base + chain.get(name, 0)
    assert got.observer is not None and got.observer.name == want["observer"]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_graph_gets_one_decision_per_tensor_and_relations_that_end(data: st.DataObject) -> None:
    b = Build()
    values = [b.input()]
    for i in range(data.draw(st.integers(1, 14))):
        kind = data.draw(st.sampled_from(["conv2d", "relu", "add", "cat", "flatten", "max_pool", "sigmoid", "linear"]))
        one, two = (data.draw(st.sampled_from(values)) for _ in range(2))
        if kind in ("conv2d", "linear"):
            values.append(b.layer(kind, one, f"m{i}"))
        else:
            values.append(b.op(kind, *((one, two) if kind in ("add", "cat") else (one,)), at=f"m{i}"))
    facts = b.facts(values[-1])
    exclude = [rule({"name": data.draw(st.sampled_from([n.label for n in facts.nodes[:-1]]))}, exclude=True)]
    for target in (GENERIC, VITIS):
        p = plan(facts, *exclude[: data.draw(st.integers(0, 1))], target=target)
        tensors = [d.point.tensor for d in p.decisions if not d.point.consumers]
        assert len(tensors) == len(set(tensors))
        assert len(p.by_name) == len(p.decisions)
        assert {n.name for n in facts.nodes[:-1]} <= set(tensors)
        for d in p.decisions:
            assert (d.spec is None) == bool(d.why_float)
            assert p.root(d.point.name).relation is None or isinstance(p.root(d.point.name).relation, ProductOf)
            if isinstance(d.relation, ProductOf):
                assert p[d.relation.input].spec is not None and p[d.relation.weight].spec is not None
        of_tensor = {d.point.tensor: d for d in p.decisions}
        for node in facts.nodes:  # what computes on integers reads integers
            if target.handling(node.kind) == "compute" and not any(r.match.name == node.label for r in exclude):
                assert all(of_tensor[name].spec is not None for name in node.inputs), node


def test_equal_labels_are_told_apart() -> None:
    b = Build()
    y = b.op("relu", b.layer("conv2d", b.op("relu", b.layer("conv2d", b.input(), "a"), at="act"), "b"), at="act")
    assert own(plan(b.facts(y))) == ["x:input", "act/relu:output", "act/relu_1:output"]


def test_ten_thousand_nodes_take_seconds() -> None:
    import time

    b = Build()
    y = b.input()
    for i in range(3_000):
        y = b.op("add", b.op("relu", b.layer("conv2d", y, f"b{i}.conv"), at=f"b{i}.relu"), y)
    facts = b.facts(y)
    start = time.process_time()
    p = plan(facts, rule({"type": "Conv2d"}, weight={"format": "int4"}), rule({"name": "b?.*"}, exclude=True))
    assert time.process_time() - start < 3.0
    assert len(p.decisions) == 3 * 3_000 + 2 * 3_000 + 1
