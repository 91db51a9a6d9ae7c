"""Scaled formats: value = element * scale, no zero point. Divide, round to the element grid, multiply.

Layout, scale and rounding are the ones of integers (``affine``, ``granularity``); what differs is the grid
(``grids``). ``quantize`` gives elements as float32: whoever stores them chooses the type that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import Granularity, QuantSpec
from quantwright.errors import StateError
from quantwright.numerics import affine
from quantwright.numerics.formats import Format
from quantwright.numerics.granularity import ungroup
from quantwright.numerics.grids import grid_of
from quantwright.numerics.qparams import QParams


def quantize(x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns the elements, in units of the scale, as float32.

    Shapes:
        x: any; the result has the same shape.
    """
    with torch.no_grad():
        elements, _ = _elements(x, qparams, spec, arithmetic)
        return _back(elements, x, spec).float()


def dequantize(q: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns elements times scale, in float32.

    Shapes:
        q: any; the result has the same shape.
    """
    g = spec.granularity or Granularity()
    view = affine.working_view(q.float(), g)
    _, step = affine.aligned_scales(affine.needed(qparams, spec), view, g, arithmetic)
    return _back(view * step, q, spec)


def fake_quantize(
    x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide", out: Tensor | None = None
) -> Tensor:
    """Returns ``x`` rounded to the grid, in its own dtype, computed in float32 (float64 for float64).

    The gradient passes straight through where ``x`` is within the grid's range and is zero outside, as for integers.

    Shapes:
        x: any; the result has the same shape.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        if out is not None:
            raise StateError("out= cannot be used while a gradient is recorded", fix="use torch.no_grad(), or no out")
        result: Tensor = _StraightThrough.apply(x, qparams, spec, arithmetic)  # type: ignore[no-untyped-call]
        return result
    with torch.no_grad():
        return _fake_quantize(x, qparams, spec, arithmetic, out)


def _fake_quantize(
    x: Tensor, qparams: QParams | None, spec: QuantSpec, arithmetic: str, out: Tensor | None,
    inside: list[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Returns the fake-quantized tensor; appends the mask of what is inside the range to ``inside`` when given."""
    elements, step = _elements(x, qparams, spec, arithmetic, out, inside)
    y = _back(elements.mul_(step), x, spec)
    if inside:
        inside[0] = _back(inside[0], x, spec)
    if out is None:
        return y.to(x.dtype)
    return out if y is out else out.copy_(y)


def _elements(
    x: Tensor, qparams: QParams | None, spec: QuantSpec, arithmetic: str, out: Tensor | None = None,
    inside: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor | float]:  # fmt: skip
    """Returns (elements in the working view, step that broadcasts against it)."""
    g = spec.granularity or Granularity()
    grid = grid_of(spec.format or "")
    view = affine.working_view(x, g)
    by, step = affine.aligned_scales(affine.needed(qparams, spec), view, g, arithmetic)
    direct = out if out is not None and out.dtype == view.dtype and g.kind != "per_group" else None
    scaled = torch.mul(view, by, out=direct) if arithmetic == "reciprocal" else torch.div(view, by, out=direct)
    if inside is not None:
        inside.append((scaled <= grid.largest) & (scaled >= (-grid.largest if grid.signed else 0.0)))
    return grid.round_(scaled, spec.rounding or "half_even"), step


def _back(view: Tensor, x: Tensor, spec: QuantSpec) -> Tensor:
    g = spec.granularity or Granularity()
    return ungroup(view, x.shape, g) if g.kind == "per_group" else view


class _StraightThrough(torch.autograd.Function):
    """The straight-through estimator: identity inside the range, zero outside (1308.3432, section 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, qparams: QParams | None, spec: QuantSpec, arithmetic: str) -> Tensor:
        inside: list[Tensor] = []
        y = _fake_quantize(x, qparams, spec, arithmetic, None, inside)
        ctx.save_for_backward(inside[0])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


def scaled_format(grids: Mapping[str, Mapping[str, Any]]) -> Format:
    """Returns the plug-in of a file that describes these element grids."""
    return Format(serves=grids.__contains__, quantize=quantize, dequantize=dequantize, fake_quantize=fake_quantize)
