"""Which nodes a rule is about: types, names, functions, tied modules, merged origins, near misses, and speed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_builder import Build, chain, net

from quantwright.config.config import Match, Rule, Source
from quantwright.plan.facts import ModelFacts, Origin
from quantwright.plan.match import match_rules, rule_text


def resnet() -> ModelFacts:
    """Returns two residual blocks inside ``layer1`` and a head, with the node names torch.export gives."""
    b = Build("ResNet")
    y = b.op("relu", b.layer("conv2d", b.input(), "conv1"), at="relu")
    for i in range(2):
        around = (("layer1", "torch.nn.modules.container.Sequential"), (f"layer1.{i}", "models.resnet.BasicBlock"))
        z = b.layer("conv2d", y, f"layer1.{i}.conv1", parents=around)
        z = b.op("add", z, y, parents=around)
        y = b.op("relu", z, at=f"layer1.{i}.relu", parents=around)
    paths = (("drop", "torch.nn.modules.dropout.Dropout"),)
    return b.facts(b.layer("linear", b.op("flatten", y), "fc"), module_paths=paths)


def nodes(facts: ModelFacts, **match: str) -> list[str]:
    """Returns the labels of the nodes that one rule matches."""
    found = match_rules([Rule(match=Match(**match), if_unmatched="warn")], facts).of_rule[0]
    return [facts.node(name).label for name in found]


@pytest.mark.parametrize(
    "spelling", ["torch.nn.modules.conv.Conv2d", "torch.nn.Conv2d", "nn.Conv2d", "Conv2d", "*Conv?d"]
)
def test_a_type_has_several_spellings(spelling: str) -> None:
    assert nodes(resnet(), type=spelling) == ["conv1", "layer1.0.conv1", "layer1.1.conv1"]


def test_types_are_case_sensitive_and_user_types_have_a_short_name() -> None:
    assert nodes(resnet(), type="conv2d") == []
    assert nodes(resnet(), type="BasicBlock") == nodes(resnet(), type="models.resnet.BasicBlock") != []
    assert nodes(resnet(), type="torch.nn.BasicBlock") == []


def test_a_type_or_name_of_an_enclosing_module_covers_everything_inside() -> None:
    inside = ["layer1.0.conv1", "add", "layer1.0.relu", "layer1.1.conv1", "add_1", "layer1.1.relu"]
    assert nodes(resnet(), type="BasicBlock") == inside
    assert nodes(resnet(), name="layer1") == inside
    assert nodes(resnet(), name="layer1.*") == inside
    assert nodes(resnet(), name="layer1.1") == inside[3:]
    assert nodes(resnet(), name="re:layer1\\.[01]") == inside


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("layer1.0.conv1", ["layer1.0.conv1"]),
        ("*.conv1", ["layer1.0.conv1", "layer1.1.conv1"]),
        ("layer1.?.relu", ["layer1.0.relu", "layer1.1.relu"]),
        ("add_1", ["add_1"]),  # a function has no module path: its node name
        ("layer1_0_conv1", ["layer1.0.conv1"]),  # the name torch.fx would have given
        ("relu", ["relu"]),  # a module path first, although node relu exists as well as relu_1 ...
        ("relu_1", ["layer1.0.relu"]),  # ... but no module is called so: a node name
        ("re:relu(_1)?", ["relu", "layer1.0.relu"]),
        ("conv", []),
    ],
)
def test_names(name: str, want: list[str]) -> None:
    assert nodes(resnet(), name=name) == want


@pytest.mark.parametrize("function", ["add", "torch.add", "operator.add", "add_", "aten.add", "aten::add",
                                      "torch.ops.aten.add.default", "aten.add.default", "ad*"])  # fmt: skip
def test_functions(function: str) -> None:
    assert nodes(resnet(), function=function) == ["add", "add_1"]


def test_input_is_a_function_and_kinds_are_too() -> None:
    assert nodes(resnet(), function="input") == ["x"]
    assert nodes(net(), function="depthwise_conv2d") == ["dw"]
    assert nodes(net(), function="torch.nn.functional.conv2d") == ["c1", "dw", "c2"]


def test_all_conditions_hold_for_one_origin() -> None:
    assert nodes(resnet(), type="Conv2d", name="layer1") == ["layer1.0.conv1", "layer1.1.conv1"]
    assert nodes(resnet(), name="layer1", function="add") == ["add", "add_1"]
    assert nodes(net(), type="BatchNorm2d") == ["c1"]  # folded into c1, still found
    assert nodes(net(), name="b1") == ["c1"]
    assert nodes(net(), type="BatchNorm2d", name="c1") == []  # but c1 itself is no batch norm


def test_tied_modules_are_one_identity() -> None:
    b = Build()
    b.layer("linear", b.input(), "encoder.proj", aliases=("decoder.block.proj",))
    facts = b.facts("linear")
    for name in ("encoder.proj", "decoder.block.proj", "decoder.block", "decoder", "decoder.*", "re:dec.*"):
        assert nodes(facts, name=name) == ["encoder.proj"], name


def problem(facts: ModelFacts, **match: str) -> str:
    (found,) = match_rules([Rule(match=Match(**match))], facts).problems
    return found.render()


def test_near_misses() -> None:
    assert "'Conv2d'" in problem(resnet(), type="torch.nn.Conv2D")
    assert "'layer1.0.conv1'" in problem(resnet(), name="layer1.0.conv2")
    assert "'flatten'" in problem(resnet(), function="torch.flaten")
    assert "for example: " in problem(resnet(), name="zzzzzzzz")


def test_a_module_of_which_nothing_is_left_is_told_apart() -> None:
    assert "'drop' (Dropout) nothing is left" in problem(resnet(), name="drop")
    assert "nothing is left" in problem(resnet(), type="torch.nn.Dropout")


def test_conditions_that_exclude_each_other() -> None:
    assert "none fits all at once" in problem(resnet(), type="Linear", name="layer1")


def test_a_bad_regex_is_a_problem_not_a_crash() -> None:
    assert "regular expression" in problem(resnet(), name="re:layer(")


def test_all_unmatched_rules_at_once_with_their_lines_and_softly_where_asked() -> None:
    rules = [
        Rule(match=Match(type="Conv3d"), source=Source(kind="file", file="my.yaml", line=4)),
        Rule(match=Match(name="fc")),
        Rule(
            match=Match(type="LSTM"), if_unmatched="warn", source=Source(text="layer type LSTM", file="a.json", line=9)
        ),
        Rule(match=Match(name="head")),
    ]
    found = match_rules(rules, resnet())
    assert [(p.code, p.file, p.line, p.path) for p in found.problems] == [
        ("rule_matches_nothing", "my.yaml", 4, "rules[0]"),
        ("rule_matches_nothing", None, None, "rules[3]"),
    ]
    assert "rule 1 (type Conv3d)" in found.problems[0].render()
    assert found.warnings == ("layer type LSTM (a.json:9) matches no operation of the model; ignored",)
    assert rule_text(0, rules[0]) == "rule 1 (type Conv3d) (my.yaml:4)"


def test_rules_of_a_node_are_in_rule_order() -> None:
    rules = [Rule(match=Match(name="conv1")), Rule(match=Match(type="Conv2d")), Rule(match=Match(name="*"))]
    found = match_rules(rules, resnet())
    assert found.of_node["conv2d"] == (0, 1, 2)
    assert found.of_node["x"] == (2,)


@settings(deadline=None, max_examples=60)
@given(pattern=st.text(alphabet="abconv12*?.[]!-", min_size=1, max_size=8))
def test_globs_mean_what_fnmatch_means(pattern: str) -> None:
    import fnmatch

    facts = chain()
    words = {node.name: {node.name, *((node.origins[0].module_path, node.origins[0].fx_name) if node.origins else ())}
             for node in facts.nodes if node.kind != "output"}  # fmt: skip
    if not set("*?[") & set(pattern):
        return
    want = {name for name, own in words.items() if any(fnmatch.fnmatchcase(word, pattern) for word in own - {""})}
    assert set(match_rules([Rule(match=Match(name=pattern), if_unmatched="warn")], facts).of_rule[0]) == want


def test_a_thousand_rules_on_ten_thousand_nodes_take_less_than_a_second() -> None:
    b = Build("Big")
    x = b.input()
    for i in range(10_000):
        parents = ((f"stage{i // 100}", "my.Stage"), (f"stage{i // 100}.block{i % 100 // 10}", "my.Block"))
        x = b.op("add", x, at=f"stage{i // 100}.block{i % 100 // 10}.op{i % 10}", parents=parents)
    facts = b.facts(x)
    shapes = ("stage{0}.block{1}.op3", "stage{0}.*", "*.op{1}", "add_{2}")
    rules = [
        Rule(
            match=Match(name=shapes[i % 4].format(i % 100, i % 10, i)) if i % 5 else Match(type="Block", function="add")
        )
        for i in range(1_000)
    ]
    start = time.process_time()
    found = match_rules(rules, facts)
    assert time.process_time() - start < 4.0  # one second on a quiet machine: bench/resolve.py
    assert not found.problems
    assert len(found.of_rule[4 * 7 + 1]) == 100


def test_origins_without_a_module_do_not_match_types() -> None:
    b = Build()
    b.op("add", b.input(), also=(Origin(module_path="", module_type="", function="mul"),))
    facts = b.facts("add")
    assert nodes(facts, function="mul") == ["add"]
    assert nodes(facts, type="*") == ["add"]  # the network itself is a module around it
    assert "x" not in nodes(facts, type="*")
