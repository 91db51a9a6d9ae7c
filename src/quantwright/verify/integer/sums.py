"""Sums of products of integers with their bias: convolutions, linear layers, matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantwright.graph import ops
from quantwright.graph.ops import LayerInfo
from quantwright.verify.integer.engines import (
    EXACT32,
    EXACT64,
    convolve_float,
    convolve_int64,
    int8_is_exact,
    int8_product,
    output_sizes,
    padded,
    patches,
    samples_at_once,
    transpose_int64,
)
from quantwright.verify.integer.grids import Grid, centred

Finish = Callable[[Tensor], Tensor]
_WIDE = (1 << 31) - 1


@dataclass(slots=True, kw_only=True)
class Layer:
    """Returns one layer that adds up products of integers, and what is known of its accumulator.

    Attributes:
        possible: the largest size that the weights and the grid allow any partial sum.
        seen: the largest size of a sum so far; None before the first run.
        beyond: how many sums did not fit into ``bits``.
        weight, bias: the integers that are added up.
    """

    name: str
    engine: str
    bits: int
    possible: int
    seen: int | None = None
    beyond: int = 0
    weight: Tensor | None = None
    bias: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype the sums are held in."""
        return torch.int32 if self.possible <= _WIDE else torch.int64

    def watch(self, acc: Tensor) -> Tensor:
        """Returns the accumulators after noting their size."""
        if acc.numel():
            low, high = (int(end) for end in torch.aminmax(acc))
            self.seen = max(self.seen or 0, -low, high)
            top = (1 << (self.bits - 1)) - 1
            if high > top or low < -top - 1:
                self.beyond += int(((acc > top) | (acc < -top - 1)).sum())
        return acc


class Sum:
    """Returns a convolution or linear layer on stored integers.

    Args:
        weight: centred integers, int64, as the layer holds it.
        bias: integers in units of the accumulator, int64 [O], or None.
        shift: what every product is shifted left by, for a bias finer than the products.
        plain: use 64-bit integers throughout.
    """

    def __init__(
        self, info: LayerInfo, name: str, grid: Grid, weight: Tensor, bias: Tensor | None, *, bits: int, shift: int = 0,
        plain: bool = False,
    ) -> None:  # fmt: skip
        self.info, self.grid, self.bias, self.shift = info, grid, bias, shift
        axis = info.channel_axis
        self.whole = not info.spatial and (weight.dim() != 2 or info.node.args[0] is info.weight)  # no plain rows
        self.w = weight if info.spatial or self.whole else weight.movedim(axis, 0).contiguous()
        rows = _per_channel(weight, info)
        up, down = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1).neg()
        most = torch.maximum(up * grid.high - down * grid.low, down * grid.high - up * grid.low) << shift
        products = int(most.max()) if most.numel() else 0
        possible = products if bias is None else int((most + bias.abs()).max())
        engine = "int64" if plain else self._engine(products >> shift, rows)
        self.layer = Layer(name=name, engine=engine, bits=bits, possible=possible, weight=weight, bias=bias)
        self._prepare()

    def _engine(self, products: int, rows: Tensor) -> str:
        """Returns the fastest way that is proved exact."""
        info, grid = self.info, self.grid
        small = not self.w.numel() or (int(self.w.min()) >= -128 and int(self.w.max()) <= 127)
        inner = int(rows.abs().sum(1).max()) * 256 if rows.numel() else 0  # as int8, before the zero point is taken off
        simple = info.spatial in (0, 2) and not info.transposed and info.groups == 1 and not self.whole
        if simple and small and grid.bits <= 8 and inner <= _WIDE and int8_is_exact():
            return "int8"
        depthwise = info.spatial == 2 and info.groups > 1 and not info.transposed
        if products < EXACT32 and (depthwise or not info.spatial):
            return "float32"
        return "float64" if products < EXACT64 else "int64"

    def _prepare(self) -> None:
        """Lays out the weight as its engine wants it."""
        info, engine, w = self.info, self.layer.engine, self.w
        self.taken = self.grid.zero - self._int8_offset  # what is taken off the int8 form to be centred
        self.added = self.bias
        if engine == "int8":
            self.w8 = (w.permute(2, 3, 1, 0).flatten(0, 2) if info.spatial else w.T).contiguous().to(torch.int8)
            correction = -self.taken * self.w8.long().sum(0)
            self.added = (correction << self.shift) + (0 if self.bias is None else self.bias)
        elif engine in ("float32", "float64"):
            self.wf = w.to(torch.float32 if engine == "float32" else torch.float64)
            if info.spatial == 2:
                self.wf = self.wf.contiguous(memory_format=torch.channels_last)

    @property
    def _int8_offset(self) -> int:
        return 128 if self.grid.qmax > 127 else 0

    def __call__(self, finish: Finish, q: Tensor) -> Tensor:
        """Returns what ``finish`` makes of the accumulators; a batch is added up in portions that fit the cache.

        Shapes:
            q: the layer's input. finish: takes [..., O] for int8 and linear layers (see ``last``), else [B, O, ...].
        """
        if self.whole:
            return finish(self.layer.watch(self._biased(self._product(q))))
        if self.info.spatial == 0:
            return self._linear(q, finish)
        if self.layer.engine == "int8":
            return self._convolved8(q, finish)
        size = samples_at_once(8 * q[:1].numel())
        parts = [finish(self.layer.watch(self._convolved(part))) for part in torch.split(q, size)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def last(self) -> bool:
        """Returns whether the channels of the accumulators are on the last axis."""
        return not self.info.spatial or self.layer.engine == "int8"

    def _int8(self, q: Tensor) -> Tensor:
        """Returns stored integers as int8: unsigned ones are 128 lower."""
        return q.bitwise_xor(128).view(torch.int8) if q.dtype == torch.uint8 else q

    def _linear(self, q: Tensor, finish: Finish) -> Tensor:
        rows, engine = q.reshape(-1, q.shape[-1]), self.layer.engine
        if engine == "int8":
            acc = int8_product(self._int8(rows).contiguous(), self.w8)
        elif engine == "int64":
            acc = centred(rows, self.grid.zero).long() @ self.w.T
        else:
            acc = centred(rows, self.grid.zero).to(self.wf.dtype) @ self.wf.T
        return finish(self.layer.watch(self._biased(acc))).reshape(*q.shape[:-1], -1)

    def _product(self, q: Tensor) -> Tensor:
        """Returns the matrix product with a constant that is the first factor, or a batch of matrices."""
        wide = torch.int64 if self.layer.engine == "int64" else self.wf.dtype
        x, w = centred(q, self.grid.zero).to(wide), self.w.to(wide)
        return torch.matmul(w, x) if self.info.node.args[0] is self.info.weight else torch.matmul(x, w)

    def _biased(self, acc: Tensor, axes: int = 0) -> Tensor:
        """Returns the sums with the bias, in the accumulator's dtype."""
        acc = acc.to(self.layer.dtype)
        if self.shift:
            acc = acc << self.shift
        if self.added is None:
            return acc
        return acc.add_(self.added.to(acc.dtype).reshape(-1, *(1,) * axes))

    def _convolved8(self, q: Tensor, finish: Finish) -> Tensor:
        info = self.info
        x = self._int8(q).permute(0, 2, 3, 1)
        pads = _pads(info)
        x = padded(x.permute(0, 3, 1, 2), pads, self.taken).permute(0, 2, 3, 1).contiguous()
        kernel = tuple(self.w.shape[2:])
        out = output_sizes(x.shape[1:3], kernel, info.stride, info.dilation)
        size = samples_at_once(out[0] * out[1] * self.w8.shape[0])
        parts = []
        for part in torch.split(x, size):
            acc = int8_product(patches(part, kernel, info.stride, info.dilation), self.w8)  # type: ignore[arg-type]
            acc = self._biased(acc).view(-1, *out, self.w8.shape[1])
            parts.append(finish(self.layer.watch(acc)))
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole.permute(0, 3, 1, 2)

    def _convolved(self, q: Tensor) -> Tensor:
        """Returns the accumulators, [B, O, ...]."""
        info, engine = self.info, self.layer.engine
        if info.transposed:
            acc = self._transposed(centred(q, self.grid.zero))
        elif engine == "int64":
            x = padded(centred(q, self.grid.zero).long(), _pads(info), 0)
            acc = convolve_int64(x, self.w, info.stride, info.dilation, info.groups)
        else:
            x, pads = q.to(self.wf.dtype).sub_(self.grid.zero), _pads(info)
            equal = all(before == after for before, after in pads)
            x = x if equal else padded(x, pads, 0)
            inside = tuple(before if equal else 0 for before, _ in pads)
            acc = convolve_float(x, self.wf, info.stride, inside, info.dilation, info.groups)
        return self._biased(acc, info.spatial)

    def _transposed(self, x: Tensor) -> Tensor:
        info, more = self.info, _output_padding(self.info)
        padding = info.padding if isinstance(info.padding, tuple) else (0,) * info.spatial
        if self.layer.engine == "int64":
            full = transpose_int64(x.long(), self.w, info.stride, info.dilation, info.groups, more)
            cut = tuple(slice(p, n - p) for p, n in zip(padding, full.shape[2:], strict=True))
            return full[(slice(None), slice(None), *cut)].contiguous()
        run = getattr(torch.nn.functional, f"conv_transpose{info.spatial}d")
        made: Tensor = run(x.to(self.wf.dtype), self.wf, None, info.stride, padding, more, info.groups, info.dilation)
        return made


class Product:
    """Returns the product of two activations on stored integers."""

    def __init__(self, info: LayerInfo, name: str, x: Grid, other: Grid, count: int, *, bits: int, plain: bool) -> None:
        self.info, self.x, self.other = info, x, other
        most = max(-x.low, x.high) * max(-other.low, other.high) * count if count > 0 else EXACT64 - 1
        engine = "int64" if plain or most >= EXACT64 else "float64"
        self.layer = Layer(name=name, engine=engine, bits=bits, possible=most if count > 0 else 0)
        self.dtype = torch.int32 if 0 < most <= _WIDE else torch.int64

    def __call__(self, finish: Finish, q: Tensor, other: Tensor) -> Tensor:
        """Returns what ``finish`` makes of the accumulators.

        Shapes:
            q, other: the operands ``x`` and ``weight`` of the node; finish: as the node's output.
        """
        a, b = centred(q, self.x.zero), centred(other, self.other.zero)
        wide = torch.int64 if self.layer.engine == "int64" else torch.float64
        first, second = (b, a) if self.info.node.args[0] is self.info.weight else (a, b)
        acc = torch.matmul(first.to(wide), second.to(wide)).to(self.dtype)
        return finish(self.layer.watch(acc))


def _per_channel(weight: Tensor, info: LayerInfo) -> Tensor:
    """Returns the weights that are added up in each output channel, a bound for transposed ones.

    Shapes:
        weight: as the layer's. Result: [O, N].
    """
    if info.transposed and info.groups > 1:
        size = weight.shape[0] // info.groups
        parts = [part.transpose(0, 1).flatten(1) for part in torch.split(weight, size)]
        return torch.cat(parts)
    return weight.movedim(info.channel_axis, 0).flatten(1)


def _pads(info: LayerInfo) -> tuple[tuple[int, int], ...]:
    """Returns how many zeros stand before and after each spatial axis."""
    if isinstance(info.padding, tuple):
        return tuple((p, p) for p in info.padding)
    if info.padding == "valid":
        return ((0, 0),) * info.spatial
    kernel = ops.shape_of(info.weight)[2:]
    total = [d * (k - 1) for d, k in zip(info.dilation, kernel, strict=True)]
    return tuple((t // 2, t - t // 2) for t in total)


def _output_padding(info: LayerInfo) -> tuple[int, ...]:
    more = ops.argument(info.node, "output_padding", 0)
    items = tuple(more) if isinstance(more, (list, tuple)) else (more,)
    return items * info.spatial if len(items) == 1 else items
