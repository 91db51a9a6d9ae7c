"""The file form of a graph: plain JSON values. Saving needs no pickle; loading looks names up and executes nothing."""

from __future__ import annotations

import dataclasses
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from quantwright.errors import ArtifactError, ExportError
from quantwright.graph import device_ops
from quantwright.graph.build import assemble
from quantwright.graph.graph import Graph
from quantwright.graph.inputs import InputSpec, Signature
from quantwright.plan.facts import Origin

VERSION = 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_OPERATORS: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod",
                 "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")
} | {
    f"torch.{name}": getattr(torch, name)
    for name in ("sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum") if hasattr(torch, name)
}  # fmt: skip
_OPERATOR_NAMES = {function: name for name, function in _OPERATORS.items()}
_REFUSED = frozenset(("from_file", "_print"))  # touch files or the terminal
_TORCH_VALUES: dict[str, type] = {
    "dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format,
}  # fmt: skip


def to_json(graph: Graph) -> dict[str, Any]:
    """Returns the graph, without its tensors (see ``Graph.tensors``), as plain JSON values in a fixed order.

    Raises:
        ExportError: the graph holds something that has no file form; says which node.
    """
    trainable = [n for n, v in graph.tensors().items() if isinstance(v, nn.Parameter) and v.requires_grad]
    signature = graph.signature
    return {
        "version": VERSION,
        "name": graph.name,
        "inputs": [_input_to_json(spec) for spec in graph.inputs],
        "positional": list(signature.positional),
        "keyword": list(signature.keyword),
        "in_spec": _spec_to_text(signature.in_spec),
        "out_spec": _spec_to_text(signature.out_spec),
        "nodes": [_node_to_json(node) for node in graph.module.graph.nodes],
        "trainable": trainable,
        "aliases": dict(sorted(graph.aliases.items())),
        "module_paths": [list(item) for item in graph.module_paths],
        "notes": list(graph.notes),
    }


def from_json(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], *, modules: Mapping[str, nn.Module] | None = None
) -> Graph:
    """Returns the graph that ``to_json`` described.

    Args:
        tensors: the parameters, buffers and constants by name; they become the graph's own.
        modules: what ``call_module`` nodes call, by path (quantizers).

    Raises:
        ArtifactError: another version, an unknown operator, a missing tensor, or anything malformed.
    """
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, Mapping) else type(data).__name__
        raise ArtifactError(f"the graph file has version {found}", allowed=str(VERSION), fix="save the model again")
    try:
        return _build(data, tensors, modules or {})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, NotImplementedError) as error:
        raise ArtifactError(
            f"the graph file is damaged: {type(error).__name__}: {error}", fix="save the model again"
        ) from error


def _build(data: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> Graph:
    signature = Signature(
        positional=tuple(_identifier(name) for name in data["positional"]),
        keyword=tuple(_identifier(name) for name in data["keyword"]),
        in_spec=pytree.treespec_loads(data["in_spec"]),
        out_spec=pytree.treespec_loads(data["out_spec"]),
    )
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for item in data["nodes"]:
        name = _identifier(item["name"])
        nodes[name] = _node_from_json(graph, item, nodes, tensors, modules)
        if nodes[name].name != name:
            raise ValueError(f"node name '{name}' appears twice or is reserved")
    owned = {name: value.detach().clone() for name, value in tensors.items()}
    module = assemble(graph, owned, set(data["trainable"]), signature, modules)
    return Graph(
        name=str(data["name"]), module=module, inputs=[_input_from_json(item) for item in data["inputs"]],
        signature=signature, notes=[str(note) for note in data["notes"]],
        module_paths=[(str(path), str(kind)) for path, kind in data["module_paths"]],
        aliases={str(key): str(value) for key, value in data["aliases"].items()},
    )  # fmt: skip


def _node_to_json(node: fx.Node) -> dict[str, Any]:
    item: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.op == "call_function":
        item["target"] = _function_name(node)
    elif node.op != "output":
        item["target"] = str(node.target)
    if node.args:
        item["args"] = [_value_to_json(value, node) for value in node.args]
    if node.kwargs:
        item["kwargs"] = {key: _value_to_json(value, node) for key, value in sorted(node.kwargs.items())}
    for key in ("kind", "shape"):
        if key in node.meta:
            item[key] = list(node.meta[key]) if key == "shape" else node.meta[key]
    if "dtype" in node.meta:
        item["dtype"] = _short(node.meta["dtype"])
    if node.meta.get("origins"):
        item["origins"] = [_origin_to_json(origin) for origin in node.meta["origins"]]
    return item


def _node_from_json(
    graph: fx.Graph,
    item: Mapping[str, Any],
    nodes: Mapping[str, fx.Node],
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> fx.Node:
    op = item["op"]
    args = tuple(_value_from_json(value, nodes) for value in item.get("args", ()))
    kwargs = {_identifier(key): _value_from_json(value, nodes) for key, value in item.get("kwargs", {}).items()}
    target: Any = "output"
    if op == "call_function":
        target = _function(item["target"])
    elif op == "placeholder":
        target = _identifier(item["target"])
    elif op in ("get_attr", "call_module"):
        target, known = str(item["target"]), tensors if op == "get_attr" else modules
        if target not in known or not _ATTRIBUTE.fullmatch(target):
            raise ArtifactError(f"node '{item['name']}' reads '{target}', which is not there", fix="save it again")
    elif op != "output":
        raise ValueError(f"unknown kind of node '{op}'")
    node = graph.create_node(op, target, args, kwargs, name=item["name"])
    node.meta["kind"] = str(item.get("kind", "other"))
    if "dtype" in item:
        node.meta["shape"] = tuple(int(size) for size in item["shape"])
        node.meta["dtype"] = _torch_value("dtype", item["dtype"])
    if "origins" in item:
        node.meta["origins"] = tuple(_origin_from_json(origin) for origin in item["origins"])
    return node


def _function_name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace in ("aten", device_ops.NAMESPACE):
        return str(target)
    if target in _OPERATOR_NAMES:
        return _OPERATOR_NAMES[target]  # type: ignore[index]
    raise ExportError(
        f"node '{node.name}' calls {target}, which has no file form", allowed="ATen operators and arithmetic on sizes",
        fix="control flow and custom operators cannot be saved: write this part with torch functions",
    )  # fmt: skip


def _function(name: str) -> Callable[..., Any]:
    """Returns the function a file names; nothing but ATen operators, our own, and arithmetic on sizes."""
    if name in _OPERATORS:
        return _OPERATORS[name]
    parts = str(name).split(".")
    if len(parts) == 3 and parts[0] == device_ops.NAMESPACE and parts[1] in device_ops.OPERATORS:
        return device_ops.OPERATORS[parts[1]]
    packet = getattr(torch.ops.aten, parts[1], None) if len(parts) == 3 and parts[0] == "aten" else None
    overload = getattr(packet, parts[2], None) if packet is not None and parts[1] not in _REFUSED else None
    if not isinstance(overload, torch._ops.OpOverload):
        raise ArtifactError(f"unknown operator '{name}'", allowed="ATen operators", fix="update torch, or save again")
    return overload


def _value_to_json(value: Any, node: fx.Node) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        items = [_value_to_json(item, node) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, slice):
        return {"slice": [_value_to_json(item, node) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for key, kind in _TORCH_VALUES.items():
        if isinstance(value, kind):
            return {key: _short(value)}
    raise ExportError(f"node '{node.name}' has an argument of type {type(value).__name__}, which has no file form")


def _value_from_json(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_value_from_json(item, nodes) for item in value]
    if not isinstance(value, Mapping):
        return value
    (key, inner), *rest = value.items()
    if rest:
        raise ValueError(f"unknown value {dict(value)}")
    if key == "node":
        return nodes[inner]
    if key == "float":
        return float(inner)
    if key == "tuple":
        return tuple(_value_from_json(item, nodes) for item in inner)
    if key == "slice":
        return slice(*(_value_from_json(item, nodes) for item in inner))
    if key == "device":
        return torch.device(inner)
    return _torch_value(key, inner)


def _torch_value(key: str, name: str) -> Any:
    value = getattr(torch, str(name), None)
    if key not in _TORCH_VALUES or not isinstance(value, _TORCH_VALUES[key]):
        raise ValueError(f"unknown {key} '{name}'")
    return value


def _input_to_json(spec: InputSpec) -> dict[str, Any]:
    if spec.dtype is None:
        if not (spec.constant is None or isinstance(spec.constant, (bool, int, float, str))):
            raise ExportError(f"input '{spec.name}' is a {type(spec.constant).__name__}, which has no file form")
        return {"name": spec.name, "constant": spec.constant}
    return {
        "name": spec.name, "shape": list(spec.shape), "dtype": _short(spec.dtype), "symbols": list(spec.symbols),
    }  # fmt: skip


def _input_from_json(item: Mapping[str, Any]) -> InputSpec:
    name = _identifier(item["name"])
    if "dtype" not in item:
        return InputSpec(name=name, constant=item["constant"])
    return InputSpec(
        name=name, shape=tuple(int(size) for size in item["shape"]), dtype=_torch_value("dtype", item["dtype"]),
        symbols=tuple(str(symbol) for symbol in item["symbols"]),
    )  # fmt: skip


def _origin_to_json(origin: Origin) -> dict[str, Any]:
    """Returns the fields that are set."""
    return {key: value for key, value in dataclasses.asdict(origin).items() if value}


def _origin_from_json(item: Mapping[str, Any]) -> Origin:
    plain = {"module_path": "", "module_type": "", "function": "", **item}
    plain["parents"] = tuple((str(path), str(kind)) for path, kind in item.get("parents", ()))
    plain["aliases"] = tuple(str(name) for name in item.get("aliases", ()))
    return Origin(**plain)


def _spec_to_text(spec: pytree.TreeSpec) -> str:
    try:
        return str(pytree.treespec_dumps(spec))
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ExportError(
            f"the nesting of inputs or outputs has no file form: {error}", fix="use tuples, lists and dicts"
        ) from error


def _identifier(name: Any) -> str:
    """Returns a name that may stand in generated code."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"'{name}' is no name")
    return name


def _short(value: Any) -> str:
    return str(value).removeprefix("torch.")
