"""The integer steps against the runtime's own integer operators, and against exact integer arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numerics_helpers import one_thread  # noqa: F401
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from quantwright.simulate.grids import Grid
from quantwright.simulate.kernels import (
    AddOnGrid,
    AveragePooled,
    GlobalAverage,
    MulOnGrid,
    Requantize,
    ToGrid,
    ToReal,
    add_is_fused,
    fused_multiply_add,
)
from quantwright.verify.runtime import OrtRunner

MICROSOFT = "com.microsoft"
scales = st.floats(2.0**-13, 2.0, width=32)
seeds = st.integers(0, 2**31 - 1)
zeros = st.integers(0, 255)
runs = settings(max_examples=40, deadline=None)


def grid(step: float, zero: int, signed: bool = False) -> Grid:
    """Returns an 8-bit grid; ``zero`` counts from its lowest integer."""
    low = -128 if signed else 0
    return Grid(by=step, multiply=False, step=step, zero_point=zero + low, qmin=low, qmax=low + 255,
                rounding="half_even", signed=signed)  # fmt: skip


def stored(g: Grid, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Returns random integers of a grid, as the file stores them."""
    return np.random.default_rng(seed).integers(g.qmin, g.qmax + 1, shape).astype(np.int8 if g.signed else np.uint8)


def centred(q: np.ndarray[Any, Any], g: Grid) -> Tensor:
    """Returns what the simulation holds for stored integers."""
    return torch.from_numpy(q.astype(np.float32)) - g.zero_point


def as_stored(x: Tensor, g: Grid) -> np.ndarray[Any, Any]:
    """Returns stored integers for what the simulation holds."""
    return (x + g.zero_point).numpy().astype(np.int8 if g.signed else np.uint8)


def runtime(
    operator: str,
    operands: list[np.ndarray[Any, Any]],
    constants: dict[int, Any],
    domain: str = MICROSOFT,
    **attrs: Any,
) -> np.ndarray[Any, Any]:
    """Returns what ONNX Runtime's ``operator`` gives: ``operands`` at the places ``constants`` leaves free."""
    names, inputs, initializers = [], [], []
    rest = iter(enumerate(operands))
    for index in range(len(operands) + len(constants)):
        name = f"i{index}"
        names.append(name)
        if index in constants:
            initializers.append(numpy_helper.from_array(np.asarray(constants[index]), name))
        else:
            _, value = next(rest)
            inputs.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            )
    kind = inputs[0].type.tensor_type.elem_type
    node = helper.make_node(operator, names, ["y"], domain=domain, **attrs)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", kind, None)], initializers)
    sets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    runner = OrtRunner(helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString(), threads=1)
    feed = dict(zip((value.name for value in inputs), operands, strict=True))
    result: np.ndarray[Any, Any] = runner._session.run(None, feed)[0]
    return result


def of(g: Grid) -> tuple[Any, Any]:
    """Returns (scale, zero point) as the file writes them."""
    return np.float32(g.step), np.asarray(g.zero_point, np.int8 if g.signed else np.uint8)


@pytest.mark.parametrize("signed", [False, True])
@given(a=scales, b=scales, out=scales, za=zeros, zb=zeros, zo=zeros, seed=seeds)
@runs
def test_addition_is_the_runtimes_bit_for_bit(
    signed: bool, a: float, b: float, out: float, za: int, zb: int, zo: int, seed: int
) -> None:
    first, second, result = grid(a, za, signed), grid(b, zb, signed), grid(out, zo, signed)
    qa, qb = stored(first, (1, 3, 7, 11), seed), stored(second, (1, 3, 7, 11), seed + 1)
    constants = {
        1: of(first)[0],
        2: of(first)[1],
        4: of(second)[0],
        5: of(second)[1],
        6: of(result)[0],
        7: of(result)[1],
    }
    theirs = runtime("QLinearAdd", [qa, qb], constants)
    ours = AddOnGrid(first, second, result, (result.low, result.high))(centred(qa, first), centred(qb, second))
    np.testing.assert_array_equal(as_stored(ours, result), theirs)


@given(a=scales, b=scales, out=scales, za=zeros, zb=zeros, zo=zeros, seed=seeds)
@runs
def test_multiplication_is_the_runtimes_bit_for_bit(
    a: float, b: float, out: float, za: int, zb: int, zo: int, seed: int
) -> None:
    first, second, result = grid(a, za), grid(b, zb), grid(out, zo)
    qa, qb = stored(first, (2, 5, 13), seed), stored(second, (2, 5, 13), seed + 1)
    constants = {
        1: of(first)[0],
        2: of(first)[1],
        4: of(second)[0],
        5: of(second)[1],
        6: of(result)[0],
        7: of(result)[1],
    }
    theirs = runtime("QLinearMul", [qa, qb], constants)
    ours = MulOnGrid(first, second, result, (result.low, result.high))(centred(qa, first), centred(qb, second))
    np.testing.assert_array_equal(as_stored(ours, result), theirs)


@given(x=scales, out=scales, zx=zeros, zo=zeros, size=st.integers(1, 9), seed=seeds)
@runs
def test_global_average_is_the_runtimes_bit_for_bit(
    x: float, out: float, zx: int, zo: int, size: int, seed: int
) -> None:
    assume(x / (out * size * (size + 1)) < 255)  # the operator refuses more
    source, result = grid(x, zx), grid(out, zo)
    q = stored(source, (2, 5, size, size + 1), seed)
    constants = {1: of(source)[0], 2: of(source)[1], 3: of(result)[0], 4: of(result)[1]}
    theirs = runtime("QLinearGlobalAveragePool", [q], constants, channels_last=0)
    ours = GlobalAverage(source, result, (result.low, result.high))(centred(q, source))
    np.testing.assert_array_equal(as_stored(ours, result), theirs)


@given(x=scales, out=scales, zx=zeros, zo=zeros, seed=seeds)
@runs
def test_average_pool_is_the_runtimes_bit_for_bit(x: float, out: float, zx: int, zo: int, seed: int) -> None:
    source, result = grid(x, zx), grid(out, zo)
    q = stored(source, (1, 3, 8, 8), seed)
    constants = {1: of(source)[0], 2: of(source)[1], 3: of(result)[0], 4: of(result)[1]}
    theirs = runtime("QLinearAveragePool", [q], constants, kernel_shape=[3, 2], strides=[2, 1])
    averages = torch.nn.functional.avg_pool2d(ToReal(source)(centred(q, source)), (3, 2), (2, 1))
    np.testing.assert_array_equal(as_stored(AveragePooled(result, (result.low, result.high))(averages), result), theirs)


@given(x=scales, w=scales, out=scales, zx=zeros, zo=zeros, seed=seeds)
@runs
def test_requantized_convolution_is_the_runtimes_bit_for_bit(
    x: float, w: float, out: float, zx: int, zo: int, seed: int
) -> None:
    source, result = grid(x, zx), grid(out, zo)
    draw = np.random.default_rng(seed)
    q, weight = stored(source, (1, 4, 6, 6), seed), draw.integers(-127, 128, (5, 4, 3, 3)).astype(np.int8)
    steps, bias = (w * draw.uniform(0.5, 2, 5)).astype(np.float32), draw.integers(-(2**20), 2**20, 5).astype(np.int32)
    constants = {1: of(source)[0], 2: of(source)[1], 3: weight, 4: steps, 5: np.zeros(5, np.int8), 6: of(result)[0],
                 7: of(result)[1], 8: bias}  # fmt: skip
    theirs = runtime("QLinearConv", [q], constants, domain="", pads=[1, 1, 1, 1])
    acc = torch.nn.functional.conv2d(
        centred(q, source), torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), padding=1
    )
    multiplier = torch.from_numpy(np.float32(x) * steps / np.float32(out)).reshape(-1, 1, 1)
    ours = Requantize(multiplier, result, (result.low, result.high))(acc)
    np.testing.assert_array_equal(as_stored(ours, result), theirs)


@given(step=scales, zero=zeros, seed=seeds)
@runs
def test_to_the_grid_and_back_is_quantize_and_dequantize_linear(step: float, zero: int, seed: int) -> None:
    g = grid(step, zero)
    x = (np.random.default_rng(seed).normal(size=(3, 50)) * 100 * step).astype(np.float32)
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.float32(step), "s"), numpy_helper.from_array(np.asarray(zero, np.uint8), "z")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    theirs = OrtRunner(model.SerializeToString(), fused=False, threads=1)._session.run(None, {"x": x})[0]
    np.testing.assert_array_equal(ToReal(g)(ToGrid(g)(torch.from_numpy(x))).numpy(), theirs)


def test_a_fused_multiply_add_rounds_once_whatever_the_build() -> None:
    a = torch.randint(-255, 256, (5003,)).float()
    c = torch.rand(5003) * 50
    factor = float(torch.tensor(0.1234567))
    fast = fused_multiply_add(c, a, factor, add_is_fused())
    assert torch.equal(fast, fused_multiply_add(c, a, factor, fused=False))
