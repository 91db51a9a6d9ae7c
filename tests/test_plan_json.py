"""A plan survives JSON without loss, in a fixed order; damaged ones are refused; differences are found."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_builder import chain, net

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.errors import ArtifactError
from quantwright.plan.plan import Plan
from quantwright.plan.plan_json import diff, from_json, to_json
from quantwright.plan.resolve import resolve

CONFIG = {
    "default": {"weight": {"observer": {"name": "percentile", "percentile": 99.9}}, "activation": {"format": "uint6"}},
    "rules": [
        {"match": {"name": "fc"}, "weight": {"granularity": {"kind": "per_group", "group_size": 4}},
         "source": {"kind": "file", "file": "my.yaml", "line": 3}},
        {"match": {"name": "dw"}, "input": {"format": "uint4"}},
        {"match": {"name": "c2"}, "exclude": True},
        {"match": {"type": "ReLU"}, "weight": {"format": "int4"}, "if_unmatched": "warn"},
    ],
    "notes": ["read with care"],
}  # fmt: skip


def make(config: dict[str, Any] | None = None, target: str = "generic") -> Plan:
    return resolve(
        QuantConfig.model_validate(CONFIG if config is None else config), net(), registry.load("targets", target)
    )


@pytest.mark.parametrize("target", registry.names("targets"))
def test_round_trip(target: str) -> None:
    for p in (
        make() if target == "generic" else make({}, target),
        resolve(QuantConfig(), chain(), registry.load("targets", target)),
    ):
        text = json.dumps(to_json(p))
        again = from_json(json.loads(text))
        assert again == p
        assert json.dumps(to_json(again)) == text
        assert [d.point.name for d in again.decisions] == [d.point.name for d in p.decisions]


def test_reasons_survive_with_their_places() -> None:
    again = from_json(json.loads(json.dumps(to_json(make()))))
    last = again["fc.weight"].reasons["granularity"][-2]
    assert (last.source.file, last.source.line) == ("my.yaml", 3)
    assert again.notes[0] == "read with care"
    assert again.warnings


def test_equal_questions_give_equal_text() -> None:
    assert json.dumps(to_json(make())) == json.dumps(to_json(make()))


def test_sources_are_written_once() -> None:
    data = to_json(make())
    keys = [json.dumps(source, sort_keys=True) for source in data["sources"]]
    assert len(keys) == len(set(keys)) < 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.update(version=99),
        lambda d: d.pop("decisions"),
        lambda d: d["decisions"][0].pop("spec"),
        lambda d: d["decisions"][0]["point"].update(role="king"),
        lambda d: d["decisions"][0]["spec"].update(format="int99"),
        lambda d: d["decisions"][0]["reasons"].update(bogus=[]) or d["decisions"][0]["reasons"].update(bogus=[[1, 0]]),
        lambda d: d["decisions"][0]["reasons"]["format"][0].__setitem__(1, 999),
        lambda d: d["decisions"][0].update(relation={"same_as": "nowhere", "why": ""}),
        lambda d: d["decisions"][0].update(relation={"same_as": d["decisions"][0]["point"]["name"], "why": ""}),
        lambda d: d["decisions"].append(d["decisions"][0]),
        lambda d: d.update(model=3),
    ],
)
def test_damaged_plans_are_refused(damage: Any) -> None:
    data = copy.deepcopy(to_json(make()))
    damage(data)
    with pytest.raises(ArtifactError):
        from_json(data)


@pytest.mark.parametrize("data", [None, [], 3, {}, {"version": 1}])
def test_what_is_no_plan_is_refused(data: Any) -> None:
    with pytest.raises(ArtifactError):
        from_json(data)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_single_damage_gives_a_plan_or_an_artifact_error(data: st.DataObject) -> None:
    broken: Any = json.loads(json.dumps(to_json(make())))
    at: Any = broken
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.integers(0, 4)) == 0:
            at[key] = data.draw(st.sampled_from([None, 7, -1, "zz", [], {}, True, [[]], 1.5]))
            break
        at = at[key]
    try:
        from_json(broken)
    except ArtifactError as error:
        assert str(error)


def test_diff_of_equal_plans_is_empty_and_of_others_names_fields() -> None:
    assert diff(make(), make()) == []
    other = {**CONFIG, "rules": [*CONFIG["rules"], {"match": {"name": "c1"}, "weight": {"format": "int4"}}]}  # type: ignore[misc]
    (found,) = diff(make(), make(other))
    assert (found.point, found.field, found.before, found.after) == ("c1.weight", "format", "int8", "int4")
    assert found.before_source is not None and found.before_source.text == "target generic"
    assert found.after_source is not None and found.after_source.text == "rule 5 (name c1)"
    assert str(found) == "c1.weight format: int8 [target generic] -> int4 [rule 5 (name c1)]"
    assert found.to_json() == {
        "point": "c1.weight", "field": "format", "before": "int8", "after": "int4",
        "before_source": {"text": "target generic", "kind": "target", "file": None, "line": None},
        "after_source": {"text": "rule 5 (name c1)", "kind": "python", "file": None, "line": None},
    }  # fmt: skip


def test_diff_tells_new_gone_and_floating_points() -> None:
    before, after = make({}), make({"rules": [CONFIG["rules"][1], {"match": {"name": "c1"}, "exclude": True}]})  # type: ignore[index]
    found = {(d.point, d.field): (d.before, d.after) for d in diff(before, after)}
    assert found["dw:input", "point"] == (None, "uint4")
    assert found["c1.weight", "format"] == ("int8", "float")
    assert found["c1.weight", "why_float"] == ("", "excluded by rule 2 (name c1)")
    assert ("r2:output", "format") not in found
    back = {(d.point, d.field): (d.before, d.after) for d in diff(after, before)}
    assert back == {key: value[::-1] for key, value in found.items()}
