"""Operators a device computes in its own way: one node of a graph each, made of torch's own operators inside.

They decompose by themselves wherever a network is traced, so every exporter writes standard operators; in a graph they
are one operation of the kind they stand for, quantized once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantwright.numerics import dpu

NAMESPACE = "quantwright"
_POOL = "int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, bool count_include_pad=True"


def _avg_pool2d(
    x: Tensor,
    kernel_size: list[int],
    stride: list[int] = [],  # noqa: B006  the default of torch's own schema
    padding: list[int] = [0, 0],  # noqa: B006
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    factor: float,
) -> Tensor:
    pooled = torch.ops.aten.avg_pool2d.default(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )
    return _scaled(pooled, factor)


def _adaptive_avg_pool2d(x: Tensor, output_size: list[int], *, factor: float) -> Tensor:
    return _scaled(torch.ops.aten.adaptive_avg_pool2d.default(x, output_size), factor)


def _mean(x: Tensor, dim: list[int] | None, keepdim: bool = False, *, factor: float) -> Tensor:
    return _scaled(torch.ops.aten.mean.dim(x, dim, keepdim), factor)


def _scaled(x: Any, factor: float) -> Tensor:
    scaled: Tensor = x * factor
    return scaled


def _softmax(x: Tensor, dim: int) -> Tensor:
    del dim  # the pass converts the last axis only
    return dpu.softmax(x)


def _layer_norm(
    x: Tensor, normalized_shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    del normalized_shape  # the last axis
    return dpu.layer_norm(x, weight, bias, eps)


#: name -> (arguments, implementation)
_DEFINITIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "dpu_avg_pool2d": (f"Tensor self, {_POOL}, int? divisor_override=None, *, float factor", _avg_pool2d),
    "dpu_adaptive_avg_pool2d": ("Tensor self, SymInt[2] output_size, *, float factor", _adaptive_avg_pool2d),
    "dpu_mean": ("Tensor self, int[1]? dim, bool keepdim=False, *, float factor", _mean),
    "dpu_hardsigmoid": ("Tensor self", dpu.hard_sigmoid),
    "dpu_hardswish": ("Tensor self", dpu.hard_swish),
    "dpu_softmax": ("Tensor self, int dim", _softmax),
    "dpu_layer_norm": (
        "Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05", _layer_norm
    ),
}  # fmt: skip

_library: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
for _name, (_arguments, _implementation) in _DEFINITIONS.items():
    _library.define(f"{_name}({_arguments}) -> Tensor")
    _library.impl(_name, _implementation, "CompositeImplicitAutograd")

#: name -> operator
OPERATORS: dict[str, torch._ops.OpOverload] = {
    name: getattr(getattr(torch.ops, NAMESPACE), name).default for name in _DEFINITIONS
}
