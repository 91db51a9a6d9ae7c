"""``quark.torch``: the quantizer, and through ``quantization`` the classes of its configuration."""

from __future__ import annotations

from quantwright.compat.quark.torch.quantization.api import ModelQuantizer

__all__ = ["ModelQuantizer"]
