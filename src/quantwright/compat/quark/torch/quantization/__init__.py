"""``quark.torch.quantization``: the configuration classes, where newer versions also export them."""

from __future__ import annotations

from typing import Any

from quantwright.compat.quark.torch.quantization.config import config, type
from quantwright.compat.quark.torch.quantization.observer import observer

__all__ = sorted({*config.__all__, *type.__all__, *observer.__all__})


def __getattr__(name: str) -> Any:
    """Returns a public name of the modules below."""
    for module in (config, type, observer):
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
