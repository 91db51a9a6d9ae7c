"""The arguments of an operation that are no tensors, by name, as plain values: what patterns constrain."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from quantwright.graph import ops

_PLAIN = (bool, int, float, str, type(None))


def params_of(node: fx.Node) -> dict[str, Any]:
    """Returns the arguments of the operator behind ``node``, defaults included, and what its weight's shape says.

    A convolution has ``kernel_size``, ``in_channels`` and ``out_channels``, a linear layer ``in_features`` and
    ``out_features``: the names of torch's modules. Sizes that depend on the input are left out.
    """
    source = ops.source_of(node)
    target = source.target
    if not isinstance(target, torch._ops.OpOverload):
        return {}
    found = {}
    for argument in target._schema.arguments:
        value = ops.argument(source, argument.name)
        if _is_plain(value) and not (value is None and "Tensor" in str(argument.type)):
            found[argument.name] = list(value) if isinstance(value, (list, tuple)) else value
    return {**found, **_of_weight(source)}


def _of_weight(node: fx.Node) -> dict[str, Any]:
    conv, linear = ops.conv_info(node), ops.linear_info(node)
    if conv is not None:
        shape = ops.shape_of(conv.weight)
        inside, out = shape[conv.input_axis], shape[conv.channel_axis]
        channels = (inside, out * conv.groups) if conv.transposed else (inside * conv.groups, out)
        return {"kernel_size": list(shape[2:]), "in_channels": channels[0], "out_channels": channels[1]}
    if linear is not None:
        out_features, in_features = ops.shape_of(linear.weight)
        return {"in_features": in_features, "out_features": out_features}
    return {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)
