"""Integer kernels under the simulation: exact sums, only where they apply, and the same values without them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import one_thread  # noqa: F401
from torch import Tensor, nn

from quantwright.api import PreparedModel, prepare
from quantwright.simulate import integer
from quantwright.simulate.grids import Grid
from quantwright.simulate.integer import IntegerConv, IntegerLinear

exact = pytest.mark.skipif(not integer.is_exact(), reason="this processor has no exact kernels for 8-bit products")
GRID = Grid(by=1.0, multiply=False, step=1.0, zero_point=0, qmin=0, qmax=255, rounding="half_even", signed=False)
SIGNED = replace(GRID, qmin=-128, qmax=127, signed=True)


def values(grid: Grid, *shape: int) -> Tensor:
    """Returns whole numbers of a grid, the ends of it more often than others."""
    q = torch.randint(-40, grid.high - grid.low + 41, shape).clamp(0, grid.high - grid.low)
    return (q + grid.low).float()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=4, bias=False), nn.Hardswish(),
        nn.Conv2d(8, 600, 1), nn.ReLU(), nn.Conv2d(600, 6, 3, padding="same"), nn.Flatten(), nn.Linear(6 * 25, 12),
    )  # fmt: skip


def calibrated(config: object = "int8") -> PreparedModel:
    x = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return prepare(small().eval(), config, x).calibrate([x])


def steps(model: PreparedModel) -> list[str]:
    with torch.no_grad():
        return [type(step).__name__ for step in model.simulation.module().get_submodule("simulated").children()]


def run(model: PreparedModel) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(torch.randn(9, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
    return output


@exact
@given(
    channels=st.sampled_from([(1, 1), (3, 5), (16, 32), (64, 64), (67, 3)]),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    depthwise=st.booleans(),
    zero_point=st.sampled_from([0, 3, 128, 255]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_convolutions_are_the_exact_sums(
    channels: tuple[int, int], size: int, stride: int, dilation: int, depthwise: bool, zero_point: int, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs, outputs = channels
    groups = inputs if depthwise else 1
    outputs = inputs if depthwise else outputs
    grid = replace(GRID, zero_point=zero_point)
    weight = torch.randint(-168, 168, (outputs, inputs // groups, size, size)).clamp(-128, 127).float()
    bias = torch.randint(-(1 << 20), 1 << 20, (outputs,)).double()
    x = values(grid, 2, inputs, 11, 9)
    layer = IntegerConv(weight, bias, grid, ([stride] * 2, [size // 2] * 2, [dilation] * 2, groups))
    wanted = torch.conv2d(x.double(), weight.double(), bias, stride, size // 2, dilation, groups)
    assert torch.equal(layer(x).double(), wanted)


@exact
@pytest.mark.parametrize("grid", [GRID, SIGNED, replace(GRID, zero_point=255), replace(SIGNED, zero_point=-128)])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 40), (1, 1)], ids=str)
def test_linear_layers_are_the_exact_sums(grid: Grid, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-168, 168, (7, shape[-1])).clamp(-128, 127).float()
    x, bias = values(grid, *shape), torch.randint(-(1 << 20), 1 << 20, (7,)).double()
    for added in (None, bias, bias[:1]):
        wanted = nn.functional.linear(x.double(), weight.double()) + (0 if added is None else added)
        assert torch.equal(IntegerLinear(weight, added, grid)(x).double(), wanted)


@exact
def test_a_network_uses_them_and_gives_the_same_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = calibrated()
    assert steps(model).count("IntegerConv") >= 3 and steps(model).count("IntegerLinear") == 1
    outputs = run(model)
    monkeypatch.setattr(integer, "is_exact", lambda: False)
    without = calibrated()
    assert not {"IntegerConv", "IntegerLinear"} & set(steps(without))
    assert torch.equal(run(without), outputs)


@exact
def test_compiled_networks_give_the_same() -> None:
    model = calibrated()
    outputs = run(model)
    model.compile()
    assert torch.equal(run(model), outputs)


@exact
@pytest.mark.parametrize(
    "default",
    [
        {"weight": {"format": "uint8", "symmetric": False}},
        {"weight": {"format": "int8"}, "activation": {"format": "int16", "symmetric": True}},
    ],
    ids=["unsigned weights", "16-bit inputs"],
)
def test_what_bytes_do_not_hold_stays_on_float_kernels(default: dict[str, object]) -> None:
    assert not {"IntegerConv", "IntegerLinear"} & set(steps(calibrated({"version": 1, "default": default})))


@exact
def test_copies_pack_their_weights_again() -> None:
    model = calibrated()
    outputs = run(model)
    assert torch.equal(run(copy.deepcopy(model)), outputs)
    layer = IntegerLinear(torch.arange(6.0).reshape(2, 3), None, GRID)
    x = torch.tensor([[1.0, 2.0, 255.0]])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x)) and torch.equal(layer(x), x @ torch.arange(6.0).reshape(2, 3).T)


def test_kernels_that_saturate_or_are_missing_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = integer.is_exact.__wrapped__
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True, raising=False)
    monkeypatch.setattr(integer, "_probe", lambda *_: False)
    assert not ask()
    monkeypatch.setattr(integer, "_probe", lambda *_: exec("raise RuntimeError('no such kernel')"))
    assert not ask()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False, raising=False)
    monkeypatch.setattr(integer, "_probe", lambda *_: True)
    assert not ask()
