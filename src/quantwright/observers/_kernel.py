"""The native kernel: extremes and histogram of float32 rows in one pass over them, where it was built and applies.

``_native.c`` is plain C, compiled when the package is installed. Where there is no compiler, or the values are not
float32 in ordinary memory of the CPU, the functions here return None and the caller does the same with torch: the same
counts, bit for bit, three to five times slower.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import lru_cache

import torch
from torch import Tensor

_SIDES = {"size": 0, "positive": 1, "both": 2}
_MOST_COLUMNS = 1 << 14  # four copies of so many counts still fit the cache
_MOST_VALUES = 1 << 31
_PER_THREAD = 1 << 15  # values that are worth another thread
_C = ctypes
_ARGUMENTS = (
    _C.c_void_p, _C.c_int64, _C.c_int64, _C.c_int64, _C.c_void_p, _C.c_int, _C.c_int64, _C.c_void_p, _C.c_void_p,
    _C.c_void_p, _C.c_int,
)  # fmt: skip


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Returns the compiled kernel, or None where there is none or it does not load."""
    found = importlib.util.find_spec("quantwright.observers._native")
    if found is None or found.origin is None:
        return None
    try:
        loaded = ctypes.CDLL(found.origin)  # after torch, whose OpenMP threads it shares
        loaded.quantwright_scan.argtypes = _ARGUMENTS
        loaded.quantwright_scan.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return loaded


def extent(x_GN: Tensor) -> tuple[Tensor, Tensor] | None:
    """Returns (smallest_G, largest_G), float64, not finite where a value is not; or None: the kernel does not apply."""
    if not _applies(x_GN):
        return None
    extremes_2G = torch.empty(2, x_GN.shape[0], dtype=torch.float64)
    return _rows(extremes_2G) if _scan(x_GN, extremes_2G, None, None, "size") else None


def count(x_GN: Tensor, factor_G: Tensor, side: str, columns: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Returns (counts_GK, smallest_G, largest_G), or None: the kernel does not apply.

    The counts mean nothing unless every value is finite and its bin is one of the columns; the extremes say so.

    Args:
        factor_G: bins per unit, float32.
        side: see ``_histogram.Side``.
        columns: how many bins a row has.
    """
    if columns > _MOST_COLUMNS or not _applies(x_GN):
        return None
    counts_GK = torch.zeros(x_GN.shape[0], columns, dtype=torch.int64)
    extremes_2G = torch.empty(2, x_GN.shape[0], dtype=torch.float64)
    if not _scan(x_GN, extremes_2G, counts_GK, factor_G.contiguous(), side):
        return None
    return (counts_GK, *_rows(extremes_2G))


def _rows(extremes_2G: Tensor) -> tuple[Tensor, Tensor]:
    return extremes_2G[0], extremes_2G[1]


def _applies(x_GN: Tensor) -> bool:
    ordinary = x_GN.dtype == torch.float32 and x_GN.device.type == "cpu" and x_GN.layout == torch.strided
    if not ordinary or type(x_GN) not in (Tensor, torch.nn.Parameter) or x_GN.is_neg():
        return False
    dense = x_GN.shape[1] == 1 or x_GN.stride(1) == 1
    return dense and 0 < x_GN.numel() < _MOST_VALUES and library() is not None


def _scan(x_GN: Tensor, extremes_2G: Tensor, counts_GK: Tensor | None, factor_G: Tensor | None, side: str) -> bool:
    """Returns whether the kernel filled in the extremes and the counts."""
    kernel = library()
    assert kernel is not None  # it applies
    threads = max(1, min(torch.get_num_threads(), x_GN.numel() // _PER_THREAD))
    failed = kernel.quantwright_scan(
        x_GN.data_ptr(), *x_GN.shape, x_GN.stride(0), None if factor_G is None else factor_G.data_ptr(), _SIDES[side],
        0 if counts_GK is None else counts_GK.shape[1], None if counts_GK is None else counts_GK.data_ptr(),
        extremes_2G[0].data_ptr(), extremes_2G[1].data_ptr(), threads,
    )  # fmt: skip
    return not failed
