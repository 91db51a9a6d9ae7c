"""What a report draws: per point the error, a histogram of its values, grid and clipping; parameters by channel."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import Granularity, scaled_formats
from quantwright.data import Batch
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics import affine
from quantwright.numerics.granularity import broadcast, ends
from quantwright.numerics.grids import grid_of
from quantwright.numerics.qparams import QParams
from quantwright.observers._histogram import Streaming
from quantwright.plan.plan import Decision, ProductOf
from quantwright.quantized import QuantizedModel
from quantwright.verify.compare import Power, finite_or_text, step_of
from quantwright.verify.values import Values, quantizer_of, values_of

FORMAT = 1
BINS = 64  # the side that reaches further gets 64 to 128 bins
CHANNELS = 40_000  # rows of channel ranges in all; neighbours are pooled beyond that, and beyond MOST per parameter
LEAST, MOST = 16, 512
_SCALE_BYTES = {"e8m0": 1, "e4m3": 1, "e5m3": 1, "float16": 2, "bfloat16": 2}  # else 4


@dataclass(slots=True)
class _Seen:
    """Returns what is kept for one activation point while batches pass."""

    decision: Decision
    quantizer: Quantizer
    histogram: Streaming = field(default_factory=lambda: Streaming(1, BINS, "both"))
    total: Power = field(default_factory=Power)
    alone: Power = field(default_factory=Power)
    values: int = 0
    below: int = 0
    above: int = 0
    grid: tuple[float, float] | None = None

    def take_float(self, value: Tensor) -> None:
        """Takes the value of the float run: what is this quantizer's own part of the error?"""
        self.alone.add(value, self.quantizer.apply_qparams(value))
        finite = value[value.isfinite()] if not math.isfinite(float(value.sum())) else value
        if finite.numel():
            self.histogram.add(finite.reshape(1, -1).float())
        self.values += value.numel()
        limits = grid_limits(self.quantizer, value)
        if limits is not None:
            low, high, step = limits
            self.grid = (float(low.min()), float(high.max()))
            if finite.numel() < value.numel() or self._reaches_beyond(low - step / 2, high + step / 2):
                self.below += int((value < low - step / 2).sum())
                self.above += int((value > high + step / 2).sum())

    def _reaches_beyond(self, low: Tensor, high: Tensor) -> bool:
        """Returns whether any value so far lies outside: mostly none does, and then nobody needs to count."""
        return float(self.histogram.low_G) < float(low.max()) or float(self.histogram.high_G) > float(high.min())

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "point": self.decision.point.name,
            "role": self.decision.point.role,
            "redundant": self.decision.redundant,
            "sqnr_db": _short(self.total.db),
            "alone_db": _short(self.alone.db),
            "values": self.values,
            "below": self.below,
            "above": self.above,
            "low": _short(float(self.histogram.low_G)),
            "high": _short(float(self.histogram.high_G)),
            "histogram": _bins(self.histogram),
            "grid": _grid(self.quantizer, self.grid),
        }


@torch.no_grad()
def measure(model: QuantizedModel, batches: Iterable[Batch]) -> dict[str, Any]:
    """Returns, as plain JSON values, what a report shows of every point; no ``activations`` without batches.

    ``sqnr_db`` compares float and simulation, both run from the network's input; ``alone_db`` is the point's own
    rounding and clipping, its input being the float one. Histogram, extremes and clipping are of the float values; a
    value counts as clipped when it is more than half a step outside the grid.
    """
    values = values_of(model)
    seen: dict[str, _Seen] = {}
    for key, decision in values.points.items():
        quantizer = quantizer_of(model, decision.point.name)
        if quantizer is not None:
            seen[key] = _Seen(decision, quantizer)
    samples = 0
    for batch in values.batches(batches):
        _take(model, values, batch, seen)
        samples += batch.size
    return {
        "format": FORMAT,
        "samples": samples,
        "activations": [one.to_json() for one in seen.values() if one.values],
        "parameters": _parameters(model, values),
        "size": _size(model, values),
    }


def _take(model: QuantizedModel, values: Values, batch: Batch, seen: dict[str, _Seen]) -> None:
    """Runs one batch in float and simulated and counts both; a point may be passed several times in one run."""
    floats: dict[str, list[Tensor]] = {key: [] for key in seen}
    with model.floating():
        values.run(batch, lambda key, value: floats[key].append(value))
    for key, one in seen.items():
        for value in floats[key]:
            one.take_float(value)

    def compare(key: str, value: Tensor) -> None:
        if floats[key]:
            seen[key].total.add(floats[key].pop(0), value)

    with model.quantizing():
        values.run(batch, compare)


def grid_limits(quantizer: Quantizer, value: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Returns (lowest, highest, step) that a point can represent; None where the grid is not one of integers, or moves.

    Shapes:
        all three broadcast against ``value``.
    """
    qparams, spec = quantizer.qparams, quantizer.spec
    if qparams is None or not spec.has_scale or quantizer.dynamic:
        return None
    if spec.is_scaled:
        return _element_limits(quantizer, qparams, value)
    step = step_of(quantizer, value).to(value.device)
    zero = broadcast(qparams.zero_point.double(), value.shape, spec.granularity or Granularity()).to(value.device)
    return (spec.qmin - zero) * step, (spec.qmax - zero) * step, step


def _element_limits(quantizer: Quantizer, qparams: QParams, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (lowest, highest, step at the top) of a scaled format."""
    spec, grid = quantizer.spec, grid_of(quantizer.spec.format or "")
    g = spec.granularity or Granularity()
    _, unit_G = affine.scales(qparams, g, quantizer.arithmetic)
    unit = broadcast(unit_G.double(), value.shape, g).to(value.device)
    top = float(grid.step(torch.tensor([grid.largest])))
    return unit * (-grid.largest if grid.signed else 0.0), unit * grid.largest, unit * top


def _bins(histogram: Streaming) -> dict[str, Any] | None:
    """Returns start, width and counts of the occupied stretch of a histogram, or None without a finite value."""
    counts_K = histogram.counts_GK[0]
    occupied = counts_K.nonzero().flatten()
    if not occupied.numel():
        return None
    first, last = int(occupied[0]), int(occupied[-1])
    width = float(histogram.width_G)
    start = (first + histogram.first) * width
    return {"start": start, "width": width, "counts": counts_K[first : last + 1].tolist()}


def _grid(quantizer: Quantizer, limits: tuple[float, float] | None) -> dict[str, Any] | None:
    """Returns the grid of a point: its ends, and its step and zero point (the largest step, of several)."""
    qparams = quantizer.qparams
    if limits is None or qparams is None:
        return None
    spec, several = quantizer.spec, qparams.scale.numel() > 1
    scale_G = affine.scales(qparams, spec.granularity or Granularity(), quantizer.arithmetic)[1]
    return {
        "low": _short(limits[0]),
        "high": _short(limits[1]),
        "scales": qparams.scale.numel(),
        "scale": _short(float(scale_G.max()), 7),
        "zero_point": None if several or spec.is_scaled else int(qparams.zero_point[0]),
        "steps": grid_of(spec.format or "").levels() - 1 if spec.is_scaled else spec.qmax - spec.qmin,
    }


# -- parameters ----------------------------------------------------------------------------------------------------
def _parameters(model: QuantizedModel, values: Values) -> list[dict[str, Any]]:
    """Returns range, grid and rounding error of every quantized weight and bias."""
    decisions = [d for d in model.plan.quantized() if d.point.role in ("weight", "bias")]
    axes = {
        facts.name: facts.channel_axis
        for node in values.facts().nodes
        for facts in (node.weight, node.bias)
        if facts is not None
    }
    most = max(LEAST, min(MOST, CHANNELS // max(1, len(decisions))))
    found = []
    for decision in decisions:
        quantizer = quantizer_of(model, decision.point.name)
        if quantizer is not None and quantizer.ready:
            value = model.parameter(decision.point.tensor).detach()
            found.append(_parameter(decision, quantizer, value, axes.get(decision.point.tensor, 0), most))
    return found


def _parameter(decision: Decision, quantizer: Quantizer, value: Tensor, axis: int, most: int) -> dict[str, Any]:
    alone = Power()
    alone.add(value, quantizer.apply_qparams(value))
    limits = grid_limits(quantizer, value)
    return {
        "point": decision.point.name,
        "role": decision.point.role,
        "shape": list(value.shape),
        "alone_db": _short(alone.db),
        "scales": 0 if quantizer.qparams is None else quantizer.qparams.scale.numel(),
        "channels": _channels(value, limits, axis, most),
    }


def _channels(
    value: Tensor, limits: tuple[Tensor, Tensor, Tensor] | None, axis: int, most: int
) -> dict[str, Any] | None:
    """Returns the range of each channel and what its grid reaches; None for a vector.

    ``pool`` neighbours are taken together when there are more than ``most``: the widest range, the narrowest grid.
    """
    if value.ndim < 2 or value.numel() == 0:
        return None
    rows_CN = value.movedim(axis, 0).flatten(1)
    count = rows_CN.shape[0]
    pool = -(-count // most)
    low_C, high_C = ends(rows_CN)
    found: dict[str, Any] = {"axis": axis, "count": count, "pool": pool}
    found |= {"low": _pooled(low_C, pool, -1), "high": _pooled(high_C, pool, 1)}
    if limits is None:
        return found
    for key, limit, side in (("grid_low", limits[0], 1), ("grid_high", limits[1], -1)):
        if limit.numel() == 1:
            found[key] = [_short(float(limit))]
        elif limit.numel() == count == limit.shape[axis]:
            found[key] = _pooled(limit.flatten(), pool, side)
        else:
            rows = limit.expand(value.shape).movedim(axis, 0).flatten(1)
            found[key] = _pooled((side * rows).amax(1) * side, pool, side)
    return found


def _pooled(x_C: Tensor, pool: int, side: int) -> list[Any]:
    """Returns the largest (``side`` 1) or smallest (-1) of every ``pool`` neighbours, shortened."""
    parts = torch.split(x_C.double() * side, pool)
    return [_short(float(part.max()) * side, 4) for part in parts]


def _size(model: QuantizedModel, values: Values) -> dict[str, Any]:
    """Returns the bytes of all parameters, float and quantized (scales and zero points included), and what holds what.

    Units:
        bytes; ``elements``: numbers per format.
    """
    chosen = {d.point.tensor: d for d in model.plan.quantized() if d.point.role in ("weight", "bias")}
    before = after = 0.0
    elements: dict[str, int] = {}
    for name, value in values.tensors().items():
        before += value.numel() * value.element_size()
        decision = chosen.get(name)
        if decision is None or decision.spec is None:
            after += value.numel() * value.element_size()
            word = str(value.dtype).removeprefix("torch.")
        else:
            after += _stored(decision, value, quantizer_of(model, decision.point.name))
            word = decision.spec.format or "float32"
        elements[word] = elements.get(word, 0) + value.numel()
    return {"float_bytes": int(before), "quantized_bytes": math.ceil(after), "elements": dict(sorted(elements.items()))}


def _stored(decision: Decision, value: Tensor, quantizer: Quantizer | None) -> float:
    """Returns the bytes of a quantized parameter; a scale takes what its policy stores, one that is derived nothing."""
    spec = decision.spec
    assert spec is not None  # quantized() leaves out what stays float
    if not spec.has_scale:
        return value.numel() * spec.element_bits / 8
    groups = 0 if quantizer is None or quantizer.qparams is None else quantizer.qparams.scale.numel()
    zeros = 0.0 if spec.symmetric or spec.is_scaled else spec.bits / 8
    scale = _SCALE_BYTES.get(spec.scale or "", 4) + zeros
    scales = 0.0 if isinstance(decision.relation, ProductOf) else groups * scale
    pair = int(scaled_formats()[spec.format or ""].get("pair", 0)) if spec.is_scaled else 0
    shared = value.numel() / pair / 8 if pair else 0.0  # a bit for each pair
    return value.numel() * spec.element_bits / 8 + scales + shared


def _short(value: float, digits: int = 5) -> Any:
    """Returns a number with few digits, for a file that people may read and browsers must load."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else finite_or_text(value)
