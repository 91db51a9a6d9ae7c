"""Watcher: what calibration keeps for one activation point, and how the QParams of several batches are combined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantwright import registry
from quantwright.config.config import Calibration
from quantwright.config.spec import QuantSpec
from quantwright.errors import DataError, QuantwrightError, StateError
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics import affine
from quantwright.numerics.granularity import unordered_view
from quantwright.numerics.qparams import QParams
from quantwright.observers import Observer

Range = tuple[Tensor, Tensor]
"""(lowest_G, highest_G), float64."""


@dataclass(slots=True)
class Watcher:
    """Returns what calibration keeps for one activation point: an observer, or the QParams of every batch.

    Attributes:
        history: the QParams of every batch, for a statistic over scales.
        ranges: (lowest_G, highest_G) of every batch, for an average of ranges (statistic ``ema``).
        average: that average so far.
        batches: how many values were taken in.
    """

    quantizer: Quantizer
    feeding: Calibration
    observer: Observer | None = None
    history: list[QParams] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)
    average: Range | None = None
    batches: int = 0

    @property
    def averaged(self) -> bool:
        """Returns whether ranges are averaged over batches, and not scales combined."""
        return self.quantizer.spec.statistic == "ema"

    @property
    def whole(self) -> bool:
        """Returns whether there is one range over everything, not a statistic over batches."""
        return self.quantizer.spec.statistic == "all"

    def __call__(self, x: Tensor) -> Tensor:
        """Takes in one value and returns what the network should go on with."""
        spec, whole = self.quantizer.spec, self.whole
        if self.observer is None or not whole:
            self.observer = self.fresh_observer()
        observe(self.observer, x, spec, self.quantizer.point.name)
        if self.averaged:
            self._average(self.observer.range())
        elif not whole:
            self.history.append(self.observer.qparams())
        self.batches += 1
        if self.feeding.inputs == "float" or self.observer.passes_through:
            return x
        running = whole or self.feeding.batch_qparams == "running"
        qparams = self.result() if running else self.observer.qparams()
        return affine.fake_quantize(x, qparams, spec, arithmetic=self.quantizer.arithmetic)

    def _average(self, found: Range) -> None:
        """Takes the range of one batch into the average."""
        self.ranges.append(found)
        self.average = moved(self.average, found, self.quantizer.spec)

    def fresh_observer(self) -> Observer:
        """Returns an observer of this point that has seen nothing."""
        return make_observer(self.quantizer.spec, self.quantizer.point.name)

    def result(self) -> QParams:
        """Returns the QParams over everything seen so far."""
        if self.observer is None and not self.history and self.average is None:
            raise DataError(
                f"point '{self.quantizer.point.name}' saw no data during calibration",
                fix="check that the calibration batches reach this part of the network",
            )
        if self.average is not None:
            return (self.observer or self.fresh_observer()).qparams_of(*self.average)
        if self.observer is not None and self.whole:
            return self.observer.qparams()
        return combine(self.history, self.quantizer.spec.statistic or "max", self.feeding.modal_ties)

    @property
    def mergeable(self) -> bool:
        """Returns whether what was seen of several shares of the batches can be put together exactly."""
        if not self.whole:
            return True  # each batch was measured alone
        try:
            self.fresh_observer().merge(self.fresh_observer())
        except StateError:
            return False
        return True

    def merge(self, states: Sequence[Mapping[str, Tensor]], batches: int) -> None:
        """Becomes the watcher that saw all ``batches``, of which number i was seen by shard ``i % len(states)``.

        Raises:
            StateError: some batches did not reach this point, so the QParams of those that did cannot be put in order.
        """
        shards = [dataclasses.replace(self, observer=None, history=[], ranges=[], average=None) for _ in states]
        for shard, state in zip(shards, states, strict=True):
            shard.load_state(state, 0)
        self.observer, self.batches = None, batches
        if self.whole:
            self.observer = self.fresh_observer()
            for shard in shards:
                if shard.observer is not None:
                    self.observer.merge(shard.observer)
        else:
            if sum(len(shard.history) + len(shard.ranges) for shard in shards) != batches:
                raise StateError(
                    f"point '{self.quantizer.point.name}' was not reached by every batch",
                    fix="calibrate on one worker, or use statistic: all",
                )
            turns = [(shards[i % len(shards)], i // len(shards)) for i in range(batches)]
            self.history = [] if self.averaged else [shard.history[turn] for shard, turn in turns]
            self.ranges, self.average = [], None
            for shard, turn in turns if self.averaged else ():
                self._average(shard.ranges[turn])

    def state(self) -> dict[str, Tensor]:
        """Returns what was seen, as tensors: the observer's state, or the QParams or range of every batch ([B, G])."""
        if self.whole:
            return {} if self.observer is None else self.observer.state()
        if self.ranges:
            return {name: torch.stack([pair[i] for pair in self.ranges]) for i, name in enumerate(("low", "high"))}
        if not self.history:
            return {}
        return {part: torch.stack([getattr(q, part) for q in self.history]) for part in ("scale", "zero_point")}

    def load_state(self, state: Mapping[str, Tensor], batches: int) -> None:
        """Goes on from what ``state`` gave after ``batches`` batches."""
        self.observer, self.history, self.batches = None, [], batches
        self.ranges, self.average = [], None
        if self.whole and state:
            self.observer = self.fresh_observer()
            self.observer.load_state(state)
        elif state and self.averaged:
            for found in zip(state["low"], state["high"], strict=True):
                self._average(found)
        elif state:
            pairs = zip(state["scale"], state["zero_point"], strict=True)
            self.history = [QParams(scale=scale_G, zero_point=zero_G) for scale_G, zero_G in pairs]


def make_observer(spec: QuantSpec, point: str = "") -> Observer:
    """Returns a fresh observer for a complete spec."""
    if spec.observer is None:
        raise QuantwrightError(f"point '{point}' has no observer", fix="complete the spec with config.spec.BASE_SPEC")
    kind: type[Observer] = registry.load("observers", spec.observer.name)
    return kind(spec, **spec.observer.params)


def moved(average: Range | None, found: Range, spec: QuantSpec) -> Range:
    """Returns the exponential moving average of ranges after one more batch; the first one is taken as it is.

    In float32, as torch's observers do; the old average counts ``ema_decay`` (spec mqbench_sophgo 4).
    """
    if average is None:
        return found
    decay = 0.9 if spec.ema_decay is None else spec.ema_decay
    low_G, high_G = (
        (old_G.float() * decay + new_G.float() * (1.0 - decay)).double()
        for old_G, new_G in zip(average, found, strict=True)
    )
    return low_G, high_G


def combine(history: Sequence[QParams], statistic: str, modal_ties: str = "larger_scale") -> QParams:
    """Returns one QParams for those of several batches: the statistic over scales, the mode of the zero points.

    Spec vai_q_pytorch 3.6. The mode of several equally frequent scales is the larger one (3.5: the smallest position)
    or the smaller one (3.6: the CPU engine).
    """
    scale_BG = torch.stack([q.scale for q in history])
    zero_BG = torch.stack([q.zero_point for q in history])
    if statistic == "last":
        return history[-1]
    if statistic == "max":
        scale_G = scale_BG.amax(0)
    elif statistic == "mean":
        scale_G = scale_BG.mean(0)
    elif statistic == "median":
        scale_G = torch.quantile(scale_BG.double(), 0.5, dim=0).to(scale_BG.dtype)
    elif modal_ties == "first":
        scale_G = _first_mode(scale_BG)
    elif modal_ties == "larger_scale":
        scale_G = -torch.mode(-scale_BG, dim=0).values
    else:
        scale_G = torch.mode(scale_BG, dim=0).values
    return QParams(scale=scale_G, zero_point=torch.mode(zero_BG, dim=0).values)


def _first_mode(scale_BG: Tensor) -> Tensor:
    """Returns the most frequent scale, of equally frequent ones that which came first (spec vai_q_tensorflow2 4.4).

    Of several groups the first batch counts, as in the tool.
    """
    if scale_BG.shape[1] > 1:
        return scale_BG[0]
    values, at_B = torch.unique(scale_BG[:, 0], return_inverse=True)
    counts_B = torch.bincount(at_B, minlength=values.numel())[at_B]
    return scale_BG[int(counts_B.argmax())]


def observe(observer: Observer, x: Tensor, spec: QuantSpec, point: str) -> None:
    """Shows one value to an observer; an error says which point it is about."""
    assert spec.granularity is not None  # specs of a plan are complete
    try:
        observer.observe(unordered_view(x.detach(), spec.granularity))
    except DataError as error:
        raise DataError(error.message, where=point, allowed=error.allowed, fix=error.fix) from error
