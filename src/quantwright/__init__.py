"""Quantwright quantizes neural networks: it says why every tensor got what it got and proves what it exports.

``import quantwright`` is light: a name's module is imported when the name is first used (PEP 562), so reading a
configuration never pays for torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantwright.api import PreparedModel, load, prepare
    from quantwright.config.config import QuantConfig
    from quantwright.config.load import load_config
    from quantwright.config.spec import QuantSpec
    from quantwright.config.translate import translate
    from quantwright.errors import (
        ArtifactError,
        CaptureError,
        ConfigError,
        DataError,
        ExportError,
        InputError,
        MissingDependencyError,
        ModelError,
        QuantwrightError,
        StateError,
        UnknownNameError,
        VerificationError,
    )
    from quantwright.numerics.qparams import QParams
    from quantwright.pipeline import quantize
    from quantwright.plan.plan import Plan
    from quantwright.single import fake_quantize, observe

__version__ = "0.1.0"

__all__ = [
    "load_config",
    "translate",
    "prepare",
    "quantize",
    "load",
    "observe",
    "fake_quantize",
    "PreparedModel",
    "QuantConfig",
    "QuantSpec",
    "Plan",
    "QParams",
    "QuantwrightError",
    "InputError",
    "ConfigError",
    "UnknownNameError",
    "ModelError",
    "CaptureError",
    "DataError",
    "ArtifactError",
    "StateError",
    "MissingDependencyError",
    "ExportError",
    "VerificationError",
]

_HOMES = {  # public name -> the module that defines it; the errors are all in one
    "load_config": "quantwright.config.load",
    "translate": "quantwright.config.translate",
    "prepare": "quantwright.api",
    "quantize": "quantwright.pipeline",
    "load": "quantwright.api",
    "observe": "quantwright.single",
    "fake_quantize": "quantwright.single",
    "PreparedModel": "quantwright.api",
    "QuantConfig": "quantwright.config.config",
    "QuantSpec": "quantwright.config.spec",
    "Plan": "quantwright.plan.plan",
    "QParams": "quantwright.numerics.qparams",
}


def __getattr__(name: str) -> Any:
    """Returns a public name, importing its module now."""
    if name not in __all__:
        raise AttributeError(f"module 'quantwright' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES.get(name, "quantwright.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the public names, for completion."""
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """Returns this package with one name pinned: ``quantwright.prepare`` is the function.

    Python binds a submodule to its package when it is first imported, so the module ``quantwright/prepare.py`` would
    otherwise take the function's place as soon as anything imports it.
    """

    @property
    def prepare(self) -> Any:
        """Returns the function ``prepare``."""
        return importlib.import_module(_HOMES["prepare"]).prepare

    @prepare.setter
    def prepare(self, module: Any) -> None:
        """Ignores the import system's binding of the submodule; ``sys.modules`` keeps it."""


sys.modules[__name__].__class__ = _Package
