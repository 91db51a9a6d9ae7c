"""``quark.torch.quantization.observer``: the observer classes, by their names."""

from __future__ import annotations

from typing import Any

from quantwright.compat.quark.torch.quantization.observer import observer

__all__ = list(observer.__all__)


def __getattr__(name: str) -> Any:
    """Returns an observer class."""
    if name in observer.__all__:
        return getattr(observer, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
