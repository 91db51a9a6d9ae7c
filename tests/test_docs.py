"""The documentation is executed: every code block of every page, in order, one working folder per page.

What a block does, by its language:
``python`` runs, all blocks of a page in one namespace; ``console``: the lines after ``$`` are commands and the other
lines must occur in what they print (``...`` stands for anything, measured ``%`` and ``dB`` may differ a little);
``bash``: every line is a command; ``yaml``, ``json`` and ``toml`` are loaded as configurations. A comment on the line
above a block changes that:
``<!-- not run: reason -->``, ``<!-- file: name -->`` writes the block to a file first (``quantwright/...`` into a copy
of the package, which is used from then on), ``<!-- exit: 2 -->`` expects that exit code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from run_page import like

PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT / name).exists()
] + sorted((ROOT / "docs").rglob("*.md"))  # fmt: skip
LANGUAGES = ("python", "console", "bash", "yaml", "json", "toml")
TEXT = ("", "text")  # drawings and tables: nothing to run
DRIVER = Path(__file__).with_name("run_page.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Returns one fenced block of a page."""

    language: str
    text: str
    line: int
    skip: str = ""
    file: str = ""
    exit: int = 0


def blocks(page: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page with the comments above them."""
    lines = page.splitlines()
    index = 0
    while index < len(lines):
        fence = re.fullmatch(r"\s*```(\S*)", lines[index])
        if not fence:
            index += 1
            continue
        end = next(i for i in range(index + 1, len(lines)) if lines[i].strip() == "```")
        marks = {}
        for above in reversed(lines[:index]):
            mark = re.fullmatch(r"\s*<!-- (not run|file|exit): (.+) -->", above)
            if not mark:
                break
            marks[mark[1]] = mark[2]
        text = "\n".join(lines[index + 1 : end])
        yield Block(
            language=fence[1], text=text, line=index + 1, skip=marks.get("not run", ""), file=marks.get("file", ""),
            exit=int(marks.get("exit", 0)),
        )  # fmt: skip
        index = end + 1


def run_page(steps: list[Block], folder: Path) -> subprocess.CompletedProcess[str]:
    """Returns the finished driver process that ran ``steps`` in ``folder``."""
    (folder / "examples").symlink_to(ROOT / "examples")
    paths = [str(folder)]
    if any(step.file.startswith("quantwright/") for step in steps):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "src" / "quantwright", folder / "quantwright", ignore=ignore)
    (folder / "steps.json").write_text(json.dumps([asdict(step) for step in steps]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, str(DRIVER), "steps.json"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_works(page: Path, tmp_path: Path) -> None:
    steps = [block for block in blocks(page.read_text(encoding="utf-8")) if not block.skip]
    unknown = [f"{page.name}:{s.line} {s.language}" for s in steps if s.language not in (*LANGUAGES, *TEXT)]
    assert unknown == [], "a language nobody runs; use one of those above, or say <!-- not run: reason -->"
    runnable = [step for step in steps if step.language in LANGUAGES]
    if runnable:
        done = run_page(runnable, tmp_path)
        assert done.returncode == 0, f"{page.name}:{done.stderr[-6000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_find_them(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    missing = []
    for link, anchor in (found for found in links if "://" not in found[0]):
        target = (page.parent / link if link else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", target, flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        missing += [] if anchor in slugs else [f"{link}#{anchor}"]
    assert missing == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", index.read_text("utf-8"))}
    assert [str(page) for page in PAGES if page not in (*linked, index, ROOT / "CHANGELOG.md")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_are_named_exist(page: Path) -> None:
    """A page that names `plan/resolve.py` or `docs/map.md` names a file of this repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|txt))`", text)
    roots = (ROOT, ROOT / "src" / "quantwright", ROOT / "docs", ROOT / "examples" / "digits")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


CASES = {  # a page, and a word of the failure (or None when it works)
    "python shares a namespace": ("```python\nx = 1\n```\n```python\nassert x == 1\n```\n", None),
    "a failing assert": ("```python\nassert 1 == 2\n```\n", "AssertionError"),
    "a config that loads": ("```yaml\nversion: 1\n```\n", None),
    "a config that does not": ("```yaml\nversion: 1\nfoo: 2\n```\n", "foo"),
    "a command that works": ("```console\n$ quantwright list observers\n...\nminmax ...\n```\n", None),
    "a command with other output": ("```console\n$ quantwright list observers\nnot there\n```\n", "not there"),
    "a command that fails": ("```bash\nquantwright check missing.yaml\n```\n", "exit code 2"),
    "an expected exit code": ("<!-- exit: 2 -->\n```bash\nquantwright check missing.yaml\n```\n", None),
    "a file that a command reads": (
        "<!-- file: a.yaml -->\n```yaml\nversion: 1\n```\n```bash\nquantwright check a.yaml\n```\n", None),
    "another program": ("```bash\nrm -r x\n```\n", "only quantwright"),
    "a new plug-in": (
        '<!-- file: quantwright/observers/zz.py -->\n```python\n"""Zz."""\nplugin = 1\n```\n'
        "```console\n$ quantwright list observers\nzz ...\n```\n", None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_runner_tells_working_blocks_from_broken_ones(case: str, tmp_path: Path) -> None:
    page, failure = CASES[case]
    done = run_page(list(blocks(page)), tmp_path)
    if failure is None:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1 and failure in done.stderr, done.stderr


LINES = {  # a line of a page, a line that was printed, whether they agree
    ("top-1 99.40 %  28.8 dB", "top-1   99.20 %    28.9 dB"): True,
    ("top-1 99.40 %  28.8 dB", "top-1   95.40 %    28.8 dB"): False,
    ("top-1 99.40 %  28.8 dB", "top-1   99.40 %    26.8 dB"): False,
    ("float 28.8 volt", "float 28.9 volt"): False,
    ("conv 3.8 % ████ 28.3 dB ...", "conv    3.7 %  █████  28.2 dB  35.9 dB"): True,
    ("minmax ...", "minmax  The smallest and the largest value"): True,
    ("... - 28.8 dB", "simulated - 29.0 dB"): True,
    ("gain -1.0 dB", "gain 1.0 dB"): False,
}


@pytest.mark.parametrize("lines", LINES)
def test_measured_numbers_may_differ_a_little(lines: tuple[str, str]) -> None:
    assert like(*lines) is LINES[lines]


def test_marks_are_read() -> None:
    page = "<!-- file: a.yaml -->\n<!-- exit: 2 -->\n```yaml\na: 1\n```\n\n"
    page += "<!-- not run: why -->\n```bash\nx\n```\n```text\nz\n```"
    first, second, third = blocks(page)
    assert (first.file, first.exit, first.text, first.line) == ("a.yaml", 2, "a: 1", 3)
    assert (second.skip, second.language) == ("why", "bash")
    assert (third.skip, third.language) == ("", "text")
