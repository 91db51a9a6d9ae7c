"""Moves positions of power-of-two scales to what the shifters of a DPU can do; needs no data.

``method: vitis_pytorch`` is what vai_q_pytorch does when it writes its result (spec vai_q_pytorch 4.4), ``method:
vitis_tensorflow2`` the refinement of vai_q_tensorflow2 (its spec, 5.3), each in its tool's order. Where the tools have
faults the fixed form is the default, and ``compatible`` brings them back: limits applied at every bit width (they are
those of 8-bit tensors), a cut that is not computed again (PyTorch), ``shift_write`` moving to the limit itself
(TensorFlow). Every adjustment can be switched; what is not said is as in the tool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quantwright.algorithms import Algorithm
from quantwright.algorithms import _adjustments as adjust
from quantwright.algorithms._adjustments import Adjuster, Adjustment
from quantwright.algorithms._positions import Positions
from quantwright.data import Batch
from quantwright.errors import UnknownNameError, did_you_mean
from quantwright.passes import Change
from quantwright.prepare import PreparedModel

PARAMS = {
    "method": {
        "type": "str",
        "default": "vitis_pytorch",
        "choices": ["vitis_pytorch", "vitis_tensorflow2"],
        "help": "whose order and limits",
    },
    "compatible": {"type": "bool", "default": False, "help": "with the faults of the tool, to reproduce its numbers"},
    "shift_cut": {"type": "bool", "default": None, "help": "the right shift of an accumulator is possible"},
    "shift_bias": {"type": "bool", "default": None, "help": "the shift of a bias is possible"},
    "leaky_relu_bias": {"type": "bool", "default": None, "help": "biases before a leaky ReLU are not shifted right"},
    "shift_read": {"type": "bool", "default": None, "help": "operands of additions and products can be aligned"},
    "shift_write": {"type": "bool", "default": None, "help": "results of additions and products can be shifted"},
    "hard_sigmoid": {"type": "bool", "default": None, "help": "positions a hard sigmoid can read and write"},
    "hard_swish": {"type": "bool", "default": None, "help": "positions a hard swish can read and write"},
    "concat": {"type": "bool", "default": None, "help": "a concat and what it joins have one position"},
    "pool": {"type": "bool", "default": None, "help": "a pool and what it reads have one position"},
    "addition": {"type": "bool", "default": None, "help": "an addition and what it reads have one position"},
}

#: method -> what its tool does when nothing is said
DEFAULTS: Mapping[str, frozenset[str]] = {
    "vitis_pytorch": frozenset(("shift_cut", "shift_bias", "hard_sigmoid", "hard_swish")),
    "vitis_tensorflow2": frozenset(
        ("shift_cut", "shift_bias", "leaky_relu_bias", "shift_read", "shift_write", "hard_sigmoid", "hard_swish",
         "concat", "pool")
    ),
}  # fmt: skip
SWITCHES = tuple(name for name in PARAMS if name not in ("method", "compatible"))


def run(
    prepared: PreparedModel,
    batches: Iterable[Batch] = (),
    *,
    method: str = "vitis_pytorch",
    compatible: bool = False,
    **switches: bool | None,
) -> list[Change]:
    """Returns one change per position that was moved, with ``before`` and ``after``, and one about what was left alone.

    Raises:
        UnknownNameError: no such method or adjustment.
    """
    del batches
    _require_known(method, switches)
    on = {name: name in DEFAULTS[method] if switches.get(name) is None else bool(switches[name]) for name in SWITCHES}
    positions = Positions(prepared)
    adjuster = Adjuster(positions, compatible)
    (_as_pytorch if method == "vitis_pytorch" else _as_tensorflow2)(adjuster, on)
    positions.apply()
    return [*positions.changes, *_left_alone(adjuster)]


def _as_pytorch(adjuster: Adjuster, on: Mapping[str, bool]) -> None:
    """Runs the adjustments in the order of vai_q_pytorch; those only the other tool has come last."""
    found = adjuster.positions.ops
    adjust.align_pytorch(adjuster, found, on)
    _run(adjuster, on, {"hard_sigmoid": adjust.hard_sigmoid_pytorch, "hard_swish": adjust.hard_swish_pytorch})
    if on["shift_cut"]:
        adjust.shift_cut_pytorch(adjuster, found, on["shift_bias"])
    elif on["shift_bias"]:
        adjust.shift_bias_pytorch(adjuster, found)
    _run(
        adjuster,
        on,
        {
            "shift_read": adjust.shift_read,
            "shift_write": adjust.shift_write,
            "leaky_relu_bias": adjust.leaky_relu_bias,
        },
    )


def _as_tensorflow2(adjuster: Adjuster, on: Mapping[str, bool]) -> None:
    """Runs the adjustments in the order of vai_q_tensorflow2."""
    adjust.align_pytorch(adjuster, adjuster.positions.ops, {**dict.fromkeys(on, False), "addition": on["addition"]})
    _run(
        adjuster,
        on,
        {
            "hard_sigmoid": adjust.hard_sigmoid_tensorflow2,
            "shift_read": adjust.shift_read,
            "shift_write": adjust.shift_write,
            "hard_swish": adjust.hard_swish_tensorflow2,
            "shift_cut": adjust.shift_cut_tensorflow2,
            "shift_bias": adjust.shift_bias_tensorflow2,
            "leaky_relu_bias": adjust.leaky_relu_bias,
            "concat": adjust.align_concat,
            "pool": adjust.align_pool,
        },
    )


def _run(adjuster: Adjuster, on: Mapping[str, bool], steps: Mapping[str, Adjustment]) -> None:
    for name, step in steps.items():
        if on[name]:
            step(adjuster, adjuster.positions.ops)


def _left_alone(adjuster: Adjuster) -> list[Change]:
    """Returns what was not adjusted because the limits are not about tensors of its widths, one change per limit."""
    found = []
    for by, labels in adjuster.skipped.items():
        named = list(dict.fromkeys(labels))
        shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
        text = f"{by} leaves {shown} alone: its limits are those of {adjust.BITS}-bit tensors"
        found.append(Change(by="position_adjustment", node="", text=text, data={"adjustment": by, "skipped": named}))
    return found


def _require_known(method: str, switches: Mapping[str, object]) -> None:
    if method not in DEFAULTS:
        raise UnknownNameError(f"no method '{method}'", allowed=DEFAULTS, fix=did_you_mean(method, DEFAULTS))
    for name in switches:
        if name not in SWITCHES:
            raise UnknownNameError(f"no adjustment '{name}'", allowed=SWITCHES, fix=did_you_mean(name, SWITCHES))


plugin = Algorithm(run=run, needs_data=False)
