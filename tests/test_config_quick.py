"""The quick reading of large documents says what the strict one says, or leaves the text to it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.config import _json, _yaml
from quantwright.config._quick import ODD, LazyLines, quick_json, quick_yaml
from quantwright.config.check import check
from quantwright.config.document import read_document
from quantwright.config.load import load_config
from quantwright.errors import ConfigError

sys.path.insert(0, str(ROOT / "bench"))
try:
    from fuzz_configs import BOMBS, damage, samples
finally:
    sys.path.remove(str(ROOT / "bench"))


def strict(text: str, kind: str) -> Any:
    """Returns (value, lines) of the strict reader, or the problems it has."""
    try:
        if kind == "json":
            return _json._Reader(text, None).document()
        builder = _yaml._strict(text, None)
        return builder.result, builder.lines
    except ConfigError as error:
        return error


def agree(text: str, kind: str) -> bool:
    """Returns whether the text was read quickly; fails when that says anything else than the strict reading."""
    value = quick_json(text) if kind == "json" else quick_yaml(text, _yaml._resolved)
    wanted = strict(text, kind)
    if value is ODD:
        return False
    assert not isinstance(wanted, ConfigError), (text, wanted)
    assert repr(value) == repr(wanted[0]), text  # of the same types too: 1, 1.0 and true are equal
    if kind == "json" and text.lstrip()[:1] in ("{", "["):
        assert read_document(text + "\n").lines == wanted[1]
    return True


def test_every_real_document_is_read_quickly_or_strictly_alike() -> None:
    quick = 0
    for sample in samples():
        quick += agree(json.dumps(sample.value, indent=1), "json")
        quick += agree(yaml.safe_dump(sample.value, sort_keys=False), "yaml")
        agree(sample.text, "yaml")
    assert quick > len(samples())


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_damaged_texts_too(seed: int) -> None:
    random = Random(seed)
    sample = random.choice(samples())
    for kind in ("json", "yaml"):
        text = json.dumps(sample.value, indent=1) if kind == "json" else sample.text
        agree(damage(random, text), kind)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_any_json_value(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        agree(text, "json")
        agree(text, "yaml")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}', "[NaN]", "[1e999]", "[" + "1" * 500 + "]", '["\\ud800"]', "[" * 60 + "]" * 60,
        "[1,]", "[1] 2", "", "[" * 100_000, '{"a" 1}', "\ufeff{}", "{'a': 1}", '["\t"]',
    ],
)  # fmt: skip
def test_odd_json_is_left_to_the_strict_reader(text: str) -> None:
    assert quick_json(text) is ODD


@pytest.mark.parametrize(
    "text",
    [
        *BOMBS, "a: 1\na: 2\n", "a: .nan\n", "a: 1e999\n", "1: a\n", "a: &x 1\nb: *x\n", "a: !!str 1\n",
        "a: 1\n---\nb: 2\n", "? [a]\n: 1\n", "a: *b\n", "a:\n\tb: 1\n", "a: " + "[" * 51 + "]" * 51,
        "a: " + "1" * 500, "<<: {a: 1}\n", "a: \x01\n", "",
    ],
)  # fmt: skip
def test_odd_yaml_is_left_to_the_strict_reader(text: str) -> None:
    assert quick_yaml(text, _yaml._resolved) is ODD


def test_lines_are_looked_for_when_one_is_asked_for() -> None:
    calls: list[int] = []

    def find() -> dict[tuple[str | int, ...], int]:
        calls.append(1)
        return {(): 1, ("a",): 2}

    lines = LazyLines(find)
    assert lines and not calls
    assert (lines["a",], ("a",) in lines, ("b",) in lines, len(lines), list(lines)) == (2, True, False, 2, [(), ("a",)])
    assert len(calls) == 1


def large(count: int) -> dict[str, Any]:
    weight = {
        "format": "int8", "granularity": {"kind": "per_channel", "axis": 0}, "symmetric": True,
        "observer": {"name": "percentile", "percentile": 99.9},
    }  # fmt: skip
    activation = {"format": "uint8", "symmetric": False, "observer": "minmax"}
    rules = [
        {"match": {"name": f"encoder.layer.{i}.attention.*"}, "weight": weight, "activation": activation}
        for i in range(count)
    ]
    return {"version": 1, "target": "generic", "rules": rules}


def test_a_file_of_5_mb_is_checked_in_a_second(tmp_path: Path) -> None:
    class Plain(yaml.CSafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    texts = {
        "json": json.dumps(large(13_200), indent=1),
        "yaml": str(yaml.dump(large(17_300), Dumper=Plain, sort_keys=False)),
    }
    for kind, text in texts.items():
        path = tmp_path / f"large.{kind}"
        path.write_text(text)
        assert path.stat().st_size > 5_000_000 - 100_000
        best = 99.0
        for _ in range(3):
            start = time.process_time()
            assert check(path, sources=False).ok
            best = min(best, time.process_time() - start)
        assert best < (1.0 if kind == "json" else 1.5)  # of a machine that does other things as well


def test_a_check_without_sources_finds_the_same(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nrules:\n- match: {name: a}\n  weight: {format: int99}\n")
    assert check(bad, sources=False) == check(bad)
    bad.write_text("version: 1\nrules:\n- match: {name: a}\n  weight: {format: int4}\n")
    assert check(bad, sources=False).render() == check(bad).render()
    rule = load_config(bad).rules[0]
    assert (rule.source.line, rule.field_sources["weight.format"].line) == (3, 4)
    assert rule.field_sources["weight.format"].text == rule.source.text == "rule 1 (name a)"
