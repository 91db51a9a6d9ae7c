"""What a captured network is called with: names, shapes, dtypes, nesting; and the checks before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantwright.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """Returns one flattened input.

    Attributes:
        name: as ``forward`` calls it, with the keys of nested ones behind it (``batch_left``).
        shape: -1 for a dimension that may vary; () for a value that is no tensor.
        dtype: None for a value that is no tensor.
        symbols: per dimension, "" when fixed; dimensions with the same symbol must agree across inputs.
        constant: the value of an input that is no tensor; it is part of the graph and cannot change.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    symbols: tuple[str, ...] = ()
    constant: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Returns how the user's ``forward`` was called: names by position, names by keyword, and the nesting."""

    positional: tuple[str, ...]
    keyword: tuple[str, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec

    @property
    def names(self) -> tuple[str, ...]:
        """Returns every argument's name, in order."""
        return self.positional + self.keyword

    def arrange(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Returns the same arguments split into positional and keyword ones as at capture.

        Raises:
            DataError: too many, unknown, repeated or missing arguments.
        """
        expected = f"{len(self.names)} ({', '.join(self.names)})" if self.names else "none"
        if len(args) > len(self.names):
            raise DataError(f"the network got {len(args)} positional inputs", allowed=expected, fix=_FIX_NUMBER)
        given = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise DataError(f"input '{name}' is given twice", allowed=expected, fix="give it once")
            if name not in self.names:
                near = did_you_mean(name, self.names)
                raise DataError(f"the network has no input '{name}'", allowed=expected, fix=near or _FIX_NUMBER)
            given[name] = value
        missing = [name for name in self.names if name not in given]
        if missing:
            raise DataError(f"inputs missing: {', '.join(missing)}", allowed=expected, fix=_FIX_NUMBER)
        return tuple(given[name] for name in self.positional), {name: given[name] for name in self.keyword}

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Returns the flattened inputs, in the order of the graph's placeholders.

        Raises:
            DataError: the arguments are nested in another way than at capture.
        """
        arranged = self.arrange(args, kwargs)
        try:
            return list(self.in_spec.flatten_up_to(arranged))
        except (ValueError, TypeError, KeyError) as error:
            got = pytree.tree_structure(arranged)
            raise DataError(
                "the inputs are nested in another way than at capture",
                allowed=_nesting(self.in_spec),
                fix=f"got {_nesting(got)}; give tuples and dicts as the example had them",
            ) from error  # fmt: skip


_FIX_NUMBER = "give the inputs the example batch had when the model was captured"


def validate(specs: Sequence[InputSpec], values: Sequence[Any], device: torch.device | None) -> None:
    """Raises DataError when an input has another type, dtype, shape or device than the captured network takes."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec, value in zip(specs, values, strict=True):
        if spec.dtype is None:
            _check_constant(spec, value)
            continue
        if not isinstance(value, Tensor):
            raise DataError(
                f"input '{spec.name}' is a {type(value).__name__}", allowed=_expected(spec),
                fix="give a tensor; numpy arrays go through torch.from_numpy",
            )  # fmt: skip
        _check_tensor(spec, value, device)
        _check_sizes(spec, value, sizes)


def _check_tensor(spec: InputSpec, value: Tensor, device: torch.device | None) -> None:
    if value.dtype != spec.dtype:
        raise DataError(
            f"input '{spec.name}' has dtype {_short(value.dtype)}", allowed=_expected(spec),
            fix=f"convert it: x.to(torch.{_short(spec.dtype)})",
        )  # fmt: skip
    fits = len(value.shape) == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        fixed = spec.shape and spec.shape[0] != -1 and tuple(value.shape[1:]) == spec.shape[1:]
        raise DataError(
            f"input '{spec.name}' has shape {list(value.shape)}", allowed=_expected(spec),
            fix=f"the network was captured for batches of exactly {spec.shape[0]}: cut the data accordingly"
            if fixed else "resize the data, or capture the model with an example of the shape you need",
        )  # fmt: skip
    if device is not None and value.device.type != device.type:
        raise DataError(
            f"input '{spec.name}' is on {value.device}", allowed=str(device), fix=f"move it: x.to('{device.type}')"
        )


def _check_sizes(spec: InputSpec, value: Tensor, sizes: dict[str, tuple[int, str]]) -> None:
    for size, symbol in zip(value.shape, spec.symbols, strict=False):
        if not symbol:
            continue
        first, owner = sizes.setdefault(symbol, (size, spec.name))
        if first != size:
            raise DataError(
                f"inputs '{owner}' and '{spec.name}' disagree: {first} and {size}",
                allowed="the same size in both", fix="give both the same number of samples",
            )  # fmt: skip


def _check_constant(spec: InputSpec, value: Any) -> None:
    same = value is spec.constant or (type(value) is type(spec.constant) and value == spec.constant)
    if not same:
        got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise DataError(
            f"input '{spec.name}' is {got}", allowed=repr(spec.constant),
            fix="a value that is no tensor is fixed at capture: capture the model again with the value you need",
        )  # fmt: skip


def _expected(spec: InputSpec) -> str:
    shape = ", ".join("N" if size == -1 else str(size) for size in spec.shape)
    return f"a {_short(spec.dtype)} tensor of shape [{shape}]" if spec.dtype is not None else repr(spec.constant)


def _short(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def _nesting(spec: pytree.TreeSpec) -> str:
    """Returns a readable form of a nesting: ``((*, *), {'mask': *})``."""
    children = spec.children()
    if spec.is_leaf():
        return "*"
    if spec.type is dict:
        keys = spec.context if isinstance(spec.context, list) else range(len(children))
        return "{" + ", ".join(f"{k!r}: {_nesting(c)}" for k, c in zip(keys, children, strict=False)) + "}"
    return "(" + ", ".join(_nesting(child) for child in children) + ")"
