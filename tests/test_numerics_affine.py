"""The affine formula against ONNX Runtime, torch's own op and loops; gradients; in place; every granularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import one_thread  # noqa: F401
from torch import Tensor

from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.errors import InputError, StateError
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import group_count, group_view
from quantwright.numerics.qparams import QParams

CHANNEL = Granularity(kind="per_channel", axis=1)
EVERY_GRANULARITY = [
    Granularity(),
    Granularity(kind="per_channel", axis=0),
    CHANNEL,
    Granularity(kind="per_group", axis=-1, group_size=4),
    Granularity(kind="per_group", axis=1, group_size=2),  # does not divide the axis
    Granularity(kind="per_token"),
]


def spec(**fields: Any) -> QuantSpec:
    return BASE_SPEC.model_copy(update=fields)


def params(scale: Any, zero: Any = 0) -> QParams:
    scale_G = torch.atleast_1d(torch.as_tensor(scale, dtype=torch.float64))
    return QParams(scale=scale_G, zero_point=torch.as_tensor(zero, dtype=torch.int32).expand(scale_G.shape).clone())


def measured(x: Tensor, what: QuantSpec) -> QParams:
    low_G, high_G = group_view(x, what.granularity or Granularity()).aminmax(dim=1)
    return choose_qparams(low_G * 0.8, high_G * 0.8, what)  # some values are clipped


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Returns whether two float32 tensors agree in every bit: 0.0 and -0.0 differ here."""
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


# -- ONNX Runtime ----------------------------------------------------------------------------------------------------

ONNX_TYPES = {"int8": "INT8", "uint8": "UINT8", "int16": "INT16", "uint16": "UINT16"}


def onnx_runtime(x: Tensor, q: QParams, name: str, axis: int | None) -> tuple[np.ndarray[Any, Any], Tensor]:
    """Returns (integers, floats) of ONNX Runtime's QuantizeLinear and DequantizeLinear, opset 21."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    kind = getattr(onnx.TensorProto, ONNX_TYPES[name])
    shape = [] if axis is None else [q.scale.numel()]
    more = {} if axis is None else {"axis": axis}
    make = onnx.helper.make_tensor
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **more),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **more),
        ],
        "qdq",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, list(x.shape))],
        [
            onnx.helper.make_tensor_value_info("q", kind, list(x.shape)),
            onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(x.shape)),
        ],
        [
            make("s", onnx.TensorProto.FLOAT, shape, q.scale.float().tolist()),
            make("z", kind, shape, q.zero_point.tolist()),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    integers, floats = session.run(None, {"x": x.numpy()})
    return integers, torch.from_numpy(floats)


def awkward(seed: int, *shape: int) -> Tensor:
    """Returns values with exact ties, near ties, zeros of both signs, and far outliers among them."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    flat = x.view(-1)
    flat[::7] = (flat[::7] * 8).round() / 8 + 1 / 16
    flat[::11] = 0.0
    flat[::13] = -0.0
    flat[::17] = -1e-9
    flat[::19] *= 50.0
    return x


@pytest.mark.parametrize("name", sorted(ONNX_TYPES))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("g", [Granularity(), CHANNEL], ids=str)
def test_equals_onnx_runtime_bit_for_bit(name: str, symmetric: bool, g: Granularity) -> None:
    what = spec(format=name, symmetric=symmetric, granularity=g)
    for seed, x in enumerate([awkward(0, 5, 6, 33), awkward(1, 2, 6, 1)]):
        q = measured(x, what) if seed else params([2.0**-3] * group_count(x.shape, g), 0 if symmetric else 3)
        integers, floats = onnx_runtime(x, q, name, None if g.kind == "per_tensor" else 1)
        ours = affine.quantize(x, q, what)
        assert ours.dtype == torch.int32
        assert np.array_equal(ours.numpy(), integers.astype(np.int32))
        assert same_bits(affine.dequantize(ours, q, what), floats)
        assert same_bits(affine.fake_quantize(x, q, what), floats)


# -- torch's own op --------------------------------------------------------------------------------------------------


@given(
    scale=st.floats(2.0**-12, 8.0, width=32),
    zero=st.integers(-128, 127),
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=16),
)
@settings(deadline=None, max_examples=150)
def test_is_within_one_step_of_torch_and_equal_off_ties(scale: float, zero: int, values: list[float]) -> None:
    x = torch.tensor(values)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)
    ours = affine.fake_quantize(x, params(scale, zero), spec(symmetric=False))
    steps = x.double() / scale
    # theirs multiplies with the reciprocal and adds the zero point before rounding: only near a tie may they differ
    off_ties = ((steps - steps.floor() - 0.5).abs() > 1e-3 * (1 + steps.abs() * 1e-3)) | (steps.abs() > 300)
    assert torch.allclose(ours[off_ties], theirs[off_ties], rtol=1e-6)
    assert ((ours - theirs).abs() <= scale * 1.0001).all()


def test_rounds_before_adding_the_zero_point() -> None:
    """0.5 rounds to 0 and then becomes 3; adding 3 first would give round(3.5) = 4."""
    what = spec(format="uint8", symmetric=False)
    assert affine.quantize(torch.tensor([0.5, 1.5]), params(1.0, 3), what).tolist() == [3, 5]


# -- composition, every granularity and rounding ---------------------------------------------------------------------


@pytest.mark.parametrize("g", EVERY_GRANULARITY, ids=str)
@pytest.mark.parametrize("arithmetic", ["divide", "reciprocal"])
@pytest.mark.parametrize("name,symmetric", [("int8", True), ("uint4", False), ("int2", True), ("uint16", False)])
def test_fake_quantize_is_dequantize_of_quantize(g: Granularity, arithmetic: str, name: str, symmetric: bool) -> None:
    what = spec(format=name, symmetric=symmetric, granularity=g)
    x = awkward(2, 4, 5, 8)
    q = measured(x, what)
    integers = affine.quantize(x, q, what, arithmetic=arithmetic)
    assert int(integers.min()) >= what.qmin
    assert int(integers.max()) <= what.qmax
    expected = affine.dequantize(integers, q, what, arithmetic=arithmetic)
    assert same_bits(affine.fake_quantize(x, q, what, arithmetic=arithmetic), expected)


@pytest.mark.parametrize("g", EVERY_GRANULARITY, ids=str)
def test_groups_do_not_influence_each_other(g: Granularity) -> None:
    """One group at a time, quantized as a tensor of its own, gives the same numbers."""
    what, alone = spec(granularity=g), spec()
    x = awkward(3, 4, 5, 8)
    q = measured(x, what)
    whole_GN = group_view(affine.fake_quantize(x, q, what), g)
    for index, x_N in enumerate(group_view(x, g)):
        mine = QParams(scale=q.scale[index : index + 1], zero_point=q.zero_point[index : index + 1])
        assert same_bits(whole_GN[index], affine.fake_quantize(x_N.contiguous(), mine, alone))


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_down", "half_away", "floor", "ceil", "toward_zero"])
def test_idempotent_and_monotone(rounding: str) -> None:
    what = spec(rounding=rounding)
    x = torch.linspace(-5, 5, 4001)
    once = affine.fake_quantize(x, params(2.0**-5), what)
    assert same_bits(affine.fake_quantize(once, params(2.0**-5), what), once)
    assert (once.diff() >= 0).all()


def test_ties_follow_the_spec() -> None:
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5])
    results = {r: affine.quantize(x, params(1.0), spec(rounding=r)).tolist() for r in ("half_up", "half_away")}
    assert results == {"half_up": [-1, 0, 1, 2], "half_away": [-2, -1, 1, 2]}


def test_narrow_range_leaves_the_lowest_integer_out() -> None:
    x = torch.tensor([-1e6, 1e6])
    assert affine.quantize(x, params(1.0), spec(narrow_range=True)).tolist() == [-127, 127]
    assert affine.quantize(x, params(1.0), spec()).tolist() == [-128, 127]


def test_zero_is_never_negative() -> None:
    x = torch.tensor([-0.0, -1e-9, -0.4])
    for g in (Granularity(), Granularity(kind="per_channel", axis=0)):
        q = params([1.0] * group_count(x.shape, g))
        assert not torch.signbit(affine.fake_quantize(x, q, spec(granularity=g))).any()


def test_wide_bias_integers_saturate_without_wrapping() -> None:
    what = spec(format="int32", scale="derived")
    x, q = torch.tensor([-1e30, -3.0, 3.0, 1e30]), params(2.0**-20)
    integers = affine.quantize(x, q, what)
    assert integers.tolist() == [-(2**31), -3 * 2**20, 3 * 2**20, 2**31 - 128]  # the last float32 below 2**31
    assert same_bits(affine.fake_quantize(x, q, what), affine.dequantize(integers, q, what))
    assert affine.quantize(x, q, spec(format="uint32")).dtype == torch.int64


def test_reciprocal_is_a_different_arithmetic() -> None:
    q = params(0.0231)
    x = (torch.arange(-127, 127) + 0.5) * q.scale.float()  # close to the ties, where the last bit decides
    divided, multiplied = (affine.fake_quantize(x, q, spec(), arithmetic=a) for a in ("divide", "reciprocal"))
    assert not torch.equal(divided, multiplied)
    assert (divided - multiplied).abs().max() <= 0.0231 * 1.001  # but never more than one step


def test_a_vanished_scale_is_replaced_in_reciprocal_arithmetic() -> None:
    y = affine.fake_quantize(torch.tensor([2.0**-18 * 3]), params(0.0), spec(), arithmetic="reciprocal")
    assert y.item() == 2.0**-18 * 3


# -- dtypes, memory, gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_float32_and_cast_back(dtype: torch.dtype) -> None:
    x = awkward(4, 6, 7).to(dtype)
    y = affine.fake_quantize(x, params(0.03), spec())
    assert y.dtype == dtype
    assert torch.equal(y, affine.fake_quantize(x.float(), params(0.03), spec()).to(dtype))


def test_float64_is_computed_in_float64_on_the_same_grid() -> None:
    x = awkward(4, 6, 7).double() / 3
    y = affine.fake_quantize(x, params(0.03), spec())
    assert y.dtype == torch.float64
    steps = y / params(0.03).scale.float().double()
    assert torch.allclose(steps, steps.round(), atol=1e-9)
    inside = x.abs() < 0.03 * 127
    assert ((y - x).abs()[inside] <= 0.015 * (1 + 1e-6)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("g", EVERY_GRANULARITY, ids=str)
def test_out_takes_the_result_in_place(dtype: torch.dtype, g: Granularity) -> None:
    what = spec(granularity=g)
    x = awkward(5, 4, 5, 8).to(dtype)
    q = measured(x.float(), what)
    expected, place = affine.fake_quantize(x, q, what), x.data_ptr()
    assert torch.equal(x, awkward(5, 4, 5, 8).to(dtype))  # without out the input stays
    result = affine.fake_quantize(x, q, what, out=x)
    assert result is x
    assert result.data_ptr() == place
    assert torch.equal(x, expected)


def test_a_transposed_input_works() -> None:
    x = awkward(6, 6, 9)
    assert torch.equal(affine.fake_quantize(x.T, params(0.1), spec()), affine.fake_quantize(x, params(0.1), spec()).T)


@pytest.mark.parametrize("g", EVERY_GRANULARITY, ids=str)
def test_gradient_passes_inside_and_stops_outside(g: Granularity) -> None:
    what = spec(granularity=g)
    x = awkward(7, 4, 5, 8)
    q = measured(x, what)
    x.requires_grad_(True)
    upstream = torch.randn(x.shape)
    y = affine.fake_quantize(x, q, what)
    y.backward(upstream)
    no_gradient = affine.fake_quantize(x.detach(), q, what)
    assert same_bits(y.detach(), no_gradient)
    # inside: rounding moved the value by at most half a step; clipping moved everything else further
    step = group_view(torch.zeros_like(no_gradient), g) + q.scale.float().unsqueeze(1)
    moved = (group_view(x.detach() - no_gradient, g)).abs()
    inside = moved <= step * 0.5001
    assert x.grad is not None
    assert torch.equal(group_view(x.grad, g), torch.where(inside, group_view(upstream, g), torch.zeros(())))
    assert 0 < int(inside.sum()) < inside.numel()


def test_gradient_matches_torch() -> None:
    ours = awkward(8, 50).requires_grad_(True)
    theirs = ours.detach().clone().requires_grad_(True)
    affine.fake_quantize(ours, params(0.02, 5), spec(symmetric=False)).sum().backward()
    torch.fake_quantize_per_tensor_affine(theirs, 0.02, 5, -128, 127).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_out_and_a_gradient_do_not_go_together() -> None:
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(StateError, match="while a gradient is recorded"):
        affine.fake_quantize(x, params(1.0), spec(), out=torch.zeros(3))
    with torch.no_grad():
        affine.fake_quantize(x, params(1.0), spec(), out=x)


def test_missing_qparams_and_unknown_arithmetic_are_named() -> None:
    with pytest.raises(StateError, match="int8 needs scale and zero point"):
        affine.fake_quantize(torch.zeros(3), None, spec())
    with pytest.raises(InputError, match="unknown arithmetic 'shift'"):
        affine.fake_quantize(torch.zeros(3), params(1.0), spec(), arithmetic="shift")


def test_a_wrong_number_of_scales_says_how_many() -> None:
    with pytest.raises(InputError, match=r"3 scales for a tensor of shape \[2, 4\]") as caught:
        affine.fake_quantize(torch.zeros(2, 4), params([1.0] * 3), spec(granularity=CHANNEL))
    assert "1, or 4" in str(caught.value)
