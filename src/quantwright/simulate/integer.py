"""Sums of products of 8-bit whole numbers on the CPU's own instructions for them: exact, and several times faster.

oneDNN multiplies unsigned by signed bytes and adds up in int32 (VNNI). While no sum can reach 2**24 and the bias is
whole, its float32 result is the very sum that a float32 convolution of whole numbers gives. Processors without those
instructions add pairs up in int16, which saturates: there, and wherever the answer to ``is_exact`` is no, the float
kernels go on doing the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from quantwright.graph import ops
from quantwright.simulate.grids import Grid

Geometry = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation, and the number of groups of a convolution."""


class _IntegerLayer(nn.Module):
    """Returns the common part: the weight as bytes, packed for the kernel when it is first needed."""

    def __init__(self, whole: Tensor, bias: Tensor | None, x: Grid) -> None:
        super().__init__()
        channels = whole.shape[0]
        added = None if bias is None else bias.float().expand(channels).contiguous()
        self.zero = -x.low
        self.register_buffer("whole", whole.to(torch.int8), persistent=False)
        self.register_buffer("bias", added, persistent=False)
        self.register_buffer("ones", torch.ones(channels), persistent=False)
        self.register_buffer("zeros", torch.zeros(channels, dtype=torch.int32), persistent=False)
        self.packed = self._pack()

    whole: Tensor
    bias: Tensor | None
    ones: Tensor
    zeros: Tensor

    def _pack(self) -> Tensor:
        raise TypeError("each kind of layer packs its own weight")

    def _bytes(self, x: Tensor) -> Tensor:
        return x + self.zero if self.zero else x

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the packed weight, which is in a form of the kernel's own and cannot be copied."""
        return {key: value for key, value in self.__dict__.items() if key != "packed"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Takes the state of another one and packs the weight again."""
        super().__setstate__(dict(state))  # type: ignore[no-untyped-call]
        self.packed = self._pack()


class IntegerConv(_IntegerLayer):
    """Returns a 2-d convolution of whole numbers.

    Args:
        whole: the weight, whole numbers from -128 to 127: [O, I / groups, H, W].
        bias: whole numbers, [O] or [1].
        x: the grid of the input; at most 8 bits.
        geometry: (stride, padding, dilation, groups).
    """

    def __init__(self, whole: Tensor, bias: Tensor | None, x: Grid, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(whole, bias, x)

    def _pack(self) -> Tensor:
        packed: Tensor = torch.ops.onednn.qconv_prepack(self.whole, self.ones, 1.0, self.zero, *self.geometry, None)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sums, whole numbers in float32.

        Shapes:
            x: [B, I, H, W], whole numbers in float32. Result: [B, O, H', W'], channels last.
        """
        stored = self._bytes(x).to(torch.uint8, memory_format=torch.channels_last)
        sums: Tensor = torch.ops.onednn.qconv2d_pointwise(
            stored, 1.0, self.zero, self.packed, self.ones, self.zeros, self.bias, *self.geometry, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        return sums


class IntegerLinear(_IntegerLayer):
    """Returns a linear layer of whole numbers.

    Args:
        whole: the weight, whole numbers from -128 to 127: [O, I].
        bias, x: see ``IntegerConv``.
    """

    def _pack(self) -> Tensor:
        packed: Tensor = torch.ops.onednn.qlinear_prepack(self.whole, None)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sums, whole numbers in float32.

        Shapes:
            x: [..., I], whole numbers in float32. Result: [..., O].
        """
        stored = self._bytes(x).to(torch.uint8).contiguous()
        sums: Tensor = _linear(stored, self.zero, self.packed, self.ones, self.zeros, self.bias)
        return sums


@torch.library.custom_op("quantwright::integer_linear", mutates_args=())
def _linear(x: Tensor, zero: int, packed: Tensor, ones: Tensor, zeros: Tensor, bias: Tensor | None) -> Tensor:
    """Returns the sums of a linear layer: an operator of our own, for torch.compile takes oneDNN's only from itself."""
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, 1.0, zero, packed, ones, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums


@_linear.register_fake
def _(x: Tensor, _zero: int, _packed: Tensor, ones: Tensor, _zeros: Tensor, _bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], ones.numel()), dtype=torch.float32)


def integer_layer(info: ops.LayerInfo, whole: Tensor, x: Grid, bias: Tensor | None) -> nn.Module | None:
    """Returns the layer on integer kernels; None when they do not take it.

    Args:
        whole, bias: see ``Weight`` and ``bias_of``; no sum may reach 2**24.
        x: the grid of the input.
    """
    if not _takes(info, whole, x, bias) or not is_exact():
        return None
    if not info.spatial:
        return IntegerLinear(whole, bias, x)
    assert not isinstance(info.padding, str)  # taken are only numbers
    return IntegerConv(whole, bias, x, (list(info.stride), list(info.padding), list(info.dilation), info.groups))


def _takes(info: ops.LayerInfo, whole: Tensor, x: Grid, bias: Tensor | None) -> bool:
    conv = info.spatial == 2 and not info.transposed and not isinstance(info.padding, str)
    if not (conv or ops.op_name(info.node) == "linear") or whole.device.type != "cpu":
        return False
    if x.low > 0 or x.high - x.low > 255 or x.low < -255 or not -128 <= float(whole.min()) <= float(whole.max()) <= 127:
        return False
    return bias is None or bool((bias == bias.round()).all())


@lru_cache(maxsize=1)
def is_exact() -> bool:
    """Returns whether this machine has the kernels and they do not saturate: asked with the largest operands."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    there = all(hasattr(torch.ops.onednn, name) for name in ("qconv2d_pointwise", "qlinear_pointwise"))
    if supported is None or not supported() or not there:
        return False
    try:
        return all(_probe(channels, size, groups) for channels, size, groups in ((64, 1, 1), (32, 3, 1), (32, 3, 32)))
    except RuntimeError:  # an operator that is there by name only
        return False


def _probe(channels: int, size: int, groups: int) -> bool:
    """Returns whether a convolution and a linear layer of extreme operands give the exact sums."""
    grid = Grid(
        by=1.0, multiply=False, step=1.0, zero_point=7, qmin=0, qmax=255, rounding="half_even", signed=False
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.where(torch.rand(2, channels, 9, 9, generator=generator) < 0.8, grid.high, grid.low).float()
    whole = torch.where(torch.rand(channels, channels // groups, size, size, generator=generator) < 0.8, -128.0, 127.0)
    bias = torch.arange(channels) * 1000.0 - 5000.0
    conv = IntegerConv(whole, bias, grid, ([1, 1], [size // 2] * 2, [1, 1], groups))
    expected = torch.conv2d(x.double(), whole.double(), bias.double(), padding=size // 2, groups=groups)
    rows, columns = x.flatten(1), whole.flatten(1)
    linear = IntegerLinear(columns, bias, grid)
    part = rows[:, : columns.shape[1]]
    wanted = nn.functional.linear(part.double(), columns.double(), bias.double())
    return torch.equal(conv(x).double(), expected) and torch.equal(linear(part).double(), wanted)
