"""High-bias absorption: what ReLU never cuts off moves into the next layer's bias (arXiv 1906.04721, section 4.2).

Equalization can leave a layer with large biases, whose activations then need a wide range. Where a channel is above c
practically always, relu(x) = relu(x - c) + c, so c can be taken from this bias and added, through the weights, to the
next layer's.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from quantwright.config import kinds
from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.passes._chains import Layer, Pair
from quantwright.passes._channels import per_input

SIGMAS = 3.0  # c = max(0, beta - 3 gamma): 99.865 % of a normally distributed channel lies above it
SHIFTED = ("relu", "leaky_relu", "prelu")  # f(x) = x above zero


def statistics(node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """Returns (standard deviation, mean) per output channel, known from the batch norm that was folded into ``node``.

    Shapes:
        both: [C].
    """
    found: tuple[Tensor, Tensor] | None = node.meta.get("batchnorm")
    return found


def scale_statistics(node: fx.Node, s: Tensor) -> None:
    """Divides what is known about the outputs of ``node`` by the factors its outputs were divided by."""
    known = statistics(node)
    if known is not None:
        node.meta["batchnorm"] = tuple((value / s).to(value.dtype) for value in known)


def absorb(graph: Graph, pair: Pair, sigmas: float, *, padded: bool) -> Tensor | None:
    """Returns c per channel after moving it from the first layer's bias to the second's; None when nothing can move.

    Args:
        padded: also into layers that pad with zeros. There the border sees zeros, not c: an approximation.
    """
    known = statistics(pair.first.node)
    if known is None or pair.first.bias is None or not _keeps_shift(pair, padded):
        return None
    std, mean = known
    c = (mean - sigmas * std.abs()).clamp_min(0.0)
    if not bool((c > 0).any()):
        return None
    bias = graph.parameter(pair.first.bias).detach()
    graph.set_parameter(pair.first.bias, bias - c.to(bias.dtype))
    w_GOIK = pair.second.weight_view(graph)
    moved = (w_GOIK.sum(3, keepdim=True, dtype=torch.float64) * per_input(c.double(), w_GOIK)).sum((2, 3)).flatten()
    _add_bias(graph, pair.second, moved)
    pair.first.node.meta["batchnorm"] = (std, torch.where(c > 0, sigmas * std.abs(), mean))
    return c


def _add_bias(graph: Graph, layer: Layer, amount: Tensor) -> None:
    if layer.bias is None:
        edit.set_bias(graph, layer.node, amount.to(graph.parameter(layer.weight).dtype))
    else:
        bias = graph.parameter(layer.bias).detach()
        graph.set_parameter(layer.bias, (bias + amount).to(bias.dtype))


def _keeps_shift(pair: Pair, padded: bool) -> bool:
    """Returns whether adding c to the first layer's outputs adds c, at every position, to the second's inputs."""
    info = ops.layer_info(pair.second.node)
    if info is None or info.transposed or (not padded and _pads(info.padding)):
        return False  # (a transposed convolution reaches different outputs through different kernel positions)
    return all(_passes_shift(node, padded) for node in pair.between)


def _pads(padding: tuple[int, ...] | str) -> bool:
    return padding != "valid" if isinstance(padding, str) else any(padding)


def _passes_shift(node: fx.Node, padded: bool) -> bool:
    kind = ops.kind_of(node)
    if kind == "avg_pool":
        plain = not any(_sizes(node, "padding")) and ops.argument(node, "divisor_override") is None
        return padded or plain or not ops.argument(node, "count_include_pad", True)
    if kind == "pad":
        constant = ops.op_name(node) == "constant_pad_nd" or ops.argument(node, "mode") == "constant"
        return padded or not constant
    return kind in (*SHIFTED, "max_pool", "adaptive_max_pool", "adaptive_avg_pool", "mean", *kinds.MOVEMENT) or (
        kind in kinds.RESIZE
    )


def _sizes(node: fx.Node, name: str) -> tuple[int, ...]:
    value = ops.argument(node, name, 0)
    return tuple(value) if isinstance(value, (list, tuple)) else (int(value or 0),)
