"""The counts of a streaming histogram with torch's operators: for whatever the native kernel does not take."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Side = Literal["size", "positive", "both"]
"""What is counted: |x|; x with everything below zero as zero; or both sides."""

_PIECE = 1 << 17  # elements binned at a time: fits the cache, and no full-size temporary is made
_COPIES = 4  # neighbours are counted apart: a count that is raised again at once has to wait for itself
_FEW = 1 << 14  # bins whose copies still fit the cache
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


def count_by_torch(x_GN: Tensor, width_G: Tensor, side: Side, columns: int, negative: bool) -> Tensor:
    """Returns how many values each bin of each row got, on the CPU: [G, K], int64.

    Args:
        width_G: of a bin, a power of two; every value must be in one of the bins.
        columns: K; with side ``both`` the first bin is number -K/2.
        negative: whether there may be numbers below zero.
    """
    dtype = torch.float64 if x_GN.dtype == torch.float64 else torch.float32
    factor_G1 = width_G.reciprocal().to(dtype).unsqueeze(1).to(x_GN.device)
    rows = max(1, _PIECE // x_GN.shape[1])
    blocks = []
    for top in range(0, x_GN.shape[0], rows):
        block = slice(top, top + rows)
        counts_RK = torch.zeros(len(factor_G1[block]), columns, dtype=torch.int64, device=x_GN.device)
        for piece in torch.split(x_GN[block], _PIECE, dim=1):
            counts_RK += _count(piece.to(dtype), factor_G1[block], side, columns, negative)
        blocks.append(counts_RK.cpu())
    return torch.cat(blocks)


def _count(piece_RN: Tensor, factor_R1: Tensor, side: Side, columns: int, negative: bool) -> Tensor:
    """Returns the counts of a piece of some rows: [R, K]."""
    if negative and side == "positive":
        scaled_RN = piece_RN.clamp(min=0.0).mul_(factor_R1)
    elif negative:
        scaled_RN = piece_RN.abs().mul_(factor_R1)
    else:
        scaled_RN = piece_RN * factor_R1
    index_RN = scaled_RN.to(torch.int32)  # toward zero
    if negative and side == "both":  # -0.0 + 0.0 is 0.0; the sign spread over all bits turns k into -1 - k
        bits_RN = torch.add(piece_RN, 0.0, out=scaled_RN).view(_BITS[piece_RN.dtype])
        index_RN ^= bits_RN.bitwise_right_shift_(8 * piece_RN.element_size() - 1).to(torch.int32)
    rows, zero = len(piece_RN), columns // 2 if side == "both" else 0
    copies = _copies(piece_RN, columns)
    index_RN += _starts(rows, copies, columns, zero, piece_RN.device)[:, : piece_RN.shape[1]]
    counts = torch.bincount(index_RN.reshape(-1), minlength=copies * rows * columns)
    return counts.reshape(copies, rows, columns).sum(0)


def _copies(piece_RN: Tensor, columns: int) -> int:
    """Returns into how many copies of its bins a piece is counted: more than one for a long row and few bins."""
    long = piece_RN.shape[0] == 1 and piece_RN.shape[1] >= _PIECE // 2
    return _COPIES if long and columns <= _FEW else 1


@lru_cache(maxsize=8)
def _starts(rows: int, copies: int, columns: int, zero: int, device: torch.device) -> Tensor:
    """Returns where bin 0 of each element's counts stands: rows one after the other, or the copies of one row in turn.

    Shapes:
        [R, 1], or [1, _PIECE] for copies. int32.
    """
    order = torch.arange(_PIECE if copies > 1 else rows, dtype=torch.int32, device=device)
    starts = (order % copies if copies > 1 else order) * columns + zero
    return starts.unsqueeze(0) if copies > 1 else starts.unsqueeze(1)
