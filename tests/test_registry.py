"""The registry: a plug-in is a file, its file name is its name, and listing them imports nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from quantwright import registry
from quantwright.errors import QuantwrightError, UnknownNameError

GOOD = '''"""Answers everything; the second sentence is not in the list."""
PARAMS = {"share": {"type": "float", "default": 0.5, "min": 0, "max": 1, "help": "how much"}}
plugin = "the plugin"
'''


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a package root of its own with three observers: good, one without a plugin, and a private helper."""
    folder = tmp_path / "observers"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""The page."""\n')
    (folder / "good.py").write_text(GOOD)
    (folder / "annotated.py").write_text('"""A."""\nPARAMS: dict[str, object] = {"n": {"type": "int", "default": 1}}\n')
    (folder / "bomb.py").write_text('"""Explodes on import."""\nraise RuntimeError("imported")\n')
    (folder / "_helper.py").write_text('"""H."""\n')
    (folder / "notes.txt").write_text("not a plug-in")
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Forgets what a test registers."""
    before = dict(registry._EXTRA)
    yield
    registry._EXTRA.clear()
    registry._EXTRA.update(before)


def test_names_are_the_files(house: Path) -> None:
    assert registry.names("observers") == ("annotated", "bomb", "good")


def test_describing_imports_nothing(house: Path) -> None:
    shown = {entry.name: entry for entry in registry.describe("observers")}
    assert shown["good"].summary == "Answers everything; the second sentence is not in the list."
    assert shown["bomb"].summary == "Explodes on import."
    assert shown["good"].file == "quantwright/observers/good.py"


def test_parameters_are_read_without_importing(house: Path) -> None:
    assert registry.parameters("observers", "good")["share"]["default"] == 0.5
    assert registry.parameters("observers", "annotated") == {"n": {"type": "int", "default": 1}}
    assert registry.parameters("observers", "bomb") == {}


@pytest.mark.parametrize("call", [registry.load, registry.parameters])
def test_an_unknown_name_lists_what_there_is(call: object) -> None:
    with pytest.raises(UnknownNameError, match="no rounding plug-in|unknown plug-in kind"):
        call("rounding", "x")  # type: ignore[operator]
    with pytest.raises(UnknownNameError, match="no observers plug-in is called 'zzz'") as caught:
        call("observers", "zzz")  # type: ignore[operator]
    assert caught.value.exit_code == 2


def test_near_misses_are_offered(house: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'good'"):
        registry.load("observers", "god")


@pytest.mark.parametrize("name", ["_helper", "__init__", "../errors", "", "good.py"])
def test_only_plugins_can_be_loaded(house: Path, name: str) -> None:
    with pytest.raises(UnknownNameError):
        registry.load("observers", name)


def test_registering_from_outside() -> None:
    class Mine:
        """Measures nothing."""

        PARAMS = {"n": {"type": "int", "default": 1}}

    registry.register("observers", "mine", Mine)
    assert registry.load("observers", "mine") is Mine
    assert "mine" in registry.names("observers")
    assert registry.parameters("observers", "mine") == Mine.PARAMS
    (entry,) = [e for e in registry.describe("observers") if e.name == "mine"]
    assert entry.summary == "Measures nothing." and entry.file == "registered at run time"
    with pytest.raises(QuantwrightError, match="already has a plug-in called 'mine'"):
        registry.register("observers", "mine", Mine)


def test_a_registered_name_cannot_hide_a_file(house: Path) -> None:
    with pytest.raises(QuantwrightError, match="choose another name"):
        registry.register("observers", "good", object())


def test_a_file_without_a_plugin_says_what_to_write(tmp_path: Path) -> None:
    code = (
        "from quantwright import registry, observers\n"
        f"observers.__path__.append({str(tmp_path)!r})\n"
        "registry.names = lambda kind: ('empty',)\n"
        "registry.load('observers', 'empty')\n"
    )
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "defines no 'plugin'" in done.stderr and "assign the class or object to 'plugin'" in done.stderr


def test_every_kind_has_a_folder_with_a_page() -> None:
    for folder in registry.KINDS.values():
        assert (ROOT / "src" / "quantwright" / folder / "__init__.py").exists(), folder


def test_listing_and_loading_the_torch_free_kinds_imports_no_torch() -> None:
    code = (
        "import sys\nfrom quantwright import registry\n"
        "for kind in registry.KINDS: registry.describe(kind)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
