"""Granularity: which elements share a scale, normalised once to a ``[G, N]`` view (G groups of N elements).

per_tensor   G = 1
per_channel  G = size of the axis
per_group    the axis is cut into groups of ``group_size``; G = all other elements times the number of cuts. The last
             cut may be shorter: in the view it is filled up by repeating its last element, which changes no range.
per_token    G = all positions of the leading axes; each token (the last axis) has its own scale
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantwright.config.spec import Granularity
from quantwright.errors import InputError

Shape = Sequence[int]


def channel_axis(shape: Shape, g: Granularity, axis: int | None = None) -> int:
    """Returns the non-negative axis that ``per_channel`` and ``per_group`` work on.

    Args:
        axis: overrides ``g.axis``. When both are None: axis 0 (per_channel) or the last one (per_group).

    Raises:
        InputError: the tensor has no such axis.
    """
    wanted = axis if axis is not None else g.axis
    if wanted is None:
        wanted = 0 if g.kind == "per_channel" else -1
    if not -len(shape) <= wanted < len(shape):
        raise InputError(
            f"granularity {g} asks for axis {wanted} of a tensor of shape {list(shape)}",
            allowed=f"axes {-len(shape)} to {len(shape) - 1}" if shape else "per_tensor: a single number has no axis",
            fix="set the granularity's axis, or use per_tensor",
        )
    return wanted % len(shape)


def _cuts(shape: Shape, g: Granularity, axis: int) -> tuple[int, int]:
    """Returns (size of a group, number of groups along the axis)."""
    size = g.group_size or 1
    return size, -(-shape[axis] // size)


def group_shape(shape: Shape, g: Granularity, axis: int | None = None) -> tuple[int, ...]:
    """Returns the shape of one number per group, laid out like the tensor (what ONNX wants for blocked scales).

    ``()`` per tensor, ``(C,)`` per channel, the leading axes per token, and the tensor's shape with the axis replaced
    by its number of groups per group.
    """
    if g.kind == "per_tensor":
        return ()
    if g.kind == "per_token":
        return tuple(shape[:-1])
    at = channel_axis(shape, g, axis)
    if g.kind == "per_channel":
        return (shape[at],)
    return tuple(_cuts(shape, g, at)[1] if i == at else size for i, size in enumerate(shape))


def group_count(shape: Shape, g: Granularity, axis: int | None = None) -> int:
    """Returns G: how many scales a tensor of this shape has."""
    return math.prod(group_shape(shape, g, axis))


def ends(x_GN: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (smallest_G, largest_G).

    torch vectorises aminmax over everything, and amin and amax over a dimension, but not aminmax over one: 20 times.

    Shapes:
        x_GN: [G, N] with elements. Results: [G].
    """
    if x_GN.shape[0] > 1:
        return x_GN.amin(1), x_GN.amax(1)
    low, high = x_GN.aminmax()
    return low.reshape(1), high.reshape(1)


def group_view(x: Tensor, g: Granularity, axis: int | None = None) -> Tensor:
    """Returns ``x_GN``; a view where the memory layout allows it, else a copy.

    Shapes:
        x: any; result: [G, N].
    """
    if g.kind == "per_tensor":
        return x.reshape(1, -1)
    if g.kind == "per_token":
        return x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    at = channel_axis(x.shape, g, axis)
    if g.kind == "per_channel":
        return x.movedim(at, 0).reshape(x.shape[at], -1)
    size, count = _cuts(x.shape, g, at)
    moved = x.movedim(at, -1)
    missing = count * size - x.shape[at]
    if missing:
        moved = torch.cat([moved, moved[..., -1:].expand(*moved.shape[:-1], missing)], -1)
    return moved.reshape(-1, size)


def unordered_view(x: Tensor, g: Granularity) -> Tensor:
    """Returns ``x_GN`` with the elements of a row in any order: no copy of a dense tensor, whatever its memory layout.

    Shapes:
        x: any; result: [G, N].
    """
    if g.kind == "per_tensor" and not x.is_contiguous():
        x = x.permute(sorted(range(x.ndim), key=lambda axis: (-x.stride()[axis], axis)))
    return group_view(x, g)


def ungroup(x_GN: Tensor, shape: Shape, g: Granularity, axis: int | None = None) -> Tensor:
    """Returns the tensor of ``shape`` whose ``group_view`` is ``x_GN``.

    Shapes:
        x_GN: [G, N]; result: shape.
    """
    if g.kind in ("per_tensor", "per_token"):
        return x_GN.reshape(tuple(shape))
    at = channel_axis(shape, g, axis)
    rest = [size for i, size in enumerate(shape) if i != at]
    if g.kind == "per_channel":
        return x_GN.reshape(shape[at], *rest).movedim(0, at)
    size, count = _cuts(shape, g, at)
    return x_GN.reshape(*rest, count * size)[..., : shape[at]].movedim(-1, at)


def lay_out(p_G: Tensor, shape: Shape, g: Granularity, axis: int | None = None) -> Tensor:
    """Returns one number per group in the layout of ``group_shape``.

    Shapes:
        p_G: [G]; result: ``group_shape(shape, g)``.
    """
    target = group_shape(shape, g, axis)
    if g.kind != "per_group":
        return p_G.reshape(target)
    at = channel_axis(shape, g, axis)
    rest = [size for i, size in enumerate(target) if i != at]
    return p_G.reshape(*rest, target[at]).movedim(-1, at)


def broadcast(p_G: Tensor, shape: Shape, g: Granularity, axis: int | None = None) -> Tensor:
    """Returns one number per group, shaped so that it broadcasts against a tensor of ``shape``.

    Shapes:
        p_G: [G]; result: rank 0 (per_tensor), ``[1, C, 1, 1]`` and the like (per_channel), ``[..., 1]`` (per_token), or
        the tensor's own shape (per_group: each number repeated; work on ``group_view`` where that is too much memory).
    """
    laid = lay_out(p_G, shape, g, axis)
    if g.kind == "per_tensor":
        return laid
    if g.kind == "per_token":
        return laid.unsqueeze(-1) if shape else laid
    at = channel_axis(shape, g, axis)
    if g.kind == "per_channel":
        return laid.reshape([-1 if i == at else 1 for i in range(len(shape))])
    return laid.repeat_interleave(_cuts(shape, g, at)[0], at).narrow(at, 0, shape[at])
