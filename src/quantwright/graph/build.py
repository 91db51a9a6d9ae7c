"""An exported program -> Graph: the steps of normalisation in order, and the parameters under the user's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from quantwright.errors import CaptureError
from quantwright.graph import normalize, ops
from quantwright.graph.graph import Graph
from quantwright.graph.inputs import InputSpec, Signature
from quantwright.graph.origins import ModuleNames, attach, trace_of, user_line

_KEPT_META = ("origins", "shape", "dtype", "kind")


def build(program: ExportedProgram, name: str, names: ModuleNames, model: nn.Module | None) -> Graph:
    """Returns the graph of an exported program; it owns copies of all parameters.

    Args:
        model: the user's model, for the names of tied parameters; None for an archive.

    Raises:
        CaptureError: the program holds control flow, or changes its own floating-point state.
    """
    module = _functional_module(program)
    attach(module.graph, names)
    notes = _refuse_or_note(module, name)
    signature = _signature(module)
    tensors, aliases, trainable = _tensors(module, model)
    for node in module.graph.nodes:
        _describe(node)
    symbols: dict[str, str] = {}
    inputs = tuple(_input_spec(node, symbols) for node in module.graph.nodes if node.op == "placeholder")
    normalize.remove_noops(module.graph)
    normalize.remove_dead(module.graph)
    before = set(tensors)
    notes += normalize.fold_constants(module.graph, tensors)
    normalize.remove_dead(module.graph)
    trainable |= {n for n in set(tensors) - before if n.endswith((".weight", ".bias"))}
    graph = _renumbered(module.graph)
    for node in graph.nodes:
        node.meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
    result = assemble(graph, {n: v.detach().clone() for n, v in tensors.items()}, trainable, signature)
    for node in result.graph.nodes:
        node.meta["kind"] = ops.kind_of(node)
    paths = tuple(names.types.items())
    return Graph(
        name=name, module=result, inputs=inputs, signature=signature, notes=notes, module_paths=paths, aliases=aliases
    )


def assemble(
    graph: fx.Graph,
    tensors: Mapping[str, Tensor],
    trainable: set[str],
    signature: Signature,
    modules: Mapping[str, nn.Module] | None = None,
) -> fx.GraphModule:
    """Returns a GraphModule of ``graph`` that holds those ``tensors`` it reads and keeps the calling convention.

    Args:
        trainable: names of the tensors that become nn.Parameter; the others become buffers.
        modules: what ``call_module`` nodes call, by path.
    """
    root = nn.Module()
    for path, called in (modules or {}).items():
        owner, leaf = _holder(root, path)
        owner.add_module(leaf, called)
    for name in dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "get_attr" and str(n.target) in tensors):
        owner, leaf = _holder(root, name)
        value = tensors[name]
        if name in trainable and value.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(list(signature.names), signature.in_spec, signature.out_spec)))
    module = fx.GraphModule(root, graph)
    module.graph.lint()
    return module


def _holder(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Returns the module that shall hold ``name``, made as needed, and the last part of the name."""
    owner = root
    *path, leaf = name.split(".")
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner, leaf


def _renumbered(graph: fx.Graph) -> fx.Graph:
    """Returns a copy with inputs first and names that count per operator: ``conv2d``, ``conv2d_1`` ..."""
    fresh = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for source in sorted(graph.nodes, key=lambda n: n.op != "placeholder"):
        args, kwargs = fx.node.map_arg((source.args, source.kwargs), lambda n: copies[n])
        base = ops.op_name(source).strip("_") or None
        if source.op == "placeholder":
            base = source.name
        copies[source] = fresh.create_node(source.op, source.target, args, kwargs, name=base)
        copies[source].meta = source.meta
    return fresh


def _functional_module(program: ExportedProgram) -> fx.GraphModule:
    """Returns the program's module without checks, wrappers and in-place operators.

    Where views of one memory are changed in place, torch's own functionalization rewrites the program.
    """
    module = _plain(program)
    done, state = normalize.functionalize(module.graph)
    if not done:
        module = _plain(program.run_decompositions({}))
        done, state = normalize.functionalize(module.graph)
    module.meta["state"] = state
    if not done:
        raise CaptureError(
            "the model changes a tensor in place through several views of it", fix="write the result to a new tensor"
        )
    return module


def _plain(program: ExportedProgram) -> fx.GraphModule:
    module = program.module()
    assert isinstance(module, fx.GraphModule)  # what torch.export returns
    normalize.remove_checks(module)
    module.meta["wrappers"] = normalize.inline_wrappers(module)
    return module


def _refuse_or_note(module: fx.GraphModule, model: str) -> list[str]:
    """Returns notes about state the model changes; refuses control flow and changed floating-point state."""
    for node in module.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
            raise CaptureError(
                f"the model uses {node.target}, which has graphs of its own", where=user_line(trace_of(node)) or model,
                fix="quantization needs one plain graph: use torch.where for branches, autocast outside the model",
            )  # fmt: skip
    notes = []
    for name in dict.fromkeys(module.meta.get("state", ())):
        value = ops.attribute(module, name)
        if isinstance(value, Tensor) and value.is_floating_point():
            raise CaptureError(
                f"the model changes its own tensor '{name}' while it runs", where=model,
                fix="make the state an input and an output of forward",
            )  # fmt: skip
        notes.append(f"the model counts in '{name}'; the graph leaves it as it was")
    return notes


def _signature(module: fx.GraphModule) -> Signature:
    """Returns the calling convention that torch.export recorded."""
    codegen = module.graph._codegen
    assert isinstance(codegen, _PyTreeCodeGen)  # what torch.export returns
    info = codegen.pytree_info
    assert info.out_spec is not None  # exported programs know their outputs
    positional, keyword = info.in_spec.children()
    count = len(positional.children())
    return Signature(
        positional=tuple(info.orig_args[:count]), keyword=tuple(keyword.context or ()),
        in_spec=info.in_spec, out_spec=info.out_spec,
    )  # fmt: skip


def _tensors(module: fx.GraphModule, model: nn.Module | None) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """Returns the tensors the graph reads by first name, other names -> first name, and the trainable ones."""
    first = _first_names(module if model is None else model)
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    trainable: set[str] = set()
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        given, value = str(node.target), ops.attribute(module, str(node.target))
        if not isinstance(value, Tensor):
            continue
        name = first.get(given, given)
        if name != given:
            aliases[given] = name
            node.target = name
        tensors.setdefault(name, value)
        if isinstance(value, nn.Parameter) and value.requires_grad:
            trainable.add(name)
    return tensors, aliases, trainable


def _first_names(model: nn.Module) -> dict[str, str]:
    """Returns every name of a parameter or buffer -> the first name of the same tensor."""
    seen: dict[Any, str] = {}
    names: dict[str, str] = {}
    for name, value in (
        *model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)
    ):  # fmt: skip
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else id(value)
        names[name] = seen.setdefault(key, name)
    return names


def _describe(node: fx.Node) -> None:
    """Sets ``meta["shape"]`` and ``meta["dtype"]`` of a node whose value is one tensor."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        node.meta["shape"], node.meta["dtype"] = ops.shape_from(value), value.dtype


def _input_spec(node: fx.Node, symbols: dict[str, str]) -> InputSpec:
    """Returns the spec of a placeholder; ``symbols`` numbers the sizes that vary in the order they appear."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return InputSpec(name=str(node.target), constant=value)
    sizes = tuple(
        "" if isinstance(size, int) else symbols.setdefault(str(size), f"n{len(symbols)}") for size in value.shape
    )
    return InputSpec(name=str(node.target), shape=ops.shape_from(value), dtype=value.dtype, symbols=sizes)
