"""Formats: the grids a value can be rounded to.

To add one: write ``numerics/formats/<family>.py`` with ``plugin = Format(...)``: ``quantize``, ``dequantize`` and
``fake_quantize`` for the format names it ``serves``. ``config/spec.py`` lists the names a config may use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from quantwright import registry
from quantwright.config.spec import QuantSpec
from quantwright.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Returns one family of formats.

    Attributes:
        serves: format name -> whether this family knows it.
        quantize: ``(x, qparams | None, spec, *, arithmetic)`` -> the values as they are stored.
        dequantize: ``(q, qparams | None, spec, *, arithmetic)`` -> float32.
        fake_quantize: ``(x, qparams | None, spec, *, arithmetic, out)`` -> rounded values in the dtype of ``x``.
    """

    serves: Callable[[str], bool]
    quantize: Callable[..., Tensor]
    dequantize: Callable[..., Tensor]
    fake_quantize: Callable[..., Tensor]


def format_of(spec: QuantSpec) -> Format:
    """Returns the family that serves the spec's format."""
    return _family(spec.format or "")


@lru_cache(maxsize=256)
def _family(name: str) -> Format:
    for family in registry.names("formats"):
        plugin: Format = registry.load("formats", family)
        if plugin.serves(name):
            return plugin
    raise UnknownNameError(f"no format family serves '{name}'", allowed=registry.names("formats"))
