"""Call sites: the line of the user's script that handed over an object, which is where its settings came from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from quantwright.config.config import QuantConfig, Rule, Source

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


def call_site() -> tuple[str, int] | None:
    """Returns file and line of the innermost call that is not in this package; None when there is none.

    A file below the working folder is named as seen from there, so that equal scripts give equal plans elsewhere.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else (_shown(frame.f_code.co_filename), frame.f_lineno)


def placed(config: QuantConfig) -> QuantConfig:
    """Returns a config whose parts that were made in Python say where they were handed over; itself if none was."""
    bare = [rule for rule in config.rules if rule.source == Source()]
    if not bare and config.source != Source():
        return config
    site = call_site()
    if site is None:
        return config
    file, line = site
    source = Source(file=file, line=line) if config.source == Source() else config.source
    rules = tuple(_rule(rule, number, file, line) for number, rule in enumerate(config.rules, start=1))
    return config.model_copy(update={"source": source, "rules": rules})


def _rule(rule: Rule, number: int, file: str, line: int) -> Rule:
    if rule.source != Source():
        return rule
    source = Source(text=f"rule {number} ({rule.match})", file=file, line=line, path=f"rules[{number - 1}]")
    return rule.model_copy(update={"source": source})


def _shown(file: str) -> str:
    if not os.path.isabs(file):
        return file
    here = os.getcwd() + os.sep
    return file[len(here) :] if file.startswith(here) else file
