"""Computes pooling, sigmoids, leaky ReLU, softmax and layer norm as a DPU does, so that simulation and hardware agree.

An average becomes one multiplied by m / 2**n, a hard sigmoid relu6(x + 3) * 2731 / 16384, the slope of a leaky ReLU
26 / 256 (specs vai_q_pytorch 4.6, vai_q_tensorflow2 5.2). ``method`` says whose formulas where the two tools differ:

    =================  ======================================  ====================================================
                       vitis_pytorch                           vitis_tensorflow2
    =================  ======================================  ====================================================
    hard swish, SiLU   one operation, its gate at position 7   x times a hard sigmoid with a position of its own
    leaky ReLU         any slope becomes 26 / 256              slope 0.1 only
    average pooling    3x6 as 6x6 (*)                          a kernel that is not square only where it is global (*)
    global pooling     by its kernel                           h x w as lcm(h, w) square, up to 8
    mean               over any axes, by the count             over both spatial axes, as global pooling
    =================  ======================================  ====================================================

(*) a fault of the tool: only with ``compatible``, else the factor is that of the kernel's own area.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from quantwright.errors import UnknownNameError, did_you_mean
from quantwright.graph import edit, ops
from quantwright.graph.device_ops import OPERATORS
from quantwright.graph.graph import Graph
from quantwright.numerics import dpu
from quantwright.passes import Change
from quantwright.passes._dpu_pools import Pool, pool_of
from quantwright.passes._handwritten import hard_sigmoid_input

PARAMS = {
    "method": {
        "type": "str",
        "default": "vitis_pytorch",
        "choices": ["vitis_pytorch", "vitis_tensorflow2"],
        "help": "whose formulas, where the two tools differ",
    },
    "compatible": {"type": "bool", "default": False, "help": "with the faults of the tool, to reproduce its numbers"},
    "convert_average_pooling2d_to_dpu_version": {
        "type": "bool", "default": True, "help": "averages are multiplied by m / 2**n",
    },
    "convert_leaky_relu_to_dpu_version": {"type": "bool", "default": True, "help": "the slope becomes 26 / 256"},
    "convert_sigmoid_to_hard_sigmoid": {
        "type": "bool", "default": False, "help": "sigmoid becomes hard sigmoid, SiLU hard swish: changes the network",
    },
    "convert_hard_sigmoid_to_dpu_version": {
        "type": "bool", "default": True, "help": "hard sigmoid and hard swish multiply by 2731 / 16384",
    },
    "convert_softmax_to_dpu_version": {
        "type": "bool", "default": False, "help": "softmax over the last axis (a multiple of 16) in bfloat16",
    },
    "convert_layernorm_to_dpu_version": {
        "type": "bool", "default": False, "help": "layer norm over the last axis (a multiple of 8) in bfloat16",
    },
}  # fmt: skip
METHODS = ("vitis_pytorch", "vitis_tensorflow2")
BY = "dpu_operators"
_NEAR = 1e-7  # T5.2: how close to 0.1 a slope is 0.1


def run(
    graph: Graph,
    method: str = "vitis_pytorch",
    compatible: bool = False,
    convert_average_pooling2d_to_dpu_version: bool = True,
    convert_leaky_relu_to_dpu_version: bool = True,
    convert_sigmoid_to_hard_sigmoid: bool = False,
    convert_hard_sigmoid_to_dpu_version: bool = True,
    convert_softmax_to_dpu_version: bool = False,
    convert_layernorm_to_dpu_version: bool = False,
) -> list[Change]:
    """Returns one change per operation that is now computed in another way.

    Raises:
        UnknownNameError: no such method.
    """
    if method not in METHODS:
        raise UnknownNameError(f"no method '{method}'", allowed=METHODS, fix=did_you_mean(method, METHODS))
    tensorflow = method == "vitis_tensorflow2"
    changes: list[Change] = []
    if convert_sigmoid_to_hard_sigmoid:
        changes += _each(graph, _soften)
    if convert_hard_sigmoid_to_dpu_version:
        changes += _each(graph, lambda node: _gate(graph, node, apart=tensorflow))
    if convert_leaky_relu_to_dpu_version:
        changes += _each(graph, lambda node: _leaky(node, only_tenth=tensorflow))
    if convert_average_pooling2d_to_dpu_version:
        changes += _each(graph, lambda node: _pool(node, method, compatible))
    if convert_softmax_to_dpu_version:
        changes += _each(graph, _softmax)
    if convert_layernorm_to_dpu_version:
        changes += _each(graph, _layer_norm)
    edit.clean(graph)
    return changes


def _each(graph: Graph, step: Callable[[fx.Node], Change | None]) -> list[Change]:
    """Returns the changes of one step at every operator."""
    found = [step(node) for node in list(graph.module.graph.nodes) if ops.op_name(node)]
    return [change for change in found if change is not None]


def _become(node: fx.Node, target: Any, args: Sequence[Any], text: str, **data: Any) -> Change:
    """Returns the change after ``node`` became ``target(*args)``; ``data`` may hold its keyword arguments (kwargs)."""
    was = ops.op_name(node)
    node.target, node.args, node.kwargs = target, tuple(args), data.pop("kwargs", {})
    node.meta["kind"] = ops.kind_of(node)
    label = _label(node)
    return Change(by=BY, node=node.name, text=f"{label}: {text}", data={"was": was, "is": ops.op_name(node), **data})


def _label(node: fx.Node) -> str:
    origins = node.meta.get("origins", ())
    return origins[0].module_path if origins and origins[0].module_path else node.name


# -- sigmoids ------------------------------------------------------------------------------------------------------
def _soften(node: fx.Node) -> Change | None:
    """Returns the change of a sigmoid or SiLU into its piecewise linear form."""
    name = ops.op_name(node)
    if name == "sigmoid":
        return _become(node, torch.ops.aten.hardsigmoid.default, node.args[:1], "sigmoid replaced by hard sigmoid")
    if name == "silu":
        return _become(node, torch.ops.aten.hardswish.default, node.args[:1], "SiLU replaced by hard swish")
    return None


def _gate(graph: Graph, node: fx.Node, *, apart: bool) -> Change | None:
    """Returns the change of a hard sigmoid or hard swish into the device's.

    Args:
        apart: a hard swish becomes a product of two operations.
    """
    handwritten = hard_sigmoid_input(node)
    if handwritten is not None or ops.op_name(node) == "hardsigmoid":
        x = node.args[0] if handwritten is None else handwritten
        text = "hard sigmoid multiplies by 2731 / 16384 in place of 1 / 6"
        return _become(node, OPERATORS["dpu_hardsigmoid"], (x,), text)
    if ops.op_name(node) != "hardswish":
        return None
    x = node.args[0]
    if not apart:
        text = "the gate of the hard swish is 8 bits at position 7 and multiplies by 2731 / 16384"
        return _become(node, OPERATORS["dpu_hardswish"], (x,), text)
    with graph.module.graph.inserting_before(node):
        gate = graph.module.graph.call_function(OPERATORS["dpu_hardsigmoid"], (x,))
    gate.meta = dict(node.meta)
    gate.meta["kind"] = ops.kind_of(gate)
    text = "hard swish is a product with a hard sigmoid that multiplies by 2731 / 16384"
    return _become(node, torch.ops.aten.mul.Tensor, (x, gate), text)


def _leaky(node: fx.Node, *, only_tenth: bool) -> Change | None:
    """Returns the change of a leaky ReLU's slope into the device's."""
    if ops.op_name(node) != "leaky_relu":
        return None
    slope = float(ops.argument(node, "negative_slope", 0.01))
    if slope == dpu.LEAKY or (only_tenth and abs(slope - 0.1) > _NEAR):
        return None
    text = f"slope {slope:g} of the leaky ReLU becomes 26 / 256 = {dpu.LEAKY}"
    return _become(node, node.target, (node.args[0], dpu.LEAKY), text, before=slope, after=dpu.LEAKY)


# -- pooling -------------------------------------------------------------------------------------------------------
def _pool(node: fx.Node, method: str, compatible: bool) -> Change | None:
    """Returns the change of an average into one that is multiplied by m / 2**n; None where nothing would change."""
    pool = pool_of(node)
    factor = 1.0 if pool is None else _factor(pool, method, compatible)
    if pool is None or factor == 1.0:
        return None
    size = "x".join(str(side) for side in pool.kernel)
    text = f"the average over {size} is multiplied by {factor}"
    keywords = {**pool.kwargs, "factor": factor}
    return _become(node, OPERATORS[pool.operator], pool.args, text, factor=factor, kwargs=keywords)


def _factor(pool: Pool, method: str, compatible: bool) -> float:
    """Returns the factor of an average."""
    kernel, spatial, whole = pool.kernel, pool.spatial, pool.whole
    mean = pool.operator == "dpu_mean"
    if method == "vitis_pytorch":
        if not mean:
            # 4.6: in the tool 3x6 takes the entry of 6x6, whose area is twice as large
            return 36 * 7 / 256 if compatible and sorted(kernel) == [3, 6] else dpu.average_factor(kernel)
        return dpu.count_factor(math.prod(kernel))
    if not spatial:
        return 1.0
    if kernel[0] != kernel[1]:
        side = math.lcm(*kernel)
        if whole and side <= 8:
            return dpu.average_factor((side, side))
        if not whole and compatible:
            return 1.0  # 5.2: in the tool other rectangular kernels are not rescaled at all
    return dpu.average_factor(kernel, dpu.LARGEST)


# -- softmax and layer norm ----------------------------------------------------------------------------------------
def _softmax(node: fx.Node) -> Change | None:
    """Returns the change of a softmax over a last axis of a multiple of 16."""
    if ops.op_name(node) not in ("softmax", "_softmax"):
        return None
    x, dim, shape = node.args[0], int(ops.argument(node, "dim", -1)), ops.shape_of(node)
    last = shape[-1] if shape else -1
    if dim not in (-1, len(shape) - 1) or last < 1 or last % dpu.SOFTMAX_LANES:
        return None
    return _become(node, OPERATORS["dpu_softmax"], (x, -1), "softmax in bfloat16, its sum inverted with 7 bits")


def _layer_norm(node: fx.Node) -> Change | None:
    """Returns the change of a layer norm over a last axis of a multiple of 8."""
    if ops.op_name(node) != "layer_norm":
        return None
    sizes = list(ops.argument(node, "normalized_shape"))
    if len(sizes) != 1 or not isinstance(sizes[0], int) or sizes[0] % dpu.NORM_LANES:
        return None
    args = (node.args[0], sizes, *(ops.argument(node, name) for name in ("weight", "bias", "eps")))
    text = "layer norm in bfloat16, its root by Newton's method"
    return _become(node, OPERATORS["dpu_layer_norm"], args, text)


plugin = run
