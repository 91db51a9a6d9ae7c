"""Verdict: what a comparison of simulation and exported file found, and what counts as a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from quantwright.errors import VerificationError
from quantwright.verify.compare import Divergence, PointReport, finite_or_text


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReport:
    """Returns how one output of the network compares; "fused" is ONNX Runtime with integer kernels.

    Attributes:
        point: the point the output is quantized at; None when it is not, and then there are no LSBs.
        top1_float: fraction of samples whose highest score is the same in float and simulation.
        top1_unfused, top1_fused: the same for simulation and exported file; None for outputs without classes.
        sqnr_*: decibel; float against simulated, simulated against exported.
    """

    index: int
    point: str | None
    max_lsb_unfused: float | None
    max_lsb_fused: float | None
    max_abs_unfused: float
    max_abs_fused: float
    sqnr_float_db: float
    sqnr_unfused_db: float
    sqnr_fused_db: float
    top1_float: float | None
    top1_unfused: float | None
    top1_fused: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Returns what the comparison found; ``ok`` when no ``problems``.

    Attributes:
        points: activation points in execution order.
        first: the first point, in execution order, with a differing value.
        tolerance: steps one point may differ by, computed from the exported values before it.
        problems: what is beyond the tolerance, in sentences.
    """

    file: str
    samples: int
    tolerance: float
    points: tuple[PointReport, ...]
    outputs: tuple[OutputReport, ...]
    first: Divergence | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Returns whether the exported file computes what was simulated."""
        return not self.problems

    def require(self) -> Verdict:
        """Returns the verdict when it is ok.

        Raises:
            VerificationError: the exported file differs from the simulation; every problem is named.
        """
        if self.problems:
            raise VerificationError(
                "the file does not compute what was simulated: " + "; ".join(self.problems), where=self.file,
                fix="look at render() for the first difference; exact_rounding=True writes roundings exactly",
            )  # fmt: skip
        return self

    def to_json(self) -> dict[str, Any]:
        """Returns plain values; infinities as text."""
        plain: dict[str, Any] = finite_or_text({"ok": self.ok, **asdict(self)})
        return plain

    def render(self) -> list[str]:
        """Returns the verdict as lines for people."""
        exact = sum(p.differing == 0 for p in self.points)
        worst = max((p.local_max_lsb for p in self.points), default=0.0)
        others = f"; the others differ by at most {worst:.3g} LSB each"
        lines = [
            f"{'ok' if self.ok else 'NOT OK'}: {self.file} against the simulation, {self.samples} samples",
            f"  points: {exact} of {len(self.points)} equal" + ("" if exact == len(self.points) else others),
        ]
        lines += [f"  {_output_line(output)}" for output in self.outputs]
        if self.first is not None:
            lines.append(f"  first difference: {self.first}")
        lines += [f"  problem: {text}" for text in self.problems]
        return lines + [f"  note: {text}" for text in self.notes]


def _output_line(output: OutputReport) -> str:
    gap = (
        f"at most {output.max_lsb_unfused:.3g} LSB unfused, {output.max_lsb_fused:.3g} fused"
        if output.max_lsb_unfused is not None
        else f"at most {output.max_abs_unfused:.3g} unfused, {output.max_abs_fused:.3g} fused"
    )
    top = "" if output.top1_fused is None else f"; same top-1 {100 * output.top1_fused:.2f} % (fused)"
    return f"output {output.index}: {gap}; float to simulated {output.sqnr_float_db:.1f} dB{top}"


def point_problems(points: Iterable[PointReport], tolerance: float) -> Iterator[str]:
    """Yields points that differ by more than the tolerance on their own."""
    for p in points:
        if p.local_max_lsb > tolerance * (1 + 1e-3):  # a difference of n steps is n only up to float rounding
            yield (
                f"{p.point} differs by up to {p.local_max_lsb:.3g} LSB on its own "
                f"({p.local_differing} of {p.values} values)"
            )


def output_problems(outputs: Iterable[OutputReport], tolerance: float, has_points: bool) -> Iterator[str]:
    """Yields outputs whose difference is neither within the tolerance nor smaller than the quantization noise."""
    for o in outputs:
        runs = [("fused", o.max_lsb_fused, o.max_abs_fused, o.sqnr_fused_db)]
        if not has_points:  # with points, each step has been compared on its own
            runs.append(("unfused", o.max_lsb_unfused, o.max_abs_unfused, o.sqnr_unfused_db))
        for word, lsb, gap, db in runs:
            if lsb is not None and lsb <= tolerance * (1 + 1e-3):
                continue
            if not math.isfinite(gap):
                yield f"output {o.index} ({word}) has NaN or Inf where the simulation has none"
            elif db < min(o.sqnr_float_db, 100.0):  # 100 dB: float32 sums in another order
                yield (
                    f"output {o.index} ({word}): exported and simulated differ more ({db:.1f} dB) "
                    f"than simulated and float ({o.sqnr_float_db:.1f} dB)"
                )
