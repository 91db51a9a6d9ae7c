"""Errors: one tree, drawn as it is; messages that say what, where, what is allowed and what to do."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright import errors
from quantwright.errors import ConfigError, Problem, Problems, QuantwrightError, did_you_mean

TREE = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, QuantwrightError)]


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<lead>[ |`-]*)(?P<name>\w+Error)\b", line)
        if not match:
            continue
        depth = (len(match["lead"]) - 4) // 3
        stack = [*stack[:depth], match["name"]]
        drawn[match["name"]] = stack[-2] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__mro__[1].__name__ for kind in TREE}


@pytest.mark.parametrize("kind", [kind for kind in TREE if kind is not ConfigError])
def test_messages_answer_the_four_questions(kind: type[QuantwrightError]) -> None:
    error = kind("it is broken", where="model.py:3", allowed=["a", "b"], fix="mend it")
    assert str(error) == "model.py:3: it is broken\n  allowed: a, b\n  fix: mend it"
    assert str(kind("it is broken")) == "it is broken"
    assert error.exit_code in (1, 2)


def test_exit_codes() -> None:
    assert {kind.__name__ for kind in TREE if kind.exit_code == 1} == {
        "QuantwrightError", "StateError", "ExportError", "VerificationError",
    }  # fmt: skip


def test_a_problem_says_file_line_and_path() -> None:
    problem = Problem(code="key", message="unknown key 'metod'", path="a[0].metod", file="c.json", line=7, fix="x")
    assert problem.render() == "c.json:7 a[0].metod: unknown key 'metod'\n  fix: x"
    assert Problem(code="c", message="m", line=7).render() == "line 7: m"
    assert Problem(code="c", message="m").render() == "m"


def test_a_problem_as_json_is_plain() -> None:
    plain = Problem(code="c", message="m", value={1, 2}).to_json()
    assert plain["value"] == "{1, 2}"
    assert set(plain) == {"code", "message", "path", "file", "line", "value", "allowed", "fix"}


def test_problems_are_raised_together() -> None:
    problems = Problems()
    problems.raise_if_any()
    problems.add(Problem(code="one", message="first"))
    problems.add(Problem(code="two", message="second"))
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any()
    assert [problem.code for problem in caught.value.problems] == ["one", "two"]
    assert str(caught.value).startswith("2 problems in the configuration:\n")
    assert "first" in str(caught.value) and "second" in str(caught.value)
    assert str(ConfigError([problems.items[0]])).startswith("1 problem in the configuration:\n")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("entrpy", "did you mean 'entropy'?"),
        ("MSE", "did you mean 'mse'?"),
        ("min_max", "did you mean 'minmax'?"),
        ("zzzzz", None),
        (8, None),
        (None, None),
    ],
)
def test_near_misses(word: object, expected: str | None) -> None:
    assert did_you_mean(word, ["entropy", "mse", "minmax", "percentile"]) == expected


@settings(deadline=None, max_examples=50)
@given(st.text(), st.lists(st.text(min_size=1), max_size=5))
def test_near_misses_only_name_what_is_allowed(word: str, allowed: list[str]) -> None:
    answer = did_you_mean(word, allowed)
    assert answer is None or any(f"'{name}'" in answer for name in allowed)
