"""Whole networks on integers: equal to the simulation at every point, to the exported file, and to 64-bit integers."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from graph_models import ZOO, build
from numerics_helpers import one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from quantwright.api import PreparedModel, load, prepare
from quantwright.data import Batch
from quantwright.errors import DataError, StateError, VerificationError
from quantwright.numerics.qparams import QParams
from quantwright.verify.integer import IntegerReport, Machine, check
from quantwright.verify.integer.check import _Tally
from quantwright.verify.integer.grids import Grid
from quantwright.verify.integer.requantize import ByShift

DPU: dict[str, Any] = {"version": 1, "target": "dpu"}
CONFIGS: dict[str, Any] = {"int8": "int8", "power_of_two": "power_of_two", "dpu": DPU}


class Residual(nn.Module):
    """Convolutions, additions of branches on different grids, a concat, a pool, a linear layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.two = nn.Conv2d(width, width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.two(torch.relu(self.one(x))) + x
        x = F.max_pool2d(F.relu6(x), 2)
        x = torch.cat([x, self.two(x)], 1)
        return self.head(self.pool(x).flatten(1))


def prepared(model: nn.Module, config: Any, example: Any) -> PreparedModel:
    """Returns a calibrated model."""
    return prepare(model.eval(), config, example).calibrate([example, example])


def residual(config: Any, seed: int = 0, **options: Any) -> PreparedModel:
    torch.manual_seed(seed)
    return prepared(Residual(**options), config, torch.randn(4, 3, 16, 16))


def batch(seed: int, *shape: int) -> Batch:
    return Batch(args=(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),))


# -- nothing differs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ZOO)
def test_every_small_network_is_equal_at_every_point(name: str, config: str) -> None:
    model, example = build(name)
    model_of = prepared(model, CONFIGS[config], example)
    report = check(model_of, [model_of.example])
    assert report.simulation.differing == 0, report.render()
    plain = check(model_of, [model_of.example], plain=True)
    assert plain.simulation.differing == 0, plain.render()
    assert {layer.engine for layer in plain.layers} <= {"int64"}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_residual_networks_are_equal_to_simulation_and_file(config: str, seed: int, tmp_path: Path) -> None:
    model = residual(CONFIGS[config], seed)
    model.export(tmp_path / "m.onnx", exact_rounding=config == "dpu")
    report = check(model, [batch(seed, 40, 3, 16, 16), batch(seed + 9, 3, 3, 16, 16)], file=tmp_path / "m.onnx")
    assert report.ok and report.samples == 43, report.render()
    unfused, fused = report.exported
    assert fused.differing == 0
    assert unfused.differing == 0 or config == "int8"  # float products of float scales round elsewhere than integers
    assert unfused.points == len(Machine(model).points) < report.simulation.points


@pytest.mark.parametrize("config", CONFIGS)
def test_fast_and_plain_integers_give_the_same_integers(config: str) -> None:
    model = residual(CONFIGS[config])
    fast, plain = Machine(model), Machine(model, plain=True)
    given = batch(3, 8, 3, 16, 16)
    ours, theirs = fast.values(given), plain.values(given)
    assert list(ours) == list(theirs) == list(fast.points)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert [layer.seen for layer in fast.layers] == [layer.seen for layer in plain.layers]
    assert torch.equal(fast.run(given), model.run(given))


def test_integers_stay_on_their_grids_in_the_plans_formats() -> None:
    model = residual("int8")
    machine = Machine(model)
    for name, q in machine.values(batch(3, 8, 3, 16, 16)).items():
        spec = model.plan[name].spec
        assert spec is not None and q.dtype == (torch.int8 if spec.signed else torch.uint8)
        assert int(q.min()) >= spec.qmin and int(q.max()) <= spec.qmax


@pytest.mark.parametrize("activation", ["int16", "uint16", "int8", "uint8"])
@pytest.mark.parametrize("weight", ["int4", "int8", "uint8"])
def test_other_widths_are_equal(activation: str, weight: str) -> None:
    config = {"version": 1, "default": {"activation": {"format": activation, "symmetric": activation[0] == "i"},
                                        "weight": {"format": weight, "symmetric": weight[0] == "i"}}}  # fmt: skip
    model = residual(config)
    report = check(model, [batch(1, 8, 3, 16, 16)])
    assert report.simulation.differing == 0, report.render()


def test_several_inputs_and_outputs_keep_their_structure() -> None:
    model, example = build("dict")
    made = prepared(model, "int8", example)
    ours, theirs = Machine(made).run(made.example), made.run(made.example)
    assert pytree.tree_structure(ours) == pytree.tree_structure(theirs)
    pairs = zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_is_computed_how_is_said() -> None:
    how = Machine(residual("int8")).how
    assert {"int32 sums, multiplier", "table of all pairs", "quantized from float"} <= set(how.values())
    shifted = Machine(residual(DPU)).how
    assert [name for name, way in shifted.items() if way == "quantized from float"] == ["x:input"]


def test_linear_layers_on_sequences() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48, bias=False), nn.Linear(48, 16))
    model = prepared(layers, "int8", torch.randn(4, 9, 32))
    report = check(model, [batch(0, 50, 9, 32)])
    assert report.simulation.differing == 0 and len(report.layers) == 3, report.render()


# -- what differs is found --------------------------------------------------------------------------------------------
def test_the_first_differing_value_is_named_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual("int8")
    honest = PreparedModel.compute
    hit = Machine(model).points

    def spoilt(self: PreparedModel, given: Batch, taps: Any) -> Any:
        """Gives the tap of two points one value that is three steps higher."""

        def changed(tap: Any, step: float) -> Any:
            def see(value: Tensor) -> Any:
                value = value.clone()
                value[0, 1, 2, 3] += 3 * step
                return tap(value)

            return see

        named = {hit[name]: float(self.quantizers[name].qparams.scale) for name in list(hit)[1:3]}
        return honest(
            self, given, {node: changed(tap, named[node]) if node in named else tap for node, tap in taps.items()}
        )

    monkeypatch.setattr(PreparedModel, "compute", spoilt)
    report = check(model, [batch(0, 2, 3, 16, 16), batch(1, 2, 3, 16, 16)])
    assert not report.ok and report.simulation.differing == 4
    first = report.simulation.first
    assert first is not None and (first.point, first.batch, first.index) == (list(hit)[1], 0, (0, 1, 2, 3))
    assert first.lsb == pytest.approx(3, abs=1e-3) and first.other - first.integer == pytest.approx(3, abs=1e-3)
    assert report.simulation.max_lsb == pytest.approx(3, abs=1e-3)
    assert report.simulation.by_point == {list(hit)[1]: 2, list(hit)[2]: 2}
    with pytest.raises(VerificationError, match="differs from the integers in 4 of"):
        report.require()
    document = json.loads(json.dumps(report.to_json()))
    assert document["first"]["point"] == first.point and document["ok"] is False
    assert "NOT OK" in report.render()[0] and any("problem" in line for line in report.render())


def test_nan_is_no_difference_and_a_changed_output_is_one() -> None:
    tally = _Tally("s", {})
    nan = torch.tensor([1.0, float("nan")])
    tally.output(0, 0, nan, nan.clone())
    assert tally.differing == 0
    tally.output(1, 2, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    found = tally.comparison()
    assert (found.values, found.differing, found.max_lsb) == (4, 1, 0.0)
    assert found.first is not None and (found.first.point, found.first.index, found.first.lsb) == (
        "output 1",
        (1,),
        None,
    )


def test_a_changed_weight_is_found() -> None:
    tally, whole = _Tally("s", {}), torch.tensor([0, 3, -2])
    tally.parameter("w", whole, whole * 0.5, torch.tensor([0.0, 2.0, -1.0]))
    first = tally.comparison().first
    assert first is not None and (first.integer, first.other, first.lsb) == (3, 4, 1)


# -- accumulators -----------------------------------------------------------------------------------------------------
def wide_sums(depth: int, config: Any = "int8") -> PreparedModel:
    """Returns a layer whose sums grow with ``depth``: all weights and inputs at the end of their grids."""
    layer = nn.Sequential(nn.Linear(depth, 3), nn.ReLU())
    nn.init.constant_(layer[0].weight, 0.5)
    nn.init.zeros_(layer[0].bias)
    return prepared(layer, config, torch.ones(2, depth))


def narrowed(model: PreparedModel, bits: int) -> PreparedModel:
    """Returns the model for a target whose accumulators are narrower."""
    from dataclasses import replace

    model.target = replace(model.target, arithmetic=replace(model.target.arithmetic, accumulator_bits=bits))
    return model


def test_a_constructed_overflow_is_counted_to_the_value() -> None:
    model = narrowed(wide_sums(40), 20)  # 40 products of 255 * 127: 1,295,400 needs 22 bits
    report = check(model, [Batch(args=(torch.ones(7, 40),))])
    (layer,) = report.layers
    assert (layer.seen, layer.possible, layer.beyond) == (40 * 255 * 127, 40 * 255 * 127, 21)
    assert layer.bits_needed == 22 and not report.ok and report.simulation.differing == 0
    assert "21 sums of 0 do not fit into 20 bits: the largest is 1295400" in report.problems()[0]
    assert report.to_json()["layers"][0]["beyond"] == 21
    with pytest.raises(VerificationError, match="do not fit"):
        report.require()
    assert check(narrowed(wide_sums(40), 22), [Batch(args=(torch.ones(7, 40),))]).ok


def test_sums_beyond_32_bits_are_exact_and_reported() -> None:
    depth = 70_000  # 70,000 * 255 * 127 is more than 2**31
    report = check(wide_sums(depth), [Batch(args=(torch.ones(2, depth),))])
    (layer,) = report.layers
    assert layer.seen == depth * 255 * 127 > 1 << 31 and layer.beyond == 6 and layer.engine == "float64"
    assert report.simulation.differing == 0 and not report.ok


# -- devices that shift -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["add", "sub", "mul", "cat", "mean", "avg", "leaky", "scaled", "offset", "clamp", "neg"])
def test_elementwise_operations_of_shifting_devices_are_exact(op: str) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), 5 * self.b(x)
            made: dict[str, Any] = {
                "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "cat": lambda: torch.cat([a, b], 1),
                "mean": lambda: a.mean((2, 3)), "avg": lambda: F.avg_pool2d(a, 2), "scaled": lambda: a * 0.375 + b,
                "leaky": lambda: F.leaky_relu(a, 26 / 256), "offset": lambda: torch.relu(a + 3.0) + b,
                "clamp": lambda: a.clamp(-0.5, 0.75), "neg": lambda: -a + b,
            }  # fmt: skip
            result: Tensor = made[op]()
            return result

    torch.manual_seed(0)
    model = prepared(Pair(), DPU, torch.randn(4, 3, 8, 8))
    report = check(model, [batch(1, 16, 3, 8, 8)])
    assert report.simulation.differing == 0, report.render()
    assert report.how.get("quantized from float", 0) == 1, Machine(model).how


@pytest.mark.parametrize(
    "layer", [nn.AvgPool2d(3), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(5), nn.AvgPool2d(7), nn.AdaptiveAvgPool2d(1),
              nn.Hardsigmoid(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.ReLU6()], ids=str,
)  # fmt: skip
def test_operations_a_dpu_computes_in_its_own_way_are_shifts_too(layer: nn.Module) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), layer, nn.Conv2d(8, 4, 1))
    model = prepared(network, DPU, torch.randn(4, 3, 15, 15))
    report = check(model, [batch(2, 16, 3, 15, 15)])
    assert report.simulation.differing == 0, report.render()
    assert report.how == {"quantized from float": 1, "exact sums, shift": len(Machine(model).how) - 1}


def test_an_average_is_a_sum_times_a_whole_number_and_one_rounding() -> None:
    """A sum of -140 over nine values, times 7 / 64, on a grid eight times as fine: -122.5, half up."""
    model = prepared(nn.AvgPool2d(3), DPU, torch.ones(1, 1, 3, 3))
    for name, quantizer in model.quantizers.items():
        scale = 1.0 if name.endswith("input") else 0.125
        quantizer.qparams = QParams(scale=torch.tensor([scale]), zero_point=torch.zeros(1, dtype=torch.int32))
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = -128, -12
    (name,) = [point for point in Machine(model).points if point.endswith("output")]
    assert Machine(model).values(Batch(args=(x,)))[name].item() == -122


def test_a_bias_finer_than_the_products_is_added_whole() -> None:
    model = residual(DPU)
    quantizer = model.quantizers["head.bias"]
    assert quantizer.scale is not None
    quantizer.scale.fill_(2.0**-22)
    model.graph.set_parameter("head.bias", torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0]) * 2.0**-22)
    machine = Machine(model)
    head = next(layer for layer in machine.layers if layer.name == "head")
    assert head.bias is not None and head.bias.tolist() == [1, -2, 3, -4, 5]
    assert check(model, [batch(1, 16, 3, 16, 16)]).simulation.differing == 0


def test_a_bias_fraction_is_added_up_in_units_of_its_own() -> None:
    """The sum is an eighth of a unit from a whole number, and is added up in eighths."""
    layer = nn.Linear(2, 1)
    model = prepared(layer, DPU, torch.ones(2, 2))
    positions = {"input": 0, "weight": 0, "bias": 3, "output": -14}  # units of 1, and of 2**14
    for name, quantizer in model.quantizers.items():
        place = positions[name.rpartition(":")[2]]
        quantizer.qparams = QParams(scale=torch.tensor([2.0**-place]), zero_point=torch.zeros(1, dtype=torch.int32))
    model.graph.set_parameter("weight", torch.tensor([[64.0, 0.0]]))
    model.graph.set_parameter("bias", torch.tensor([-0.125]))
    machine = Machine(model)
    given = Batch(args=(torch.tensor([[127.0, 0.0], [128.0, 0.0]]),))
    (name,) = [point for point in machine.points if point.endswith("output")]
    exact = [math.floor((64 * 127 - 0.125) / 2**14 + 0.5)] * 2  # 128 saturates at 127
    assert machine.values(given)[name].flatten().tolist() == exact
    (sums,) = machine.layers
    assert sums.seen == 64 * 127 * 8 - 1 and sums.bias is not None and sums.bias.tolist() == [-1]


def test_an_eighth_below_a_tie_is_rounded_down_where_float32_sees_the_tie() -> None:
    grid = Grid(by=1.0, multiply=True, step=2.0**17, zero=0, qmin=-128, qmax=127, rounding="half_up")
    eighths = 8 * 4_259_840 - 1  # 32.5 * 2**17, less an eighth
    assert float(torch.tensor(eighths / 8)) == 4_259_840.0
    cut = ByShift(Fraction(1, 8) / 2**17, grid, (-128, 127), largest=eighths)
    assert cut(torch.tensor([eighths, eighths + 1])).tolist() == [32, 33]


# -- what is refused --------------------------------------------------------------------------------------------------
def test_a_target_that_computes_in_float_is_refused() -> None:
    with pytest.raises(StateError, match="vitis_cpu computes in float"):
        Machine(residual({"version": 1, "target": "vitis_cpu"}))


def test_an_uncalibrated_model_and_no_data_are_refused() -> None:
    model = prepare(Residual().eval(), "int8", torch.randn(2, 3, 16, 16))
    with pytest.raises(StateError, match="no QParams yet"):
        Machine(model)
    with pytest.raises(DataError, match="not one batch"):
        check(residual("int8"), [])


# -- the public face --------------------------------------------------------------------------------------------------
def test_a_loaded_folder_and_a_prepared_model_have_it(tmp_path: Path) -> None:
    model = residual("int8")
    report = model.verify_integer([torch.randn(4, 3, 16, 16)])
    assert isinstance(report, IntegerReport) and report.ok and report.samples == 4
    model.save(tmp_path / "out")
    again = load(tmp_path / "out").verify_integer()
    assert again.ok and again.samples == 4 and not again.exported


def test_grids_say_what_they_hold() -> None:
    grid = Grid(by=0.5, multiply=False, step=0.5, zero=-3, qmin=-128, qmax=127, rounding="half_even")
    assert (grid.bits, grid.low, grid.high, grid.dtype, grid.unit) == (8, -125, 130, torch.int8, 0.5)
