"""Element grids of scaled formats: which values an element can have, and how a value is rounded to one of them.

Three kinds; a file in ``numerics/formats`` describes its grid as a literal ``{"kind": ..., "bits": ..., ...}``:

float     minifloats: sign, ``exponent_bits``, ``mantissa_bits``, subnormals, saturation at ``largest``; no infinity
codebook  ``values`` in rising order; a tie goes to the lower one
fixed     integers of ``bits`` bits, sign included and symmetric, with ``fraction_bits`` behind the point; of a
          ``pair`` of neighbours that both leave the upper half of the range alone, the step is half as large

All numbers are in units of the scale. Values are rounded in place: the caller owns the tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from quantwright.config.formats import scaled_formats
from quantwright.errors import UnknownNameError, did_you_mean
from quantwright.numerics.rounding import round_to_integer

_AT_ONCE = 1 << 15  # values whose look-ups stay in a cache
_BITS = {torch.float32: (torch.int32, 0x7F800000, 23), torch.float64: (torch.int64, 0x7FF0000000000000, 52)}


class Grid(Protocol):
    """Returns an element grid."""

    @property
    def bits(self) -> int:
        """Returns the width of an element."""

    @property
    def signed(self) -> bool:
        """Returns whether there are negative elements."""

    @property
    def largest(self) -> float:
        """Returns the largest element."""

    @property
    def mantissa_bits(self) -> int:
        """Returns the bits behind the leading one of an element: what ``exponent: even`` rounds a range to."""

    def round_(self, x: Tensor, rounding: str) -> Tensor:
        """Returns ``x`` after replacing every value by an element; its last axis is the group's where that matters."""

    def step(self, x: Tensor) -> Tensor:
        """Returns the distance of the elements around each value, positive; largest at the ends of the grid."""

    def levels(self) -> int:
        """Returns how many different elements there are, zero counted once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minifloat:
    """Returns the grid of a small float (OCP OFP8, OCP MX 5.3): bias 2**(exponent_bits - 1) - 1."""

    bits: int
    exponent_bits: int
    mantissa_bits: int
    largest: float
    signed: bool = True

    @property
    def smallest_exponent(self) -> int:
        """Returns the exponent of the smallest normal element, and of all subnormal ones."""
        return 2 - (1 << (self.exponent_bits - 1))

    def round_(self, x: Tensor, rounding: str) -> Tensor:
        """Returns ``x`` rounded in place; a value beyond the largest element becomes that one."""
        x = x.clamp_(-self.largest if self.signed else 0.0, self.largest)
        power = self._power(x)
        if rounding == "half_even":
            # 1.5 * 2**(e + 23 - m) has spacing 2**(e - m): adding it rounds to nearest, ties to even, as the adder does
            magic = power.mul_(1.5 * 2.0 ** (_BITS[x.dtype][2] - self.mantissa_bits))
            return x.add_(magic).sub_(magic)
        spacing = power.mul_(2.0**-self.mantissa_bits)
        x = round_to_integer(x.div_(spacing), rounding, out=x).mul_(spacing)
        return x.clamp_(-self.largest if self.signed else 0.0, self.largest)

    def step(self, x: Tensor) -> Tensor:
        """Returns the spacing at each value."""
        size = x.float().clamp(-self.largest, self.largest)
        return self._power(size).mul_(2.0**-self.mantissa_bits)

    def levels(self) -> int:
        """Returns how many elements there are."""
        power = math.floor(math.log2(self.largest))
        at_top = round((self.largest / 2.0**power - 1) * (1 << self.mantissa_bits)) + 1
        positive = (1 << self.mantissa_bits) * (power - self.smallest_exponent + 1) - 1 + at_top
        return 1 + positive * (2 if self.signed else 1)

    def _power(self, x: Tensor) -> Tensor:
        """Returns 2**floor(log2 |x|), not below that of the smallest normal element: the exponent's bits."""
        integer, mask, _ = _BITS[x.dtype]
        return (x.view(integer) & mask).view(x.dtype).clamp_(min=2.0**self.smallest_exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook:
    """Returns the grid of listed values; halfway between two, the lower one (spec mqbench_sophgo 7)."""

    bits: int
    values: tuple[float, ...]
    mantissa_bits: int = 0

    @property
    def signed(self) -> bool:
        """Returns whether there are negative elements."""
        return self.values[0] < 0

    @property
    def largest(self) -> float:
        """Returns the largest element."""
        return self.values[-1]

    def round_(self, x: Tensor, rounding: str) -> Tensor:
        """Returns ``x`` rounded in place to the nearest element; NaN stays."""
        table = _table(self.values, x.dtype, x.device)
        if not x.is_contiguous():
            return x.copy_(self.round_(x.contiguous(), rounding))
        flat = x.view(-1)
        for part in torch.split(flat, _AT_ONCE if x.device.type == "cpu" else max(1, flat.numel())):
            table.round_(part)
        return x

    def step(self, x: Tensor) -> Tensor:
        """Returns the distance of the two elements around each value."""
        codes = torch.tensor(self.values, dtype=torch.float32, device=x.device)
        gaps = codes.diff()
        return gaps[torch.bucketize(x.float(), codes).sub_(1).clamp_(0, gaps.numel() - 1)]

    def levels(self) -> int:
        """Returns how many elements there are."""
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Returns the grid of integers over 2**fraction_bits: what a shared exponent leaves of each value.

    Attributes:
        pair: neighbours that share one bit for a half step; 0: none. Groups are made of whole pairs.
        pair_top: a pair with the half step reaches the ``block``'s largest value, or only half of that (``half``).
    """

    bits: int
    fraction_bits: int
    pair: int = 0
    pair_top: str = "half"
    signed: bool = True

    @property
    def largest(self) -> float:
        """Returns the largest element: 2 - 2**-fraction_bits where the first bit is the integer part."""
        return float(2 ** (self.bits - 1) - 1) * 2.0**-self.fraction_bits

    @property
    def mantissa_bits(self) -> int:
        """Returns the bits behind the leading one of the largest element."""
        return self.bits - 2

    def round_(self, x: Tensor, rounding: str) -> Tensor:
        """Returns ``x`` rounded in place; a value beyond the largest element becomes that one."""
        if self.pair:
            return self._pairs(x, rounding)
        x = round_to_integer(x.mul_(2.0**self.fraction_bits), rounding, out=x)
        return x.clamp_(1.0 - 2 ** (self.bits - 1), 2 ** (self.bits - 1) - 1.0).mul_(2.0**-self.fraction_bits)

    def _pairs(self, x: Tensor, rounding: str) -> Tensor:
        """Returns ``x`` rounded in place, its last axis cut into pairs that have the whole or the half step."""
        pairs = x.view(*x.shape[:-1], -1, self.pair)
        size = functools.reduce(torch.maximum, (part.abs() for part in pairs.unbind(-1))).unsqueeze(-1)
        # below the block's exponent one bit is free
        step = torch.where(size < 1.0, 0.5, 1.0).to(x.dtype).mul_(2.0**-self.fraction_bits)
        round_to_integer(pairs.div_(step), rounding, out=pairs).mul_(step)
        top = step.neg().add_(2.0) if self.pair_top == "block" else step.mul(2 ** (self.bits - 1) - 1.0)
        torch.minimum(torch.maximum(pairs, -top, out=pairs), top, out=pairs)
        return x

    def step(self, x: Tensor) -> Tensor:
        """Returns the whole step, whatever the value (a pair may have the half)."""
        return torch.full_like(x, 2.0**-self.fraction_bits, dtype=torch.float32)

    def levels(self) -> int:
        """Returns how many elements there are; those of half steps are not counted."""
        return int(2**self.bits - 1)


_KINDS = {"float": Minifloat, "codebook": Codebook, "fixed": Fixed}


def grid_of(name: str) -> Grid:
    """Returns the element grid of a scaled format.

    Raises:
        UnknownNameError: no file describes a grid of that name.
    """
    known = scaled_formats()
    if name not in known:
        raise UnknownNameError(f"'{name}' is no scaled format", allowed=known, fix=did_you_mean(name, known))
    return _made(name, len(known))


@lru_cache(maxsize=256)
def _made(name: str, count: int) -> Grid:
    return make_grid(scaled_formats()[name])


def make_grid(about: Mapping[str, Any]) -> Grid:
    """Returns the grid that a literal of a format's file describes."""
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in about.items() if key != "kind"}
    grid: Grid = _KINDS[about["kind"]](**fields)
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Returns a codebook cut into cells that hold one midpoint at most: a cell's number is found by one product.

    No midpoint is near the edge of a cell, so a value that rounding puts into the cell beside its own finds the same
    element there. ``torch.bucketize`` is five times slower.

    Shapes:
        between_C, lower_C, upper_C: one midpoint and the two elements around it for each cell.
    """

    cells: float
    offset: float
    most: float
    between_C: Tensor
    lower_C: Tensor
    upper_C: Tensor

    def round_(self, x: Tensor) -> None:
        """Replaces every value by its element; NaN stays."""
        inner = x.clamp(-self.most, self.most)
        cell = inner.mul_(self.cells).add_(self.offset).to(torch.int32).clamp_(0, self.lower_C.numel() - 1)
        between, lower, upper = (part.index_select(0, cell) for part in (self.between_C, self.lower_C, self.upper_C))
        lost = x.isnan()
        torch.where(x > between, upper, lower, out=x)
        if bool(lost.any()):
            x.masked_fill_(lost, math.nan)


@lru_cache(maxsize=64)
def _table(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> _Table:
    """Returns the cells of a codebook; their number grows until each holds one midpoint and no edge is near one."""
    codes, between = _tables(values, torch.float64, torch.device("cpu"))
    between = between.to(dtype).double()  # what is compared is rounded once
    most = float(codes.abs().max()) * 1.25
    count = 64
    while True:
        width = 2 * most / count
        place = (between + most) / width
        cell = place.floor()
        if bool((cell.diff() >= 1).all()) and float((place - place.round()).abs().min()) > 2.0**-20 * count:
            break
        count += 1 + count // 64
    first_C = torch.bucketize(torch.arange(count + 1, dtype=torch.float64) * width - most, between)
    last = len(values) - 1
    next_C = torch.cat([between, torch.tensor([math.inf], dtype=torch.float64)])[first_C]
    parts = next_C, codes[first_C], codes[(first_C + 1).clamp_(max=last)]
    between_C, lower_C, upper_C = (part.to(device, dtype) for part in parts)
    return _Table(
        cells=1 / width, offset=most / width, most=most, between_C=between_C, lower_C=lower_C, upper_C=upper_C
    )


@lru_cache(maxsize=64)
def _tables(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (elements, midpoints); each midpoint is rounded once."""
    codes = torch.tensor(values, dtype=torch.float64)
    return codes.to(device, dtype), ((codes[1:] + codes[:-1]) / 2).to(device, dtype)
