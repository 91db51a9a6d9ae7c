"""Graph: a captured network. ATen operators, the user's parameter names, the user's calling convention."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from quantwright.errors import CaptureError, QuantwrightError
from quantwright.graph import ops
from quantwright.graph.describe import describe
from quantwright.graph.inputs import InputSpec, Signature, validate
from quantwright.plan.facts import ModelFacts

Tap = Callable[[Tensor], "Tensor | None"]
"""Called with the value of a node; what it returns, if anything, replaces the value."""


class Graph:
    """Returns a captured network that can be called, inspected and edited.

    Attributes:
        name: class name of the user's model.
        module: the network; nodes are ATen operators, ``get_attr`` nodes read parameters by the user's dotted names.
        inputs: one InputSpec per placeholder.
        signature: how the user's ``forward`` is called.
        notes: what capture had to do or could not keep, in sentences.
        module_paths: every (path, type) of the user's model.
        aliases: other names of a parameter -> the name it has here.
    """

    def __init__(
        self,
        *,
        name: str,
        module: fx.GraphModule,
        inputs: Sequence[InputSpec],
        signature: Signature,
        notes: Iterable[str] = (),
        module_paths: Iterable[tuple[str, str]] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.module = module
        self.inputs = tuple(inputs)
        self.signature = signature
        self.notes = list(notes)
        self.module_paths = tuple(module_paths)
        self.aliases = dict(aliases or {})

    def __repr__(self) -> str:
        return f"Graph({self.name}, {len(self.module.graph.nodes)} nodes, inputs {', '.join(self.input_names)})"

    # -- looking ------------------------------------------------------------------------------------------------
    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the argument names of the user's ``forward`` that the network takes."""
        return self.signature.names

    @property
    def device(self) -> torch.device:
        """Returns where the parameters are (the CPU when there are none)."""
        return self._place() or torch.device("cpu")

    def _place(self) -> torch.device | None:
        first = next(itertools.chain(self.module.parameters(), self.module.buffers()), None)
        return None if first is None else first.device

    def facts(self) -> ModelFacts:
        """Returns names, kinds and shapes of the network as it is now, without tensors."""
        return describe(self.module, self.name, self.module_paths)

    def node(self, name: str) -> fx.Node:
        """Returns the node called ``name``.

        Raises:
            QuantwrightError: there is none.
        """
        node: fx.Node
        for node in self.module.graph.nodes:
            if node.name == name:
                return node
        raise QuantwrightError(f"the graph of {self.name} has no node '{name}'", fix="see graph.facts() for the names")

    # -- parameters ---------------------------------------------------------------------------------------------
    def attribute(self, name: str) -> Any:
        """Returns the parameter, buffer or constant a ``get_attr`` node names."""
        owner: Any = self.module
        for part in self.aliases.get(name, name).split("."):
            if not hasattr(owner, part):
                raise QuantwrightError(f"{self.name} has no parameter '{name}'", fix="graph.tensors() has the names")
            owner = getattr(owner, part)
        return owner

    def parameter(self, name: str) -> Tensor:
        """Returns the parameter or buffer ``name`` (as in the user's state_dict; other names of tied ones work too)."""
        value: Tensor = self.attribute(name)
        return value

    def tensors(self) -> dict[str, Tensor]:
        """Returns every parameter, buffer and constant the network reads, sorted by name; no quantizer state."""
        found = {str(n.target) for n in self.module.graph.nodes if n.op == "get_attr"}
        values = {name: self.attribute(name) for name in sorted(found)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @torch.no_grad()
    def set_parameter(self, name: str, tensor: Tensor) -> None:
        """Sets a parameter: in place when shape and dtype stay, so that whoever holds it sees the change."""
        old = self.parameter(name)
        if old.shape == tensor.shape and old.dtype == tensor.dtype:
            old.copy_(tensor)
            return
        owner, leaf = self._owner(self.aliases.get(name, name))
        new = tensor.detach().clone()
        setattr(owner, leaf, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
        for node in self.readers(name):
            node.meta.pop("val", None)
            node.meta["shape"], node.meta["dtype"] = tuple(new.shape), new.dtype

    def add_parameter(self, name: str, tensor: Tensor, *, trainable: bool = True) -> str:
        """Returns ``name`` after adding a parameter (a buffer when not ``trainable``) of that name; see ``edit.read``.

        Raises:
            QuantwrightError: the name is taken or no dotted name.
        """
        if not all(part.isidentifier() or part.isdigit() for part in name.split(".")):
            raise QuantwrightError(f"'{name}' is no dotted parameter name", allowed="letters, digits, _ and dots")
        owner, leaf = self._owner(name)
        if hasattr(owner, leaf):
            raise QuantwrightError(f"{self.name} has a parameter '{name}' already", fix="choose another name")
        value = tensor.detach().clone()
        if trainable and value.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
        return name

    def free_name(self, name: str) -> str:
        """Returns ``name``, or ``name_1``, ``name_2`` ... when it is taken."""
        candidate, count = name, 1
        while hasattr(*self._owner(candidate)):
            candidate, count = f"{name}_{count}", count + 1
        return candidate

    def readers(self, name: str) -> list[fx.Node]:
        """Returns the ``get_attr`` nodes that read the parameter ``name``."""
        wanted = self.aliases.get(name, name)
        return list(self.module.graph.find_nodes(op="get_attr", target=wanted))

    def parameters_used_by(self, node: fx.Node) -> tuple[str, ...]:
        """Returns the names of the parameters ``node`` reads, in argument order."""
        found = [ops.parameter_of(source) for source in node.all_input_nodes]
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """Returns the module that holds ``name`` (made when it is not there) and the last part of the name."""
        owner: nn.Module = self.module
        *path, leaf = name.split(".")
        for part in path:
            if not isinstance(getattr(owner, part, None), nn.Module):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        return owner, leaf

    # -- running ------------------------------------------------------------------------------------------------
    def flat_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """Returns the inputs flattened in the order of the placeholders, checked.

        Raises:
            DataError: wrong number, nesting, shape, dtype or device; says what is expected and what came.
        """
        flat = self.signature.flatten(args, kwargs or {})
        validate(self.inputs, flat, self._place())
        return flat

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the user's model returns for these inputs, after checking them."""
        return self.call(self.module, args, kwargs)

    def call(self, module: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        """Returns what ``module``, a rewritten form of this network, returns for the inputs of this one."""
        flat = self.flat_inputs(args, kwargs or {})
        arranged_args, arranged_kwargs = pytree.tree_unflatten(flat, self.signature.in_spec)
        return module(*arranged_args, **arranged_kwargs)

    def run(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        taps: Mapping[str, Tap],
        module: fx.GraphModule | None = None,
    ) -> Any:
        """Returns the output after one run in which each tap saw the value of the node it is for.

        Args:
            module: a rewritten form of this network to run instead.

        Raises:
            QuantwrightError: a tap names a node that does not exist.
        """
        module = self.module if module is None else module
        names = {node.name for node in module.graph.nodes}
        unknown = sorted(set(taps) - names)
        if unknown:
            raise QuantwrightError(f"no node is called {', '.join(unknown)}", fix="see graph.facts() for the names")
        flat = self.flat_inputs(args, kwargs)
        outputs = _TappedRun(module, taps).run(*flat, enable_io_processing=False)
        return pytree.tree_unflatten(outputs, self.signature.out_spec)

    @torch.no_grad()
    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None, reference: Any) -> float:
        """Returns the largest difference to ``reference``, relative to its largest absolute value.

        Raises:
            CaptureError: another structure, shape or (beyond 1e-4) other values.
        """
        want, want_spec = pytree.tree_flatten(reference)
        got, got_spec = pytree.tree_flatten(self(*args, **(kwargs or {})))
        if want_spec != got_spec:
            raise CaptureError("the captured graph returns another structure than the model", where=self.name)
        return max((self._difference(a, b, i) for i, (a, b) in enumerate(zip(want, got, strict=True))), default=0.0)

    def _difference(self, want: Any, got: Any, index: int) -> float:
        if not isinstance(want, Tensor):
            return 0.0
        if not isinstance(got, Tensor) or want.shape != got.shape:
            raise CaptureError(f"output {index} of the graph has another shape than the model's", where=self.name)
        if want.numel() == 0 or torch.equal(want, got):
            return 0.0
        wide = torch.complex128 if want.is_complex() else torch.float64
        a, b = want.to(wide), got.to(wide)
        finite = a.isfinite()
        size = float(a[finite].abs().max()) if bool(finite.any()) else 0.0
        error = float((a - b)[finite].abs().max()) / max(size, 1e-12) if bool(finite.any()) else 0.0
        if not torch.equal(finite, b.isfinite()) or error > TOLERANCE:
            raise CaptureError(
                f"output {index} of the captured graph differs from the model's by {error:.3g} (relative)",
                where=self.name,
                fix="a model whose output changes from call to call (dropout that is always on, random numbers, a state"
                " that it updates) cannot be captured: make forward deterministic in eval mode",
            )  # fmt: skip
        return error

    # -- copying ------------------------------------------------------------------------------------------------
    def copy(self) -> Graph:
        """Returns an independent copy: nodes, meta, parameters and quantizers."""
        return Graph(
            name=self.name, module=copied(self.module), inputs=self.inputs, signature=self.signature,
            notes=self.notes, module_paths=self.module_paths, aliases=self.aliases,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Graph:
        """Returns this graph after moving its parameters, and the constants it makes, to ``device``."""
        self.module.to(device)
        for node in self.module.graph.nodes:
            if node.kwargs.get("device") is not None:
                node.kwargs = {**node.kwargs, "device": torch.device(device)}
        self.module.recompile()
        return self


_Copied = TypeVar("_Copied", fx.Graph, fx.GraphModule)


def copied(item: _Copied) -> _Copied:
    """Returns a deep copy of nodes, or of nodes and parameters."""
    with warnings.catch_warnings():  # copying a torch.utils pytree spec warns about its own implementation
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(item)


TOLERANCE = 1e-4  # of the largest output: float32 sums in another order stay well below


class _TappedRun(fx.Interpreter):
    """Returns a runner that hands values to taps and frees each value after its last use."""

    def __init__(self, module: fx.GraphModule, taps: Mapping[str, Tap]) -> None:
        super().__init__(module, garbage_collect_values=True)
        self._taps = taps
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        tap = self._taps.get(n.name)
        if tap is None:
            return value
        replaced = tap(value)
        return value if replaced is None else replaced
