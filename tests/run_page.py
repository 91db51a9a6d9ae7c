"""Runs the steps of one documentation page in this process; see test_docs.py. Names the first block that fails."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

UNITS = {"%": 1.5, "dB": 1.0}  # unit of a measured number -> by how much it may differ from the page


class Broken(Exception):
    """Returns a block that did not do what the page says."""


def command(line: str, expected: int) -> str:
    """Returns what ``line`` prints; raises when its exit code is not the expected one."""
    from quantwright import cli

    words = shlex.split(line, comments=True)
    if not words:
        return ""
    if words[0] != "quantwright":
        raise Broken(f"only quantwright commands can be run, not: {line}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code: Any = cli.main(words[1:])
        except SystemExit as stop:
            code = stop.code
    if (code or 0) != expected:
        raise Broken(f"exit code {code or 0}, not {expected}: {line}\n{printed.getvalue()}")
    return printed.getvalue()


def console(text: str, expected: int) -> None:
    """Runs the ``$`` lines; every other line must occur in what the command above it printed."""
    printed = ""
    pending = ""
    for line in text.splitlines():
        if line.startswith("$ ") or pending:
            pending += line.removeprefix("$ ").removesuffix("\\")
            if not line.endswith("\\"):
                printed, pending = command(pending, expected), ""
        elif line.strip() not in ("", "..."):
            if not any(like(line, found) for found in printed.splitlines()):
                raise Broken(f"nothing printed looks like: {line}\n--- printed:\n{printed}")


def like(line: str, found: str) -> bool:
    """Returns whether ``found`` holds what the page shows: other machines measure a little more or less."""
    measured = r"(-?\d+\.\d+)"
    words = []
    for word, unit in zip(line.split(), [*line.split()[1:], ""], strict=True):
        number = unit in UNITS and re.fullmatch(measured, word)
        bar = set(word) == {"█"}  # written with # where the terminal has no other letters
        words.append(".*" if word == "..." else measured if number else "[█#]+" if bar else re.escape(word))
    pattern = r"\s+".join(words).replace(r"\s+.*", r".*").replace(r".*\s+", ".*")
    match = re.search(pattern, found)
    if match is None:
        return False
    shown = re.findall(measured + rf"\s+({'|'.join(map(re.escape, UNITS))})", line)
    return all(abs(float(a) - float(b)) <= UNITS[unit] for (a, unit), b in zip(shown, match.groups(), strict=True))


def shell(text: str, expected: int) -> None:
    """Runs every line; a backslash at the end continues it."""
    for line in text.replace("\\\n", " ").splitlines():
        command(line, expected)


def step(block: dict[str, Any], space: dict[str, Any]) -> None:
    """Runs one block."""
    language, text = block["language"], block["text"]
    if block["file"]:
        Path(block["file"]).parent.mkdir(parents=True, exist_ok=True)
        Path(block["file"]).write_text(text + "\n", encoding="utf-8")
    if language == "console":
        console(text, block["exit"])
    elif language == "bash":
        shell(text, block["exit"])
    elif language == "python" and not block["file"]:
        exec(compile(text, f"block at line {block['line']}", "exec"), space)
    elif language in ("yaml", "json", "toml") and not block["exit"]:
        from quantwright.config.load import load_config

        path = Path(block["file"] or f"block{block['line']}.{language}")
        path.write_text(text + "\n", encoding="utf-8")
        load_config(path)


def main() -> None:
    """Runs every step; says the line of the one that failed before its traceback."""
    sys.path.insert(0, "")
    space: dict[str, Any] = {"__name__": "__page__"}
    for block in json.loads(Path(sys.argv[1]).read_text()):
        try:
            step(block, space)
        except BaseException:
            sys.stderr.write(f"{block['line']}: the {block['language']} block there does not work\n")
            raise


if __name__ == "__main__":
    main()
