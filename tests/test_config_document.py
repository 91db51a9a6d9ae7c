"""The file readers: values against json, PyYAML and tomllib; lines; and every way a file can be broken."""

from __future__ import annotations

import json
import math
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.config._parsing import MAX_DEPTH
from quantwright.config._toml import parse_toml
from quantwright.config._yaml import parse_yaml
from quantwright.config.document import Document, path_text, read_document
from quantwright.errors import ArtifactError, ConfigError, Problem

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs", "Cc")), max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Returns whether two plain values are equal and of the same types (1, 1.0 and True are different)."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def problem(source: Any, **more: Any) -> Problem:
    """Returns the one problem that reading raises."""
    with pytest.raises(ConfigError) as caught:
        read_document(source, **more)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


@settings(deadline=None, max_examples=150)
@given(value=st.dictionaries(TEXT, PLAIN, max_size=5), indent=st.sampled_from([None, 0, 2]), ascii=st.booleans())
def test_json_equals_the_standard_reader(value: dict[str, Any], indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert same(read_document(text).value, json.loads(text))


@settings(deadline=None, max_examples=150)
@given(value=st.dictionaries(TEXT, PLAIN, max_size=5), flow=st.sampled_from([None, True, False]))
def test_yaml_equals_what_was_written(value: dict[str, Any], flow: bool | None) -> None:
    text = json.dumps(value, ensure_ascii=False)  # JSON is YAML 1.2
    assert same(parse_yaml(text, None)[0], value)
    tagged = yaml.safe_dump(value, default_flow_style=flow, default_style='"', allow_unicode=True, sort_keys=False)
    assert same(parse_yaml(tagged, None)[0], value), "quoted texts and tagged numbers"


def test_yaml_is_the_core_schema() -> None:
    text = "a: yes\nb: 010\nc: 1e3\nd: 0x1F\ne: 2020-01-01\nf: ~\ng: True\nh: 1:30\ni: .5\nj: '8'\nk: null\nl:\n"
    want = {"a": "yes", "b": 10, "c": 1000.0, "d": 31, "e": "2020-01-01", "f": None, "g": True, "h": "1:30", "i": 0.5,
            "j": "8", "k": None, "l": None}  # fmt: skip
    assert same(read_document(text).value, want)


def test_yaml_tags_of_the_standard_schema_are_kept() -> None:
    assert same(read_document("a: !!str 5\nb: !!float 5\nc: !!int 5\n").value, {"a": "5", "b": 5.0, "c": 5})
    assert "tag" in problem("a: !!bool maybe\n").message


def test_aliases_and_merge_keys() -> None:
    document = read_document("base: &b {x: 1, y: 2}\nuse: *b\nmore:\n  <<: *b\n  y: 3\nall:\n  <<: [*b, {z: 1}]\n")
    assert document.value["use"] == {"x": 1, "y": 2}
    assert document.value["more"] == {"x": 1, "y": 3}
    assert document.value["all"] == {"x": 1, "y": 2, "z": 1}
    assert document.line(("use", "x")) == 2 and document.line(("more", "x")) == 4 and document.line(("more", "y")) == 5


YAML = """\
version: 1
default:
  weight: {format: int8,
           scale: float}
rules:
  - match: {type: Conv2d}
    exclude: true
  -
    match:
      name: x
"""
JSON = json.dumps(yaml.safe_load(YAML), indent=1)


def test_lines() -> None:
    document = read_document(YAML)
    lines = {"version": 1, "default": 2, "default.weight.format": 3, "default.weight.scale": 4, "rules": 5,
             "rules[0]": 6, "rules[0].match.type": 6, "rules[0].exclude": 7, "rules[1].match.name": 10}  # fmt: skip
    found = {path_text(path): line for path, line in document.lines.items()}
    assert {key: found[key] for key in lines} == lines
    for path, line in read_document(JSON).lines.items():
        if path and isinstance(path[-1], str):
            assert f'"{path[-1]}"' in JSON.splitlines()[line - 1]
    assert document.line(("rules", 1, "match", "name", "deeper")) == 10, "the nearest enclosing path that has a line"
    assert Document(value={}).line(("a",)) is None


def test_toml_values_and_lines(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        version = 1

        [default.weight]
        format = "int8"
        observer = { name = "mse" }
        [[rules]]
        exclude = true
        match.type = "Conv2d"
        [[rules]]
        [rules.match]
        name = "fc"
        """)
    path = tmp_path / "c.toml"
    path.write_text(text)
    document = read_document(path)
    assert document.value["rules"][1] == {"match": {"name": "fc"}}
    assert document.line(("default", "weight", "format")) == 4
    assert document.line(("default", "weight", "observer", "name")) == 5
    assert document.line(("rules", 0, "match", "type")) == 8 and document.line(("rules", 1, "match", "name")) == 11
    assert document.file == str(path)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('{"a": 1,}', 1, "comma"),
        ('{\n"a": 1\n"b": 2}', 3, "',' or '}'"),
        ("{\n'a': 1}", 2, "'"),
        ('{"a": True}', 1, "True"),
        ('{"a": NaN}', 1, "NaN"),
        ('{"a": -Infinity}', 1, "number"),
        ('{"a": 1e999}', 1, "too large"),
        ('{"a": 01}', 1, "not a JSON number"),
        ('{"a": +1}', 1, "'+'"),
        ('{\n// note\n"a": 1}', 2, "'/'"),
        ('{"a": "x\ny"}', 1, "line break"),
        ('{"a": "\\x"}', 1, "escape"),
        ('{"a": "\\ud800"}', 1, "surrogate"),
        ('{"a": {\n"b": [1, 2', 2, "truncated"),
        ('{"a": {\n"b": "hal', 2, "truncated"),
        ('{"a": 1}\n{}', 2, "after the end"),
        ('{"a": maybe}', 1, "maybe"),
        ('{"a" 1}', 1, "':'"),
        ("[1, 2", 1, "truncated"),
        ("{", 1, "truncated"),
        ('{"a": ' + "9" * 500 + "}", 1, "400"),
    ],
)
def test_broken_json(text: str, line: int, says: str) -> None:
    found = problem(text, file="c.json")
    assert (found.line, found.file, found.code) == (line, "c.json", "syntax")
    assert says in found.message and found.fix


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a:\n  - 1\n bad: 2\n", 3, "not valid YAML"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: .nan\n", 1, "not a usable number"),
        ("a: -.inf\n", 1, "not a usable number"),
        ("a: 1\nb: *gone\n", 2, "gone"),
        ("a: &x [1, *x]\n", 1, "contains itself"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "tag"),
        ("a: !mine {}\n", 1, "tag"),
        ("a: !!timestamp 2020-01-01\n", 1, "tag"),
        ("? [1, 2]\n: x\n", 1, "list or mapping"),
        ("1: x\n", 1, "not text"),
        ("a: \x01\n", 1, "not valid YAML"),
        ("\ta: 1\n", 1, "not valid YAML"),
    ],
)
def test_broken_yaml(text: str, line: int, says: str) -> None:
    found = problem(text)
    assert says in found.message and found.fix
    assert found.line in (line, line - 1), "the parser marks some errors one token later"


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\nb = \n", 2), ("a = nan\n", 1), ("a = 1\nd = 2020-01-01\n", 2), ("a = 1\na = 2\n", 2)]
)
def test_broken_toml(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, "c.toml")
    assert caught.value.problems[0].line == line


def test_all_duplicate_keys_at_once() -> None:
    for text in ('{"a": 1,\n"a": 2,\n"b": {"c": 1, "c": 2}}', "a: 1\na: 2\nb: {c: 1, c: 2}\n"):
        with pytest.raises(ConfigError) as caught:
            read_document(text)
        assert [p.code for p in caught.value.problems] == ["duplicate_key"] * 2
        assert {p.path for p in caught.value.problems} == {"a", "b.c"}
        assert "line 1" in caught.value.problems[0].message


def test_bombs_are_refused_quickly() -> None:
    start = time.perf_counter()
    laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        laughs += f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    assert problem(laughs).code == "too_large"
    assert problem("a: " + "[" * 5000 + "\n").code == "too_deep"
    assert problem('{"a": ' + "[" * 5000).code == "too_deep"
    chain = "k0: &k0 [1]\n" + "".join(f"k{i + 1}: &k{i + 1} [*k{i}]\n" for i in range(MAX_DEPTH + 5))
    assert problem(chain).code == "too_deep"
    dotted = ".".join(["a"] * 200) + " = 1\n"
    with pytest.raises(ConfigError, match="nested"):
        parse_toml(dotted, None)
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    assert problem(ring).code == "too_deep"
    assert time.perf_counter() - start < 5


def test_a_large_honest_document_is_read() -> None:
    rules = [{"match": {"name": f"layer{i}"}, "weight": {"format": "int4"}} for i in range(2000)]
    text = json.dumps({"rules": rules}, indent=1)
    start = time.perf_counter()
    assert read_document(text).value["rules"] == rules
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("value", [math.nan, math.inf, b"x", object(), {3: 4}, {(): 1}])
def test_mappings_hold_plain_values_only(value: Any) -> None:
    assert problem({"a": [value]}).code == "not_plain"


def test_mappings_are_copied_and_tuples_become_lists() -> None:
    given_value = {"a": (1, 2), "b": {"c": [True]}}
    document = read_document(given_value)
    assert document.value == {"a": [1, 2], "b": {"c": [True]}} and document.value["b"] is not given_value["b"]


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": 1,\n"b": "\xff\xfe"}')
    found = problem(tmp_path / "config.json")
    assert (found.code, found.line) == ("encoding", 2)
    with pytest.raises(ArtifactError, match=r"did you mean 'config\.json'"):
        read_document(tmp_path / "confg.json")
    with pytest.raises(ArtifactError, match="folder"):
        read_document(tmp_path)
    with pytest.raises(ArtifactError, match="no such file"):
        read_document(tmp_path / "none" / "x.yaml")
    (tmp_path / "empty.yaml").write_text("\n  \n")
    assert problem(tmp_path / "empty.yaml").code == "empty"
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_document(tmp_path / "bom.json").value == {}


def test_the_suffix_decides_and_json_is_strict(tmp_path: Path) -> None:
    text = "{a: 1}"  # YAML, not JSON
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "c.json").write_text(text)
    assert read_document(tmp_path / "c.yaml").value == {"a": 1}
    assert "double quotes" in problem(tmp_path / "c.json").message


def test_truncated_anywhere_is_one_clear_error() -> None:
    for cut in range(1, len(JSON) - 1):
        found = problem(JSON[:cut] + " ", file="c.json") if JSON[:cut].lstrip()[:1] == "{" else None
        assert found is None or (found.line is not None and found.fix)
