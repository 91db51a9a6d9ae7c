"""What a node of the graph is: its kind, its arguments by name, its weight and bias, whether it keeps the grid.

Everything here reads ``torch.fx`` nodes whose targets are ATen operators. Quantizers that were inserted later are
looked through: a convolution still finds its weight behind a weight quantizer.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from quantwright.config import kinds
from quantwright.graph._optable import KIND_OF, NORM_STEPS, PARAMETERS

_TRANSPOSED = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}
_PRODUCTS = ("add", "sub", "mul", "div")
_ACTIVATIONS = ("gelu", "silu", "swish", "mish")
_FORWARD = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """Returns the operands of a convolution, linear layer or matrix product, so that nobody indexes arguments by hand.

    ``weight`` and ``bias`` are the nodes as written (a quantizer may stand before the parameter: see ``parameter_of``);
    ``bias`` is None when there is none. Axes count in the weight.
    """

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    channel_axis: int
    input_axis: int
    groups: int = 1
    transposed: bool = False
    spatial: int = 0  # number of spatial dimensions: 0 for linear
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormInfo:
    """Returns the operands of a batch normalization (inference form); weight and bias are None when not affine."""

    node: fx.Node
    x: fx.Node
    weight: fx.Node | None
    bias: fx.Node | None
    mean: fx.Node
    var: fx.Node
    eps: float


def op_name(node: fx.Node) -> str:
    """Returns the ATen operator's base name (``conv2d`` for ``aten.conv2d.default``), "" for anything else."""
    target = node.target
    if node.op == "call_function" and isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return ""


def aten_name(node: fx.Node) -> str:
    """Returns the full ATen name, ``aten.conv2d.default``; "" for anything that is no operator."""
    return str(node.target) if op_name(node) else ""


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """Returns the argument called ``name`` in the operator's schema: as given, else its schema default."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return default
    if name in node.kwargs:
        return node.kwargs[name]
    for index, parameter in enumerate(target._schema.arguments):
        if parameter.name == name:
            if index < len(node.args):
                return node.args[index]
            return parameter.default_value if parameter.has_default_value() else default
    return default


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Sets the argument called ``name``, by position when it was given by position, filling defaults before it."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        raise ValueError(f"{node.name} is no operator")
    names = [parameter.name for parameter in target._schema.arguments]
    index = names.index(name)
    if name in node.kwargs or target._schema.arguments[index].kwarg_only:
        node.kwargs = {**node.kwargs, name: value}
        return
    args = list(node.args)
    while len(args) <= index:
        args.append(argument(node, names[len(args)]))
    args[index] = value
    node.args = tuple(args)


def is_quantizer(node: fx.Node) -> bool:
    """Returns whether ``node`` calls a quantizer that was inserted at a point."""
    return node.op == "call_module" and node.meta.get("kind") == "quantizer"


def ends_at_a_quantizer(node: fx.Node) -> bool:
    """Returns whether a quantizer reads the value, alone and maybe through clamps."""
    reader = node
    while len(reader.users) == 1 and (reader is node or kind_of(reader) in kinds.CLAMP):
        reader = next(iter(reader.users))
    return is_quantizer(reader)


def through(node: fx.Node) -> fx.Node:
    """Returns the node whose value quantizers pass on: ``node`` itself when it is none."""
    while is_quantizer(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def attribute(module: torch.nn.Module, name: str) -> Any:
    """Returns the parameter, buffer or constant that a dotted name leads to."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def parameter_of(node: Any) -> str | None:
    """Returns the name of the parameter or constant ``node`` reads (through a quantizer), or None."""
    if not isinstance(node, fx.Node):
        return None
    source = through(node)
    return str(source.target) if source.op == "get_attr" else None


def source_of(node: fx.Node) -> fx.Node:
    """Returns the operator behind ``node``: for an item of a several-output operator that operator, else ``node``."""
    if node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0]
    return node


def kind_of(node: fx.Node) -> str:
    """Returns the kind of ``node`` in the vocabulary of ``config/kinds.py``."""
    if node.op == "placeholder":
        return kinds.INPUT
    if node.op == "output":
        return kinds.OUTPUT
    if node.op == "get_attr":
        return kinds.CONSTANT
    if node.op == "call_module":
        return str(node.meta.get("kind", kinds.OTHER))
    source = source_of(node)
    kind = _operator_kind(source)
    if source is not node and kind == kinds.OTHER:
        return "getitem"
    if _is_norm_part(source, kind):
        return "norm_part"
    return "activation_part" if _is_activation_part(source, kind) else kind


def keeps_grid(node: fx.Node) -> bool:
    """Returns whether the output's values are a subset of the first input's (or zero)."""
    kind = kind_of(node)
    if kind == "pad":
        return _pad_keeps_grid(node)
    if kind in ("max", "min"):
        return op_name(source_of(node)) in ("max", "min", "amax", "amin")
    return kind in kinds.MOVEMENT or kind in ("max_pool", "adaptive_max_pool", "resize_nearest")


def layer_info(node: fx.Node) -> LayerInfo | None:
    """Returns the operands of a convolution, linear layer or matrix product (second factor as weight), else None."""
    name = op_name(node)
    if name in _FORWARD or name in _TRANSPOSED or name == "convolution":
        return _conv(node, name)
    if name == "linear":
        x, weight, bias = (argument(node, key) for key in ("input", "weight", "bias"))
        return LayerInfo(node=node, x=x, weight=weight, bias=bias, channel_axis=0, input_axis=1)
    if name == "addmm" and argument(node, "alpha") in (1, None) and argument(node, "beta") in (1, None):
        bias, x, weight = (argument(node, key) for key in ("self", "mat1", "mat2"))
        return LayerInfo(node=node, x=x, weight=weight, bias=bias, channel_axis=1, input_axis=0)
    if name in ("matmul", "mm", "bmm"):
        return _matmul(node)
    return None


def conv_info(node: fx.Node) -> LayerInfo | None:
    """Returns the operands of a (transposed) convolution, or None for any other node."""
    info = layer_info(node)
    return info if info is not None and info.spatial else None


def linear_info(node: fx.Node) -> LayerInfo | None:
    """Returns the operands of a linear layer, or None for any other node."""
    return layer_info(node) if op_name(node) == "linear" else None


def batch_norm_info(node: fx.Node) -> BatchNormInfo | None:
    """Returns the operands of a batch normalization by running statistics, or None for any other node."""
    name = op_name(node)
    if name not in ("batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"):
        return None
    if argument(node, "training", False):
        return None
    mean, var = argument(node, "running_mean"), argument(node, "running_var")
    if mean is None or var is None:
        return None
    weight, bias = argument(node, "weight"), argument(node, "bias")
    eps = float(argument(node, "eps", argument(node, "epsilon", 1e-5)))
    return BatchNormInfo(node=node, x=argument(node, "input"), weight=weight, bias=bias, mean=mean, var=var, eps=eps)


def weight_and_bias(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """Returns the nodes of weight and bias when they are parameters (or behind a quantizer), else None."""
    source = source_of(node)
    info = layer_info(source)
    if info is not None:
        pair: tuple[Any, Any] = (info.weight, info.bias)
    else:
        names = PARAMETERS.get(op_name(source))
        if names is None:
            return None, None
        pair = (argument(source, names[0]), argument(source, names[1]) if names[1] else None)
    weight, bias = (item if parameter_of(item) else None for item in pair)
    return weight, bias


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Returns the output shape, -1 for dimensions that depend on the input; () when there is not one tensor output."""
    node = through(node)
    if "shape" in node.meta:
        return tuple(node.meta["shape"])
    value = node.meta.get("val")
    return shape_from(value) if isinstance(value, torch.Tensor) else ()


def dtype_of(node: fx.Node) -> torch.dtype | None:
    """Returns the dtype of the output, None when there is not one tensor output."""
    node = through(node)
    if "dtype" in node.meta:
        dtype: torch.dtype | None = node.meta["dtype"]
        return dtype
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None


def shape_from(value: torch.Tensor) -> tuple[int, ...]:
    """Returns the shape of a (fake) tensor with -1 for symbolic dimensions."""
    return tuple(size if isinstance(size, int) else -1 for size in value.shape)


def is_tensor(node: fx.Node) -> bool:
    """Returns whether the node's output is one tensor."""
    return dtype_of(node) is not None


def is_float(node: fx.Node) -> bool:
    """Returns whether the node's output is one floating-point tensor."""
    dtype = dtype_of(node)
    return dtype is not None and dtype.is_floating_point


def _operator_kind(node: fx.Node) -> str:
    name = op_name(node)
    if not name:
        return kinds.OTHER
    if name in _FORWARD or name in _TRANSPOSED or name == "convolution":
        return _conv_kind(node, name)
    if name in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"):
        return _clamp_kind(node, name)
    if name in ("max", "min") and argument(node, "other") is not None:
        return "maximum" if name == "max" else "minimum"
    if name in ("constant_pad_nd", "pad"):
        return "pad"
    if name == "expand" and isinstance(node.args[0], fx.Node) and parameter_of(node.args[0]):
        return kinds.CONSTANT
    return KIND_OF.get(name, kinds.OTHER)


def _conv_kind(node: fx.Node, name: str) -> str:
    info = _conv(node, name)
    if info is None:
        return kinds.OTHER
    if info.transposed:
        return f"conv_transpose{info.spatial}d"
    weight = shape_of(info.weight)
    depthwise = info.groups > 1 and len(weight) > 1 and weight[1] == 1  # groups == in_channels
    return f"{'depthwise_' if depthwise else ''}conv{info.spatial}d"


def _clamp_kind(node: fx.Node, name: str) -> str:
    low_name, high_name = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low, high = argument(node, low_name), argument(node, high_name)
    if isinstance(low, fx.Node) or isinstance(high, fx.Node):
        return "clamp"
    return clamp_kind(low, high, "hardtanh" if name == "hardtanh" else "clamp")


def clamp_kind(low: float | None, high: float | None, otherwise: str) -> str:
    """Returns ``relu`` or ``relu6`` where the bounds say so, else ``otherwise``; None: no bound."""
    unbounded = high is None or high == math.inf
    if low == 0 and unbounded:
        return "relu"
    if low == 0 and high == 6:
        return "relu6"
    return otherwise


def _is_norm_part(node: fx.Node, kind: str) -> bool:
    """Returns whether ``node`` is arithmetic written by hand inside a module whose class name says it normalizes."""
    arithmetic = kind in kinds.ELEMENTWISE or kind in ("mean", "sum", "max", "min") or op_name(node) in NORM_STEPS
    origins = node.meta.get("origins", ())
    if not arithmetic or not origins:
        return False
    first = origins[0]
    innermost = first.module_type or (first.parents[-1][1] if first.parents else "")
    return "norm" in innermost.rpartition(".")[2].lower()


def _is_activation_part(node: fx.Node, kind: str) -> bool:
    """Returns whether ``node`` is arithmetic in a module, none inside, whose class name says it is an activation."""
    origins = node.meta.get("origins", ())
    name = origins[0].module_type.rpartition(".")[2].lower() if origins and kind in _PRODUCTS else ""
    return name.endswith("activation") or any(word in name for word in _ACTIVATIONS)


def _pad_keeps_grid(node: fx.Node) -> bool:
    name = op_name(node)
    if name == "constant_pad_nd":
        return bool(argument(node, "value", 0) == 0)
    if name == "pad":
        return argument(node, "mode", "constant") != "constant" or argument(node, "value", 0) in (0, None)
    return True  # reflection and replication repeat values that are there already


def _conv(node: fx.Node, name: str) -> LayerInfo | None:
    x, weight, bias = (argument(node, key) for key in ("input", "weight", "bias"))
    rank = len(shape_of(weight)) - 2
    spatial = _FORWARD.get(name) or _TRANSPOSED.get(name) or rank
    transposed = name in _TRANSPOSED or bool(argument(node, "transposed", False))
    if spatial not in (1, 2, 3):
        return None
    padding = argument(node, "padding", 0)
    return LayerInfo(
        node=node, x=x, weight=weight, bias=bias, transposed=transposed, spatial=spatial,
        channel_axis=1 if transposed else 0, input_axis=0 if transposed else 1,
        groups=int(argument(node, "groups", 1)),
        stride=_tuple(argument(node, "stride", 1), spatial),
        padding=padding if isinstance(padding, str) else _tuple(padding, spatial),
        dilation=_tuple(argument(node, "dilation", 1), spatial),
    )  # fmt: skip


def _matmul(node: fx.Node) -> LayerInfo | None:
    """Returns the operands of a product of two tensors; the constant factor is the weight, the second if neither is."""
    first, second = node.args[0], node.args[1]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    x, weight = (second, first) if parameter_of(first) and not parameter_of(second) else (first, second)
    rank = len(shape_of(weight))
    if rank < 2:
        return None
    rows, columns = rank - 2, rank - 1
    channel, reduced = (columns, rows) if weight is second else (rows, columns)
    return LayerInfo(node=node, x=x, weight=weight, bias=None, channel_axis=channel, input_axis=reduced)


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(items) * length if len(items) == 1 else items
