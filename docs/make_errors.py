"""Writes ``docs/errors.md``: typical mistakes, each with the smallest configuration and the message it gets.

``python docs/make_errors.py`` runs every command and pastes what it prints; ``--check`` only says whether the page is
what it should be. ``docs/errors_cases.py`` holds the mistakes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from errors_cases import SECTIONS, Case

from quantwright import cli
from quantwright.registry import names

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
HEAD = """\
# Mistakes and their messages

Every message says what is wrong, where (file, line and path), the value, what is allowed, and what to do; all problems
of a file come at once. `quantwright check FILE` needs no model and no torch; what only a model can show comes from
`explain` and `quantize`, before any long work. With `--json` the same comes as one document, each problem with `code`,
`message`, `path`, `file`, `line`, `value`, `allowed` and `fix`. A list that is longer than a line ends in `...` here.

This page is written by `python docs/make_errors.py`, which runs every command.
"""
LONG = 150  # characters of a line of the page
LISTED = 100  # characters of a list of what is allowed


def page() -> str:
    """Returns the text of the page; runs every command."""
    parts = [HEAD]
    for title, intro, dialect, cases in SECTIONS:
        if dialect and dialect not in names("dialects"):
            continue
        parts += [f"## {title}", *([intro] if intro else [])]
        parts += [part for case in cases for part in shown(case)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def shown(case: Case) -> Iterator[str]:
    """Yields heading, file and message of one mistake."""
    yield f"### {case.title}"
    if case.text:
        language = case.file.rpartition(".")[2]
        yield f"<!-- file: {case.file} -->\n<!-- exit: {case.code} -->\n```{language}\n{case.text}```"
    printed = output(case)
    yield f"<!-- exit: {case.code} -->\n```console\n$ quantwright {case.command}\n{printed}\n```"
    if case.note:
        yield case.note


def output(case: Case) -> str:
    """Returns what the command of one mistake prints, in a folder of its own.

    Raises:
        SystemExit: the exit code is another one than the case expects.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "examples").symlink_to(ROOT / "examples")
        if case.text:
            Path(folder, case.file).write_text(case.text, encoding="utf-8")
        os.chdir(folder)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = cli.main(shlex.split(case.command))
        finally:
            os.chdir(before)
    if code != case.code:
        sys.exit(f"{case.title}: exit code {code}, not {case.code}\n{printed.getvalue()}")
    return "\n".join(shortened(line) for line in printed.getvalue().rstrip().splitlines())


def shortened(line: str) -> str:
    """Returns a line cut after a word, with dots for the rest; a list of names, which grows, is cut sooner."""
    limit = LISTED if line.startswith("  allowed:") else LONG
    return line if len(line) <= limit else line[: line.rindex(" ", 0, limit)] + " ..."


def main(arguments: Sequence[str]) -> int:
    """Returns 0 after writing the page; with ``--check``, 1 when it is not what it should be."""
    text = page()
    if "--check" in arguments:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        sys.stderr.write("" if current == text else "docs/errors.md is old: run docs/make_errors.py\n")
        return int(current != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
