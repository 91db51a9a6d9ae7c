"""One tensor, without a network: ``observe`` measures QParams, ``fake_quantize`` applies them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from quantwright import registry
from quantwright.config.load import load_config
from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec, Role
from quantwright.errors import ConfigError, DataError, InputError
from quantwright.numerics import affine
from quantwright.numerics.granularity import group_view
from quantwright.numerics.qparams import QParams
from quantwright.watcher import Range, combine, make_observer, moved

Spec = QuantSpec | Mapping[str, Any]


def observe(batches: Tensor | Iterable[Tensor], spec: Spec) -> QParams:
    """Returns scale and zero point for one tensor or for several batches of it, by the spec's observer and statistic.

    Args:
        spec: a QuantSpec or a dict such as ``{"format": "int4", "granularity": "per_channel"}``; what it leaves out
            is taken from ``config.spec.BASE_SPEC`` (int8, symmetric, per tensor, float scale, minmax).

    Shapes:
        batches: any; with per_channel and no axis, axis 0 is the channel.

    Raises:
        DataError: no batch, an empty tensor, an integer tensor, or NaN/Inf.
        ConfigError: the spec is not one; every problem at once.
    """
    whole = complete(spec)
    if not whole.has_scale:
        raise InputError(f"format {whole.format} has no scale to measure", allowed="formats that are no casts")
    observer, history = None, []
    average: Range | None = None
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        _check(batch)
        if observer is None or whole.statistic != "all":
            observer = make_observer(whole)
        observer.observe(group_view(batch.detach(), whole.granularity or Granularity()))
        if whole.statistic == "ema":
            average = moved(average, observer.range(), whole)
        elif whole.statistic != "all":
            history.append(observer.qparams())
    if observer is None:
        raise DataError("there is nothing to observe: not one batch", fix="give a tensor or at least one batch")
    if average is not None:
        return observer.qparams_of(*average)
    return combine(history, whole.statistic or "max") if history else observer.qparams()


def fake_quantize(
    x: Tensor, spec: Spec, qparams: QParams | None, *, arithmetic: Literal["divide", "reciprocal"] = "divide"
) -> Tensor:
    """Returns ``x`` rounded to the grid that ``spec`` and ``qparams`` describe, as floating point.

    Args:
        qparams: from ``observe``; None for a float format, which is a cast and has none.
        arithmetic: ``divide`` computes x / scale as ONNX does, ``reciprocal`` x * (1 / scale) as some devices do.

    Shapes:
        x: any; the result has the same shape and dtype.
    """
    return affine.fake_quantize(x, qparams, complete(spec), arithmetic=arithmetic)


def complete(spec: Spec) -> QuantSpec:
    """Returns ``spec`` as a QuantSpec with every field filled; a dict is read as a configuration would read it.

    Raises:
        ConfigError: everything wrong with a dict at once, contradictions and settings without effect included.
        UnknownNameError: no observer has that name.
    """
    read = spec if isinstance(spec, QuantSpec) else _read(spec)
    if read.observer is not None:
        registry.parameters("observers", read.observer.name)  # refuses a name that does not exist, with near misses
    return read.over(BASE_SPEC)


def _read(spec: Mapping[str, Any]) -> QuantSpec:
    """Returns the spec a configuration with this dict would give the first role that may have it."""
    if not spec:
        return QuantSpec()  # every field as in BASE_SPEC; a configuration would call an empty entry without effect
    roles: tuple[Role, ...] = ("output", "weight", "bias")
    failures = []
    for role in roles:
        try:
            config = load_config({"version": 1, "default": {role: dict(spec)}}, dialect="native")
        except ConfigError as error:
            failures.append(_about_spec(error, f"default.{role}"))
        else:
            return config.default.get(role) or QuantSpec()
    raise failures[0]


def _about_spec(error: ConfigError, prefix: str) -> ConfigError:
    """Returns the error with paths that start at ``spec``, as the caller wrote it."""
    return ConfigError([replace(problem, path=problem.path.replace(prefix, "spec")) for problem in error.problems])


def _check(batch: Any) -> None:
    if not isinstance(batch, Tensor):
        raise DataError(f"a batch is a {type(batch).__name__}", allowed="torch.Tensor")
    if not batch.is_floating_point():
        raise DataError(f"a batch has dtype {batch.dtype}", allowed="floating point", fix="convert it with .float()")
    if batch.numel() == 0:
        raise DataError(f"a batch is empty: shape {tuple(batch.shape)}")
