"""What a DPU computes in place of average pooling, hard sigmoid, hard swish, softmax and layer norm.

Fixed-point hardware divides by multiplying with m / 2**n and shifting, and works in bfloat16 where it has floats.
Sections are those of the behavioural specs of vai_q_pytorch (P) and vai_q_tensorflow2 (T).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SIXTH = (2731, 16384)  # 1/6 in hardware: P4.6, T5.2
LEAKY = 26 / 256  # the one slope of a leaky ReLU: P4.6, T5.2
GATE_STEP = 2.0**-7  # grid of the sigmoid inside a hard swish: P4.6
SOFTMAX_LANES, NORM_LANES = 16, 8  # T5.2: partial sums that are kept side by side
_SEED = 0x5F37  # first guess of an inverse square root, in the bits of a bfloat16: T5.2
_STEPS = 4
#: (height, width) of a kernel -> (multiplier, shift): P4.6, T5.2
_TABLE = {(3, 3): (7, 6), (5, 5): (10, 8), (6, 6): (7, 8), (7, 7): (21, 10), (14, 14): (21, 12)}
LARGEST = 255  # T5.2: the average over a longer side is not multiplied


def average_factor(kernel: Sequence[int], largest: int | None = None) -> float:
    """Returns what the average over a window is multiplied by: N times the m / 2**n that stands for 1 / N.

    Args:
        kernel: height and width.
        largest: a longer side is left as it is.
    """
    sizes = (int(kernel[0]), int(kernel[1]))
    if largest is not None and max(sizes) > largest:
        return 1.0
    count = sizes[0] * sizes[1]
    m, n = _TABLE.get(sizes) or _reciprocal(count)
    return float(count * m / 2**n)


def count_factor(count: int) -> float:
    """Returns what the average over ``count`` values is multiplied by, whatever the shape of the window (P4.6)."""
    m, n = _reciprocal(count)
    return float(count * m / 2**n)


def _reciprocal(count: int) -> tuple[int, int]:
    """Returns (m, n) such that m / 2**n is nearest to 1 / count, the smallest n of several (P4.6, T5.2)."""
    candidates = [(round(2**n / count), n) for n in range(7 + math.ceil(math.log2(count)))]
    return min(candidates, key=lambda pair: abs(pair[0] / 2 ** pair[1] - 1 / count))


def hard_sigmoid(x: Tensor) -> Tensor:
    """Returns relu6(x + 3) * 2731 / 16384 (P4.6, T5.2); exact for x on an 8-bit grid.

    Shapes:
        x: any; the result has the same shape and dtype.
    """
    return (x + 3.0).clamp(0.0, 6.0) * SIXTH[0] / SIXTH[1]


def hard_swish(x: Tensor) -> Tensor:
    """Returns x times its hard sigmoid, which is 8 bits at position 7, rounded half up (P4.6).

    Shapes:
        x: any; the result has the same shape and dtype.
    """
    gate = hard_sigmoid(x)
    rounded = (gate / GATE_STEP + 0.5).floor().clamp(-128, 127) * GATE_STEP
    return x * straight_through(rounded, gate)


def softmax(x: Tensor) -> Tensor:
    """Returns the softmax over the last axis in bfloat16, its sum inverted with a mantissa of 7 bits (T5.2).

    Shapes:
        x: [..., N], N a multiple of 16; the result has the same shape and dtype.
    """
    e = _bfloat(x.float().exp())
    exact = _bfloat(e * _inverse(_lane_sum(e, SOFTMAX_LANES)))
    return straight_through(exact, torch.softmax(x.float(), -1)).to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Returns the layer norm over the last axis in bfloat16, with a root found by Newton's method (T5.2).

    Shapes:
        x: [..., N], N a multiple of 8; weight, bias: [N]; the result has the shape and dtype of x.
    """
    wide = _bfloat(x.float())
    centred = _bfloat(wide - _lane_sum(wide, NORM_LANES) * (1 / x.shape[-1]))
    root = _inverse_root(centred.square().mean(-1, keepdim=True) + eps)
    exact = _bfloat(centred * root)
    y = straight_through(exact, functional.layer_norm(x.float(), x.shape[-1:], None, None, eps))
    if weight is not None:
        y = y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """Returns ``exact``; gradients, where they are recorded, are those of ``smooth``."""
    if torch.is_grad_enabled() and smooth.requires_grad:
        return smooth + (exact - smooth).detach()
    return exact


def _bfloat(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float32)


def _lane_sum(x: Tensor, lanes: int) -> Tensor:
    """Returns the sum over the last axis: one partial sum for each lane, then halves added to halves.

    Shapes:
        x: [..., N]; the result is [..., 1].
    """
    sums = x.reshape(*x.shape[:-1], x.shape[-1] // lanes, lanes).sum(-2)
    while lanes > 1:
        lanes //= 2
        sums = sums[..., :lanes] + sums[..., lanes:]
    return sums


def _power_of(x: Tensor) -> Tensor:
    """Returns the exponent k of positive numbers: 2**k <= x < 2**(k + 1)."""
    k = x.log2().floor()
    k = torch.where(_power(k) > x, k - 1, k)  # the logarithm is rounded
    return torch.where(_power(k + 1) <= x, k + 1, k)


def _power(k: Tensor) -> Tensor:
    power: Tensor = torch.pow(torch.full_like(k, 2.0), k)
    return power


def _inverse(x: Tensor) -> Tensor:
    """Returns 1 / x for positive x: its mantissa rounded to 7 bits, and that of the result too."""
    k = _power_of(x)
    m = (x / _power(k) * 128.0 + 0.5).floor()  # 128 .. 256
    return (32768.0 / m).round() / 128.0 * _power(-1.0 - k)


def _inverse_root(x: Tensor) -> Tensor:
    """Returns 1 / sqrt(x) for positive x: half the exponent as a guess, then Newton's steps in bfloat16."""
    number = _bfloat(x)
    half = _bfloat(number * 0.5)
    k = _power_of(number)
    bits = (k + 127.0) * 128.0 + (number / _power(k) - 1.0) * 128.0
    guess = _SEED - (bits / 2.0).round()
    exponent = (guess / 128.0).floor()
    y = (1.0 + (guess - exponent * 128.0) / 128.0) * _power(exponent - 127.0)
    for _ in range(_STEPS):
        y = _bfloat(y * _bfloat(1.5 + _bfloat(-half * _bfloat(y * y))))
    return y
