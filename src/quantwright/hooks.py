"""HookedModel: a copy of the user's own model whose modules quantize what they read, compute with and return.

The plan says what every value is; here it is decided who applies it. A value that a module of a known kind returns is
quantized behind that module, for all its readers. Any other value is quantized by the modules that read it. A module
that is given something else than in the example run (control flow depends on data) quantizes it as what it expects, so
whatever path is taken, a module computes on its grid.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantwright.config.config import QuantConfig
from quantwright.config.spec import QuantSpec
from quantwright.data import Batch
from quantwright.errors import QuantwrightError
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.capture import evaluating
from quantwright.graph.modules import Modules, Site
from quantwright.passes import Change
from quantwright.plan.plan import Decision, Plan
from quantwright.quantized import QuantizedModel, Tap
from quantwright.targets import Target


class HookedModel(QuantizedModel):
    """Returns a model that computes what the plan decided; ``network`` has the user's class, methods and attributes.

    What this class does not define itself is looked up on ``network``: ``generate``, ``config`` and the like.

    Attributes:
        captured: the facts and sites the plan was made for.
        network: the copy of the user's model.
    """

    def __init__(
        self, captured: Modules, plan: Plan, asked: QuantConfig, target: Target, example: Batch, changes: list[Change]
    ) -> None:
        super().__init__(plan, asked, target, example, changes)
        self.captured = captured
        self.network = captured.model
        self.quantizers = _quantizers(plan, target)
        self.points = nn.ModuleList(self.quantizers.values())
        self._once: list[_Once] = []
        self._grids = _Grids()
        _seat(self, captured.sites)
        self.network.register_forward_hook(self._forget, always_call=True)

    def __getattr__(self, name: str) -> Any:
        """Returns a submodule or buffer of this model, else the attribute of the user's model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = self.__dict__.get("_modules", {}).get("network")
            if network is None or name.startswith("__"):
                raise
            return getattr(network, name)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Returns the names of the network's inputs as the user's ``forward`` calls them."""
        return self.captured.input_names

    @property
    def capture_notes(self) -> tuple[str, ...]:
        """Returns what capture did not see, in sentences."""
        return self.captured.notes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the user's model returns, computed as the quantizers' modes say."""
        return self.network(*args, **kwargs)

    def compute(self, batch: Batch, taps: Mapping[str, Tap]) -> Any:
        """Returns the output for one batch, computed in eval mode; there are no nodes to tap."""
        if taps:
            raise QuantwrightError("capture='modules' has no graph to tap", fix="use capture='graph'")
        with evaluating(self.network):
            return self.network(*batch.args, **batch.kwargs)

    def parameter(self, name: str) -> Tensor:
        """Returns the parameter called ``name`` in the user's model."""
        return self.network.get_parameter(name)

    @torch.no_grad()
    def set_parameter(self, name: str, value: Tensor) -> None:
        """Sets a parameter, in place."""
        self.network.get_parameter(name).copy_(value)

    def _forget(self, *_: Any) -> None:
        """Lets go of the values of the run that has ended."""
        self._grids.forget()
        for once in self._once:
            once.forget()


@dataclass(slots=True)
class _Once:
    """Returns a quantizer for a value that several modules read: the value is quantized, and watched, once.

    Attributes:
        readers: how many modules read the value; after as many reads nothing is held any more.
    """

    quantizer: Quantizer
    readers: int = 0
    _left: int = 0
    _last: tuple[weakref.ref[Tensor], tuple[Any, ...], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``x`` as the quantizer gives it back."""
        quantizer, version = self.quantizer, _version(x)
        if self.readers < 2 or quantizer.mode == "float":
            alone: Tensor = quantizer(x)
            return alone
        state = (version, quantizer.mode, id(quantizer.scale), torch.is_grad_enabled())
        if self._last is None or version is None or self._last[0]() is not x or self._last[1] != state:
            self._last, self._left = (weakref.ref(x), state, quantizer(x)), self.readers
        result, self._left = self._last[2], self._left - 1
        if not self._left:
            self._last = None
        return result

    def forget(self) -> None:
        """Lets go of the last value."""
        self._last = None


@dataclass(slots=True)
class _Grids:
    """Returns which tensors are on which grids: what a quantizer gave back, unchanged since, in the same mode."""

    _of: dict[int, tuple[weakref.ref[Tensor], dict[Quantizer, Any]]] = field(default_factory=dict)

    def put(self, x: Tensor, quantizer: Quantizer) -> None:
        """Takes down that ``x`` is on the grid of ``quantizer``."""
        version = _version(x)
        if version is None:
            return
        for one in (x, x._base):
            if one is None or one.numel() != x.numel():
                continue
            known = self._of.get(id(one))
            if known is None or known[0]() is not one:
                known = self._of[id(one)] = (weakref.ref(one), {})
            known[1][quantizer] = (quantizer.mode, version)

    def has(self, x: Tensor, quantizer: Quantizer) -> bool:
        """Returns whether ``x``, or the tensor that it is a view of, is on the grid of ``quantizer``."""
        for one in (x, x._base):
            known = self._of.get(id(one))
            if one is not None and known is not None and known[0]() is one:
                return bool(known[1].get(quantizer) == (quantizer.mode, _version(one)))
        return False

    def forget(self) -> None:
        """Lets go of everything."""
        self._of.clear()


@dataclass(slots=True)
class _Seat:
    """Returns what the hooks of one module do.

    Attributes:
        reads: per float tensor argument: the quantizers it goes through, the first one being the value's own.
        parameters: attribute -> quantizer.
        output: the quantizer of what it returns.
        passes_on: the grid that its output is on when its first input is.
    """

    grids: _Grids
    reads: list[list[_Once]] = field(default_factory=list)
    parameters: dict[str, Quantizer] = field(default_factory=dict)
    output: Quantizer | None = None
    passes_on: Quantizer | None = None
    _passed: bool = False

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Returns the arguments on their grids; puts quantized parameters in the place of the module's own."""
        for attribute, quantizer in self.parameters.items():
            module.__dict__[attribute] = quantizer(module._parameters[attribute])  # found before the parameter itself
        if not any(self.reads) and self.passes_on is None:
            return None
        leaves, spec = pytree.tree_flatten((args, kwargs))
        position = 0
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                if position < len(self.reads):
                    leaves[index] = self._on_grid(leaf, self.reads[position])
                if position == 0 and self.passes_on is not None:
                    self._passed = bool(self.reads and self.reads[0]) or self.grids.has(leaf, self.passes_on)
                position += 1
        return pytree.tree_unflatten(leaves, spec)

    def _on_grid(self, x: Tensor, through: Iterable[_Once]) -> Tensor:
        for index, once in enumerate(through):
            if index or not self.grids.has(x, once.quantizer):
                x = once(x)
        return x

    def after(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        """Returns the output on its grid; gives the module its own parameters back, also when it failed."""
        for attribute in self.parameters:
            module.__dict__.pop(attribute, None)
        if not isinstance(result, Tensor):
            return None
        if self.output is not None:
            result = self.output(result)
            self.grids.put(result, self.output)
            return result
        if self.passes_on is not None and self._passed:
            self.grids.put(result, self.passes_on)
        return None


def _quantizers(plan: Plan, target: Target) -> dict[str, Quantizer]:
    """Returns a quantizer for every point that is not on its grid already, in the plan's order."""
    made = {}
    for decision in plan.quantized():
        if not decision.redundant:
            spec: QuantSpec | None = decision.spec
            assert spec is not None  # quantized() leaves out what stays float
            made[decision.point.name] = Quantizer(decision.point, spec, target.arithmetic.quantize)
    return made


def _seat(model: HookedModel, sites: Iterable[Site]) -> None:
    """Puts the hooks on the modules.

    Raises:
        QuantwrightError: a point of the plan has no module that could apply it.
    """
    values, edges = _values(model.plan)
    once: dict[str, _Once] = {}
    used: set[str] = set()

    def seat_of(point: str) -> _Once:
        used.add(point)
        return once.setdefault(point, _Once(model.quantizers[point]))

    for site in sites:
        seat = _Seat(grids=model._grids)
        for name in site.reads:
            own = _grid(model, values.get(name))
            through = [seat_of(point) for point in (own, edges.get((site.node, name))) if point is not None]
            for one in through:
                one.readers += 1
            seat.reads.append(through)
        seat.parameters = {
            key: model.quantizers[name] for key, name in site.parameters.items() if name in model.quantizers
        }
        used.update(quantizer.point.name for quantizer in seat.parameters.values())
        decision = values.get(site.node)
        grid = _grid(model, decision)
        if grid is not None and decision is not None and not decision.redundant:
            seat.output = seat_of(grid).quantizer
        elif grid is not None and site.passes_on:
            seat.passes_on = model.quantizers[grid]
        if any(seat.reads) or seat.parameters or seat.output is not None:
            module = model.network.get_submodule(site.path)
            module.register_forward_pre_hook(seat.before, with_kwargs=True)
            module.register_forward_hook(seat.after, with_kwargs=True, always_call=True)
    model._once = list(once.values())
    missing = sorted(set(model.quantizers) - used)
    if missing:
        raise QuantwrightError(
            f"capture='modules' finds no module to apply {len(missing)} points at, the first is '{missing[0]}'",
            fix="exclude what it belongs to, or use a per_tensor granularity there",
        )


def _values(plan: Plan) -> tuple[dict[str, Decision], dict[tuple[str, str], str]]:
    """Returns the decision about every value by node, and (reader, value) -> the point of that edge alone."""
    values: dict[str, Decision] = {}
    edges: dict[tuple[str, str], str] = {}
    for decision in plan.decisions:
        point = decision.point
        if point.role in ("weight", "bias"):
            continue
        if point.consumers:
            edges.update({(reader, point.tensor): point.name for reader in point.consumers})
        else:
            values[point.tensor] = decision
    return values, edges


def _grid(model: HookedModel, decision: Decision | None) -> str | None:
    """Returns the point whose quantizer puts a value on its grid, None for a value that stays float."""
    if decision is None or decision.spec is None:
        return None
    own = decision.point.name
    return own if own in model.quantizers else model.root(own)


def _version(x: Tensor) -> int | None:
    """Returns how often ``x`` was changed in place, None where nobody counts."""
    return None if x.is_inference() else x._version
