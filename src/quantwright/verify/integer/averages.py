"""Averages over a fixed number of values as sums of integers: pools, adaptive pools, means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from quantwright.graph import ops

Summed = tuple[Callable[[Tensor], Tensor], int]
"""What adds the values up, in int64; and how many there are in each sum."""


def sums_of(node: fx.Node, shape: tuple[int, ...]) -> Summed | None:
    """Returns how the values of an average are added up; None when their number is not the same everywhere, or unknown.

    Args:
        shape: of what the node averages, -1 for what depends on the input.
    """
    kind = ops.kind_of(node)
    return {"mean": _mean, "adaptive_avg_pool": _adaptive}.get(kind, _pool)(node, shape)


def _mean(node: fx.Node, shape: tuple[int, ...]) -> Summed | None:
    axes, keep = ops.argument(node, "dim"), bool(ops.argument(node, "keepdim", False))
    if axes is None:
        return None
    axes = tuple(axes) if isinstance(axes, (list, tuple)) else (axes,)
    sizes = [shape[axis] for axis in axes]
    if not shape or any(size < 1 for size in sizes):
        return None
    return lambda x: x.sum(axes, keepdim=keep, dtype=torch.int64), math.prod(sizes)


def _adaptive(node: fx.Node, shape: tuple[int, ...]) -> Summed | None:
    spatial = len(ops.shape_of(node)) - 2
    sizes, out = shape[2:], ops.shape_of(node)[2:]
    if len(shape) < 3 or any(size < 1 for size in (*sizes, *out)):
        return None
    if any(a % b for a, b in zip(sizes, out, strict=True)):
        return None
    window = tuple(a // b for a, b in zip(sizes, out, strict=True))
    return lambda x: _window_sums(x, window, window, (0,) * spatial), math.prod(window)


def _pool(node: fx.Node, shape: tuple[int, ...]) -> Summed | None:
    spatial = len(shape) - 2
    window = _items(ops.argument(node, "kernel_size"), spatial)
    stride = _items(ops.argument(node, "stride") or window, spatial)
    padding = _items(ops.argument(node, "padding", 0), spatial)
    padded = any(padding) and not ops.argument(node, "count_include_pad", True)
    if spatial < 1 or padded or ops.argument(node, "ceil_mode", False):
        return None
    count = ops.argument(node, "divisor_override") or math.prod(window)
    return lambda x: _window_sums(x, window, stride, padding), int(count)


def _window_sums(x: Tensor, window: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """Returns the sum of each window, in int64.

    Shapes:
        x: [B, C, spatial ...].
    """
    x = F.pad(x.long(), [p for pad in reversed(padding) for p in (pad, pad)]) if any(padding) else x.long()
    if tuple(x.shape[2:]) == window:
        return x.sum(tuple(range(2, x.dim())), keepdim=True)
    for axis, (size, step) in enumerate(zip(window, stride, strict=True), start=2):
        x = x.unfold(axis, size, step).sum(-1)
    return x


def _items(value: Any, count: int) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return items * count if len(items) == 1 else items
