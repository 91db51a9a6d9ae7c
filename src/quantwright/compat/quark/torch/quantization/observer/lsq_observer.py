"""``quark.torch.quantization.observer.lsq_observer``."""

from __future__ import annotations

from quantwright.compat.quark.torch.quantization.observer.observer import LSQObserver

__all__ = ["LSQObserver"]
