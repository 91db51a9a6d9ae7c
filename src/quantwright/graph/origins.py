"""Origins: where every node came from in the user's code, and what torch.fx would have called it."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import _Namespace, _snake_case

from quantwright.graph import ops
from quantwright.plan.facts import Origin

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent) + os.sep
_LIBRARIES = tuple({sysconfig.get_paths()[key] + os.sep for key in ("stdlib", "purelib", "platlib")})
_OPERATORS = {  # what a Python operator is called in torch -> in torch.fx
    "div": "truediv", "floor_divide": "floordiv", "rsub": "sub", "radd": "add", "rmul": "mul", "rdiv": "truediv",
    "rtruediv": "truediv", "rpow": "pow", "rmatmul": "matmul", "iadd": "add", "isub": "sub", "imul": "mul",
    "idiv": "truediv", "itruediv": "truediv", "rfloordiv": "floordiv", "ipow": "pow", "rmod": "mod", "remainder": "mod",
    "bitwise_not": "invert", "bitwise_and": "and_", "bitwise_or": "or_",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleNames:
    """Returns the module tree of the user's model: every path with its type, tied modules as one identity.

    Attributes:
        types: path -> type, in the order of ``named_modules``, tied ones under every path.
        first: path -> the first path of the same module.
        aliases: first path -> its other paths.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> ModuleNames:
        """Returns the names of all modules of ``model``."""
        types: dict[str, str] = {}
        first: dict[str, str] = {}
        others: dict[str, list[str]] = {}
        seen: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            types[path] = f"{type(module).__module__}.{type(module).__qualname__}"
            first[path] = seen.setdefault(id(module), path)
            if first[path] != path:
                others.setdefault(first[path], []).append(path)
        return cls(types=types, first=first, aliases={path: tuple(names) for path, names in others.items()})

    @classmethod
    def from_stacks(cls, graph: fx.Graph) -> ModuleNames:
        """Returns the modules that appear in the nodes' module stacks, for an archive that has no model."""
        types = {path: kind for node in graph.nodes for _, path, kind in module_stack(node)}
        return cls(types=types, first={path: path for path in types})

    def parents(self) -> frozenset[str]:
        """Returns the paths of the modules that have modules inside."""
        inner = {path.rpartition(".")[0] for path in self.types if path}
        return frozenset(inner)


def module_stack(node: fx.Node) -> list[tuple[str, str, str]]:
    """Returns (key of the call, path, type) of every module call ``node`` was made in, outermost first."""
    found = []
    for key, (path, kind) in (node.meta.get("nn_module_stack") or {}).items():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        if not path.startswith("_empty_nn_module_stack"):
            found.append((str(key), path, name))
    return found


def attach(graph: fx.Graph, names: ModuleNames) -> None:
    """Sets ``meta["origins"]`` of every operator of a freshly exported graph."""
    fx_names = _FxNames(graph)
    parents = names.parents()
    for node in graph.nodes:
        if node.op == "placeholder":
            node.meta["origins"] = (Origin(module_path="", module_type="", function="input", fx_name=node.name),)
        elif node.op == "call_function":
            node.meta["origins"] = (_origin(node, names, parents, fx_names.name(node, names)),)


def _origin(node: fx.Node, names: ModuleNames, parents: frozenset[str], fx_name: str) -> Origin:
    """Returns the origin of one node.

    The module whose call made the node is the innermost one when torch defines it (and it is no container) or when it
    has no modules inside; otherwise the node is a function written in that module's ``forward``, and its path is "".
    """
    stack = [(names.first.get(path, path), kind) for _, path, kind in module_stack(node)]
    path, kind = "", ""
    if stack and stack[-1][0] and (is_torch_layer(stack[-1][1]) or stack[-1][0] not in parents):
        path, kind = stack.pop()
    return Origin(
        module_path=path, module_type=kind, function=function_name(node),
        aten=ops.aten_name(ops.source_of(node)), fx_name=fx_name,
        parents=tuple(stack), aliases=names.aliases.get(path, ()), line=user_line(node.meta.get("stack_trace") or ""),
    )  # fmt: skip


def is_torch_layer(kind: str) -> bool:
    """Returns whether a module type is one of torch's own layers, which torch.fx does not look into."""
    return kind.startswith(("torch.nn", "torch.ao.nn")) and not kind.startswith("torch.nn.modules.container.")


def function_name(node: fx.Node) -> str:
    """Returns the torch function or method the user called, without a trailing or surrounding underscore."""
    _, _, called = str((node.meta.get("torch_fn") or ("", ""))[1]).partition(".")
    name = called.rpartition(".")[2] if called else ""
    if not name or str((node.meta.get("torch_fn") or ("", ""))[1]).startswith("OpOverload"):
        name = ops.op_name(node) or getattr(node.target, "__name__", "")
    return name.strip("_") or name


def user_line(stack_trace: str) -> str:
    """Returns ``file.py:12`` for the innermost line of a stack trace that is not inside torch, "" if there is none."""
    frames = [(file, line) for file, line in _FRAME.findall(stack_trace) if not in_torch(file)]
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]
    chosen = (own or frames)[-1:]
    return f"{Path(chosen[0][0]).name}:{chosen[0][1]}" if chosen else ""


def in_torch(file: str) -> bool:
    """Returns whether a source file belongs to torch (or to the import machinery)."""
    return file.startswith((_TORCH, "torch/", "torch\\", "<"))


def in_library(file: str) -> bool:
    """Returns whether a source file belongs to the standard library or an installed package."""
    return file.startswith(_LIBRARIES)


class _FxNames:
    """Returns names as ``torch.fx.symbolic_trace`` numbers them: one per call of a torch layer or a function.

    Export does not record whether ``x *= 2`` or ``x.mul_(2)`` was written; the operator is assumed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._namespace = _Namespace()
        self._calls: dict[str, str] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._create(str(node.target))

    def name(self, node: fx.Node, names: ModuleNames) -> str:
        stack = module_stack(node)
        layer = next(((key, path) for key, path, kind in stack if path and is_torch_layer(kind)), None)
        if layer is not None:
            return self._once(f"module {layer[0]}", names.first.get(layer[1], layer[1]))
        call, target = node.meta.get("torch_fn") or ("", "")
        if not call or str(target).startswith("OpOverload"):
            return ""
        return self._once(f"function {call} {target}", _fx_function(str(target)))

    def _once(self, call: str, base: str) -> str:
        if call not in self._calls:
            self._calls[call] = self._create(_snake_case(base))
        return self._calls[call]

    def _create(self, base: str) -> str:
        return str(self._namespace.create_name(base, None))


def _fx_function(target: str) -> str:
    """Returns torch.fx's name for ``method_descriptor.div`` and the like: that of the Python operator, if it is one."""
    owner, _, name = target.partition(".")
    plain = name.strip("_") if name.startswith("__") else name
    written_as_operator = name.startswith("__") or owner in ("method_descriptor", "wrapper_descriptor")
    if owner == "method_descriptor" and name.endswith("_") and name[:-1] in ("add", "sub", "mul", "div"):
        plain = f"i{name[:-1]}"
    return _OPERATORS.get(plain, plain) if written_as_operator else plain


def trace_of(node: Any) -> str:
    """Returns the stack trace of a node, "" when it has none."""
    return str(node.meta.get("stack_trace") or "")
