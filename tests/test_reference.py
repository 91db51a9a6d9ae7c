"""The reference pages are what their script writes, and leave nothing out that can be named."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

import quantwright
from quantwright import cli, registry
from quantwright.config.schema import json_schema
from quantwright.config.spec import QuantSpec

REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """Returns docs/make_reference.py, imported from its file."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_the_pages_are_up_to_date(script: ModuleType) -> None:
    made = script.pages()
    assert set(made) == {path.name for path in REFERENCE.glob("*.md")}
    old = [name for name, text in made.items() if page(name) != text]
    assert old == [], "run: python docs/make_reference.py"


def test_check_finds_an_old_page_and_writing_mends_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "FOLDER", tmp_path / "reference")
    assert script.main([]) == 0 and script.main(["--check"]) == 0
    (tmp_path / "reference" / "python.md").write_text("# Python\n")
    assert script.main(["--check"]) == 1
    assert capsys.readouterr().err.count("python.md") == 1
    assert (tmp_path / "reference" / "python.md").read_text() == "# Python\n"


def test_every_public_name_and_method_is_described() -> None:
    text = page("python.md")
    assert [name for name in quantwright.__all__ if name not in text] == []
    for method in ("calibrate", "refine", "verify", "export", "save", "compile", "forward"):
        assert f"### PreparedModel.{method}\n" in text
    for field in QuantSpec.model_fields:
        assert f"- `{field}`: " in text
    assert "- `quantizers`: point name -> Quantizer" in text  # of a class it inherits from


def test_every_option_of_every_command_is_described() -> None:
    sections = dict(part.split("\n", 1) for part in page("command-line.md").split("\n## quantwright ")[1:])
    commands = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert list(sections) == list(commands)
    for name, parser in commands.items():
        options = [option for action in parser._actions for option in action.option_strings if action.dest != "help"]
        assert [option for option in options if f"| `{option}" not in sections[name]] == []


def test_every_key_of_a_configuration_is_described() -> None:
    schema, text = json_schema(), page("configuration.md")
    spec, rule = schema["$defs"]["spec"]["properties"], schema["$defs"]["rule"]["properties"]
    keys = {*schema["properties"], *spec, *rule, *rule["match"]["properties"]}
    assert [key for key in sorted(keys) if f"| `{key}` |" not in text] == []
    empty = [line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert empty == [], "a key without a description"


def test_every_plugin_and_parameter_is_described() -> None:
    text = page("plugins.md")
    for kind in registry.KINDS:
        section = text.split(f"\n## {kind.capitalize()}\n")[1].split("\n## ")[0]
        assert registry.names(kind) == tuple(part.split("\n")[0] for part in section.split("\n### ")[1:])
        for name in registry.names(kind):
            entry = section.split(f"\n### {name}\n")[1].split("\n### ")[0]
            assert [key for key in registry.parameters(kind, name) if f"| `{key}` |" not in entry] == []


def test_a_docstring_becomes_markdown(script: ModuleType) -> None:
    text = '''Returns ``x`` * 2, for all <y>.

    More.

        a  drawing

    Args:
        x: one. It goes
            on here.
        **options: the ``rest``.
    Shapes:
        x: [B, C]; the result too.
    Raises:
        ValueError: never.
    '''
    assert [line for line in script.docstring(text) if line] == [
        "Returns `x` \\* 2, for all &lt;y>.", "More.", "```text", "a  drawing", "```",
        "*Args*\n", "- `x`: one. It goes on here.", "- `**options`: the `rest`.",
        "*Shapes*\n", "- `x`: [B, C]; the result too.", "*Raises*\n", "- `ValueError`: never.",
    ]  # fmt: skip


def test_a_signature_is_written_as_in_the_source(script: ModuleType) -> None:
    def short(a: int, *rest: str, key: bool = False) -> None: ...

    def long(
        self: object, first: dict[str, int], *, second_with_a_very_long_name: str | None = None, third: float = 3
    ) -> str: ...

    assert script.signature(short, "f")[1] == "f(a: int, *rest: str, key: bool = False) -> None"
    assert script.signature(long, "g", method=True)[1:-2] == [
        "g(", "    first: dict[str, int],", "    *,", "    second_with_a_very_long_name: str | None = None,",
        "    third: float = 3,", ") -> str",
    ]  # fmt: skip
