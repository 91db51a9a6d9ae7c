"""Where a setting came from, for configurations made in Python: the line of the script that handed them over."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quantwright
from quantwright import QuantConfig, QuantSpec
from quantwright.checkpoint import job_of
from quantwright.config.callsite import call_site, placed
from quantwright.config.config import Match, RoleSpecs, Rule, Source
from quantwright.config.load import load_config
from quantwright.data import Batch
from quantwright.errors import ConfigError
from quantwright.plan.explain import explain
from quantwright.plan.plan_json import from_json, to_json
from quantwright.prepare import PreparedModel

HERE = os.path.relpath(__file__)
PLAIN = {
    "default": {"weight": {"format": "int6"}},
    "rules": [{"match": {"type": "Conv2d"}, "weight": {"observer": "mse"}}, {"match": {"name": "2"}, "exclude": True}],
}
MADE = QuantConfig(
    default=RoleSpecs(weight=QuantSpec(format="int6")),
    rules=(
        Rule(match=Match(type="Conv2d"), weight=QuantSpec(observer="mse")),  # type: ignore[arg-type]
        Rule(match=Match(name="2"), exclude=True),
    ),
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


EXAMPLE = torch.ones(2, 3, 8, 8)


def line() -> int:
    """Returns the line that called."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno


@pytest.mark.parametrize("config", [PLAIN, MADE], ids=["dict", "QuantConfig"])
def test_prepare_names_the_line_that_called_it(config: Any) -> None:
    prepared, at = quantwright.prepare(network(), config, EXAMPLE), line()
    (weight,) = explain(prepared.plan, "0.weight")
    for name, text in (("format", "default"), ("observer", "rule 1 (type Conv2d)")):
        source = weight.fields[name][-1].source
        assert (source.kind, source.text, source.file, source.line) == ("python", text, HERE, at)
    assert f"mse [rule 1 (type Conv2d) ({HERE}:{at})]  won over  minmax [target generic]" in weight.render()
    (gone,) = explain(prepared.plan, "2.weight")
    assert gone.why_float == f"excluded by rule 2 (name 2) ({HERE}:{at})"
    format_ = gone.fields["format"]
    assert [step.source.text for step in format_][-3:] == ["default", "rule 1 (type Conv2d)", "rule 2 (name 2)"]
    assert (format_[-1].value, format_[-1].source.line) == ("float32", at)
    again = from_json(json.loads(json.dumps(to_json(prepared.plan))))
    assert again == prepared.plan


def test_problems_name_it_too() -> None:
    with pytest.raises(ConfigError) as caught:
        at = line() + 1
        load_config({"default": {"weight": {"format": "int99"}}, "rulez": []})
    assert {(problem.file, problem.line) for problem in caught.value.problems} == {(HERE, at)}
    assert f"{HERE}:{at} default.weight.format: 'int99'" in str(caught.value)


def test_a_script_elsewhere_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.py"
    script.write_text("from quantwright import load_config\n\nconfig = load_config({'version': 1})\n")
    names: dict[str, Any] = {}
    exec(compile(script.read_text(), str(script), "exec"), names)
    assert (names["config"].source.file, names["config"].source.line) == (str(script), 3)
    monkeypatch.chdir(tmp_path)
    exec(compile(script.read_text(), str(script), "exec"), names)
    assert names["config"].source.file == "job.py"
    assert call_site() == (str(Path(__file__)), line())


def test_parts_that_have_a_place_keep_it() -> None:
    read = load_config("version: 1\nrules:\n- match: {name: a}\n  exclude: true\n")
    assert placed(read) is read
    longer = read.model_copy(update={"rules": (*read.rules, Rule(match=Match(name="b"), exclude=True))})
    made, at = placed(longer), line()
    assert made.source == read.source and made.rules[0] == read.rules[0]
    assert made.rules[1].source == Source(text="rule 2 (name b)", file=HERE, line=at, path="rules[1]")
    assert load_config(MADE) is MADE, "an object is taken as it is"


def test_where_a_configuration_was_handed_over_is_no_part_of_a_job() -> None:
    jobs = []
    for config in (PLAIN, json.loads(json.dumps(PLAIN))):
        if not jobs:
            prepared = quantwright.prepare(network(), config, EXAMPLE)
        else:
            prepared = quantwright.prepare(network(), config, EXAMPLE)  # another line of the script
        assert isinstance(prepared, PreparedModel)
        jobs.append(job_of(prepared, Batch(args=(EXAMPLE,)), seed=0, device="cpu", versions={}))
    assert jobs[0] == jobs[1]
    other = quantwright.prepare(network(), {**PLAIN, "default": {"weight": {"format": "int5"}}}, EXAMPLE)
    changed = job_of(other, Batch(args=(EXAMPLE,)), seed=0, device="cpu", versions={})
    assert {key for key in changed if changed[key] != jobs[0][key]} >= {"configuration", "plan"}
