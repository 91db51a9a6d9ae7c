"""Every step of the integer machine against plain Python integers, exact fractions, and ONNX Runtime's operators."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
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

from quantwright.config.spec import ROUNDINGS, Granularity, QuantSpec
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph.ops import LayerInfo
from quantwright.numerics import affine
from quantwright.numerics.qparams import QParams
from quantwright.plan.plan import Point
from quantwright.verify.integer import engines
from quantwright.verify.integer.grids import (
    Grid,
    dequantize,
    dyadic,
    factors,
    is_power_of_two,
    parameter,
    quantize,
    round_float,
    round_shift,
    storage,
)
from quantwright.verify.integer.requantize import (
    ByMultiplier,
    ByShift,
    fused,
    global_average,
    products_table,
    sums_table,
)
from quantwright.verify.integer.sums import Layer, Sum
from quantwright.verify.runtime import OrtRunner

MICROSOFT = "com.microsoft"
MODES = tuple(mode for mode in ROUNDINGS if mode != "stochastic")
scales = st.floats(2.0**-13, 2.0, width=32)
seeds = st.integers(0, 2**31 - 1)
zeros = st.integers(0, 255)
runs = settings(max_examples=40, deadline=None)


def grid(
    step: float, zero: int = 0, *, low: int = 0, high: int = 255, rounding: str = "half_even", moved: int = 0
) -> Grid:
    """Returns a grid; ``zero`` counts from its lowest integer."""
    return Grid(
        by=step, multiply=False, step=step, zero=low + zero, qmin=low, qmax=high, rounding=rounding, moved=moved
    )


def drawn(g: Grid, shape: tuple[int, ...], seed: int) -> Tensor:
    """Returns random integers of a grid, in its dtype."""
    numbers = np.random.default_rng(seed).integers(g.qmin, g.qmax + 1, shape)
    return torch.from_numpy(numbers).to(g.dtype)


def same(acc: Tensor) -> Tensor:
    """Returns accumulators as they are."""
    return acc


def rounded(value: Fraction, mode: str) -> int:
    """Returns an exact number rounded, from the definition of each mode."""
    down = math.floor(value)
    rest = value - down
    if mode in ("floor", "ceil", "toward_zero"):
        return {"floor": down, "ceil": math.ceil(value), "toward_zero": math.trunc(value)}[mode]
    if rest != Fraction(1, 2):
        return down + int(rest > Fraction(1, 2))
    up = {"half_even": down % 2 == 1, "half_up": True, "half_away": value > 0, "half_down": value < 0}[mode]
    return down + int(up)


# -- rounding ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@given(values=st.lists(st.floats(-(2.0**22), 2.0**22, width=32), min_size=1), ties=st.lists(st.integers(-99, 99)))
@runs
def test_floats_are_rounded_by_definition(mode: str, values: list[float], ties: list[int]) -> None:
    numbers = [*values, *(tie + 0.5 for tie in ties), 0.49999997, -0.49999997]
    got = round_float(torch.tensor(numbers, dtype=torch.float32), mode)
    exact = [rounded(Fraction(float(np.float32(number))), mode) for number in numbers]
    assert [int(number) for number in got] == exact


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@given(values=st.lists(st.integers(-(2**24), 2**24), min_size=1), shift=st.integers(-4, 24))
@runs
def test_shifts_round_by_definition(mode: str, dtype: torch.dtype, values: list[int], shift: int) -> None:
    got = round_shift(torch.tensor(values, dtype=dtype), shift, mode)
    assert got.dtype == dtype
    assert got.tolist() == [rounded(Fraction(value) / Fraction(2) ** shift, mode) for value in values]


@given(m=st.integers(-999, 999), n=st.integers(-20, 40))
@runs
def test_fractions_of_powers_of_two_are_taken_apart(m: int, n: int) -> None:
    found = dyadic(Fraction(m) / Fraction(2) ** n)
    assert found is not None
    assert Fraction(found[0]) / Fraction(2) ** found[1] == Fraction(m) / Fraction(2) ** n
    assert m == 0 or found[0] % 2 == 1
    assert dyadic(Fraction(1, 3)) is None
    assert [is_power_of_two(x) for x in (0.25, 3.0, 1.0, 0.0)] == [True, False, True, False]


def test_the_smallest_dtype_holds_the_integers() -> None:
    ends = {(-128, 127): torch.int8, (0, 255): torch.uint8, (-8, 7): torch.int8, (0, 15): torch.int8,
            (-(2**15), 2**15 - 1): torch.int16, (0, 2**16 - 1): torch.int32, (0, 2**32 - 1): torch.int64}  # fmt: skip
    assert {key: storage(*key) for key in ends} == ends


# -- to the grid ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arithmetic", ["divide", "reciprocal"])
@given(step=scales, zero=st.integers(-128, 127), seed=seeds)
@runs
def test_values_and_parameters_land_where_the_one_formula_puts_them(
    mode: str, arithmetic: Any, step: float, zero: int, seed: int
) -> None:
    spec = QuantSpec(format="int8", granularity=Granularity(), symmetric=False, narrow_range=False, rounding=mode)
    qparams = QParams(
        scale=torch.tensor([step], dtype=torch.float64), zero_point=torch.tensor([zero], dtype=torch.int32)
    )
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)) * 100 * step
    by, back = factors(qparams, per_tensor=True, arithmetic=arithmetic)
    g = Grid(by=float(by[0]), multiply=arithmetic == "reciprocal", step=float(back[0]), zero=zero, qmin=-128, qmax=127,
             rounding=mode)  # fmt: skip
    q = affine.quantize(x, qparams, spec, arithmetic=arithmetic)
    assert torch.equal(quantize(x, g).to(torch.int32), q)
    assert torch.equal(dequantize(quantize(x, g), g), affine.dequantize(q, qparams, spec, arithmetic=arithmetic))
    quantizer = Quantizer(Point(name="w", role="weight", node="n", tensor="w"), spec, arithmetic)
    quantizer.qparams = qparams
    fixed = parameter(quantizer, x)
    assert fixed is not None and torch.equal(fixed.q.to(torch.int32), q)
    assert torch.equal(fixed.real, quantizer.apply_qparams(x))


@pytest.mark.parametrize("arithmetic", ["divide", "reciprocal"])
@given(seed=seeds, axis=st.integers(0, 2))
@runs
def test_parameters_with_a_scale_per_channel(arithmetic: Any, seed: int, axis: int) -> None:
    draw = np.random.default_rng(seed)
    real = torch.from_numpy(draw.normal(size=(3, 4, 5)).astype(np.float32))
    spec = QuantSpec(format="int8", granularity=Granularity(kind="per_channel", axis=axis), symmetric=True,
                     narrow_range=False, rounding="half_even")  # fmt: skip
    quantizer = Quantizer(Point(name="w", role="weight", node="n", tensor="w"), spec, arithmetic)
    scale = torch.from_numpy(draw.uniform(0.01, 0.05, real.shape[axis]))
    quantizer.qparams = QParams(scale=scale, zero_point=torch.zeros(scale.numel(), dtype=torch.int32))
    fixed = parameter(quantizer, real)
    assert fixed is not None and fixed.axis == axis
    assert torch.equal(fixed.real, quantizer.apply_qparams(real))


# -- sums of products -------------------------------------------------------------------------------------------------
def convolution(x: Any, w: Any, zero: int, stride: Any, pads: Any, dilation: Any, groups: int) -> np.ndarray[Any, Any]:
    """Returns a convolution of stored integers in Python's integers, one product after the other."""
    batch, _, *sizes = x.shape
    outs, inner, *kernel = w.shape
    out = [(n + 2 * p - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in zip(sizes, kernel, stride, pads, dilation)]
    result = np.zeros((batch, outs, *out), dtype=object)
    for at in itertools.product(range(batch), range(outs), *map(range, out)):
        total, group = 0, at[1] // (outs // groups)
        for c, *k in itertools.product(range(inner), *map(range, kernel)):
            place = [o * s - p + i * d for o, s, p, i, d in zip(at[2:], stride, pads, k, dilation)]
            if all(0 <= i < n for i, n in zip(place, sizes)):
                total += (int(x[(at[0], group * inner + c, *place)]) - zero) * int(w[(at[1], c, *k)])
        result[at] = total
    return result


def layer(weight: Tensor, *, groups: int = 1, stride: Any = (1, 1), padding: Any = (0, 0), dilation: Any = (1, 1),
          transposed: bool = False) -> LayerInfo:  # fmt: skip
    graph = torch.fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    w.meta["shape"] = tuple(weight.shape)
    node = graph.call_function(torch.ops.aten.conv2d.default, (x, w))
    spatial = weight.dim() - 2
    axes = (1, 0) if transposed else (0, 1)
    return LayerInfo(node=node, x=x, weight=w, bias=None, channel_axis=axes[0], input_axis=axes[1], groups=groups,
                     transposed=transposed, spatial=spatial, stride=stride, padding=padding,
                     dilation=dilation)  # fmt: skip


@pytest.mark.parametrize("plain", [False, True])
@given(
    seed=seeds, zero=zeros, signed=st.booleans(), groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]), pad=st.integers(0, 2), dilation=st.integers(1, 2), shift=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_convolutions_add_up_what_python_adds_up(
    plain: bool, seed: int, zero: int, signed: bool, groups: int, kernel: int, stride: int, pad: int, dilation: int,
    shift: int,
) -> None:  # fmt: skip
    g = grid(0.1, zero, low=-128 if signed else 0, high=127 if signed else 255)
    draw = np.random.default_rng(seed)
    x = drawn(g, (2, 4, 6, 5), seed)
    w = torch.from_numpy(draw.integers(-128, 128, (4, 4 // groups, kernel, kernel)))
    bias = torch.from_numpy(draw.integers(-(2**20), 2**20, 4))
    info = layer(w, groups=groups, stride=(stride, stride), padding=(pad, pad), dilation=(dilation, dilation))
    total = Sum(info, "l", g, w, bias, bits=32, shift=shift, plain=plain)
    got = total(same, x)
    exact = convolution(x.numpy(), w.numpy(), g.zero, (stride,) * 2, (pad,) * 2, (dilation,) * 2, groups)
    exact = exact * 2**shift + bias.numpy().reshape(-1, 1, 1)
    assert got.dtype in (torch.int32, torch.int64) and np.array_equal(got.numpy().astype(object), exact)
    assert total.layer.seen == max(abs(int(number)) for number in exact.ravel()) <= total.layer.possible
    assert total.layer.engine == "int64" or not plain


def test_every_engine_that_is_named_is_used() -> None:
    g, wide = grid(0.1, 3), grid(0.1, low=-(2**15), high=2**15 - 1)
    w = torch.randint(-128, 128, (4, 4, 3, 3))
    found = [
        Sum(layer(w), "l", g, w, None, bits=32).layer.engine,
        Sum(layer(w[:, :1], groups=4), "l", g, w[:, :1], None, bits=32).layer.engine,
        Sum(layer(w), "l", wide, w, None, bits=32).layer.engine,
        Sum(layer(w), "l", wide, w << 40, None, bits=32).layer.engine,
    ]
    assert found[1:] == ["float32", "float64", "int64"]
    assert found[0] == ("int8" if engines.int8_is_exact() else "float64")


@pytest.mark.parametrize("spatial", [1, 2, 3])
@pytest.mark.parametrize("plain", [False, True])
def test_convolutions_of_other_ranks_and_transposed_ones(spatial: int, plain: bool) -> None:
    g = grid(0.1, 100)
    ones = (1,) * spatial
    x = drawn(g, (2, 4, *(5,) * spatial), 0)
    w = torch.randint(-128, 128, (4, 2, *(3,) * spatial))
    info = layer(w, groups=2, stride=ones, padding=ones, dilation=ones)
    exact = convolution(x.numpy(), w.numpy(), g.zero, ones, ones, ones, 2)
    assert np.array_equal(Sum(info, "l", g, w, None, bits=32, plain=plain)(same, x).numpy(), exact)
    turned = layer(w, groups=2, stride=(2,) * spatial, padding=ones, dilation=ones, transposed=True)
    run = getattr(torch.nn.functional, f"conv_transpose{spatial}d")
    theirs = run(x.double() - g.zero, w.double(), None, 2, 1, 0, 2, 1)
    assert torch.equal(Sum(turned, "l", g, w, None, bits=32, plain=plain)(same, x).double(), theirs)


@given(seed=seeds, zero=zeros, rows=st.integers(1, 5), depth=st.integers(1, 70), columns=st.integers(1, 9))
@runs
def test_linear_layers_add_up_what_python_adds_up(seed: int, zero: int, rows: int, depth: int, columns: int) -> None:
    g = grid(0.1, zero)
    x = drawn(g, (rows, 2, depth), seed)
    w = torch.from_numpy(np.random.default_rng(seed).integers(-128, 128, (columns, depth)))
    graph = torch.fx.Graph()
    a, b = graph.placeholder("x"), graph.placeholder("w")
    node = graph.call_function(torch.ops.aten.linear.default, (a, b))
    info = LayerInfo(node=node, x=a, weight=b, bias=None, channel_axis=0, input_axis=1)
    exact = (x.numpy().astype(object) - g.zero) @ w.numpy().T.astype(object)
    for plain in (False, True):
        assert np.array_equal(Sum(info, "l", g, w, None, bits=32, plain=plain)(same, x).numpy(), exact)


def test_sums_that_do_not_fit_are_counted() -> None:
    watched = Layer(name="l", engine="int64", bits=16, possible=1 << 20)
    watched.watch(torch.tensor([32767, -32768, 5]))
    assert (watched.seen, watched.beyond) == (32768, 0)
    watched.watch(torch.tensor([32768, -32769, 7]))
    assert (watched.seen, watched.beyond) == (32769, 2)


# -- back to the grid -------------------------------------------------------------------------------------------------
def to_float32(exact: Fraction) -> Fraction:
    """Returns an exact number rounded to float32, ties to even, from the definition."""
    if exact == 0:
        return exact
    exponent = math.floor(math.log2(abs(float(exact)))) - 23
    for power in (exponent - 1, exponent, exponent + 1):
        unit = Fraction(2) ** power
        whole = rounded(exact / unit, "half_even")
        if abs(whole) <= 1 << 24 and (abs(exact) >= (1 << 23) * unit or power == exponent - 1):
            best = whole * unit
    return best


@given(seed=seeds, step=scales, zero=zeros)
@runs
def test_multipliers_round_three_times_as_the_runtime_does(seed: int, step: float, zero: int) -> None:
    g = grid(step, zero)
    draw = np.random.default_rng(seed)
    acc = torch.from_numpy(draw.integers(-(2**26), 2**26, (4, 3)).astype(np.int32))
    multiplier = draw.uniform(1e-7, 1e-4, 3).astype(np.float32)
    got = ByMultiplier(multiplier, g, (g.low, g.high))(acc)
    for (i, j), a in np.ndenumerate(acc.numpy()):
        scaled = to_float32(to_float32(Fraction(int(a))) * Fraction(float(multiplier[j])))
        assert int(got[i, j]) == min(max(rounded(scaled, "half_even"), g.low), g.high) + g.zero


@pytest.mark.parametrize("mode", MODES)
@given(values=st.lists(st.integers(-(2**30), 2**30), min_size=1), m=st.integers(-63, 63), n=st.integers(-3, 40))
@runs
def test_shifts_with_a_factor_round_once(mode: str, values: list[int], m: int, n: int) -> None:
    assume(m != 0)
    ratio = Fraction(m) / Fraction(2) ** n
    g = grid(0.5, low=-128, high=127, rounding=mode, zero=128)
    assume(ByShift.fits(ratio, 2**30))
    got = ByShift(ratio, g, (g.low, g.high), largest=2**30)(torch.tensor(values))
    assert got.tolist() == [min(max(rounded(value * ratio, mode), -128), 127) for value in values]
    assert not ByShift.fits(Fraction(1, 3), 1) and not ByShift.fits(Fraction(1, 1 << 70), 1)


@given(a=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
       b=st.integers(-255, 255),
       c=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
       tiny=st.integers(0, 60))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_a_fused_multiply_add_rounds_the_exact_sum_once(a: float, b: int, c: float, tiny: int) -> None:
    c = float(np.float32(c * 2.0**-tiny))
    exact = Fraction(a) * b + Fraction(c)
    assume(exact == 0 or abs(exact) > Fraction(2) ** -120)
    got = fused(np.float32(a), np.float32(b), np.float32(c))
    assert Fraction(float(got)) == to_float32(exact)


def test_a_fused_multiply_add_where_float64_alone_rounds_twice() -> None:
    a, b, c = np.float32(1 + 2.0**-23), np.float32(1 + 2.0**-12 - 2.0**-23), np.float32(2.0**-60)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    assert Fraction(float(fused(a, b, c))) == to_float32(exact)


# -- against the runtime's operators ----------------------------------------------------------------------------------
def runtime(
    operator: str, operands: list[Any], constants: dict[int, Any], domain: str = MICROSOFT, **attrs: Any
) -> Any:
    """Returns what ONNX Runtime's ``operator`` gives: ``operands`` at the places ``constants`` leaves free."""
    names, inputs, initializers = [], [], []
    rest = iter(operands)
    for index in range(len(operands) + len(constants)):
        names.append(f"i{index}")
        if index in constants:
            initializers.append(numpy_helper.from_array(np.asarray(constants[index]), f"i{index}"))
        else:
            value = next(rest)
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(f"i{index}", kind, value.shape))
    kind = inputs[0].type.tensor_type.elem_type
    node = helper.make_node(operator, names, ["y"], domain=domain, **attrs)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", kind, None)], initializers)
    sets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    feed = dict(zip((value.name for value in inputs), operands, strict=True))
    return OrtRunner(model.SerializeToString(), threads=1)._session.run(None, feed)[0]


def of(g: Grid) -> tuple[Any, Any]:
    """Returns (scale, zero point) as the file writes them."""
    stored = np.int8 if g.qmin + g.moved < 0 else np.uint8
    return np.float32(g.step), np.asarray(g.zero + g.moved, stored)


def stored(q: Tensor, g: Grid) -> Any:
    """Returns integers of the plan as the file stores them."""
    return (q.numpy().astype(np.int32) + g.moved).astype(of(g)[1].dtype)


@pytest.mark.parametrize("signed,moved", [(False, 0), (True, 0), (True, 128)])
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
@given(a=scales, b=scales, out=scales, za=zeros, zb=zeros, zo=zeros, seed=seeds)
@settings(max_examples=25, deadline=None)
def test_tables_are_the_runtimes_sums_and_products(
    operator: str, signed: bool, moved: int, a: float, b: float, out: float, za: int, zb: int, zo: int, seed: int
) -> None:
    ends = {"low": -128, "high": 127, "moved": moved} if signed else {}
    first, second, result = grid(a, za, **ends), grid(b, zb, **ends), grid(out, zo, **ends)
    x, y = drawn(first, (3, 7, 11), seed), drawn(second, (3, 7, 11), seed + 1)
    places = dict(zip((1, 2, 4, 5, 6, 7), (*of(first), *of(second), *of(result)), strict=True))
    theirs = runtime(operator, [stored(x, first), stored(y, second)], places)
    make = sums_table if operator == "QLinearAdd" else products_table
    ours = make(first, second, result, (result.low, result.high))(x, y)
    np.testing.assert_array_equal(stored(ours, result), theirs)


@given(x=scales, w=scales, out=scales, zx=zeros, zo=zeros, seed=seeds)
@runs
def test_convolutions_are_the_runtimes(x: float, w: float, out: float, zx: int, zo: int, seed: int) -> None:
    source, result = grid(x, zx), grid(out, zo)
    draw = np.random.default_rng(seed)
    q, weight = drawn(source, (1, 4, 6, 6), seed), draw.integers(-127, 128, (5, 4, 3, 3)).astype(np.int8)
    steps, bias = (w * draw.uniform(0.5, 2, 5)).astype(np.float32), draw.integers(-(2**20), 2**20, 5).astype(np.int32)
    constants = {1: of(source)[0], 2: of(source)[1], 3: weight, 4: steps, 5: np.zeros(5, np.int8), 6: of(result)[0],
                 7: of(result)[1], 8: bias}  # fmt: skip
    theirs = runtime("QLinearConv", [q.numpy()], constants, domain="", pads=[1, 1, 1, 1])
    whole = torch.from_numpy(weight).long()
    total = Sum(layer(whole, padding=(1, 1)), "l", source, whole, torch.from_numpy(bias).long(), bits=32)
    multiplier = np.float32(x) * steps / np.float32(out)
    finish = ByMultiplier(multiplier, result, (result.low, result.high), axes=0 if total.last else 2)
    np.testing.assert_array_equal(total(finish, q).numpy(), theirs)


@given(x=scales, out=scales, zx=zeros, zo=zeros, size=st.integers(1, 9), seed=seeds)
@runs
def test_global_averages_are_the_runtimes(x: float, out: float, zx: int, zo: int, size: int, seed: int) -> None:
    count = size * (size + 1)
    assume(x / (out * count) < 255)  # the operator refuses more
    source, result = grid(x, zx), grid(out, zo)
    q = drawn(source, (2, 5, size, size + 1), seed)
    constants = {1: of(source)[0], 2: of(source)[1], 3: of(result)[0], 4: of(result)[1]}
    theirs = runtime("QLinearGlobalAveragePool", [q.numpy()], constants, channels_last=0)
    sums = q.long().sum((2, 3), keepdim=True) - source.zero * count
    finish = ByMultiplier(np.asarray([global_average(source, result, count)]), result, (result.low, result.high))
    np.testing.assert_array_equal(finish(sums).numpy(), theirs)


@given(step=scales, zero=zeros, seed=seeds)
@runs
def test_quantize_and_dequantize_are_the_runtimes(step: float, zero: int, seed: int) -> None:
    g = grid(step, zero)
    x = (np.random.default_rng(seed).normal(size=(3, 50)) * 100 * step).astype(np.float32)
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    ends = [
        helper.make_tensor_value_info(n, k, x.shape) for n, k in (("q", TensorProto.UINT8), ("y", TensorProto.FLOAT))
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], ends,
        [numpy_helper.from_array(np.float32(step), "s"), numpy_helper.from_array(np.asarray(zero, np.uint8), "z")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    q, y = OrtRunner(model.SerializeToString(), fused=False, threads=1)._session.run(None, {"x": x})
    ours = quantize(torch.from_numpy(x), g)
    np.testing.assert_array_equal(ours.numpy(), q)
    np.testing.assert_array_equal(dequantize(ours, g).numpy(), y)


def test_the_probe_refuses_products_that_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: Tensor, b: Tensor) -> Tensor:
        """Adds pairs of products up in 16 bits, as processors without 32-bit accumulation do."""
        products = a.long().unsqueeze(-1) * b.long().unsqueeze(0)
        if products.shape[1] % 2:
            products = torch.nn.functional.pad(products, (0, 0, 0, 1))
        return products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1).sum(1).int()

    def missing(*_: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    for kernel in (saturating, missing):
        monkeypatch.setattr(engines.torch, "_int_mm", kernel)
        assert not engines.int8_is_exact.__wrapped__()
