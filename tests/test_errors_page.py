"""docs/errors.md shows the messages as they are, and every one of them says where and what to do."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
try:
    import errors_cases
    import make_errors
finally:
    sys.path.remove(str(ROOT / "docs"))

CASES = [case for _, _, dialect, cases in errors_cases.SECTIONS for case in cases]
PROBLEM = re.compile(r"^(?:error: )?(?P<where>[^ ]+\.(?:yaml|json|toml)(?::\d+)?)(?P<path> [^ :]+)?: (?P<what>.+)$")


def test_the_page_is_what_the_commands_print() -> None:
    assert make_errors.PAGE.read_text(encoding="utf-8") == make_errors.page(), "run docs/make_errors.py"


def test_there_are_thirty_and_more() -> None:
    titles = [case.title for case in CASES]
    assert len(set(titles)) == len(titles) >= 30


CHECKED = [case for case in CASES if case.text and case.code == 2 and case.command.startswith("check")]


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case.title)
def test_every_message_says_where_and_the_way_out(case: Any) -> None:
    lines = make_errors.output(case).splitlines()
    found = [PROBLEM.match(line) for line in lines]
    told = [match for match in found if match and not re.match(r"\d+ problem", match["what"])]
    if "--dialect" in case.command:
        assert "allowed:" in lines[1]
        return
    assert told and all(":" in match["where"] for match in told), lines
    assert sum(line.startswith("  fix: ") for line in lines) == len(told), lines
    count = re.search(r": (\d+) problem", lines[-1])
    assert count and int(count[1]) == len(told)
