"""Fixtures shared by all tests: the folder with recorded numbers, data and weights, when it is there."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Continuous integration tries the same examples every time; everywhere else each run tries new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("QUANTWRIGHT_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """Returns a path in the reference folder; skips the test, with the reason, when it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs the reference folder: {'/'.join(parts)} (set QUANTWRIGHT_SHARED)")
    return path


_CACHE: dict[str, Any] = {}


def golden(name: str) -> Any:
    """Returns a parsed file of recorded numbers, read once."""
    if name not in _CACHE:
        _CACHE[name] = json.loads(shared("golden", name).read_text(encoding="utf-8"))
    return _CACHE[name]


@pytest.fixture(scope="session")
def vai() -> Any:
    """The numbers recorded from vai_q_pytorch."""
    return golden("vai_q_pytorch.json")


@pytest.fixture(scope="session")
def dev_models() -> Any:
    """The module ``eval`` of the data folder: model loaders, preprocessing, data."""
    folder = shared("data")
    sys.path.insert(0, str(folder))
    try:
        import importlib

        return importlib.import_module("eval")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def _same_path() -> Iterator[None]:
    """Puts back sys.path, which loading a user's file extends as running it would: child processes inherit it."""
    before = list(sys.path)
    yield
    sys.path[:] = before
