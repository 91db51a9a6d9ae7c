"""``quantwright diff``: two configurations rule by rule, or on a model, or two plans; and which rule did it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from plan_builder import net

from quantwright import cli, registry
from quantwright.config.load import load_config
from quantwright.plan.config_diff import diff_configs
from quantwright.plan.plan_json import diff, from_json, to_json
from quantwright.plan.resolve import resolve
from quantwright.report.record import dumps

DIGITS = ROOT / "examples" / "digits"
MODEL = ["--model", f"{DIGITS}/model.py:digits", "--input-shape", "1,1,24,24"]
ONE = """\
version: 1
target: onnxruntime
default:
  weight: {format: int8, granularity: per_channel}
rules:
  - match: {type: Conv2d}
    weight: {observer: mse}
  - match: {name: head}
    weight: {format: int4}
"""
TWO = """\
version: 1
target: onnxruntime
default:
  weight: {format: int8, granularity: per_channel}
  activation: {observer: percentile}
rules:
  - match: {name: head}
    weight: {format: int4}
  - match: {name: stem}
    exclude: true
  - match: {type: Conv2d}
    weight: {observer: entropy}
"""


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["diff", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name, text in (("a.yaml", ONE), ("b.yaml", TWO)):
        (tmp_path / name).write_text(text)
    return str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")


# -- configurations ---------------------------------------------------------------------------------------------
def test_configurations_differ_rule_by_rule(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(*files, "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 1 and document["level"] == "configuration" and document["tensors"] is None
    assert (document["a"]["dialect"], document["b"]["kind"]) == ("native", "configuration") and document["a"]["why"]
    found = {(d["point"], d["field"]): d for d in document["differences"]}
    assert set(found) == {
        ("default input", "observer"), ("default output", "observer"), ("rule (type Conv2d) weight", "observer"),
        ("rule (name stem)", "exclude"), ("rules", "order"),
    }  # fmt: skip
    changed = found["rule (type Conv2d) weight", "observer"]
    assert (changed["before"], changed["after"]) == ("mse", "entropy")
    assert changed["before_source"] == {
        "text": "rule 1 (type Conv2d)", "kind": "file", "file": files[0], "line": 7,
    }  # fmt: skip
    assert (changed["after_source"]["file"], changed["after_source"]["line"]) == (files[1], 12)
    assert found["default input", "observer"]["before_source"]["text"] == "target onnxruntime"
    assert found["rule (name stem)", "exclude"]["before_source"] is None
    code, out, _ = call(*files, capsys=capsys)
    assert code == 1 and "5 things differ" in out and f"rule 3 (type Conv2d) ({files[1]}:12)" in out


def test_equal_configurations_end_with_0_whatever_their_dialect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "native.yaml"
    assert cli.main(["translate", str(DIGITS / "dpu.json"), "--to", "native", "--out", str(out)]) == 0
    capsys.readouterr()
    code, text, _ = call(str(DIGITS / "dpu.json"), str(out), capsys=capsys)
    assert code == 0 and "no difference" in text and "vai_q_pytorch: it has 'target_device'" in text


def made(one: dict[str, Any], two: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    return [
        (d.point, d.field, d.before, d.after)
        for d in diff_configs(load_config(one, dialect="native"), load_config(two, dialect="native"))
    ]


def test_the_whole_configuration_is_compared() -> None:
    assert made({"version": 1}, {}) == []
    found = made({}, {"target": "dpu"})
    assert ("configuration", "target", None, "dpu") == found[0]
    assert any(point == "default weight" and name == "scale" for point, name, *_ in found)
    assert made({}, {"optimize": ["fold_batchnorm"]}) == [("configuration", "optimize", None, ["fold_batchnorm"])]
    (steps,) = made({"refine": ["bias_correction"]}, {})
    assert steps[1:] == ("refine", ["bias_correction"], [])
    (fed,) = made({}, {"calibration": {"inputs": "quantized"}})
    assert fed[1] == "calibration" and fed[3]["inputs"] == "quantized"


def test_rules_of_one_side_only_and_repeated_ones() -> None:
    rule = {"match": {"name": "a"}, "weight": {"format": "int4"}}
    same = {"match": {"name": "b"}, "weight": {"format": "int8"}}
    assert made({"rules": [rule]}, {}) == [("rule (name a) weight", "format", "int4", "int8")]
    assert made({}, {"rules": [same]}) == [("rule (name b)", "rule", None, "sets what is the default anyway")]
    again = {"match": {"name": "a"}, "weight": {"format": "int6"}}
    assert made({"rules": [rule, again]}, {"rules": [rule, rule]}) == [
        ("rule (name a) #2 weight", "format", "int6", "int4")
    ]
    soft = {**rule, "if_unmatched": "warn"}
    assert made({"rules": [rule]}, {"rules": [soft]}) == [("rule (name a)", "if_unmatched", "error", "warn")]


# -- on a model, and plans --------------------------------------------------------------------------------------
def test_on_a_model_every_tensor_is_compared_and_the_rule_named(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(*files, *MODEL, "--json", capsys=capsys)
    document = json.loads(out)
    found = {(d["point"], d["field"]): d for d in document["differences"]}
    assert code == 1 and document["level"] == "plan" and document["tensors"] > document["changed"] > 5
    gone = found["stem.conv.weight", "format"]
    assert (gone["before"], gone["after"]) == ("int8", "float")
    assert gone["after_source"] == {"text": "rule 2 (name stem)", "kind": "file", "file": files[1], "line": 9}
    other = found["block1.branch.depthwise.conv.weight", "observer"]
    assert (other["before_source"]["line"], other["after_source"]["line"]) == (7, 12)
    code, out, _ = call(*files, *MODEL, capsys=capsys)
    assert f"{document['changed']} of {document['tensors']} tensors differ" in out
    assert "and 5 more" in out and f"rule 3 (type Conv2d) ({files[1]}:12)" in out
    code, out, _ = call(files[0], files[0], *MODEL, capsys=capsys)
    assert code == 0 and f"no difference in {document['tensors']} tensors" in out


def plan_file(folder: Path, config: str, name: str = "plan.json") -> str:
    plan = resolve(load_config(config), net(), registry.load("targets", "onnxruntime"))
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(dumps(to_json(plan)))
    return str(folder / name)


def test_plans_are_read_from_folders_and_files_without_torch(tmp_path: Path) -> None:
    one = plan_file(tmp_path / "one", "version: 1\n")
    two = plan_file(tmp_path / "two", "version: 1\nrules:\n- match: {name: c1}\n  weight: {format: int4}\n", "p.json")
    code = (
        "import sys; from quantwright.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(str([code, *sorted({'torch', 'numpy'} & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", code, "diff", str(Path(one).parent), two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().endswith("[1]"), done.stderr
    assert "c1.weight" in done.stdout and "rule 1 (name c1)" in done.stdout and "(plan)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["PLAN", "int8"], "add --model MODEL"),
        (["PLAN", "PLAN", "--model", f"{DIGITS}/model.py:digits"], "--model has no effect"),
        (["PLAN", "PLAN", "--target", "dpu"], "--target has no effect"),
        (["int8", "dpu", "--input-shape", "1,3"], "--input-shape has no effect without --model"),
        (["int8", "dpu", "--capture", "modules"], "--capture has no effect without --model"),
        (["int8", "EMPTY"], "no plan.json"),
        (["int8", "BROKEN"], "a plan of version 99 cannot be read"),
        (["int8", "nonsense"], "neither a file nor a preset"),
        (["int8", "dpu", "--dialect-b", "nativ"], "did you mean 'native'"),
        (["int8", "dpu", "--model", f"{DIGITS}/model.py:digits"], "--input-shape N,C,H,W"),
        (["int8"], "B"),
    ],
)
def test_what_cannot_be_compared(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    broken = tmp_path / "broken" / "plan.json"
    broken.write_text('{"version": 99, "model": "m", "target": "t", "decisions": []}')
    places = {
        "PLAN": plan_file(tmp_path / "one", "version: 1\n"), "EMPTY": str(tmp_path / "empty"), "BROKEN": str(broken),
    }  # fmt: skip
    code, out, err = call(*(places.get(word, word) for word in arguments), capsys=capsys)
    assert code == 2 and out == "" and says in err
    if "BROKEN" in arguments:
        assert str(broken) in err


def test_sources_of_a_difference_survive_plan_json() -> None:
    target = registry.load("targets", "onnxruntime")
    plans = [resolve(load_config(text), net(), target) for text in ("version: 1\n", "version: 1\nrules:\n"
             "- match: {name: fc}\n  exclude: true\n- match: {name: c1}\n  weight: {format: int4}\n")]  # fmt: skip
    again = [from_json(json.loads(json.dumps(to_json(plan)))) for plan in plans]
    assert diff(*again) == diff(*plans)
    found = {(d.point, d.field): d for d in diff(*plans)}
    assert str(found["c1.weight", "format"].after_source) == "rule 2 (name c1)"
    assert str(found["fc.weight", "format"].after_source) == "rule 1 (name fc)"
    assert str(found["fc.weight", "why_float"].before_source) == "target onnxruntime"
