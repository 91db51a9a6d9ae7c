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
    from quantwright.artifacts import load as load
    from quantwright.config.config import QuantConfig as QuantConfig
    from quantwright.config.load import load_config as load_config
    from quantwright.config.spec import QuantSpec as QuantSpec
    from quantwright.errors import (
        ArtifactError as ArtifactError,
        CaptureError as CaptureError,
        ConfigError as ConfigError,
        DataError as DataError,
        ExportError as ExportError,
        InputError as InputError,
        MissingDependencyError as MissingDependencyError,
        ModelError as ModelError,
        QuantwrightError as QuantwrightError,
        StateError as StateError,
        UnknownNameError as UnknownNameError,
        VerificationError as VerificationError,
    )
    from quantwright.numerics.qparams import QParams as QParams
    from quantwright.pipeline import quantize as quantize
    from quantwright.plan.plan import Plan as Plan
    from quantwright.prepare import PreparedModel as PreparedModel
    from quantwright.prepare import prepare as prepare
    from quantwright.single import fake_quantize as fake_quantize
    from quantwright.single import observe as observe

__version__ = "0.1.0"

_HOMES = {  # public name -> the module that defines it
    "load_config": "quantwright.config.load",
    "prepare": "quantwright.prepare",
    "quantize": "quantwright.pipeline",
    "load": "quantwright.artifacts",
    "observe": "quantwright.single",
    "fake_quantize": "quantwright.single",
    "PreparedModel": "quantwright.prepare",
    "QuantConfig": "quantwright.config.config",
    "QuantSpec": "quantwright.config.spec",
    "Plan": "quantwright.plan.plan",
    "QParams": "quantwright.numerics.qparams",
    "QuantwrightError": "quantwright.errors",
    "InputError": "quantwright.errors",
    "ConfigError": "quantwright.errors",
    "UnknownNameError": "quantwright.errors",
    "ModelError": "quantwright.errors",
    "CaptureError": "quantwright.errors",
    "DataError": "quantwright.errors",
    "ArtifactError": "quantwright.errors",
    "StateError": "quantwright.errors",
    "MissingDependencyError": "quantwright.errors",
    "ExportError": "quantwright.errors",
    "VerificationError": "quantwright.errors",
}

__all__ = list(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Returns a public name, importing its module now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quantwright' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
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
        return importlib.import_module("quantwright.prepare").prepare

    @prepare.setter
    def prepare(self, module: Any) -> None:
        """Ignores the import system's binding of the submodule; ``sys.modules`` has it."""


sys.modules[__name__].__class__ = _Package
