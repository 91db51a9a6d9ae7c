"""The native language: everything it can say, every mistake it catches (all at once), reading back what it writes."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright import registry
from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Step
from quantwright.config.consistency import conflicts
from quantwright.config.load import load_config, write_config
from quantwright.config.spec import (
    FLOAT_FORMATS,
    ROLES,
    ROUNDINGS,
    Granularity,
    ObserverSpec,
    QuantSpec,
)
from quantwright.dialects import native
from quantwright.errors import ConfigError, Problem

FULL = """\
version: 1
default:
  weight: {format: int8, granularity: per_channel, symmetric: true, scale: float, rounding: half_even,
           observer: {name: mse, bins: 1024}}
  bias: {format: int32, scale: derived}
  activation: {format: uint8, symmetric: false, statistic: mean}
  output: {format: int8}
rules:
  - match: {type: torch.nn.Conv2d}
    weight:
      format: int4
      granularity: {kind: per_group, axis: 1, group_size: 32}
  - match: {name: "re:layer[0-9]+", function: add}
    exclude: true
    if_unmatched: warn
optimize:
  [fold_batchnorm, {cross_layer_equalization: {method: vitis}}, {name: relu6_to_relu, params: {modules_only: true}}]
refine: [{bias_correction: {}}]
calibration: {inputs: quantized, batch_qparams: batch}
"""


def problems(text: str | dict[str, Any]) -> tuple[Problem, ...]:
    """Returns the problems of a native document."""
    with pytest.raises(ConfigError) as caught:
        load_config(text, dialect="native")
    assert all(problem.fix or problem.allowed for problem in caught.value.problems), "every problem says what to do"
    return caught.value.problems


def spec_problem(role: str, **fields: Any) -> Problem:
    """Returns the one problem of a spec."""
    found = problems({"default": {role: fields}})
    assert len(found) == 1, found
    return found[0]


def test_everything_the_language_can_say() -> None:
    config = load_config(FULL)
    default = config.default
    assert default.weight == QuantSpec(
        format="int8", granularity=Granularity(kind="per_channel"), symmetric=True, scale="float", rounding="half_even",
        observer=ObserverSpec(name="mse", params={"bins": 1024}),
    )  # fmt: skip
    assert default.bias == QuantSpec(format="int32", scale="derived")
    assert default.input == QuantSpec(format="uint8", symmetric=False, statistic="mean")
    assert default.output == QuantSpec(format="int8", symmetric=False, statistic="mean"), "output over activation"
    first, second = config.rules
    assert first.weight == QuantSpec(format="int4", granularity=Granularity(kind="per_group", axis=1, group_size=32))
    assert first.match == Match(type="torch.nn.Conv2d") and not first.exclude and first.if_unmatched == "error"
    assert second.exclude and second.if_unmatched == "warn" and second.match.function == "add"
    assert config.optimize == (
        Step(name="fold_batchnorm"),
        Step(name="cross_layer_equalization", params={"method": "vitis"}),
        Step(name="relu6_to_relu", params={"modules_only": True}),
    )
    assert config.refine == (Step(name="bias_correction"),)
    assert config.calibration == Calibration(inputs="quantized", batch_qparams="batch")
    assert config.target is None and config.dialect == "native"


def test_every_value_knows_its_line() -> None:
    config = load_config(FULL)
    lines = {key: source.line for key, source in config.default_sources.items()}
    assert lines["weight.format"] == 3 and lines["weight.observer"] == 4 and lines["bias.scale"] == 5
    assert lines["input.format"] == 6 and lines["output.format"] == 7 and lines["output.statistic"] == 6
    rule = config.rules[0]
    assert rule.source.line == 9 and rule.field_sources["weight.granularity"].line == 12
    assert "rule 1 (type torch.nn.Conv2d)" in str(rule.field_sources["weight.format"])
    assert rule.field_sources["weight.format"].path == "rules[0].weight.format"


def test_toml_and_json_say_the_same(tmp_path: Any) -> None:
    import json

    plain = native.to_plain(load_config(FULL))
    (tmp_path / "c.json").write_text(json.dumps(plain))
    (tmp_path / "c.toml").write_text(
        textwrap.dedent("""\
        version = 1
        optimize = ["fold_batchnorm"]
        [default.weight]
        format = "int8"
        [[rules]]
        match = { type = "Conv2d" }
        exclude = true
        """)
    )
    assert native.to_plain(load_config(tmp_path / "c.json")) == plain
    config = load_config(tmp_path / "c.toml")
    assert config.default.weight == QuantSpec(format="int8") and config.rules[0].source.line == 5


WRONG = """\
version: 2
target: DPX
defualt: {}
default:
  weight: {format: INT8, granularity: per_chanel, symmetric: "true", scale: Power_Of_Two}
  output: {format: 8, observer: {name: percentile, percentil: 3}, min_scale: '0.1', statistic: medain}
  bias: int8
  input: {granularity: {axis: 1}, observer: {bins: 3}, rounding: }
rules:
  - match: {typ: x}
    exclude: true
    weight: {format: int4}
  - {match: {name: 're:['}, exclude: yes}
  - {match: {type: Linear}}
  - {exclude: true}
  - nonsense
optimize: [bias_correction, {fold_batchnorm: {scope: al}}, 3]
refine: [fold_batchnorm, nothing]
calibration: {batch_qparams: batch, inputs: Float}
"""


def test_all_problems_at_once_with_line_path_and_fix() -> None:
    found = {problem.path: problem for problem in problems(WRONG)}
    want = {
        "version": (1, "version", "write version: 1"),
        "target": (2, "unknown_name", ""),
        "defualt": (3, "unknown_key", "did you mean 'default'?"),
        "default.weight.format": (5, "format", "write int8"),
        "default.weight.granularity": (5, "value", "did you mean 'per_channel'?"),
        "default.weight.symmetric": (5, "type", "write true"),
        "default.weight.scale": (5, "value", "write 'power_of_two'"),
        "default.output.format": (6, "format", "write int8 or uint8"),
        "default.output.observer.percentil": (6, "unknown_key", "did you mean 'percentile'?"),
        "default.output.min_scale": (6, "type", "write 0.1 without quotes"),
        "default.output.statistic": (6, "value", "did you mean 'median'"),
        "default.bias": (7, "type", "write {format: int8}"),
        "default.input.granularity": (8, "missing_key", "add kind"),
        "default.input.observer": (8, "missing_key", "{name:"),
        "default.input.rounding": (8, "type", "remove 'rounding'"),
        "rules[0]": (10, "no_effect", "keep one"),
        "rules[0].match.typ": (10, "unknown_key", "did you mean 'type'?"),
        "rules[1].match.name": (13, "regex", "re:"),
        "rules[1].exclude": (13, "type", "write true"),
        "rules[2]": (14, "no_effect", "say what it changes"),
        "rules[3]": (15, "missing_key", "match"),
        "rules[4]": (16, "type", ""),
        "optimize[0]": (17, "unknown_name", "move it to 'refine'"),
        "optimize[1].fold_batchnorm.scope": (17, "value", "did you mean 'all'?"),
        "optimize[2]": (17, "type", "write the name"),
        "refine[0]": (18, "unknown_name", "move it to 'optimize'"),
        "refine[1]": (18, "unknown_name", ""),
        "calibration.inputs": (19, "value", "write 'float'"),
    }
    assert set(found) == set(want)
    for path, (line, code, fix) in want.items():
        assert (found[path].line, found[path].code) == (line, code), path
        assert fix in (found[path].fix or ""), path
    assert [problem.line for problem in problems(WRONG)] == sorted(problem.line or 0 for problem in problems(WRONG))


@pytest.mark.parametrize(
    ("role", "fields", "code", "field"),
    [
        ("output", {"narrow_range": True, "symmetric": False}, "no_effect", "narrow_range"),
        ("weight", {"narrow_range": True, "format": "uint8"}, "no_effect", "narrow_range"),
        ("weight", {"format": "float32", "symmetric": True}, "no_effect", "symmetric"),
        ("output", {"format": "bfloat16", "scale": "float"}, "no_effect", "scale"),
        ("weight", {"scale": "derived"}, "derived", "scale"),
        ("input", {"scale": "derived"}, "derived", "scale"),
        ("bias", {"scale": "derived", "format": "int8"}, "derived", "format"),
        ("bias", {"scale": "derived", "observer": "minmax"}, "no_effect", "observer"),
        ("bias", {"scale": "derived", "symmetric": False}, "derived", "symmetric"),
        ("output", {"scale": "power_of_two", "symmetric": False}, "power_of_two_asymmetric", "scale"),
        ("output", {"scale": "float", "observer": "diffs"}, "diffs_float", "observer"),
        ("output", {"scale": "float", "statistic": "modal"}, "modal_float", "statistic"),
        ("weight", {"statistic": "max"}, "no_effect", "statistic"),
        ("bias", {"statistic": "mean"}, "no_effect", "statistic"),
        ("weight", {"format": "int17"}, "too_wide", "format"),
        ("output", {"format": "uint32"}, "too_wide", "format"),
        ("weight", {"granularity": "per_token"}, "granularity", "granularity"),
        ("output", {"granularity": {"kind": "per_group", "group_size": 8}}, "granularity", "granularity"),
        ("output", {"granularity": "per_token", "statistic": "max"}, "no_effect", "statistic"),
        ("output", {"granularity": {"kind": "per_tensor", "axis": 1}}, "no_effect", "granularity.axis"),
        ("weight", {"granularity": {"kind": "per_channel", "group_size": 8}}, "no_effect", "granularity"),
        ("weight", {"granularity": "per_group"}, "missing_key", "granularity"),
        ("weight", {"granularity": {"kind": "per_group", "group_size": 0}}, "value", "granularity.group_size"),
        (
            "output",
            {"observer": {"name": "mse", "histogram": "exact"}, "statistic": "all"},
            "exact_histogram",
            "statistic",
        ),
        ("output", {"observer": {"name": "percentile", "percentile": 101}}, "value", "observer.percentile"),
        ("output", {"observer": {"name": "percentile", "percentile": "99"}}, "type", "observer.percentile"),
        ("output", {"observer": {"name": "mse", "bins": 100.5}}, "type", "observer.bins"),
        ("output", {"observer": {"name": "mse", "histogram": "exakt"}}, "value", "observer.histogram"),
        ("output", {"observer": {"name": "minmax", "percentile": 99.0}}, "unknown_key", "observer.percentile"),
        ("output", {"observer": "MinMax"}, "unknown_name", "observer"),
        ("output", {"observer": 3}, "type", "observer"),
        ("output", {"min_scale": -1}, "value", "min_scale"),
        ("output", {"min_scale": True}, "type", "min_scale"),
        ("output", {"symmetric": 1}, "type", "symmetric"),
        ("output", {"format": "int1"}, "format", "format"),
        ("output", {"format": "int33"}, "format", "format"),
        ("output", {}, "no_effect", ""),
    ],
)
def test_settings_without_effect_and_wrong_values(role: str, fields: dict[str, Any], code: str, field: str) -> None:
    found = spec_problem(role, **fields)
    assert found.code == code
    assert found.path == f"default.{role}" + (f".{field}" if field else "")


@pytest.mark.parametrize("text", ["[1, 2]", "just text\n", "- a\n- b\n"])
def test_a_document_that_is_no_mapping(text: str) -> None:
    assert problems(text)[0].code == "type"


def test_rules_conflict_within_themselves_only() -> None:
    """A rule is checked alone: what it inherits depends on the model and is the plan's business."""
    load_config({"default": {"output": {"symmetric": False}}, "rules": [
        {"match": {"name": "a"}, "output": {"narrow_range": True, "symmetric": True}}]})  # fmt: skip
    assert problems({"rules": [{"match": {"name": "a"}, "output": {"narrow_range": True, "symmetric": False}}]})


INTEGER = st.sampled_from(["int8", "uint8", "int4", "uint4", "int16"])
SPEC = st.builds(
    QuantSpec,
    format=st.none() | INTEGER | st.sampled_from(FLOAT_FORMATS),
    granularity=st.none() | st.builds(Granularity, kind=st.sampled_from(["per_tensor", "per_token"]))
    | st.builds(Granularity, kind=st.just("per_channel"), axis=st.none() | st.integers(-4, 4))
    | st.builds(Granularity, kind=st.just("per_group"), axis=st.integers(0, 3), group_size=st.integers(1, 999)),
    symmetric=st.none() | st.booleans(),
    narrow_range=st.none() | st.booleans(),
    scale=st.sampled_from([None, "float", "power_of_two", "derived"]),
    rounding=st.none() | st.sampled_from(ROUNDINGS),
    observer=st.none()
    | st.sampled_from([ObserverSpec(name="minmax"), ObserverSpec(name="diffs", params={"scope": 3})])
    | st.builds(lambda p: ObserverSpec(name="percentile", params={"percentile": p}), st.floats(0, 100)),
    statistic=st.sampled_from([None, "all", "modal", "max", "mean", "median"]),
    min_scale=st.none() | st.floats(0, 1),
)  # fmt: skip
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=9
).filter(lambda text: text.strip() and not text.startswith("re:"))


def legal(role: str) -> st.SearchStrategy[QuantSpec | None]:
    fits = SPEC.filter(lambda spec: bool(spec.fields_set()) and not conflicts(spec, role))  # type: ignore[arg-type]
    return st.none() | fits


ROLE_SPECS = {role: legal(role) for role in ROLES}
RULES = st.builds(
    Rule, match=st.builds(Match, name=NAMES) | st.builds(Match, type=NAMES, function=st.none() | NAMES),
    if_unmatched=st.sampled_from(["error", "warn"]), **ROLE_SPECS,
) | st.builds(Rule, match=st.builds(Match, name=NAMES), exclude=st.just(True))  # fmt: skip
STEPS = st.sampled_from([Step(name="fold_batchnorm"), Step(name="cross_layer_equalization", params={"method": "dfq"})])
CONFIGS = st.builds(
    QuantConfig,
    target=st.none() | st.sampled_from(registry.names("targets") or (None,)),
    default=st.builds(RoleSpecs, **ROLE_SPECS),
    rules=st.lists(RULES.filter(lambda r: r.exclude or any(r.get(role) for role in ROLES)), max_size=3).map(tuple),
    optimize=st.none() | st.lists(STEPS, max_size=2).map(tuple),
    refine=st.lists(st.just(Step(name="bias_correction", params={"rate": 0.5})), max_size=1).map(tuple),
    calibration=st.none() | st.builds(Calibration, inputs=st.just("quantized"), modal_ties=st.just("smaller_scale")),
)


@settings(deadline=None, max_examples=120)
@given(config=CONFIGS)
def test_reading_back_what_was_written(config: QuantConfig) -> None:
    text, unmapped = write_config(config)
    again = load_config(text, dialect="native")
    assert not unmapped
    bare = {"source", "default_sources", "field_sources", "notes"}
    drop = dict.fromkeys(("source", "default_sources", "notes"), True) | {"rules": {"__all__": bare}}
    assert again.model_dump(exclude=drop) == config.model_dump(exclude=drop)
    assert load_config(config) is config, "an object that could be a file is accepted as it is"


@settings(deadline=None, max_examples=200)
@given(spec=SPEC, role=st.sampled_from(ROLES))
def test_a_problem_for_every_conflict_and_none_without(spec: QuantSpec, role: str) -> None:
    found = conflicts(spec, role)  # type: ignore[arg-type]
    text = yaml.safe_dump({"default": {role: spec.to_json()}})
    if not spec.fields_set() or found:
        paths = {problem.path for problem in problems(text)}
        assert paths == {f"default.{role}.{conflict.field}" for conflict in found} or not spec.fields_set()
    else:
        assert load_config(text).default.get(role) == spec  # type: ignore[arg-type]


def test_an_object_made_in_python_is_checked_like_a_file() -> None:
    wrong = QuantConfig(default=RoleSpecs(weight=QuantSpec(observer=ObserverSpec(name="minmaks"), statistic="max")))
    with pytest.raises(ConfigError) as caught:
        load_config(wrong)
    assert {problem.path for problem in caught.value.problems} == {
        "default.weight.observer",
        "default.weight.statistic",
    }
    assert all(problem.line is None for problem in caught.value.problems)


def test_notes_become_comments() -> None:
    text, _ = write_config(QuantConfig(notes=("first\nsecond: x",), refine=(Step(name="bias_correction"),)))
    assert text.startswith("# first\n# second: x\nversion: 1\n") and load_config(text).refine


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_fuzz_a_native_file(data: st.DataObject) -> None:
    """A damaged file gives a config or a ConfigError whose problems say where, and nothing else."""
    text = FULL
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", " ", "\n", "{", "]", ":", "-", "0", "null", "&a ", "*a", "é"]))
            + (text[at + cut :])
        )
    try:
        load_config(text + "\n", dialect="native")
    except ConfigError as error:
        assert error.problems and all(p.path or p.line for p in error.problems)
