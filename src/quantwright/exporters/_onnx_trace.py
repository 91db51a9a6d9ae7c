"""From a captured graph to an ONNX IR model in which every quantization point is still one marked node.

The network is traced once more with a marker in place of each quantizer. A marker becomes one node of our own operator
domain, so no constant folding can look through it; ``_onnx_lower`` turns it into standard nodes afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import ExportError
from quantwright.graph import ops
from quantwright.graph.graph import Graph, copied

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN, MARK, POINT = "quantwright", "Point", "point"
_NOISY = ("torch.onnx", "torch.onnx._internal.exporter._registration", "torch.export", "onnxscript", "onnx_ir", "onnx")
_TORCH_OP = re.compile(r"target=torch\.ops\.([\w.]+)")
_NODE = re.compile(r"translating node %(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Returns one more place to mark: the value of ``node``, for ``readers`` (empty: for all of them)."""

    point: str
    node: str
    readers: tuple[str, ...] = ()


class Marker(nn.Module):
    """Returns the module that stands for a quantizer while the network is traced."""

    def __init__(self, point: str) -> None:
        super().__init__()
        self.point = point

    def forward(self, x: Tensor) -> Tensor:
        """Returns a symbolic value shaped like ``x``; nothing is computed."""
        marked: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{MARK}", (x,), attrs={POINT: self.point}, dtype=x.dtype, shape=tuple(x.shape), version=1
        )
        return marked


def marked_module(graph: Graph, marks: Sequence[Mark] = (), *, points: bool = True) -> fx.GraphModule:
    """Returns the network with a Marker for each quantizer and each of ``marks``, or with none when not ``points``.

    Parameters are shared with ``graph``, which stays as it is.
    """
    with quiet():
        module = fx.GraphModule(graph.module, copied(graph.module.graph))
    for node in list(module.graph.nodes):
        point = node.meta.get("point")
        if point is None or node.op != "call_module":
            continue
        if points:
            module.set_submodule(str(node.target), Marker(point))
        else:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    nodes = {node.name: node for node in module.graph.nodes}
    for index, mark in enumerate(marks):
        if mark.node in nodes:
            _insert_mark(module, nodes[mark.node], mark, f"marks.m{index}")
    _give_attention_heads(module.graph)
    module.graph.lint()
    module.recompile()
    return module


def _give_attention_heads(graph: fx.Graph) -> None:
    """Gives attention without a dimension for heads one of size 1, which torch's ONNX translation wants."""
    unsqueeze, squeeze = torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default):
        tensors = [part for part in node.args if isinstance(part, fx.Node)]
        if len(ops.shape_of(node)) != 3 or node.kwargs.get("attn_mask") is not None:
            continue
        with graph.inserting_before(node):
            heads = {t: graph.call_function(unsqueeze, (t, -3)) for t in dict.fromkeys(tensors)}
        with graph.inserting_after(node):
            back = graph.call_function(squeeze, (node, 1))
        for user in [user for user in node.users if user is not back]:
            user.replace_input_with(node, back)
        for flat, wide in heads.items():
            node.replace_input_with(flat, wide)


def _insert_mark(module: fx.GraphModule, value: fx.Node, mark: Mark, path: str) -> None:
    """Puts one Marker behind ``value``, before the readers the mark names."""
    module.add_submodule(path, Marker(mark.point))
    with module.graph.inserting_after(value):
        node = module.graph.call_module(path, (value,))
    for user in list(value.users):
        if user is not node and (not mark.readers or user.name in mark.readers):
            user.replace_input_with(value, node)


def to_onnx_ir(graph: Graph, module: fx.GraphModule, example: Batch, outputs: Sequence[str], opset: int) -> ir.Model:
    """Returns the ``onnx_ir.Model`` of a traced network: inputs named as in ``graph``, outputs as given, optimized.

    Raises:
        ExportError: the network cannot be traced again, or torch has no ONNX translation of an operator (it is named).
    """
    args, kwargs, shapes = traceable_example(graph, example)
    names = input_names(graph, example)
    program = None
    with quiet():
        try:
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
            onnx_program = torch.onnx.export(
                program, dynamo=True, opset_version=opset, optimize=False, verbose=False,
                input_names=_unused(names, outputs), output_names=list(outputs),
            )  # fmt: skip
            if onnx_program is None:
                raise ExportError("torch returned no ONNX model", where=graph.name)
            onnx_program.optimize()
        except torch.onnx.OnnxExporterError as error:
            raise _untranslatable(error, graph, module, program) from error
        except RuntimeError as error:
            raise ExportError(
                f"the network cannot be traced for ONNX: {str(error).splitlines()[0]}", where=graph.name,
                fix="capture it again with an example as the network is used; report the model if that does not help",
            ) from error  # fmt: skip
    model: ir.Model = onnx_program.model
    _register_constants(model.graph)
    _separate_outputs(model.graph, outputs)
    return model


def _register_constants(graph: ir.Graph) -> None:
    """Registers constants that nodes read but the graph lacks: fusing several clamps of one value loses some."""
    inputs = set(graph.inputs)
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is None or value in inputs or value.producer() is not None or value.const_value is None:
                continue
            listed = graph.initializers.get(value.name or "")
            if listed is value or node.graph is not graph:
                continue
            if listed is not None:
                value.name = free_name(graph, value.name or "constant")
            graph.register_initializer(value)


def free_name(graph: ir.Graph, name: str) -> str:
    """Returns ``name`` with the first number behind it that no constant of the graph has."""
    count = 1
    while f"{name}_{count}" in graph.initializers:
        count += 1
    return f"{name}_{count}"


def _separate_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Gives every output a value and a name of its own: a copy where one value is returned twice or is an input."""
    import onnx_ir as ir

    if len(graph.outputs) != len(names):
        raise ExportError(f"the traced network has {len(graph.outputs)} outputs, the simulation {len(names)}")
    seen: set[ir.Value] = set()
    for index, (value, name) in enumerate(zip(list(graph.outputs), names, strict=True)):
        if value in seen or value.is_graph_input() or value.is_initializer():
            copied = ir.Value(name=name, type=value.type, shape=value.shape)
            graph.append(ir.node("Identity", [value], outputs=[copied], name=f"{name}.node"))
            graph.outputs[index] = copied
        else:
            value.name = name
        seen.add(value)


def _unused(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Returns the input names, with ``_in`` behind those an output has too."""
    return [f"{name}_in" if name in taken else name for name in names]


def traceable_example(graph: Graph, example: Batch) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Returns (args, kwargs, dynamic_shapes): varying dimensions have size 2 or more, as tracing wants."""
    flat = graph.flat_inputs(example.args, example.kwargs)
    grown: list[Any] = []
    shapes: list[Any] = []
    for spec, value in zip(graph.inputs, flat, strict=True):
        free = [axis for axis, size in enumerate(spec.shape) if size == -1]
        for axis in free:
            if isinstance(value, Tensor) and value.shape[axis] < 2:
                value = torch.cat([value, value], axis)
        grown.append(value)
        shapes.append(dict.fromkeys(free, torch.export.Dim.AUTO) if free else None)
    args, kwargs = pytree.tree_unflatten(grown, graph.signature.in_spec)
    shape_args, shape_kwargs = pytree.tree_unflatten(shapes, graph.signature.in_spec)
    names = graph.signature.positional
    by_name = {**dict(zip(names, shape_args, strict=True)), **shape_kwargs}
    return tuple(args), dict(kwargs), _by_convention(by_name, shape_args, kwargs)


def _by_convention(by_name: dict[str, Any], shape_args: Sequence[Any], kwargs: Any) -> Any:
    """Returns dynamic shapes as ``torch.export`` reads them: a tuple, or a dict by name once there are keywords."""
    return by_name if kwargs else tuple(shape_args)


def input_names(graph: Graph, example: Batch) -> tuple[str, ...]:
    """Returns a name per input tensor: the user's argument name, with ``_<key>`` for each level it is nested in."""
    arranged = graph.signature.arrange(example.args, example.kwargs)
    names = []
    for path, value in pytree.tree_flatten_with_path(arranged)[0]:
        if isinstance(value, Tensor):
            steps: list[Any] = [getattr(step, "key", getattr(step, "idx", step)) for step in path]
            half, argument, *rest = steps
            first = graph.signature.positional[argument] if half == 0 else argument
            names.append("_".join(map(str, [first, *rest])))
    return tuple(names)


def output_names(output: Any) -> tuple[str, ...]:
    """Returns a name per tensor of a network's output: its dict key, else ``output_<index>``, all different."""
    names: list[str] = []
    paths = pytree.tree_flatten_with_path(output)[0]
    for path, value in paths:
        if not isinstance(value, Tensor):
            continue
        key = getattr(path[-1], "key", getattr(path[-1], "name", None)) if path else None
        name = key if isinstance(key, str) else f"output_{len(names)}"
        while name in names:
            name += "_"
        names.append(name)
    return tuple(names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Yields while torch's and onnxscript's remarks about themselves are not shown."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    try:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _untranslatable(error: BaseException, graph: Graph, module: fx.GraphModule, program: Any) -> ExportError:
    """Returns an ExportError that names the operator, and the user's line when it is known."""
    link: BaseException | None = error
    text = ""
    while link is not None:
        text += f"{link}\n"
        link = link.__cause__
    operator, node = _TORCH_OP.search(text), _NODE.search(text)
    what = operator.group(1) if operator else "an operator"
    where = "" if node is None or program is None else _origin(module, _ancestors(program, node.group(1)))
    return ExportError(
        f"torch has no ONNX translation of {what}", where=where or graph.name,
        fix="replace the operator in the model, or export another part of it",
    )  # fmt: skip


def _ancestors(program: Any, name: str) -> set[str]:
    """Returns the names a node of the decomposed program had in the traces before."""
    with quiet():
        nodes = {node.name: node for node in program.run_decompositions().graph.nodes}
    names, queue = {name}, list(nodes[name].meta.get("from_node") or ()) if name in nodes else []
    while queue:
        source = queue.pop()
        names.add(source.name)
        queue += source.from_node or ()
    return names


def _origin(module: fx.GraphModule, names: set[str]) -> str:
    """Returns the file and line, or the module path, of the first of the named nodes that knows it."""
    for node in module.graph.nodes:
        if node.name in names:
            for origin in node.meta.get("origins") or ():
                if origin.line or origin.module_path:
                    return str(origin.line or origin.module_path)
    return ""
