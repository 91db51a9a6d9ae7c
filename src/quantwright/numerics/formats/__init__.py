"""Formats: the grids a value can be rounded to.

To add one: write ``numerics/formats/<name>.py`` whose docstring's first line says what it is. Of a format that has a
scale and no zero point it describes the element grid and nothing else::

    GRIDS = {"fp8_e4m3": {"kind": "float", "bits": 8, "exponent_bits": 4, "mantissa_bits": 3, "largest": 448.0}}
    plugin = scaled_format(GRIDS)

``GRIDS`` is a literal, read without importing the file: a config may use its names from then on
(``config/formats.py``), and no other file is edited. Kinds and their fields: ``numerics/grids.py``. What a format does
not say is asked elsewhere: which elements share a scale (granularity), in what a scale is stored
(``numerics/scales.py``), who finds the range (an observer), how ties round. So OCP MX, NVFP4 and block floating point
are combinations, not formats.

Any other grid: ``plugin = Format(...)`` with ``quantize``, ``dequantize`` and ``fake_quantize`` for the names it
``serves``, as ``int.py`` and ``fp.py`` do.
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
