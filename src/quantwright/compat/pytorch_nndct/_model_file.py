"""The listing ``<Model>.py``: one line per operation with its names, in the layout of the original's regenerated file.

People pick layer names for ``layer_name`` from it. It is text to read: nothing imports it, and the network that is
calibrated is the user's own, captured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import fx

from quantwright import files
from quantwright.compat.pytorch_nndct._names import Operation, by_node, operations
from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph.graph import Graph

#: kind -> (module of the original, its arguments: their name there -> in the operator)
POOL = ("kernel_size", "stride", "padding")
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "input": ("Input", ()), "add": ("Add", ()), "cat": ("Cat", ()), "relu": ("ReLU", ()), "relu6": ("ReLU6", ()),
    "leaky_relu": ("LeakyReLU", ("negative_slope",)), "sigmoid": ("Sigmoid", ()), "tanh": ("Tanh", ()),
    "hardswish": ("Hardswish", ()), "hardsigmoid": ("Hardsigmoid", ()), "gelu": ("GELU", ()), "mish": ("Mish", ()),
    "softmax": ("Softmax", ("dim",)), "prelu": ("PReLU", ()),
    "max_pool": ("MaxPool2d", (*POOL, "dilation", "ceil_mode")),
    "avg_pool": ("AvgPool2d", (*POOL, "ceil_mode", "count_include_pad")),
    "adaptive_avg_pool": ("AdaptiveAvgPool2d", ("output_size",)),
}  # fmt: skip


def write(graph: Graph, folder: Path, version: str) -> Path:
    """Returns the path of the listing it wrote."""
    path = folder / f"{graph.name}.py"
    files.write_text(path, text(graph, version))
    return path


def text(graph: Graph, version: str) -> str:
    """Returns the listing of a prepared network."""
    found = operations(graph)
    numbers = {name: operation.number for name, operation in by_node(found).items()}
    sources = {node.name: ops.source_of(node) for node in graph.module.graph.nodes}
    head = [
        f"# Written by {version} for reading: the names are what layer_name takes. Nothing imports this file.",
        "", "import torch", "import pytorch_nndct as py_nndct", "",
        f"class {graph.name}(torch.nn.Module):",
        "    def __init__(self):",
        f"        super({graph.name}, self).__init__()",
    ]  # fmt: skip
    body, forward = [], ["", "    def forward(self, *args):"]
    inputs = 0
    for operation in found:
        source = sources[operation.nodes[0].name]
        body.append(
            f"        self.module_{operation.number} = py_nndct.nn.{_module(source, operation)}"
            f" #{operation.path}({operation.name})"
        )
        if operation.nodes[0].kind == kinds.INPUT:
            given, inputs = f"args[{inputs}]", inputs + 1
        else:
            given = ", ".join(f"output_module_{number}" for number in _reads(source, numbers, sources))
        forward.append(f"        output_module_{operation.number} = self.module_{operation.number}({given})")
    last = next(node for node in reversed(graph.module.graph.nodes) if node.op == "output")
    forward.append("        return " + ", ".join(f"output_module_{n}" for n in _reads(last, numbers, sources)))
    return "\n".join([*head, *body, *forward]) + "\n"


def _reads(node: fx.Node, numbers: dict[str, int], sources: dict[str, fx.Node]) -> list[int]:
    """Returns the numbers of the operations whose values ``node`` reads, looking through what has no number."""
    found: list[int] = []

    def visit(argument: fx.Node) -> fx.Node:
        read = ops.through(argument)
        if read.name in numbers:
            found.append(numbers[read.name])
        elif read.op == "call_function" and (source := sources[read.name]) is not node:
            found.extend(_reads(source, numbers, sources))  # dropout and the like
        return argument

    fx.node.map_arg((node.args, node.kwargs), visit)
    return found


def _module(source: fx.Node, operation: Operation) -> str:
    """Returns the call that makes the original's module of an operation."""
    kind = operation.nodes[0].kind
    info = ops.layer_info(source)
    if info is not None and info.spatial:
        name = f"Conv{'Transpose' if info.transposed else ''}{info.spatial}d"
        weight = ops.shape_of(info.weight)
        inputs, outputs = weight[info.input_axis] * info.groups, weight[info.channel_axis]
        if info.transposed:
            inputs, outputs = weight[0], weight[1] * info.groups
        arguments: dict[str, Any] = {"in_channels": inputs, "out_channels": outputs}
        arguments |= {"kernel_size": list(weight[2:]), "stride": list(info.stride)}
        arguments |= {"padding": info.padding if isinstance(info.padding, str) else list(info.padding)}
        arguments |= {"dilation": list(info.dilation), "groups": info.groups, "bias": info.bias is not None}
        return _call(name, arguments)
    if kind in kinds.LINEAR and info is not None:
        weight = ops.shape_of(info.weight)
        inputs, outputs = weight[info.input_axis], weight[info.channel_axis]
        return _call("Linear", {"in_features": inputs, "out_features": outputs, "bias": info.bias is not None})
    if kind in MODULES:
        name, wanted = MODULES[kind]
        return _call(name, {key: ops.argument(source, key) for key in wanted})
    return f"Module({operation.type!r})"


def _call(name: str, arguments: dict[str, Any]) -> str:
    shown = ", ".join(f"{key}={_plain(value)}" for key, value in arguments.items())
    return f"{name}({shown})"


def _plain(value: Any) -> str:
    """Returns a value as Python source; what depends on the input (a size) is shown as None."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return repr(value) if isinstance(value, (bool, int, float, str)) else "None"
