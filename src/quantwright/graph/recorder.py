"""Recorder: one run of the user's model, written down: which modules and functions were called, on whose values.

No code of the user's is read or rewritten: hooks see modules, a ``TorchFunctionMode`` sees functions, and a value is
known by the tensor object that carries it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from quantwright.config import kinds
from quantwright.graph import calls
from quantwright.graph.origins import in_library, in_torch

Value = tuple[int, int]
"""(event, which of the tensors it returned)."""

_OURS = str(Path(__file__).parents[1]) + os.sep
_TRANSPARENT = (*kinds.MOVEMENT, "pad")  # beside one operation: what a layer does to get its input into shape


@dataclass(slots=True, kw_only=True)
class Step:
    """Returns one function called inside a module that has no modules inside."""

    name: str
    kind: str
    parameters: tuple[nn.Parameter, ...]
    groups: int
    keeps_grid: bool


@dataclass(slots=True, kw_only=True)
class Event:
    """Returns one call: of a function, or of a module without modules inside (``path``); or an input of the network.

    Attributes:
        reads: the float values it read, in argument order; None for tensors that nothing recorded made.
        outputs: the tensors it returned; held, so that no other tensor gets their identity.
        parents: paths of the modules around it, outermost first.
        parameters: the parameters it was given.
    """

    kind: str
    function: str
    path: str | None = None
    reads: list[Value | None] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    parents: tuple[str, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()
    line: str = ""
    keeps_grid: bool = False
    groups: int = 1
    steps: list[Step] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Returns the events of what runs while it is entered.

    Attributes:
        events: in the order they ended.
        returned: the values the network returned.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.returned: list[Value] = []
        self._values: dict[int, Value] = {}
        self._around: list[str] = []
        self._leaf: Event | None = None
        self._handles: list[Any] = []
        for path, module in model.named_modules():
            inner = next(module.children(), None) is not None
            begin, end = (self._enter, self._leave) if inner else (self._begin, self._end)
            self._handles.append(module.register_forward_pre_hook(_bound(begin, path), with_kwargs=True))
            self._handles.append(module.register_forward_hook(_bound(end, path), with_kwargs=True, always_call=True))

    def close(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def inputs(self, named: Mapping[str, Any]) -> None:
        """Writes down the inputs of the network."""
        for name, value in named.items():
            for keys, leaf in pytree.tree_flatten_with_path(value)[0]:
                if isinstance(leaf, Tensor):
                    nested = "".join(f"_{_key(key)}" for key in keys)
                    self._add(Event(kind=kinds.INPUT, function=f"{name}{nested}"), [leaf])

    def outputs(self, result: Any) -> None:
        """Writes down what the network returned."""
        found = (self._values.get(id(tensor)) for tensor in _tensors(result))
        self.returned = [value for value in found if value is not None]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Returns what ``func`` returns, after writing the call down."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = calls.plain_name(func)
        made = _tensors(args[0] if name == "setitem" else result)
        if made:
            self._function(name, args, kwargs, made)
        return result

    def _function(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], made: list[Tensor]) -> None:
        kind = calls.kind_of(name, args, kwargs)
        given = _tensors((args, kwargs))
        parameters = tuple(tensor for tensor in given if isinstance(tensor, nn.Parameter))
        same, groups = calls.keeps_grid(kind, name, args, kwargs), calls.groups_of(name, args, kwargs)
        if self._leaf is not None:
            if any(tensor.is_floating_point() for tensor in made):
                step = Step(name=name, kind=kind, parameters=parameters, groups=groups, keeps_grid=same)
                self._leaf.steps.append(step)
            return
        reads = [self._values[id(t)] for t in given if t.is_floating_point() and id(t) in self._values]
        if reads or any(tensor.is_floating_point() for tensor in made):
            event = Event(kind=kind, function=name, parents=tuple(self._around), parameters=parameters, line=_line())
            event.reads, event.keeps_grid, event.groups = [*reads], same, groups
            self._add(event, made)

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._around.append(path)

    def _leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self._around.pop()

    def _begin(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        event = Event(kind=kinds.OTHER, function=type(module).__name__, path=path, parents=tuple(self._around))
        event.reads = [self._values.get(id(t)) for t in _tensors((args, kwargs)) if t.is_floating_point()]
        self._leaf = event

    def _end(self, path: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        event, self._leaf = self._leaf, None
        made = _tensors(result)
        if event is None or not made:
            return
        _settle(event, module)
        self._add(event, made)

    def _add(self, event: Event, made: list[Tensor]) -> None:
        event.outputs = made
        self.events.append(event)
        for slot, tensor in enumerate(made):
            self._values[id(tensor)] = (len(self.events) - 1, slot)


def _settle(event: Event, module: nn.Module) -> None:
    """Gives the event of a module the kind of the one operation it is, if it is one."""
    chief = [step for step in event.steps if step.kind not in _TRANSPARENT]
    chief = chief or [step for step in event.steps if step.kind == "pad"]
    if not event.steps:
        event.kind, event.function, event.keeps_grid = "identity", "identity", True
    elif not chief:  # data movement only
        event.kind, event.function, event.keeps_grid = event.steps[-1].kind, event.steps[-1].name, True
    elif len(chief) == 1:
        event.kind, event.function, event.parameters = chief[0].kind, chief[0].name, chief[0].parameters
        event.groups, event.keeps_grid = chief[0].groups, chief[0].keeps_grid
    else:
        event.parameters = tuple(module.parameters(recurse=False))


def _bound(method: Any, path: str) -> Any:
    """Returns a hook that knows the path of its module."""
    return lambda *args: method(path, *args)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(key: Any) -> str:
    """Returns the name or number in a pytree key."""
    inner = next((getattr(key, word) for word in ("key", "idx", "name") if hasattr(key, word)), key)
    return "".join(letter if str(letter).isalnum() else "_" for letter in str(inner))


def _line() -> str:
    """Returns ``file.py:12`` of the innermost frame that belongs neither to torch nor to us, the user's own first."""
    library = ""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not in_torch(file) and not file.startswith(_OURS):
            place = f"{Path(file).name}:{frame.f_lineno}"
            if not in_library(file):
                return place
            library = library or place
        frame = frame.f_back
    return library
