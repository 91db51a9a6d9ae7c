"""Observers: watch ``x_GN`` and choose a range.

To add one: write ``observers/<name>.py`` whose docstring's first line says what it does, with a literal ``PARAMS``
(see ``registry.parameters``) and ``plugin = YourObserver``, a subclass of ``Observer``. Nothing else is edited. An
observer never sees an axis: granularity is already in the view (G groups that share a scale, N elements each).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import Self

from quantwright.config.spec import QuantSpec
from quantwright.errors import DataError, InputError, StateError, did_you_mean
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import ends
from quantwright.numerics.qparams import QParams
from quantwright.observers import _kernel


class Observer(ABC):
    """Returns a range chooser for one point: ``observe`` any number of times, then ``range`` or ``qparams``.

    Args:
        spec: the complete spec of the point.
        params: the observer's parameters; what is missing takes the default its file declares in ``PARAMS``.

    Raises:
        InputError: a parameter the observer does not declare, or a value it does not take.
    """

    #: where calibration feeds quantized values, this one passes on what it sees (spec vai_q_tensorflow2 4.5)
    passes_through = False

    def __init__(self, spec: QuantSpec, **params: Any) -> None:
        self.spec = spec
        self.params = complete_params(type(self), params)

    @abstractmethod
    def observe(self, x_GN: Tensor) -> None:
        """Takes in one batch.

        Shapes:
            x_GN: [G, N] floating point, G constant over calls. May be a non-contiguous view; must not be modified.

        Raises:
            DataError: no elements, no floating point, or NaN/Inf.
        """

    @abstractmethod
    def range(self) -> tuple[Tensor, Tensor]:
        """Returns (lowest_G, highest_G): the range the grid should cover, float64.

        Raises:
            StateError: nothing was observed.
        """

    def qparams(self) -> QParams:
        """Returns scale and zero point for the range, by the spec's scale policy and symmetry."""
        return self.qparams_of(*self.range())

    def qparams_of(self, low_G: Tensor, high_G: Tensor) -> QParams:
        """Returns scale and zero point for a range: of what was observed, or of an average over batches."""
        return choose_qparams(low_G, high_G, self.spec)

    def merge(self, other: Self) -> None:
        """Takes in what another observer of the same kind saw, as if this one had seen it too.

        Raises:
            StateError: the observer depends on the order of the batches, so there is nothing exact to do.
        """
        raise StateError(
            f"observer '{observer_name(type(self))}' cannot be merged: its result depends on the order of the batches",
            fix="calibrate on one worker, or use minmax, percentile, entropy or mse",
        )

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Returns everything that was observed, as tensors: for checkpoints and shards; empty before ``observe``."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Becomes the observer whose ``state()`` this was (not the empty one): what it sees and says next is the same.

        The tensors are on the device of the values to come, and are now the observer's own.
        """


def observer_name(kind: type[Observer]) -> str:
    """Returns the plug-in name of an observer class: the name of its file."""
    return kind.__module__.rpartition(".")[2]


def complete_params(kind: type[Observer], params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``params`` over the defaults that the file of ``kind`` declares.

    Raises:
        InputError: an undeclared parameter, or a value out of range or not among the choices.
    """
    module = sys.modules.get(kind.__module__)
    declared: Mapping[str, Mapping[str, Any]] = getattr(kind, "PARAMS", None) or getattr(module, "PARAMS", {})
    for name, value in params.items():
        where = f"observer '{observer_name(kind)}'"
        if name not in declared:
            raise InputError(
                f"no parameter '{name}'", where=where, allowed=declared or "none", fix=did_you_mean(name, declared)
            )
        problem = _wrong(value, declared[name])
        if problem:
            raise InputError(f"{name} is {value!r}", where=where, allowed=problem)
    return {name: params.get(name, about["default"]) for name, about in declared.items()}


def _wrong(value: Any, about: Mapping[str, Any]) -> str | None:
    """Returns what is allowed, or None when the value is."""
    types = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "list": (list, tuple)}[about["type"]]
    if not isinstance(value, types) or (isinstance(value, bool) and about["type"] != "bool"):
        return f"a {about['type']}"
    if "choices" in about and value not in about["choices"]:
        return ", ".join(about["choices"])
    if ("min" in about and value < about["min"]) or ("max" in about and value > about["max"]):
        return f"{about.get('min', '-inf')} to {about.get('max', 'inf')}"
    return None


def extent(x_GN: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (smallest_G, largest_G) of one batch in float64.

    Shapes:
        x_GN: [G, N].

    Raises:
        DataError: no elements, no floating point, or NaN/Inf; the caller knows and adds which tensor.
    """
    if not x_GN.is_floating_point():
        raise DataError(f"the tensor is {x_GN.dtype}", allowed="floating point", fix="leave this tensor unquantized")
    if x_GN.numel() == 0:
        raise DataError("the tensor is empty", fix="calibrate on batches that have elements here")
    low_G, high_G = _kernel.extent(x_GN) or ends(x_GN)
    if not bool((low_G.isfinite() & high_G.isfinite()).all()):
        raise DataError("the tensor has NaN/Inf values", fix="look for a division by zero or an overflow before it")
    return low_G.double() + 0.0, high_G.double() + 0.0  # -0.0 is 0.0


def nothing_observed(observer: Observer) -> StateError:
    """Returns the error for asking a range before any data came."""
    return StateError(
        f"observer '{observer_name(type(observer))}' has observed nothing", fix="call observe(x_GN) at least once"
    )


def check_groups(seen: int, now: int) -> None:
    """Raises DataError when the number of groups changed between batches."""
    if seen != now:
        raise DataError(
            f"the number of groups changed from {seen} to {now} between batches",
            fix="calibrate with batches of one shape, or use per_tensor (per_token for one scale per token)",
        )


__all__ = ["Observer", "check_groups", "complete_params", "extent", "nothing_observed", "observer_name"]
