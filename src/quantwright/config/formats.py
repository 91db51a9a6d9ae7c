"""Formats by name: integers, casts, and scaled formats, whose grids ``numerics/formats`` describes. No torch.

A scaled format has a scale and no zero point: what it stores are values of a small element grid (minifloats, codebooks,
integers that share an exponent), and a value is element times scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from quantwright import registry
from quantwright.config.known import KNOWN

FLOAT_FORMATS = ("float32", "float16", "bfloat16")
_INT = re.compile(r"(u?)int(\d{1,2})")


def is_integer_format(name: str) -> bool:
    """Returns whether ``name`` is an integer format: int2..int32 or uint2..uint32."""
    match = _INT.fullmatch(name)
    return match is not None and 2 <= int(match.group(2)) <= 32


def integer_format(name: str) -> tuple[int, bool]:
    """Returns (bits, signed) of an integer format name such as ``int8`` or ``uint4``."""
    match = _INT.fullmatch(name)
    if not match:
        raise ValueError(f"'{name}' is not an integer format")
    return int(match.group(2)), not match.group(1)


def scaled_formats() -> Mapping[str, Mapping[str, Any]]:
    """Returns name -> element grid of every scaled format there is a plug-in for; see ``numerics/formats``."""
    return _scaled(registry.names("formats"))


@lru_cache(maxsize=8)
def _scaled(plugins: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for plugin in plugins:
        found.update(registry.literal("formats", plugin, "GRIDS", {}))
    return dict(sorted(found.items()))


def named_formats() -> tuple[str, ...]:
    """Returns every format that is no integer: casts, scaled formats, and those that are known and not available."""
    return tuple(dict.fromkeys((*FLOAT_FORMATS, *scaled_formats(), *KNOWN["formats"])))


def later_formats() -> tuple[str, ...]:
    """Returns the formats that are known and have no plug-in; see ``known.py``."""
    return tuple(name for name in KNOWN["formats"] if name not in scaled_formats())


def is_scaled_format(name: str) -> bool:
    """Returns whether ``name``, which is a format, has a scale and no zero point."""
    return name not in FLOAT_FORMATS and not is_integer_format(name)
