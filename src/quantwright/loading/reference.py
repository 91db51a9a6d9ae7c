"""Finding ``file.py:name`` and ``package.module:name``: looked at without running it, then imported. No torch."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from quantwright.errors import InputError, QuantwrightError, did_you_mean

ARRAYS = (".npz", ".npy", ".safetensors")
_FORMS = {
    "model": "file.py:factory, package.module:factory, or model.pt2",
    "data": "file.py:factory, package.module:factory, a .npz, .npy or .safetensors file, or a folder of images",
}


def look(ref: str, *, what: str, error: type[QuantwrightError]) -> None:
    """Raises ``error`` for what can be seen to be wrong with a reference without importing or reading data.

    Args:
        what: ``model`` or ``data``.
    """
    path = Path(ref)
    if what == "data" and (path.is_dir() or path.suffix in ARRAYS) or what == "model" and path.suffix == ".pt2":
        _require_readable(path, error)
    else:
        place, name = split(ref, what=what, error=error)
        if place.endswith(".py"):
            _check_names(Path(place), name, error)
        else:
            _require_module(place, ref, error)


def split(ref: str, *, what: str, error: type[QuantwrightError]) -> tuple[str, str]:
    """Returns (file or module, name) of a reference."""
    place, colon, name = ref.rpartition(":")
    if not colon or not place or not name or os.sep in name:
        exists = Path(ref).exists()
        raise error(
            f"'{ref}' names no object inside the file" if exists else f"'{ref}' is no {what} reference and no file",
            allowed=_FORMS[what],
            fix=f"write {ref}:NAME" if exists and ref.endswith(".py") else near_files(Path(ref)),
        )
    return place, name


def resolve(ref: str, *, what: str, error: type[QuantwrightError]) -> Any:
    """Returns the object a reference names, importing its file or module (once per process).

    Raises:
        error: no such file or module, importing it fails (with the user's file and line), or no such name in it.
    """
    look(ref, what=what, error=error)
    place, name = split(ref, what=what, error=error)
    module = _import_file(Path(place), error) if place.endswith(".py") else _import_module(place, error)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [word for word in dir(found) if not word.startswith("_")]
            raise error(f"'{place}' has no '{name}'", allowed=_few(names), fix=did_you_mean(part, names))
        found = getattr(found, part)
    return found


def made(found: Any, ref: str, error: type[QuantwrightError], *, ready: tuple[type, ...] = ()) -> Any:
    """Returns what the named object gives: itself when it is ``ready`` or not callable, else what calling it gives."""
    if isinstance(found, ready) or not callable(found):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as problem:
        raise error(
            f"'{ref}' cannot be called without arguments: {problem}",
            fix="name a function without required arguments, for example one that calls this one",
        ) from problem
    except ValueError:  # a builtin does not tell its signature; calling it will
        return call(found, ref, error)
    return call(found, ref, error)


def call(factory: Any, ref: str, error: type[QuantwrightError]) -> Any:
    """Returns ``factory()``; what it raises becomes ``error`` with the user's file and line."""
    try:
        return factory()
    except QuantwrightError:
        raise
    except (Exception, SystemExit) as problem:
        raise from_user_code(problem, f"'{ref}' failed", error) from problem


def from_user_code(problem: BaseException, what: str, error: type[QuantwrightError]) -> QuantwrightError:
    """Returns ``error`` for an exception out of the user's code; ``where`` is the innermost line that is theirs."""
    frames = traceback.extract_tb(problem.__traceback__)
    own = str(Path(__file__).resolve().parents[1])
    others = (own, os.path.dirname(os.__file__), "<")  # ours, the standard library's (site-packages lie in it)
    theirs = [frame for frame in frames if not frame.filename.startswith(others)]
    last = theirs[-1] if theirs else None
    code = f", at: {last.line}" if last and last.line else ""
    return error(f"{what}: {one_line(problem)}{code}", where=f"{_shown(last.filename)}:{last.lineno}" if last else None)


def one_line(problem: BaseException) -> str:
    """Returns type and first line of an exception."""
    text = str(problem).strip().split("\n")[0]
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def near_files(path: Path) -> str | None:
    """Returns a hint naming files in the same folder whose names are close, or that the folder itself is missing."""
    folder = path.parent
    if not folder.is_dir():
        return f"the folder '{folder}' does not exist"
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(f"'{folder / name}'" for name in close) + "?" if close else None


def _require_readable(path: Path, error: type[QuantwrightError]) -> None:
    if not path.exists():
        raise error("no such file", where=str(path), fix=near_files(path))
    if not os.access(path, os.R_OK):
        raise error("the file cannot be read: no permission", where=str(path), fix="check its permissions")


def _check_names(path: Path, name: str, error: type[QuantwrightError]) -> None:
    """Raises ``error`` when the file is missing, is no Python, or plainly never defines ``name``."""
    _require_readable(path, error)
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as problem:
        line = getattr(problem, "lineno", None)
        raise error(
            f"this is not valid Python: {getattr(problem, 'msg', problem)}",
            where=f"{path}:{line}" if line else str(path),
        ) from problem
    defined, is_open = _bound_names(tree)
    if not is_open and name.split(".")[0] not in defined:
        makers = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
        words = sorted(word for word in makers or defined if not word.startswith("_"))
        raise error(f"there is no '{name}' in it", where=str(path), allowed=_few(words), fix=did_you_mean(name, words))


def _bound_names(tree: ast.Module) -> tuple[set[str], bool]:
    """Returns every name the file binds anywhere, and whether more can appear (star imports, ``__getattr__``)."""
    names: set[str] = set()
    is_open = False
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and node.id in ("globals", "exec", "setattr"):
            is_open = True
    return names, is_open or bool(names & {"*", "__getattr__"})


def _require_module(place: str, ref: str, error: type[QuantwrightError]) -> None:
    """Raises ``error`` when the top package does not exist; nothing is imported."""
    _see_folder(Path.cwd())
    top = place.split(".")[0]
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = sys.modules.get(top)  # type: ignore[assignment]
    if found is None:
        looks_like_file = "/" in place or place.endswith((".pt", ".pth", ".onnx", ".h5", ".keras"))
        fix = "a model is Python code that builds it: write file.py:factory" if looks_like_file else None
        raise error(f"there is no module '{top}' (from '{ref}')", fix=fix or "run from the folder that holds it")


def _import_module(place: str, error: type[QuantwrightError]) -> ModuleType:
    _see_folder(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as problem:
        if problem.name and (place == problem.name or place.startswith(problem.name + ".")):
            raise error(f"there is no module '{problem.name}'", fix="check the spelling") from problem
        raise from_user_code(problem, f"importing '{place}' failed", error) from problem
    except QuantwrightError:
        raise
    except (Exception, SystemExit) as problem:
        raise from_user_code(problem, f"importing '{place}' failed", error) from problem


def _import_file(path: Path, error: type[QuantwrightError]) -> ModuleType:
    """Returns the module of a file, imported as a script's neighbour would be: its folder is on the import path."""
    full = path.resolve()
    known = next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(full)), None)
    if known is not None and known.__name__ != "__main__":
        return known
    name = _module_name(full)
    _see_folder(full.parent)
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise error("Python cannot import this file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as problem:
        sys.modules.pop(name, None)
        if isinstance(problem, (QuantwrightError, KeyboardInterrupt)):
            raise
        raise from_user_code(problem, f"importing '{path}' failed", error) from problem
    return module


def _module_name(path: Path) -> str:
    """Returns the file's stem, so that types are called as they are when imported; prefixed when that name is taken."""
    stem = path.stem
    candidates = [stem, f"quantwright_user_{stem}", *(f"quantwright_user_{stem}_{n}" for n in range(2, 1000))]
    for name in candidates:
        if name in sys.modules or not name.isidentifier():
            continue
        spec = importlib.util.find_spec(name) if name == stem else None
        if spec is None or spec.origin == str(path):
            return name
    raise InputError(f"too many files are called {path.name}", where=str(path))


def _see_folder(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "nothing"


def _shown(path: str) -> str:
    """Returns a path as a person would write it: relative to the current folder when it lies below it."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if relative.startswith("..") else relative
