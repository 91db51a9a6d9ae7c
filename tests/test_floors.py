"""The house rules that a machine can check: imports go down only, small files, small functions, documented names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from quantwright import registry

SOURCE = ROOT / "src" / "quantwright"
FLOORS = {  # room (a module or folder of the package) -> floor; 1a, 1b, 1c of the design are 1.0, 1.1, 1.2
    "errors": 0, "registry": 0, "files": 0, "interrupts": 0,
    "config": 1.0, "targets": 1.1, "dialects": 1.1, "plan": 1.2,
    "numerics": 2, "graph": 2, "data": 2, "tensorfile": 2,
    "observers": 3, "fakequant": 3, "passes": 3,
    "quantized": 4, "prepare": 4, "simulate": 4, "hooks": 4, "calibrate": 4, "watcher": 4,
    "checkpoint": 4, "distributed": 4,
    "algorithms": 5,
    "exporters": 6, "report": 6, "verify": 6, "artifacts": 6, "artifacts_modules": 6,
    "pipeline": 7, "loading": 7, "single": 7, "stages": 6, "api": 7, "api_modules": 7,
    "cli": 8, "commands": 8, "compat": 8, "__main__": 8, "__init__": 8,
}  # fmt: skip
TORCH_FREE = {room for room, floor in FLOORS.items() if floor < 2} | {"report", "__init__", "__main__"}
PLUGINS = {folder.replace("/", ".") for folder in registry.KINDS.values()}
FILE_LINES, FUNCTION_LINES = 400, 80


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yields ("numerics.formats.int", its tree) for every file of a package."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module, name: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Yields (line, module) of every import, in functions too; ``from a import b`` is ``a.b`` if that is a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                longer = f"{base}.{alias.name}"
                yield node.lineno, longer if longer.removeprefix("quantwright.") in known else base


def room(module: str) -> str:
    """Returns the room of ``numerics.formats.int``: ``numerics``."""
    return module.split(".")[0]


def leaf(module: str) -> str | None:
    """Returns the plug-in folder of a leaf module (``observers.mse`` -> ``observers``), or None."""
    folder, _, name = module.rpartition(".")
    return folder if folder in PLUGINS and not name.startswith("_") else None


def import_faults(root: Path) -> list[str]:
    """Returns every import that goes up, leaves the torch line, or joins two leaves of a plug-in folder."""
    found = list(modules(root))
    known = {name for name, _ in found}
    faults = []
    for name, tree in found:
        if room(name) not in FLOORS:
            faults.append(f"{name}: not on the map; give its room a floor in docs/map.md and here")
            continue
        for line, target in imports(tree, name, known):
            if target.startswith("."):
                faults.append(f"{name}:{line} relative import {target}")
            if target.split(".")[0] in ("torch", "numpy") and room(name) in TORCH_FREE:
                faults.append(f"{name}:{line} imports {target}, but floors 0 and 1 and the report know no tensors")
            if target == "quantwright" or not target.startswith("quantwright."):
                continue
            inner = target.removeprefix("quantwright.")
            if FLOORS.get(room(inner), 99) > FLOORS[room(name)]:
                faults.append(f"{name}:{line} imports {target}: floor {FLOORS[room(name)]} looks up")
            if leaf(name) and leaf(name) == leaf(inner) and name != inner:
                faults.append(f"{name}:{line} imports its neighbour {target}; share through a private _file")
    return faults


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Yields (qualified name, node) of classes, functions and methods; functions inside functions are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name, node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.If | ast.Try):
            yield from functions(node, prefix)


def size_faults(root: Path) -> list[str]:
    """Returns files and functions that are too long."""
    faults = []
    for path in sorted(root.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            faults.append(f"{path.relative_to(root)}: {lines} lines, at most {FILE_LINES}")
    for name, tree in modules(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    faults.append(f"{name}.{node.name}: {lines} lines, at most {FUNCTION_LINES}")
    return faults


def habit_faults(root: Path) -> list[str]:
    """Returns bare or swallowing excepts, star imports, prints outside the command line, and stubs."""
    faults = []
    for name, tree in modules(root):
        for node in ast.walk(tree):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    faults.append(f"{where} bare except")
                if all(isinstance(statement, ast.Pass) for statement in node.body):
                    faults.append(f"{where} swallows an exception")
            elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                faults.append(f"{where} star import")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                if room(name) not in ("cli", "commands", "report"):
                    faults.append(f"{where} print")
            elif isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node):
                faults.append(f"{where} NotImplementedError")
    return faults


def docstring_faults(root: Path) -> list[str]:
    """Returns public modules, classes, functions and methods without a docstring."""
    faults = []
    for name, tree in modules(root):
        if not ast.get_docstring(tree):
            faults.append(f"{name}: module")
        for qualified, node in functions(tree):
            private = any(part.startswith("_") for part in qualified.split("."))
            words = {getattr(d, "attr", getattr(d, "id", "")) for d in node.decorator_list}
            if not private and not words & {"setter", "overload"} and not ast.get_docstring(node):
                faults.append(f"{name}.{qualified}")
    return faults


@pytest.mark.parametrize("check", [import_faults, size_faults, habit_faults, docstring_faults])
def test_the_house_keeps_its_rules(check: Callable[[Path], list[str]]) -> None:
    assert check(SOURCE) == []


BROKEN = {  # a broken file, and words of the fault that must be found
    "an upward import": ("numerics/x.py", '"""X."""\nfrom quantwright.prepare import insert\n', "looks up"),
    "an upward import in a function": (
        "config/x.py", '"""X."""\ndef f():\n    """F."""\n    import quantwright.plan.resolve\n', "looks up"),
    "torch below the line": ("plan/x.py", '"""X."""\nfrom torch import nn\n', "know no tensors"),
    "a neighbour": ("observers/x.py", '"""X."""\nfrom quantwright.observers.mse import plugin\n', "neighbour"),
    "a neighbouring format": (
        "numerics/formats/x.py", '"""X."""\nfrom quantwright.numerics.formats import int\n', "neighbour"),
    "a relative import": ("observers/x.py", '"""X."""\nfrom . import mse\n', "relative"),
    "a room without a floor": ("attic/x.py", '"""X."""\n', "not on the map"),
    "a long file": ("x.py", "x = 1\n" * 401, "401 lines"),
    "a long function": ("x.py", "def f():\n" + "    x = 1\n" * 80, "81 lines"),
    "a bare except": ("x.py", "try:\n    x = 1\nexcept:\n    x = 2\n", "bare except"),
    "a swallowed error": ("x.py", "try:\n    x = 1\nexcept ValueError:\n    pass\n", "swallows"),
    "a star import": ("x.py", "from os import *\n", "star import"),
    "a print": ("x.py", "print(1)\n", "print"),
    "a stub": ("x.py", "def f():\n    raise NotImplementedError('later')\n", "NotImplementedError"),
    "no docstring": ("x.py", '"""X."""\nclass A:\n    """A."""\n    def f(self):\n        return 1\n', "x.A.f"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_the_checks_find(fault: str, tmp_path: Path) -> None:
    file, text, words = BROKEN[fault]
    tree = {"observers/mse.py": '"""M."""\n', "numerics/formats/int.py": '"""I."""\n', file: text}
    for name, content in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    checks = (import_faults, size_faults, habit_faults, docstring_faults)
    found = [line for check in checks for line in check(tmp_path)]
    assert any(words in line for line in found), found


def test_private_helpers_of_a_plugin_folder_may_be_shared(tmp_path: Path) -> None:
    (tmp_path / "observers").mkdir()
    (tmp_path / "observers" / "_shared.py").write_text('"""S."""\n')
    (tmp_path / "observers" / "x.py").write_text('"""X."""\nfrom quantwright.observers import _shared\n')
    assert import_faults(tmp_path) == []


@pytest.mark.parametrize(
    "names",
    [
        "quantwright",
        "quantwright.config.load, quantwright.config.check, quantwright.config.schema",
        "quantwright.plan.resolve, quantwright.plan.explain, quantwright.plan.plan_json",
        "quantwright.report.record",
        "quantwright.cli",
    ],
)
def test_importing_pulls_no_tensors(names: str) -> None:
    code = f"import sys, {names}; print(sorted({{'torch', 'numpy', 'onnx'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


@pytest.mark.parametrize("kind", ["targets", "dialects"])
def test_torch_free_plugins_import_without_tensors(kind: str) -> None:
    code = "import sys; from quantwright import registry\n"
    code += f"for name in registry.names({kind!r}): registry.load({kind!r}, name)\n"
    code += "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


def test_every_room_is_on_the_map() -> None:
    page = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    rooms = {p.stem for p in SOURCE.glob("*.py")} | {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    missing = [r for r in sorted(rooms - {"__init__", "__main__"}) if f"`{r}/`" not in page and f"`{r}.py`" not in page]
    assert missing == []


def test_files_and_the_checker_agree_on_what_exists() -> None:
    names = {name for name, _ in modules(SOURCE)}
    assert {"errors", "config.spec", "numerics.qparams", "observers", "__init__"} <= names
    assert room("numerics.formats.int") == "numerics"
    assert leaf("numerics.formats.int") == "numerics.formats"
    assert leaf("observers._histogram") is None
    assert leaf("observers") is None
