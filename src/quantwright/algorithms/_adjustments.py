"""What moves positions, one adjustment after the other: the limits of the DPU's shifters, and tensors that share one.

With iw, ww, ow, bw the positions of an operation's input, weight, output and bias, the hardware shifts the accumulator
right by the *cut* ww + iw - ow, and the bias left by ww + iw - bw, and both shifts have limits. Sections are those of
the behavioural specs of vai_q_pytorch (P) and vai_q_tensorflow2 (T).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from quantwright.algorithms._positions import LAYERS, Op, Positions, producer, readers
from quantwright.config import kinds
from quantwright.graph import ops

BITS = 8  # the limits are those of 8-bit tensors
CUT = (0, 16)  # P4.4, T5.3
BIAS_HIGH = 16
READ = 15  # T5.3: operands of an addition are aligned by at most so much
WRITE = 15
SWISH = (0, 15)
GATE = 7  # a hard sigmoid is at least this fine: its values end at 1
GATE_INPUT = (0, 15)


@dataclass(slots=True)
class Adjuster:
    """Returns what the adjustments share: the positions, which tool's rules, and whether its faults are kept.

    Attributes:
        compatible: keep what the spec lists as faults of the tool: limits at every width, a stale cut, the wrong end of
            ``shift_write``.
        skipped: adjustment -> labels of what was left alone because some tensor is not of 8 bits.
    """

    positions: Positions
    compatible: bool = False
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def known(self, by: str, op: Op, *points: str | None) -> bool:
        """Returns whether all positions are known and the limits are about tensors of these widths."""
        if any(self.positions[point] is None for point in points):
            return False
        if self.compatible or all(self.positions.bits(point) == BITS for point in points if point is not None):
            return True
        self.skipped.setdefault(by, []).append(op.label)
        return False

    def at(self, point: str | None) -> int:
        """Returns a position that ``known`` has found."""
        position = self.positions[point]
        assert position is not None  # known() was asked
        return position

    def move(self, point: str | None, position: int, by: str, op: Op, why: str) -> None:
        """Moves a position that ``known`` has found."""
        assert point is not None  # known() was asked
        self.positions.move(point, position, by, op, why)


Adjustment = Callable[[Adjuster, Iterable[Op]], None]


# -- hard sigmoid and swish ----------------------------------------------------------------------------------------
def hard_sigmoid_pytorch(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """P4.4: hard sigmoid output p >= 7 and input p >= 0."""
    by = "hard_sigmoid"
    for op in _of(found, "hardsigmoid"):
        if adjuster.known(by, op, op.inputs[0], op.output):
            adjuster.move(op.output, max(adjuster.at(op.output), GATE), by, op, f"at least {GATE}")
            adjuster.move(op.inputs[0], max(adjuster.at(op.inputs[0]), 0), by, op, "not negative")


def hard_sigmoid_tensorflow2(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3 sigmoid: input p in [0, 15], output p >= 7 and at most 14 + input."""
    by = "hard_sigmoid"
    for op in _of(found, "hardsigmoid"):
        if adjuster.known(by, op, op.inputs[0], op.output):
            low, high = GATE_INPUT
            adjuster.move(op.inputs[0], _clamp(adjuster.at(op.inputs[0]), low, high), by, op, f"in [{low}, {high}]")
            finest = 14 + adjuster.at(op.inputs[0])
            wanted = max(adjuster.at(op.output), GATE)
            adjuster.move(op.output, min(wanted, finest), by, op, f"at least {GATE}, at most {finest}")


def hard_swish_pytorch(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """P4.4: hard swish input p >= 0, output p <= input p + 7."""
    by = "hard_swish"
    for op in _of(found, "hardswish"):
        if adjuster.known(by, op, op.inputs[0], op.output):
            adjuster.move(op.inputs[0], max(adjuster.at(op.inputs[0]), 0), by, op, "not negative")
            finest = adjuster.at(op.inputs[0]) + GATE
            adjuster.move(op.output, min(adjuster.at(op.output), finest), by, op, f"at most that of its input + {GATE}")


def hard_swish_tensorflow2(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3 shift_swish: the product of x and hardsigmoid(x) is shifted by 0 to 15."""
    by = "hard_swish"
    for op in _of(found, "mul"):
        if _is_swish(op) and adjuster.known(by, op, *op.inputs, op.output):
            total = sum(adjuster.at(point) for point in op.inputs)
            shift = _clamp(total - adjuster.at(op.output), *SWISH)
            adjuster.move(op.output, total - shift, by, op, f"shift in [{SWISH[0]}, {SWISH[1]}]")


def _is_swish(op: Op) -> bool:
    """Returns whether an operation multiplies x by hardsigmoid(x)."""
    operands = [producer(node) for node in op.node.all_input_nodes]
    if len(operands) != 2 or len(op.inputs) != 2:
        return False
    gates = [node for node in operands if ops.kind_of(node) == "hardsigmoid"]
    return any(producer(gate.args[0]) in operands for gate in gates if isinstance(gate.args[0], fx.Node))


# -- layers --------------------------------------------------------------------------------------------------------
def shift_cut_pytorch(adjuster: Adjuster, found: Iterable[Op], bias: bool = False) -> None:
    """P4.4: a cut below 0 lowers the output's position, one above 16 the weight's; then, if asked for, the bias."""
    for op in _of(found, *LAYERS):
        if not adjuster.known("shift_cut", op, op.inputs[0], op.weight, op.output):
            continue
        cut, low, high = _cut(adjuster, op), *CUT
        if cut < low:
            adjuster.move(op.output, adjuster.at(op.output) + cut - low, "shift_cut", op, f"cut {cut} to {low}")
        elif cut > high:
            adjuster.move(op.weight, adjuster.at(op.weight) - (cut - high), "shift_cut", op, f"cut {cut} to {high}")
        if bias:
            _shift_bias_pytorch(adjuster, op, cut if adjuster.compatible else _cut(adjuster, op))


def shift_bias_pytorch(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """P4.4: a bias shift below the limit raises the bias' position, one above 16 lowers the weight's."""
    for op in _of(found, *LAYERS):
        if adjuster.known("shift_bias", op, op.inputs[0], op.weight, op.output):
            _shift_bias_pytorch(adjuster, op, _cut(adjuster, op))


def _shift_bias_pytorch(adjuster: Adjuster, op: Op, cut: int) -> None:
    by = "shift_bias"
    if not adjuster.known(by, op, op.inputs[0], op.weight, op.bias):
        return
    shift, low = adjuster.at(op.weight) + adjuster.at(op.inputs[0]) - adjuster.at(op.bias), _lowest(cut)
    if shift < low:
        adjuster.move(op.bias, adjuster.at(op.bias) + shift - low, by, op, f"bias shift {shift} to {low}")
    elif shift > BIAS_HIGH:
        why = f"bias shift {shift} to {BIAS_HIGH}"
        if adjuster.compatible:
            adjuster.move(op.weight, adjuster.at(op.weight) - (shift - BIAS_HIGH), by, op, why)
        else:  # a coarser weight could put the cut below 0 again; a finer bias saturates where it cannot be represented
            _raise_bias(adjuster, op, shift, cut, why)


def _raise_bias(adjuster: Adjuster, op: Op, shift: int, cut: int, why: str) -> None:
    """Lowers the weight's position as far as the cut stays possible, and raises the bias' for the rest."""
    excess = shift - BIAS_HIGH
    by_weight = max(0, min(excess, cut - CUT[0]))
    adjuster.move(op.weight, adjuster.at(op.weight) - by_weight, "shift_bias", op, why)
    adjuster.move(op.bias, adjuster.at(op.bias) + excess - by_weight, "shift_bias", op, why)


def shift_cut_tensorflow2(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: the weight's position moves until the cut is in [0, 16]."""
    by = "shift_cut"
    for op in _of(found, *LAYERS):
        if adjuster.known(by, op, op.inputs[0], op.weight, op.output):
            cut = _cut(adjuster, op)
            wanted = _clamp(cut, *CUT)
            adjuster.move(op.weight, adjuster.at(op.weight) + wanted - cut, by, op, f"cut {cut} to {wanted}")


def shift_bias_tensorflow2(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: the bias' position moves until its shift is possible."""
    for op in _of(found, *LAYERS):
        if adjuster.known("shift_bias", op, op.inputs[0], op.weight, op.output, op.bias):
            _clamp_bias(adjuster, op, "shift_bias", _lowest(_cut(adjuster, op)))


def leaky_relu_bias(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: before a leaky ReLU the bias shift is not negative."""
    for op in _of(found, *LAYERS):
        leaky = any(ops.kind_of(reader) == "leaky_relu" for reader in readers(op.node))
        if leaky and adjuster.known("leaky_relu_bias", op, op.inputs[0], op.weight, op.bias):
            _clamp_bias(adjuster, op, "leaky_relu_bias", 0)


def _clamp_bias(adjuster: Adjuster, op: Op, by: str, low: int) -> None:
    total = adjuster.at(op.weight) + adjuster.at(op.inputs[0])
    shift = total - adjuster.at(op.bias)
    wanted = _clamp(shift, low, BIAS_HIGH)
    adjuster.move(op.bias, total - wanted, by, op, f"bias shift {shift} to {wanted}")


def _cut(adjuster: Adjuster, op: Op) -> int:
    return adjuster.at(op.weight) + adjuster.at(op.inputs[0]) - adjuster.at(op.output)


def _lowest(cut: int) -> int:
    """Returns the smallest possible bias shift: the bias may be shifted right within the accumulator (P4.4, T5.3)."""
    return min(0, -(24 - (8 + cut)))


# -- additions and products ------------------------------------------------------------------------------------------
def shift_read(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: positions of the operands of an addition or product differ by at most 15; the finest becomes coarser."""
    by = "shift_read"
    for op in _of(found, "add", "mul"):
        if len(op.inputs) > 1 and adjuster.known(by, op, *op.inputs):
            at = {point: adjuster.at(point) for point in op.inputs}
            lowest, finest = min(at.values()), max(at, key=lambda point: at[point])
            if at[finest] - lowest > READ:
                adjuster.move(finest, lowest + READ, by, op, f"operands {at[finest] - lowest} apart, at most {READ}")


def shift_write(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: the result of an addition or product is shifted by at most 15 either way.

    The tool sets the output's position to the limit itself, +15 or -15, which is a slip: the shift is what is limited.
    """
    by = "shift_write"
    for op in _of(found, "add", "mul"):
        if len(op.inputs) > 1 and adjuster.known(by, op, *op.inputs, op.output):
            coarsest = min(adjuster.at(point) for point in op.inputs)
            shift = coarsest - adjuster.at(op.output)
            limit = _clamp(shift, -WRITE, WRITE)
            if limit != shift:
                wanted = limit if adjuster.compatible else coarsest - limit
                adjuster.move(op.output, wanted, by, op, f"shift {shift} to {limit}")


# -- alignment -------------------------------------------------------------------------------------------------------
def align_pytorch(adjuster: Adjuster, found: Iterable[Op], names: Mapping[str, bool]) -> None:
    """P4.4, against execution order: operands of concats, pools and additions take the position of the result."""
    for op in reversed(list(found)):
        by = next((name for name, kinds_of in _ALIGNED.items() if op.kind in kinds_of and names[name]), None)
        if by is None or op.output is None:
            continue
        for point in dict.fromkeys(op.inputs):
            if point is not None:
                adjuster.positions.follow(point, op.output, by, op, "as its result")


_ALIGNED = {
    "concat": kinds.JOIN,
    "pool": (*kinds.POOL_MAX, "avg_pool", "adaptive_avg_pool"),
    "addition": ("add",),
}


def align_concat(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: a concat and all it joins take the smallest of their positions."""
    for op in _of(found, *kinds.JOIN):
        points = [point for point in op.inputs if adjuster.positions[point] is not None]
        if adjuster.positions[op.output] is not None:
            lowest = min(adjuster.at(point) for point in (op.output, *points))
            for point in (op.output, *points):
                adjuster.move(point, lowest, "concat", op, "the smallest of a concat and what it joins")


def align_pool(adjuster: Adjuster, found: Iterable[Op]) -> None:
    """T5.3: a pool (not a global one) and its input take the smaller of their positions."""
    for op in _of(found, "max_pool", "avg_pool"):
        if adjuster.positions[op.inputs[0]] is not None and adjuster.positions[op.output] is not None:
            lowest = min(adjuster.at(op.inputs[0]), adjuster.at(op.output))
            for point in (op.inputs[0], op.output):
                adjuster.move(point, lowest, "pool", op, "the smaller of a pool and its input")


def _of(found: Iterable[Op], *wanted: str) -> list[Op]:
    return [op for op in found if op.kind in wanted]


def _clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)
