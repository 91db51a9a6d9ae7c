"""Drop-in faces of other tools: their import names and calls, translated into ours. They compute nothing.

A face is a package in this folder with the name of the original: ``compat/pytorch_nndct`` is that of ``pytorch_nndct``.
``from quantwright.compat.pytorch_nndct.apis import torch_quantizer`` uses it directly; ``redirect("pytorch_nndct")``
and ``quantwright run --as pytorch_nndct script.py`` let an unmodified script find it under the original's name, whether
or not the original is installed. A call that a face does not have raises, with the way on; nothing differs in silence.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from quantwright.errors import UnknownNameError, did_you_mean


def names() -> tuple[str, ...]:
    """Returns the tools that have a face: the packages of this folder."""
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")))


class _Alias(Loader):
    """Returns a loader that hands out a module that is loaded already, under another name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Returns the module of the face."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its own spec back, which the import system has just replaced by the alias's."""
        module.__spec__ = self._spec


class _Finder(MetaPathFinder):
    """Returns a finder that answers imports of one tool with its face."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of the face's module; None for every other package.

        Raises:
            ModuleNotFoundError: a module of the tool that its face does not have; says which it has.
        """
        del path, target
        if fullname != self.name and not fullname.startswith(f"{self.name}."):
            return None
        ours = f"{__name__}.{fullname}"
        if find_spec(ours) is None:
            raise ModuleNotFoundError(
                f"{fullname} is not part of the face that quantwright has for {self.name}; it has "
                + ", ".join(_modules(self.name)),
                name=fullname,
            )
        module = importlib.import_module(ours)
        return ModuleSpec(fullname, _Alias(module), is_package=hasattr(module, "__path__"))


def _modules(name: str) -> list[str]:
    """Returns the public modules of a face, by the original's names."""
    folder = Path(__file__).parent / name
    return [name, *sorted(f"{name}.{path.stem}" for path in folder.glob("*.py") if not path.stem.startswith("_"))]


def install(name: str) -> None:
    """Lets imports of ``name`` find its face from now on, in this process."""
    sys.meta_path.insert(0, _Finder(name))
    sys.modules[name] = importlib.import_module(f"{__name__}.{name}")


@contextlib.contextmanager
def redirect(name: str) -> Iterator[None]:
    """Yields while imports of ``name`` find its face; what was imported under that name before comes back after.

    Raises:
        UnknownNameError: no such face.
    """
    if name not in names():
        raise UnknownNameError(f"there is no face for '{name}'", allowed=names(), fix=did_you_mean(name, names()))
    before = {key: module for key, module in sys.modules.items() if key == name or key.startswith(f"{name}.")}
    for key in before:
        del sys.modules[key]
    finder = _Finder(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[key]
        sys.modules.update(before)
