"""capture="modules": a user's model, kept as it is -> facts about its modules, and where quantizers can be put.

For models that torch.export refuses. The example is run once and written down (``recorder``). A module without modules
inside that is one known operation is a node like any other and can get quantizers at its weight, inputs and output.
Functions called in a ``forward`` are nodes of kind ``unseen``: nothing can be put behind them, so their values are
quantized where a module reads them. Functions that only move data are looked through.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.fx.graph import _Namespace, _snake_case

from quantwright.config import kinds
from quantwright.data import Batch
from quantwright.errors import CaptureError, DataError
from quantwright.graph import calls, failure
from quantwright.graph.capture import copied, evaluating, unwrap
from quantwright.graph.origins import ModuleNames
from quantwright.graph.recorder import Event, Recorder, Value
from quantwright.plan.facts import ModelFacts, NodeFacts, Origin, ParamFacts

_SHOWN = 8  # functions and modules named in a note


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Returns a module that can get quantizers.

    Attributes:
        path: the module.
        node: its node in the facts; the value of the node is what the module returns.
        reads: nodes of the values it is given, one per float tensor in argument order.
        parameters: attribute of the module -> name of the parameter, for those it computes with.
        passes_on: whether its output is on the grid of its first input.
    """

    path: str
    node: str
    reads: tuple[str, ...]
    parameters: Mapping[str, str]
    passes_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Returns a copy of the user's model and what is known about it."""

    model: nn.Module
    facts: ModelFacts
    sites: tuple[Site, ...]
    input_names: tuple[str, ...]
    notes: tuple[str, ...]


def capture_modules(model: nn.Module, example: Batch, *, device: str | None = None) -> Modules:
    """Returns a copy of ``model``, of its own class, with the facts of one run on ``example``; ``model`` is unchanged.

    Raises:
        CaptureError: the model cannot be copied or fails on the example.
    """
    notes: list[str] = []
    own = _copy(unwrap(model, notes))
    if device is not None:
        own = own.to(device)
    place = next((tensor.device for tensor in own.parameters()), None)
    example = example if place is None else example.to(place)
    recorder = Recorder(own)
    try:
        with evaluating(own):
            args, kwargs = copied(example)
            names = _bind(own, args, kwargs)
            recorder.inputs(names)
            with recorder:
                result = own(*args, **kwargs)
            recorder.outputs(result)
    except DataError:
        raise
    except Exception as error:
        raise CaptureError(
            f"the model fails on the example: {failure.one_line(error)}", where=failure.user_place(error),
            fix="give an example that model(...) accepts",
        ) from error  # fmt: skip
    finally:
        recorder.close()
    built = _Builder(own, recorder, example.size)
    built.build()
    if not built.sites:
        raise CaptureError(
            f"no module of {type(own).__name__} is an operation that can be quantized",
            fix="capture='modules' sees modules such as torch.nn.Linear, no functions: use capture='graph'",
        )
    facts = ModelFacts(
        name=type(own).__name__, nodes=tuple(built.nodes.values()), inputs=tuple(built.inputs),
        outputs=tuple(dict.fromkeys(built.nodes["output"].inputs)), module_paths=tuple(built.names.types.items()),
    )  # fmt: skip
    return Modules(
        model=own.eval(), facts=facts, sites=tuple(built.sites), input_names=tuple(names),
        notes=(*notes, *built.notes()),
    )  # fmt: skip


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise CaptureError(
            f"the model cannot be copied: {failure.one_line(error)}", where=type(model).__name__,
            fix="the user's model is never changed, so copy.deepcopy(model) must work: keep no computed tensors in it",
        ) from error  # fmt: skip


def _bind(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the inputs by the names of ``forward``'s parameters.

    Raises:
        DataError: ``forward`` takes no such arguments.
    """
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise DataError(f"the example does not fit forward: {error}", where=type(model).__name__) from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}_{index}": item for index, item in enumerate(value)})
        else:
            named[name] = value
    return named


@dataclass(slots=True)
class _Builder:
    """Returns nodes and sites for the events of one run; call ``build``.

    A module with parameters that is called several times is one node, with one input over all its calls: which call is
    which may depend on the data. A module without parameters that is called several times is a function.
    """

    model: nn.Module
    recorder: Recorder
    batch: int
    names: ModuleNames = field(init=False)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    _parameters: dict[int, str] = field(default_factory=dict)
    _calls: dict[str, list[int]] = field(default_factory=dict)  # module path -> its events
    _of_value: dict[Value, str] = field(default_factory=dict)
    _unreached: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=lambda: {"output"})

    def __post_init__(self) -> None:
        self.names = ModuleNames.of(self.model)
        self._parameters = {id(value): name for name, value in self.model.named_parameters()}
        for index, event in enumerate(self.recorder.events):
            if event.path is not None:
                self._calls.setdefault(event.path, []).append(index)

    def build(self) -> None:
        """Makes nodes and sites; every event has a name before the first node is made: values may go in circles."""
        owners = [self._owner(index) for index in range(len(self.recorder.events))]
        called = {index: self._names(self.recorder.events[index]) for index in sorted(set(owners))}
        for index, owner in enumerate(owners):
            floats = _float_slots(self.recorder.events[index])
            for position, slot in enumerate(floats):
                self._of_value[index, slot] = called[owner][min(position, len(called[owner]) - 1)]
        for index, names in called.items():
            self._add(index, names)
        self._not_reached()
        self._node("output", kinds.OUTPUT, reads=tuple(self._of_value[v] for v in self._returned()), is_float=False)
        self._connect()

    def notes(self) -> list[str]:
        """Returns what capture did not see or could not tell apart, in sentences."""
        found = Counter(
            node.origins[0].function for node in self.nodes.values() if node.kind == kinds.UNSEEN and node.is_float
        )
        notes = []
        if found:
            told = ", ".join(f"{name} ({count})" for name, count in found.most_common(_SHOWN))
            more = " ..." if len(found) > _SHOWN else ""
            notes.append(f"capture='modules' puts no quantizer behind functions and compound modules: {told}{more}")
        for path, events in self._calls.items():
            if len(events) > 1 and any(site.path == path for site in self.sites):
                notes.append(f"'{path}' is called {len(events)} times: one range for all that it reads and returns")
        if self._unreached:
            told = ", ".join(self._unreached[:_SHOWN]) + (" ..." if len(self._unreached) > _SHOWN else "")
            notes.append(f"the example did not reach {told}: their parameters stay float")
        return notes

    # -- names ----------------------------------------------------------------------------------------------------
    def _owner(self, index: int) -> int:
        """Returns the event that stands for this one: the first call of a module with parameters."""
        path = self.recorder.events[index].path
        return self._calls[path][0] if path is not None and self._has_parameters(path) else index

    def _has_parameters(self, path: str) -> bool:
        return any(value is not None for value in self.model.get_submodule(path)._parameters.values())

    def _names(self, event: Event) -> list[str]:
        """Returns the names of the nodes of an event: one, or one per float tensor it returned."""
        base = event.path or (type(self.model).__name__ if event.path == "" else event.function)
        if event.kind == kinds.INPUT:
            name = str(_Namespace().create_name(base, None))  # as the graph calls it: no builtin, "input" is "input_1"
            self._taken.add(name)
            return [name]
        floats = len(_float_slots(event))
        name = self._unique(base)
        return [name] if floats < 2 else [self._unique(f"{name}_{number}") for number in range(floats)]

    def _unique(self, text: str) -> str:
        """Returns ``text`` as a name of torch.fx's, with a number when it is taken."""
        base = _snake_case(text.replace(".", "_"))
        base = f"_{base}" if base[:1].isdigit() else base
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def _returned(self) -> list[Value]:
        return [value for value in self.recorder.returned if value in self._of_value]

    # -- nodes ----------------------------------------------------------------------------------------------------
    def _add(self, index: int, names: list[str]) -> None:
        """Adds the nodes of an event, and the site of a module."""
        event, name, many = self.recorder.events[index], names[0], len(names) > 1
        again = event.path is not None and len(self._calls[event.path]) > 1
        functional = event.path is None or (again and not self._has_parameters(event.path))
        floats = [event.outputs[slot] for slot in _float_slots(event)]
        reads = self._read_by(event, name) if again and not functional else self._reads(event, name)
        kind = _kind(event, functional, reads)
        if not functional and kind != kinds.UNSEEN and len(floats) == 1:
            self.sites.append(self._site(event, name, reads))
        weight, bias = self._weight_and_bias(event, kind)
        for own, tensor in zip(names, floats or event.outputs[:1], strict=True):
            self._node(
                own, kinds.UNSEEN if many and kind not in kinds.MOVEMENT and kind != kinds.INPUT else kind,
                reads=reads, event=event, shape=self._shape(tensor), is_float=bool(floats),
                weight=weight, bias=bias, keeps_grid=event.keeps_grid and not many,
            )  # fmt: skip
        if kind == kinds.INPUT:
            self.inputs.append(name)

    def _reads(self, event: Event, name: str) -> tuple[str, ...]:
        """Returns the nodes of the values an event reads; one for all that no recorded call made."""
        constant = f"{name}_constant"
        if None in event.reads and constant not in self.nodes:
            self._node(constant, kinds.UNSEEN, function="a tensor kept by the model")
        return tuple(constant if value is None else self._of_value[value] for value in event.reads)

    def _read_by(self, event: Event, name: str) -> tuple[str, ...]:
        """Returns the values a module reads in all its calls: where they differ, one node that stands for all."""
        every = [self._reads(self.recorder.events[index], name) for index in self._calls[event.path or ""]]
        found: list[str] = []
        for position in range(max(len(reads) for reads in every)):
            values = tuple(dict.fromkeys(reads[position] for reads in every if position < len(reads)))
            if len(values) > 1:
                joint = self._unique(f"{name}_input")
                self._node(joint, kinds.UNSEEN, reads=values, function=f"what '{event.path}' reads in several calls")
                values = (joint,)
            found.extend(values)
        return tuple(found)

    def _site(self, event: Event, name: str, reads: tuple[str, ...]) -> Site:
        path = event.path or ""
        own = self.model.get_submodule(path)._parameters
        given = {id(value) for value in event.parameters}
        return Site(
            path=path, node=name, reads=reads, passes_on=event.keeps_grid,
            parameters={key: self._parameters[id(v)] for key, v in own.items() if v is not None and id(v) in given},
        )  # fmt: skip

    def _weight_and_bias(self, event: Event, kind: str) -> tuple[ParamFacts | None, ParamFacts | None]:
        """Returns the parameters an event computes with: of several, the one with most axes is the weight."""
        known = [value for value in event.parameters if id(value) in self._parameters]
        if not known or (kind == kinds.UNSEEN and max(value.ndim for value in known) < 2):
            return None, None
        weight = max(known, key=lambda value: value.ndim)
        if event.path is not None:
            own = self.model.get_submodule(event.path)._parameters
            named = own.get("weight")
            weight = named if named is not None and any(named is value for value in known) else weight
        bias = next((value for value in known if value is not weight and value.ndim == 1), None)
        facts = calls.parameter_facts(self._parameters[id(weight)], kind, event.function, weight, event.groups)
        if bias is None or kind == kinds.UNSEEN:
            return facts, None
        return facts, ParamFacts(name=self._parameters[id(bias)], shape=tuple(bias.shape))

    def _not_reached(self) -> None:
        """Adds a node without value for every module with a matrix as parameter that the example did not call."""
        for path, module in self.model.named_modules():
            matrices = [v for v in module.parameters(recurse=False) if v.ndim > 1]
            if path in self._calls or not matrices or next(module.children(), None) is not None:
                continue
            self._unreached.append(path)
            event = Event(kind=kinds.UNSEEN, function="what the example does not reach", path=path)
            weight = ParamFacts(name=self._parameters[id(matrices[0])], shape=tuple(matrices[0].shape))
            name = self._unique(path)
            self._node(name, kinds.UNSEEN, event=event, is_float=False, weight=weight)

    def _node(
        self, name: str, kind: str, *, reads: tuple[str, ...] = (), event: Event | None = None, function: str = "",
        **facts: Any,
    ) -> None:  # fmt: skip
        origin = Origin(module_path="", module_type="", function=function or name)
        if event is not None:
            origin = self._origin(event, name, kind)
        self.nodes[name] = NodeFacts(name=name, kind=kind, origins=(origin,), inputs=reads, **facts)

    def _origin(self, event: Event, name: str, kind: str) -> Origin:
        path = event.path or ""
        return Origin(
            module_path=path, module_type=self.names.types[path] if event.path is not None else "",
            function="input" if kind == kinds.INPUT else event.function, fx_name=name, line=event.line,
            parents=tuple((parent, self.names.types[parent]) for parent in event.parents),
            aliases=self.names.aliases.get(path, ()) if path else (),
        )  # fmt: skip

    def _shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(-1 if axis == 0 and size == self.batch else size for axis, size in enumerate(tensor.shape))

    def _connect(self) -> None:
        """Fills in the users of every node."""
        users: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for source in dict.fromkeys(node.inputs):
                users[source].append(node.name)
        for name, found in users.items():
            self.nodes[name] = replace(self.nodes[name], users=tuple(found))


def _float_slots(event: Event) -> list[int]:
    return [slot for slot, tensor in enumerate(event.outputs) if tensor.is_floating_point()]


def _kind(event: Event, functional: bool, reads: tuple[str, ...]) -> str:
    """Returns what the plan may know of an event: of functions, only those that move data or hand on constants."""
    if event.kind == kinds.INPUT:
        return kinds.INPUT
    if event.kind in kinds.MOVEMENT and reads:
        return event.kind
    if functional:
        if event.keeps_grid and reads:
            return "identity"
        return kinds.UNSEEN if reads else kinds.CONSTANT
    if event.kind == kinds.OTHER:
        hand_written_norm = "norm" in event.function.lower()
        return "norm_part" if hand_written_norm else kinds.UNSEEN
    return event.kind
