"""Averages in a graph: over how many values, and how to say the same with a factor behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from quantwright.graph import ops

_POOL_ARGUMENTS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Returns one average.

    Attributes:
        operator: the operator that averages and multiplies.
        args, kwargs: what it is given besides the factor.
        kernel: how many values along each axis.
        spatial: the axes are height and width.
        whole: a kernel covers all there is.
    """

    operator: str
    args: tuple[Any, ...]
    kernel: tuple[int, ...]
    spatial: bool = True
    whole: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def pool_of(node: fx.Node) -> Pool | None:
    """Returns the average ``node`` is; None for anything else, and where the sizes depend on the input."""
    name = ops.op_name(node)
    if name == "avg_pool2d":
        return _window(node)
    if name in ("adaptive_avg_pool2d", "_adaptive_avg_pool2d"):
        return _adaptive(node)
    return _mean(node) if name == "mean" else None


def _window(node: fx.Node) -> Pool | None:
    if ops.argument(node, "divisor_override") is not None:
        return None
    values = [ops.argument(node, name) for name in _POOL_ARGUMENTS]
    kernel = _pair(values[0])
    whole = _shape(node)[-2:] == kernel
    return Pool(operator="dpu_avg_pool2d", args=(node.args[0], *values), kernel=kernel, whole=whole)


def _adaptive(node: fx.Node) -> Pool | None:
    size = _pair(ops.argument(node, "output_size"))
    area = _shape(node)[-2:]
    if len(area) != 2 or min(area) < 1 or any(side % out for side, out in zip(area, size, strict=True)):
        return None  # P4.6: windows of different sizes are not scaled
    kernel = (area[0] // size[0], area[1] // size[1])
    args = (node.args[0], list(size))
    return Pool(operator="dpu_adaptive_avg_pool2d", args=args, kernel=kernel, whole=size == (1, 1))


def _mean(node: fx.Node) -> Pool | None:
    dims, shape = ops.argument(node, "dim"), _shape(node)
    if not dims or ops.argument(node, "dtype") is not None:
        return None
    axes = sorted(axis % len(shape) for axis in dims)
    kernel = tuple(shape[axis] for axis in axes)
    if min(kernel) < 1:
        return None
    keep = bool(ops.argument(node, "keepdim", False))
    spatial = len(shape) == 4 and axes == [2, 3]
    return Pool(
        operator="dpu_mean", args=(node.args[0], list(dims), keep), kernel=kernel, spatial=spatial, whole=spatial
    )


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Returns the shape of what is averaged."""
    return ops.shape_of(node.args[0]) if isinstance(node.args[0], fx.Node) else ()


def _pair(value: Any) -> tuple[int, int]:
    sizes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return (sizes[0], sizes[-1])
