"""``quark.torch.quantization.observer.tqt_observer``."""

from __future__ import annotations

from quantwright.compat.quark.torch.quantization.observer.observer import TQTObserver

__all__ = ["TQTObserver"]
