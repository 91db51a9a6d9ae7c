"""Whose language a document is in: said with the reason everywhere, and two plausible readings are an error of both."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from quantwright import cli, registry
from quantwright.config.document import read_document
from quantwright.config.load import choose_dialect, read_any
from quantwright.errors import ConfigError

TELLING: dict[str, dict[str, Any]] = {  # the smallest documents that are plainly of one dialect
    "native": {"default": {"weight": {"format": "int8"}}},
    "vai_q_pytorch": {"target_device": "DPU"},
    "vai_q_tensorflow2": {"quantize_pipeline_config": {}},
    "quark": {"global_quant_config": {}},
    "mqbench": {"extra_qconfig_dict": {}, "backend": "Tensorrt"},
    "sophgo": {"quant_dict": {"chip": "BM1690"}},
}
NAMES = registry.names("dialects")
FORKS = [("mqbench", "sophgo")]
PAIRS = [pair for pair in combinations([name for name in TELLING if name in NAMES], 2) if pair not in FORKS]
DIGITS = ROOT / "examples" / "digits"


def test_every_dialect_has_a_telling_document() -> None:
    assert set(TELLING) >= set(NAMES), "add the smallest document of the new dialect"


@pytest.mark.parametrize("name", [name for name in TELLING if name in NAMES])
def test_it_is_recognised_with_a_reason(name: str) -> None:
    found, why = choose_dialect(read_document(TELLING[name]))
    assert found == name and any(key in why for key in TELLING[name])
    assert choose_dialect(read_document(TELLING[name]), "native") == ("native", "it was asked for")


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_keys_of_two_dialects_are_an_error_that_names_both(one: str, two: str, tmp_path: Path) -> None:
    mixed = {**TELLING[one], **TELLING[two]}
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(mixed, indent=1))
    for source in (mixed, path):
        with pytest.raises(ConfigError) as caught:
            read_any(source)
        problem = caught.value.problems[0]
        assert problem.code == "ambiguous_dialect" and problem.line, problem
        assert one in problem.message and two in problem.message and "--dialect" in (problem.fix or "")
    for name in (one, two):  # as asked for, the other's keys are unknown, or listed as not its own
        try:
            assert read_any(mixed, dialect=name).dialect == name
        except ConfigError as error:
            assert "ambiguous_dialect" not in {problem.code for problem in error.problems}


def test_a_fork_has_the_keys_of_its_origin_and_one_of_its_own() -> None:
    """Sophgo-MQ documents hold MQBench's ``extra_qconfig_dict``; their own ``quant_dict`` tells them."""
    assert choose_dialect(read_document({**TELLING["mqbench"], **TELLING["sophgo"]}))[0] == "sophgo"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["check", "CONFIG"], "why"),
        (["translate", "CONFIG", "--to", "native"], "why"),
        (["explain", f"{DIGITS}/model.py:digits", "--config", "CONFIG", "--input-shape", "1,1,24,24", "head"], "why"),
    ],
)
def test_commands_say_what_was_seen_and_why(arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(DIGITS / "cpu.json")
    words = [config if word == "CONFIG" else word for word in arguments]
    cli.main(words)
    printed = capsys.readouterr()
    assert "vai_q_pytorch" in printed.out + printed.err and "it has 'target_device'" in printed.out + printed.err
    cli.main([*words, "--json"])
    assert "it has 'target_device'" in json.loads(capsys.readouterr().out)[key]


def test_diff_says_it_of_both(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["diff", str(DIGITS / "cpu.json"), str(DIGITS / "int8.yaml"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [document[side]["dialect"] for side in "ab"] == ["vai_q_pytorch", "native"]
    assert "it has 'target_device'" in document["a"]["why"] and "it has 'version'" in document["b"]["why"]


def test_quantize_says_it_in_the_terminal_the_record_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["quantize", f"{DIGITS}/model.py:digits", "--config", str(DIGITS / "cpu.json")]
    arguments += ["--data", f"{DIGITS}/data.py:calibration", "--calib-batches", "1", "--out", str(out)]
    assert cli.main(arguments) == 0
    said = "vai_q_pytorch, it has 'target_device'"
    assert said in capsys.readouterr().out
    assert "it has 'target_device'" in json.loads((out / "run.json").read_text())["command"]["dialect_why"]
    assert "(vai_q_pytorch: it has &#39;target_device&#39;" in (out / "report.html").read_text(encoding="utf-8")
