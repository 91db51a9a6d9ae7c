"""Differences in integer steps: the unit in which simulation and exported file are compared, point by point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantwright.config.spec import Granularity
from quantwright.fakequant.fixed import Quantizer, own_qparams
from quantwright.numerics import affine
from quantwright.numerics.granularity import broadcast
from quantwright.numerics.grids import grid_of

_MANTISSA = {"float16": 10, "bfloat16": 7, "float32": 23}  # stored bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Returns one differing value: where it is, and both numbers.

    Units:
        lsb: integer steps of the point.
    """

    point: str
    batch: int
    index: tuple[int, ...]
    simulated: float
    exported: float
    lsb: float

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        return (
            f"{self.point} [{at}] of batch {self.batch}: simulated {self.simulated:.9g}, exported {self.exported:.9g} "
            f"({self.lsb:.3g} LSB)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointReport:
    """Returns how one point compares.

    Attributes:
        differing, max_lsb, mean_lsb: exported against simulated, differences of earlier points included.
        local_differing, local_max_lsb: the same when this point is computed from the *exported* values of the points
            before it: what this one step of the network adds.
        sqnr_db: float against simulated; infinite when they are equal.
    """

    point: str
    values: int
    differing: int
    max_lsb: float
    mean_lsb: float
    local_differing: int
    local_max_lsb: float
    sqnr_db: float


@dataclass(slots=True)
class Power:
    """Returns signal and noise power, summed over batches."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: Tensor, other: Tensor) -> None:
        """Adds one batch; what is not finite in both is left out."""
        signal, noise = _power(reference), _power(reference - other)
        if not (math.isfinite(signal) and math.isfinite(noise)):
            both = reference.isfinite() & other.isfinite()
            signal, noise = _power(reference[both].double()), _power(reference[both].double() - other[both].double())
        self.signal += signal
        self.noise += noise

    @property
    def db(self) -> float:
        """Returns the signal to noise ratio in decibel."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(max(self.signal, 1e-300) / self.noise)


def _power(x: Tensor) -> float:
    """Returns the sum of squares, added up in float64."""
    return float(torch.sum(x * x, dtype=torch.float64))


@dataclass(slots=True)
class Tally:
    """Returns the differences of two tensors in steps, summed over batches."""

    values: int = 0
    differing: int = 0
    max_lsb: float = 0.0
    sum_lsb: float = 0.0
    max_abs: float = 0.0

    def add(self, simulated: Tensor, exported: Tensor, step: Tensor | None) -> Tensor | None:
        """Returns the absolute differences after counting them; None when there are none.

        Shapes:
            step: broadcasts against both; without, steps are absolute differences. Result: as the tensors.
        """
        gap = difference(simulated, exported)
        self.values += gap.numel()
        worst = float(gap.max()) if gap.numel() else 0.0
        if worst == 0.0:
            return None
        places = gap != 0
        gaps = gap[places]
        steps = gaps if step is None else gaps / _at(step, places)
        self.differing += gaps.numel()
        self.max_abs = max(self.max_abs, worst)
        self.max_lsb = max(self.max_lsb, float(steps.max()))
        self.sum_lsb += float(steps.sum(dtype=torch.float64))
        return gap

    @property
    def mean_lsb(self) -> float:
        """Returns the mean difference in steps."""
        return self.sum_lsb / self.values if self.values else 0.0


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Returns |a - b|: 0 where both are the same infinity or both NaN, infinite where only one is finite."""
    gap = (a - b).abs_() if a.is_floating_point() else (a.double() - b.double()).abs_()
    if gap.numel() == 0 or math.isfinite(float(gap.sum())):
        return gap
    same = (a == b) | (a.isnan() & b.isnan())
    return gap.masked_fill_(gap.isnan(), math.inf).masked_fill_(same, 0.0)


def _at(step: Tensor, places: Tensor) -> Tensor:
    """Returns the step of each marked place, or the one step there is."""
    return step.reshape(()) if step.numel() == 1 else step.expand(places.shape)[places]


def step_of(quantizer: Quantizer, value: Tensor) -> Tensor:
    """Returns the size of one step of a point, broadcastable against its value.

    For float formats a step is the spacing of the format at the value (at 2**-10 of the largest value and above), for
    scaled formats the distance of the elements around the value.

    Units:
        float per integer step.
    """
    spec = quantizer.spec
    g = spec.granularity or Granularity()
    if not spec.has_scale:
        size = value.double().abs()
        size = size.clamp_(min=float(size.max()) * 2.0**-10 if size.numel() else 0.0).clamp_(min=1e-300)
        return torch.exp2(size.log2().floor() - _MANTISSA[spec.format or "float32"])
    # of a dynamic point, the grid that the value's own extremes span
    one = own_qparams(value.float(), spec) if quantizer.dynamic else quantizer.qparams
    if one is None:
        return torch.ones((), dtype=torch.float64)
    _, step_G = affine.scales(one, g, quantizer.arithmetic)
    step = broadcast(step_G.double(), value.shape, g)
    if not spec.is_scaled:
        return step
    step = step.to(value.device)
    return grid_of(spec.format or "").step(value.double() / step).double() * step


def first_difference(
    point: str, batch: int, gap: Tensor, step: Tensor, simulated: Tensor, exported: Tensor
) -> Divergence:
    """Returns the first differing value in memory order.

    Shapes:
        gap: as the tensors, not zero everywhere; step: broadcasts against it.
    """
    flat = int((gap.flatten() != 0).to(torch.uint8).argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), gap.shape))
    return Divergence(
        point=point, batch=batch, index=index, simulated=float(simulated[index]), exported=float(exported[index]),
        lsb=float(gap[index].double() / step.expand(gap.shape)[index].double()),
    )  # fmt: skip


def finite_or_text(value: Any) -> Any:
    """Returns ``value`` for JSON: infinities and NaN become text, which JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value > 0 else ("-inf" if value < 0 else "nan")
    if isinstance(value, dict):
        return {key: finite_or_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_text(item) for item in value]
    return value
