"""Positions moved to what shifters can do: every limit, every switch, the tools' faults, widths, shared scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dpu_models import Add, Concatenate, Multiply, positions_of, prepared_of, put
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import quantwright
from quantwright import registry
from quantwright.algorithms import position_adjustment
from quantwright.algorithms._positions import Positions
from quantwright.config.config import QuantConfig
from quantwright.data import Batch
from quantwright.errors import UnknownNameError
from quantwright.graph.capture import capture
from quantwright.passes import dpu_operators
from quantwright.plan.resolve import resolve
from quantwright.prepare import PreparedModel

X = torch.randn(2, 3, 6, 6)


class Layer(nn.Module):
    """One convolution with a ReLU."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.c, self.r = nn.Conv2d(3, 4, 3), last or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.r(self.c(x))


class Pair(nn.Module):
    """Two convolutions, and what two values become one by."""

    def __init__(self, join: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.join, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), join, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.join(self.a(x), self.b(x)))


def layer(last: nn.Module | None = None, bits: Any = None, **positions: int) -> PreparedModel:
    """Returns one layer with the positions of its input (x), weight (w), output (o) and bias (b)."""
    names = {"x": "x:input", "w": "c.weight", "o": "r:output", "b": "c.bias", "c": "c:output"}
    return prepared_of(Layer(last), X, {names[key]: value for key, value in positions.items()}, bits=bits)


def moved(prepared: PreparedModel, **params: Any) -> dict[str, tuple[int, int]]:
    """Returns point -> (before, after) of what the adjustment moved, as it reports it; checks that it is true."""
    before = positions_of(prepared)
    changes = [change for change in position_adjustment.run(prepared, **params) if "point" in change.data]
    after = positions_of(prepared)
    found: dict[str, tuple[int, int]] = {}
    for change in changes:
        point = change.data["point"]
        first = found[point][0] if point in found else change.data["before"]
        found[point] = (first, change.data["after"])
        assert str(change.data["before"]) in change.text and point in change.text and change.by == "position_adjustment"
    roots = {point for point in before if prepared.root(point) == point}
    assert {p: (before[p], after[p]) for p in roots if before[p] != after[p]} == {
        p: pair for p, pair in found.items() if pair[0] != pair[1]
    }
    return found


TF2 = {"method": "vitis_tensorflow2"}


# -- layers --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("positions", "pytorch", "tensorflow2"),
    [
        ({"x": 4, "w": 7, "o": 4, "b": 6}, {}, {}),
        ({"x": 0, "w": 2, "o": 5, "b": 2}, {"r:output": (5, 2)}, {"c.weight": (2, 5)}),
        ({"x": 9, "w": 12, "o": 3, "b": 9}, {"c.weight": (12, 10)}, {"c.weight": (12, 10)}),
        ({"x": 0, "w": 0, "o": 0, "b": 30}, {"c.bias": (30, 16)}, {"c.bias": (30, 16)}),
        ({"x": 5, "w": 7, "o": 4, "b": -8}, {"c.weight": (7, 3)}, {"c.bias": (-8, -4)}),
    ],
)  # fmt: skip
def test_cut_and_bias_shift(positions: dict[str, int], pytorch: Any, tensorflow2: Any) -> None:
    """P4.4 lowers output or weight where T5.3 moves the weight; the bias shift is at least -(24 - (8 + cut))."""
    assert moved(layer(**positions)) == pytorch
    assert moved(layer(**positions), **TF2) == tensorflow2


def test_the_bias_shift_sees_the_adjusted_cut() -> None:
    """P4.4: the tool computes the lowest bias shift with the cut before it was adjusted."""
    positions = {"x": 0, "w": 0, "o": 4, "b": 19}
    assert moved(layer(**positions)) == {"r:output": (4, 0), "c.bias": (19, 16)}  # cut 0: not below -16
    assert moved(layer(**positions), compatible=True) == {"r:output": (4, 0)}  # cut -4: not below -20


def test_a_weight_is_not_lowered_below_what_its_cut_allows() -> None:
    """P4.4: the tool lowers the weight for the bias and leaves a cut below 0; here the bias takes the rest."""
    positions = {"x": 4, "w": 4, "o": 6, "b": -14}
    kept = layer(**positions)
    assert moved(kept, compatible=True) == {"c.weight": (4, -2)}
    assert sum(positions_of(kept)[name] for name in ("x:input", "c.weight")) - 6 == -4
    fixed = layer(**positions)
    assert moved(fixed) == {"c.weight": (4, 2), "c.bias": (-14, -10)}
    assert moved(fixed) == {}, "what was adjusted is possible"


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-20, 30)] * 4), st.sampled_from(["vitis_pytorch", "vitis_tensorflow2"]))
def test_every_layer_ends_within_the_limits(places: tuple[int, int, int, int], method: str) -> None:
    prepared = layer(**dict(zip(("x", "w", "o", "b"), places, strict=True)))
    position_adjustment.run(prepared, method=method)
    at = positions_of(prepared)
    cut = at["x:input"] + at["c.weight"] - at["r:output"]
    shift = at["x:input"] + at["c.weight"] - at["c.bias"]
    assert 0 <= cut <= 16
    assert min(0, -(24 - (8 + cut))) <= shift <= 16
    assert position_adjustment.run(prepared, method=method) == []


def test_bias_before_a_leaky_relu() -> None:
    positions = {"x": 0, "w": 0, "o": 0, "b": 5}
    assert moved(layer(nn.LeakyReLU(0.1), **positions), **TF2) == {"c.bias": (5, 0)}
    assert moved(layer(nn.LeakyReLU(0.1), **positions)) == {}, "vai_q_pytorch has no such adjustment"
    assert moved(layer(nn.LeakyReLU(0.1), **positions), leaky_relu_bias=True) == {"c.bias": (5, 0)}
    assert moved(layer(**positions), **TF2) == {}


# -- sigmoids ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "result", "pytorch", "tensorflow2"),
    [(4, 5, (4, 7), (4, 7)), (-3, 9, (0, 9), (0, 9)), (20, 40, (20, 40), (15, 29)), (0, 15, (0, 15), (0, 14))],
)
def test_hard_sigmoid(source: int, result: int, pytorch: tuple[int, int], tensorflow2: tuple[int, int]) -> None:
    only = {"shift_cut": False, "shift_bias": False}
    for wanted, method in ((pytorch, {}), (tensorflow2, TF2)):
        prepared = layer(nn.Hardsigmoid(), c=source, o=result)
        moved(prepared, **only, **method)
        assert tuple(positions_of(prepared)[name] for name in ("c:output", "r:output")) == wanted


def test_hard_swish_of_one_operation() -> None:
    prepared = layer(nn.Hardswish(), x=0, w=0, c=-2, o=9)
    assert moved(prepared, shift_cut=False, shift_bias=False) == {"c:output": (-2, 0), "r:output": (9, 7)}


def test_hard_swish_of_two_operations_also_as_a_module() -> None:
    graph = capture(Layer(nn.SiLU()).eval(), (X,))
    dpu_operators.run(graph, method="vitis_tensorflow2", convert_sigmoid_to_hard_sigmoid=True)
    target = registry.load("targets", "vitis_keras_dpu")
    prepared = PreparedModel(
        graph, resolve(QuantConfig(), graph.facts(), target), QuantConfig(), target, Batch(args=(X,)), []
    )
    gate, product = [name for name in prepared.quantizers if name.startswith("r")]
    put(prepared, {"c:output": 1, gate: 7, product: 22})
    assert moved(prepared, shift_cut=False, shift_bias=False, shift_write=False, **TF2) == {product: (22, 8)}


# -- additions, concats, pools ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("join", [Add(), Multiply()])
def test_operands_and_results_are_at_most_fifteen_apart(join: nn.Module) -> None:
    names = {"a:output": -6, "b:output": 13, "join:output": 15}
    off = {"shift_cut": False, "shift_bias": False}
    assert moved(prepared_of(Pair(join), X, names), **TF2, **off, shift_write=False) == {"b:output": (13, 9)}
    assert moved(prepared_of(Pair(join), X, names), **off) == {}, "vai_q_pytorch leaves both to the compiler"


def test_shift_write_limits_the_shift_where_the_tool_sets_the_limit_itself() -> None:
    """T5.3: inputs (-6, 13), output 15: the tool makes the output -15; 9 is what is meant."""
    names = {"a:output": -6, "b:output": 13, "join:output": 15}
    only = {**TF2, "shift_cut": False, "shift_bias": False, "shift_read": False}
    assert moved(prepared_of(Pair(Add()), X, names), **only) == {"join:output": (15, 9)}
    assert moved(prepared_of(Pair(Add()), X, names), **only, compatible=True) == {"join:output": (15, -15)}
    names["join:output"] = -30
    assert moved(prepared_of(Pair(Add()), X, names), **only) == {"join:output": (-30, -21)}
    assert moved(prepared_of(Pair(Add()), X, names), **only, compatible=True) == {"join:output": (-30, 15)}


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2)])
def test_alignment_of_pools(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), pool, nn.Conv2d(4, 4, 1))
    names = {"0:output": 4, "1:output": 6}
    assert moved(prepared_of(model, X, names)) == {}, "off unless asked for"
    assert moved(prepared_of(model, X, names), pool=True) == {"0:output": (4, 6)}
    adaptive = isinstance(pool, nn.AdaptiveAvgPool2d)
    assert moved(prepared_of(model, X, names), **TF2) == ({} if adaptive else {"1:output": (6, 4)})


def test_alignment_of_concats_and_additions() -> None:
    names = {"a:output": 6, "b:output": 3, "join:output": 5}
    concat = prepared_of(Pair(Concatenate()), X, names, target="vitis_keras_dpu")
    assert moved(concat, **TF2) == {"join:output": (5, 3), "a:output": (6, 3)}
    absorbed = prepared_of(Pair(Concatenate()), X, names)
    assert "a:output" not in absorbed.quantizers and moved(absorbed, concat=True) == {}
    addition = prepared_of(Pair(Add()), X, names)
    assert moved(addition, addition=True) == {"a:output": (6, 5), "b:output": (3, 5)}


def test_alignment_on_float_scales() -> None:
    """P4.4: the CPU engine aligns too; there a scale is copied, with the zero point."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    asym = {"symmetry": False, "calib_statistic_method": "max", "method": "maxmin", "scale_type": "float",
            "round_mode": "half_even"}  # fmt: skip
    document = {"target_device": "CPU", "change_pool_input_fix": True, "overall_quantize_config": asym}
    prepared = quantwright.prepare(model, document, X)
    prepared.calibrate([X, X + 1])
    before = prepared.quantizers["0:output"].qparams
    prepared.refine(())
    mine, theirs = (prepared.quantizers[name].qparams for name in ("0:output", "1:output"))
    assert before is not None and mine is not None and theirs is not None
    assert float(before.scale) != float(theirs.scale) == float(mine.scale)
    assert int(mine.zero_point) == int(theirs.zero_point)
    (change,) = [change for change in prepared.changes if change.by == "position_adjustment"]
    assert change.data["before"] == pytest.approx(float(before.scale)) and "scale of 0:output" in change.text


# -- what can be switched, and what has no position ------------------------------------------------------------------
def test_every_adjustment_can_be_switched_off() -> None:
    positions = {"x": 9, "w": 12, "o": 3, "b": 40}
    assert set(moved(layer(**positions))) == {"c.weight", "c.bias"}
    assert set(moved(layer(**positions), shift_bias=False)) == {"c.weight"}
    assert set(moved(layer(**positions), shift_cut=False)) == {"c.bias"}
    off = dict.fromkeys(position_adjustment.SWITCHES, False)
    for method in position_adjustment.DEFAULTS:
        assert moved(layer(**positions), method=method, **off) == {}


def test_limits_of_eight_bits_are_for_eight_bits() -> None:
    """T0, T5.3: applied at every width, the limits of 8-bit tensors clip 4-bit weights."""
    positions = {"x": 0, "w": 2, "o": 5, "b": 2}
    changes = position_adjustment.run(layer(bits={"weight": 4}, **positions), **TF2)
    (told,) = [change for change in changes if change.data["adjustment"] == "shift_cut"]
    assert told.data["skipped"] == ["c"] and "8-bit" in told.text
    assert all("skipped" in change.data for change in changes)
    assert moved(layer(bits={"weight": 4}, **positions), compatible=True, **TF2) == {"c.weight": (2, 5)}


def test_scales_that_are_no_powers_of_two_and_int32_biases_have_no_position() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    for preset, known in (("int8", set()), ("power_of_two", set()), ("dpu", None)):
        prepared = quantwright.prepare(model, preset, X)
        prepared.calibrate([X])
        positions = Positions(prepared)
        points = {name for name in prepared.quantizers if positions[name] is not None}
        if preset == "int8":
            assert points == known and position_adjustment.run(prepared) == []
        elif preset == "dpu":
            assert points == set(prepared.quantizers)
        else:
            assert not any(name.endswith((".bias", ".weight")) for name in points), "derived, or one for each channel"


def test_points_that_share_a_scale_move_together() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3)).eval()
    prepared = prepared_of(model, X, {"input_1:input": 0, "0.weight": 0, "0:output": 4})
    assert moved(prepared) == {"0:output": (4, 0)}
    assert prepared.root("1:output") == "0:output" and Positions(prepared)["1:output"] == 0


def test_the_simulation_sees_the_moved_positions() -> None:
    prepared = layer(x=0, w=2, o=5, b=2)
    before = prepared(X * 9)
    moved(prepared)
    after = prepared(X * 9)
    assert before.max() == 127 / 32 and after.max() > before.max(), "position 2 reaches further than position 5"


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="vitis_pytorch"):
        position_adjustment.run(layer(), method="vitis_torch")
    with pytest.raises(UnknownNameError, match="shift_cut"):
        position_adjustment.run(layer(), shift_cuts=True)


def test_it_runs_in_refine_and_is_in_the_record() -> None:
    model = Layer().eval()
    with torch.no_grad():
        model.c.weight.mul_(1e-3)
        model.c.bias.fill_(1000)
    prepared = quantwright.prepare(model, "dpu", X)
    prepared.calibrate([X])
    prepared.refine(())
    assert any(change.by == "position_adjustment" for change in prepared.changes)


def test_models_that_are_no_graph_are_told_that_it_is_left_out() -> None:
    prepared = quantwright.prepare(Layer().eval(), "dpu", X, capture="modules")
    assert any("does not apply" in note and "position_adjustment" in note for note in prepared.plan.notes)
    prepared.calibrate([X])
    prepared.refine(())
    assert not prepared.changes
