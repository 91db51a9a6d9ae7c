"""How sums of products of integers are computed: exactly, each way with the reason why it is exact.

``int8``     int8 times int8 added up in int32, by the processor's own integer instructions (torch._int_mm), where a
             test at the first use says that nothing saturates in between;
``float32``  whole numbers in float32: every partial sum is below 2**24, so every one of them is exact in any order;
``float64``  the same with 2**53;
``int64``    64-bit integers, one position of the kernel after the other: slow, and beyond doubt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

ENGINES = ("int8", "float32", "float64", "int64")
EXACT32, EXACT64 = 1 << 24, 1 << 53
_PATCHES = 1 << 22  # bytes of patches that are multiplied at once: what stays in the cache


@lru_cache(maxsize=1)
def int8_is_exact() -> bool:
    """Returns whether int8 products are added up in 32 bits here; some processors saturate pairs of them at 16."""
    generator = torch.Generator().manual_seed(0)
    try:
        for rows, depth, columns in ((64, 96, 32), (33, 27, 16), (7, 1024, 5)):
            a = torch.randint(-128, 128, (rows, depth), generator=generator, dtype=torch.int8)
            b = torch.randint(-128, 128, (depth, columns), generator=generator, dtype=torch.int8)
            a[0], a[1], b[:, 0], b[:, 1] = 127, -128, 127, -128
            if not torch.equal(int8_product(a, b).long(), a.long() @ b.long()):
                return False
    except (RuntimeError, AttributeError):
        return False
    return True


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """Returns the product of two int8 matrices, int32.

    Shapes:
        a: [M, K]. b: [K, N]. Both contiguous; axes of size 1 may have any stride, by which the kernel would go wrong.
    """
    return torch._int_mm(a.as_strided(a.shape, (a.shape[1], 1)), b.as_strided(b.shape, (b.shape[1], 1)))


def positions(kernel: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yields every position of a kernel."""
    return itertools.product(*(range(size) for size in kernel))


def output_sizes(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Returns how many positions of a kernel fit into padded axes of ``sizes``."""
    axes = zip(sizes, kernel, stride, dilation, strict=True)
    return tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in axes)


def patches(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Returns what each output position reads, as rows.

    Shapes:
        x: [B, H, W, C], contiguous. Result: [B * OH * OW, KH * KW * C].
    """
    batch, height, width, channels = x.shape
    out = output_sizes((height, width), kernel, stride, dilation)
    if kernel == (1, 1):
        return x[:, :: stride[0], :: stride[1]].reshape(-1, channels).contiguous()
    row, image = width * channels, height * width * channels
    view = x.as_strided(
        (batch, *out, *kernel, channels),
        (image, stride[0] * row, stride[1] * channels, dilation[0] * row, dilation[1] * channels, 1),
    )
    return view.reshape(-1, kernel[0] * kernel[1] * channels)


def samples_at_once(row_bytes: int) -> int:
    """Returns how many samples are multiplied at once when each makes ``row_bytes`` of patches."""
    return max(1, _PATCHES // max(1, row_bytes))


def padded(x: Tensor, pads: tuple[tuple[int, int], ...], value: int) -> Tensor:
    """Returns ``x`` with ``value`` around its spatial axes.

    Shapes:
        x: [B, C, spatial ...].
    """
    if not any(before or after for before, after in pads):
        return x
    shape = (*x.shape[:2], *(size + before + after for size, (before, after) in zip(x.shape[2:], pads, strict=True)))
    result = x.new_full(shape, value)
    inner = tuple(slice(before, before + size) for size, (before, _) in zip(x.shape[2:], pads, strict=True))
    result[(slice(None), slice(None), *inner)] = x
    return result


def convolve_int64(x: Tensor, w: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int) -> Tensor:
    """Returns a convolution of padded integers, from its definition: one kernel position after the other.

    Shapes:
        x: [B, C, spatial ...], int64. w: [O, C / groups, kernel ...], int64. Result: [B, O, out ...].
    """
    kernel = w.shape[2:]
    out = output_sizes(x.shape[2:], kernel, stride, dilation)
    result = x.new_zeros((x.shape[0], w.shape[0], *out))
    for at in positions(kernel):
        cut = _every(at, dilation, out, stride)
        part = x[(slice(None), slice(None), *cut)]
        result += _mix(part, w[_at(at)], groups)
    return result


def transpose_int64(
    x: Tensor, w: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int, more: tuple[int, ...]
) -> Tensor:
    """Returns a transposed convolution of integers before its padding is cut off, from its definition.

    Shapes:
        x: [B, C, spatial ...], int64. w: [C, O / groups, kernel ...], int64. Result: [B, O, full ...].
    """
    kernel = w.shape[2:]
    sizes = zip(x.shape[2:], kernel, stride, dilation, more, strict=True)
    full = [(n - 1) * s + (k - 1) * d + 1 + m for n, k, s, d, m in sizes]
    per_group = w.shape[0] // groups
    turned = torch.cat([w[g * per_group : (g + 1) * per_group].transpose(0, 1) for g in range(groups)])
    result = x.new_zeros((x.shape[0], turned.shape[0], *full))
    for at in positions(kernel):
        cut = _every(at, dilation, x.shape[2:], stride)
        result[(slice(None), slice(None), *cut)] += _mix(x, turned[_at(at)], groups)
    return result


def _at(position: Sequence[int]) -> tuple[slice | int, ...]:
    """Returns the weights of all channels at one position of the kernel."""
    return (slice(None), slice(None), *position)


def _every(
    at: Sequence[int], dilation: Sequence[int], counts: Sequence[int], stride: Sequence[int]
) -> tuple[slice, ...]:
    """Returns the places that one position of the kernel reads or writes, one per output position and axis."""
    axes = zip(at, dilation, counts, stride, strict=True)
    return tuple(slice(i * d, i * d + (n - 1) * s + 1, s) for i, d, n, s in axes)


def _mix(x: Tensor, w_OI: Tensor, groups: int) -> Tensor:
    """Returns the channels of ``x`` combined by ``w``, group by group, in int64.

    Shapes:
        x: [B, C, out ...]. w_OI: [O, C / groups]. Result: [B, O, out ...].
    """
    batch, channels, *spatial = x.shape
    rows = x.reshape(batch, groups, channels // groups, -1)
    factors = w_OI.reshape(groups, -1, channels // groups)
    return torch.matmul(factors, rows).reshape(batch, -1, *spatial)


def convolve_float(
    x: Tensor, w: Tensor, stride: tuple[int, ...], pads: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> Tensor:
    """Returns a convolution of whole numbers in a float dtype that the caller has proved wide enough.

    Shapes:
        as ``convolve_int64``; x, w and the result in one float dtype.
    """
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[w.dim() - 2]
    return run(x, w, None, stride, pads, dilation, groups)
