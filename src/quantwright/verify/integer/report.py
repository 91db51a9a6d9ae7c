"""What a comparison with the integer machine found, as values, JSON and lines for people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from quantwright.errors import VerificationError
from quantwright.verify.compare import finite_or_text
from quantwright.verify.integer.sums import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Returns the first value that differs: where it is, and both numbers.

    Attributes:
        point: a point, or ``output N`` for a result of the network that is on no grid.
        integer: what the integer machine has. other: what was compared with it.
    Units:
        integer, other, lsb: integer steps of the point from its zero; real numbers for an ``output N``.
    """

    point: str
    batch: int
    index: tuple[int, ...]
    integer: float
    other: float
    lsb: float | None

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        unit = "" if self.lsb is None else " LSB"
        return (
            f"{self.point} [{at}] of batch {self.batch}: integer {self.integer:.9g}{unit}, other {self.other:.9g}{unit}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Returns how something compares with the integer machine, over all points and outputs.

    Attributes:
        what: what was compared. points: how many points. values: how many values of them, and of float outputs.
        differing: how many are not the same number. max_lsb: the largest difference of a point.
        by_point: point -> values that differ, for those that have any.
        first: the first differing value in execution order.
    """

    what: str
    points: int
    values: int
    differing: int
    max_lsb: float
    by_point: dict[str, int]
    first: Difference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulator:
    """Returns what is known of one layer's integer accumulator.

    Attributes:
        engine: how the sums were computed; see ``engines``.
        bits: what the target has. possible: the largest size the weights allow a sum. seen: the largest there was.
        beyond: how many sums did not fit.
    """

    layer: str
    engine: str
    bits: int
    possible: int
    seen: int
    beyond: int

    @property
    def bits_needed(self) -> int:
        """Returns the bits that hold every sum that was seen."""
        return self.seen.bit_length() + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerReport:
    """Returns what executing the plan on integers found; ``ok`` when nothing differs and nothing overflows.

    Attributes:
        simulation: the simulation against the integer machine. exported: the exported file against it, node by node
            as written and all points, then as ONNX Runtime fuses it and outputs only; empty without a file.
        parameters: integer weights and biases that were compared. layers: every accumulator, in execution order.
        how: how the points are computed -> how many.
        float_points: points on no integer grid. seconds: what the machine itself took.
    """

    target: str
    samples: int
    simulation: Comparison
    exported: tuple[Comparison, ...]
    layers: tuple[Accumulator, ...]
    how: dict[str, int]
    float_points: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def overflowing(self) -> tuple[Accumulator, ...]:
        """Returns the accumulators that did not hold all sums."""
        return tuple(layer for layer in self.layers if layer.beyond)

    @property
    def ok(self) -> bool:
        """Returns whether the simulation is what integers give, and every sum fits into its accumulator."""
        return not self.simulation.differing and not self.overflowing

    def require(self) -> IntegerReport:
        """Returns the report when it is ok.

        Raises:
            VerificationError: the simulation differs from the integers, or an accumulator overflows.
        """
        if not self.ok:
            raise VerificationError("; ".join(self.problems()), fix="look at render() for the first difference")
        return self

    def problems(self) -> list[str]:
        """Returns what is wrong, in sentences."""
        found = []
        if self.simulation.differing:
            count = f"{self.simulation.differing} of {self.simulation.values} values"
            found.append(f"the simulation differs from the integers in {count}, first at {self.simulation.first}")
        for layer in self.overflowing:
            found.append(
                f"{layer.beyond} sums of {layer.layer} do not fit into {layer.bits} bits: the largest is {layer.seen}"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: those of the simulation's comparison, and ``layers``, ``how`` and ``exported``."""
        plain: dict[str, Any] = {"ok": self.ok, "target": self.target, "samples": self.samples}
        plain |= {key: value for key, value in asdict(self.simulation).items() if key != "what"}
        plain["exported"] = [asdict(comparison) for comparison in self.exported]
        plain["layers"] = [{**asdict(layer), "bits_needed": layer.bits_needed} for layer in self.layers]
        plain |= {"how": self.how, "float_points": list(self.float_points), "problems": self.problems()}
        result: dict[str, Any] = finite_or_text(plain)
        return result

    def render(self) -> list[str]:
        """Returns the report as lines for people."""
        lines = [
            f"{'ok' if self.ok else 'NOT OK'}: executed on integers for target {self.target}, {self.samples} samples"
        ]
        lines += [f"  {_line(c)}" for c in (self.simulation, *self.exported)]
        lines += [f"  {count} points: {how}" for how, count in self.how.items()]
        if self.float_points:
            lines.append(
                f"  {len(self.float_points)} points are on no integer grid: {', '.join(self.float_points[:4])}"
            )
        lines += [f"  {row}" for row in table(self.layers)]
        return lines + [f"  problem: {text}" for text in self.problems()]


def _line(c: Comparison) -> str:
    head = f"{c.what}: {c.differing} of {c.values:,} values differ at {c.points} points"
    return head if c.first is None else f"{head} (at most {c.max_lsb:.3g} LSB); first: {c.first}"


def accumulators(layers: Iterable[Layer]) -> tuple[Accumulator, ...]:
    """Returns what is known of the accumulators that were used."""
    return tuple(
        Accumulator(
            layer=layer.name, engine=layer.engine, bits=layer.bits, possible=layer.possible, seen=layer.seen,
            beyond=layer.beyond,
        )
        for layer in layers if layer.seen is not None
    )  # fmt: skip


def table(layers: Iterable[Accumulator]) -> list[str]:
    """Returns the accumulators as the rows of a table."""
    rows = [("accumulator", "bits", "needed", "largest seen", "largest possible", "beyond", "computed in")]
    rows += [
        (a.layer, str(a.bits), str(a.bits_needed), f"{a.seen:,}", f"{a.possible:,}", str(a.beyond), a.engine)
        for a in layers
    ]
    if len(rows) == 1:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (0, len(widths) - 1)
    return [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
