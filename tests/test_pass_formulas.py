"""The formulas of the passes against torch's own operators and against numpy, on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from quantwright.passes._channels import Layout, input_range, output_range, per_input, per_output
from quantwright.passes._equalization import bias_shrink, dfq_factors, vitis_factors

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Layout, int, int, int]:
    """Returns (weight, layout, inputs, outputs, spatial dimensions) of a random layer."""
    groups, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spatial, kernel, transposed = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans())
    inputs, outputs = groups * per_in, groups * per_out
    first, second = (inputs, per_out) if transposed else (outputs, per_in)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    weight = torch.randn(first, second, *[kernel] * spatial, generator=generator)
    return weight, Layout(transposed=transposed, groups=groups), inputs, outputs, spatial


def apply(x: Tensor, weight: Tensor, layout: Layout, spatial: int) -> Tensor:
    function = (CONV_TRANSPOSE if layout.transposed else CONV)[spatial]
    return function(x, weight, groups=layout.groups)


@settings(deadline=None, max_examples=60)
@given(layers())
def test_scaling_a_view_scales_the_layers_outputs_and_inputs(layer: tuple[Tensor, Layout, int, int, int]) -> None:
    weight, layout, inputs, outputs, spatial = layer
    x = torch.randn(2, inputs, *[4] * spatial)
    s_out, s_in = torch.rand(outputs) + 0.5, torch.rand(inputs) + 0.5
    shape = (1, -1, *[1] * spatial)
    plain, scaled_input = apply(x, weight, layout, spatial), apply(x * s_in.view(shape), weight, layout, spatial)
    changed = weight.clone()
    view = layout.view(changed)
    view.mul_(per_output(s_out, view))
    torch.testing.assert_close(apply(x, changed, layout, spatial), plain * s_out.view(shape), rtol=1e-4, atol=1e-5)
    changed = weight.clone()
    view = layout.view(changed)
    view.mul_(per_input(s_in, view))
    torch.testing.assert_close(apply(x, changed, layout, spatial), scaled_input, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(layers())
def test_a_range_is_what_the_layer_does_to_unit_impulses(layer: tuple[Tensor, Layout, int, int, int]) -> None:
    weight, layout, inputs, outputs, spatial = layer
    eye = torch.eye(inputs).view(inputs, inputs, *[1] * spatial)
    padded = F.pad(eye, [1] * (2 * spatial)) if not layout.transposed else eye  # every kernel position meets the 1
    response_IO = apply(padded, weight, layout, spatial).abs().flatten(2).amax(2)
    view = layout.view(weight)
    torch.testing.assert_close(output_range(view), response_IO.amax(0))
    torch.testing.assert_close(input_range(view), response_IO.amax(1))
    assert output_range(view).shape == (outputs,)


def test_repeat_scales_all_the_features_a_flatten_made_of_one_channel() -> None:
    x, weight, s = torch.randn(2, 3, 2, 2), torch.randn(5, 12), torch.tensor([1.0, 2.0, 3.0])
    changed = weight.clone()
    view = Layout(repeat=4).view(changed)
    view.mul_(per_input(s, view))
    want = F.linear((x * s.view(1, 3, 1, 1)).flatten(1), weight)
    torch.testing.assert_close(F.linear(x.flatten(1), changed), want)


def reference_shrink(w: np.ndarray, b: np.ndarray) -> float:
    """Returns k as spec vai_q_pytorch 4.2 says it, channel by channel in numpy."""
    clamped, bias = w.copy(), np.abs(b.copy())
    for c in range(len(w)):
        nonzero = np.abs(w[c][w[c] != 0])
        clamped[c][w[c] == 0] = nonzero.min() if nonzero.size else 1e-7
        bias[c] = bias[c] if nonzero.size else 0
    clamped = np.maximum(np.abs(clamped), 1e-7)
    factor = bias[:, None] / clamped
    if np.abs(b).max() < 10 and np.abs(b).max() / clamped.max() < 20:
        return 5 if np.median(factor) > 100 or factor.mean() > 1000 else 2
    if np.median(factor) > 30 or factor.mean() > 500:
        return 20
    return 10 if np.median(factor) > 15 or factor.mean() > 100 else 5


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bias_size", [0.01, 0.5, 5.0, 9.0, 40.0, 300.0])
@pytest.mark.parametrize("weight_size", [1e-9, 0.01, 0.3, 2.0])
def test_bias_shrink_is_the_rule_of_the_spec(weight_size: float, bias_size: float, zeros: bool) -> None:
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((6, 18)) * weight_size).astype(np.float32)
    b = (rng.standard_normal(6) * bias_size).astype(np.float32)
    if zeros:
        w[0], w[1, ::2] = 0, 0
    view = torch.from_numpy(w).view(1, 6, 2, 9)
    assert bias_shrink(view, torch.from_numpy(b)) == reference_shrink(w, b)


def test_bias_shrink_takes_every_value_of_its_table() -> None:
    one = torch.ones(1, 4, 1, 8)
    spread = torch.cat([torch.full((1, 4, 1, 7), 1e-3), torch.ones(1, 4, 1, 1)], 3)
    cases = [(one, 1.0), (spread, 1.0), (one * 10, 300.0), (one * 10, 200.0), (one * 10, 400.0), (one * 10, 100.0)]
    got = [bias_shrink(w, torch.full((4,), b)) for w, b in cases]
    assert got == [2.0, 5.0, 10.0, 10.0, 20.0, 5.0]


def test_vitis_factors_leave_small_dead_and_weightless_channels_alone() -> None:
    first = torch.tensor([4.0, 0.1, 0.0, 3.0]).view(1, 4, 1, 1)
    second = torch.tensor([1.0, 0.2, 5.0, 0.0]).view(1, 1, 4, 1)
    s = vitis_factors(first, None, second)
    assert s.tolist() == [2.0, 1.0, 1.0, 1.0]  # sqrt(4/1); sum 0.3 < 0.5; r0 = 0; r1 = 0
    with_bias = vitis_factors(first, torch.tensor([0.0, 0.0, 8.0, 0.0]), second)
    assert with_bias[2] == 1.0  # a channel without weights has no range, whatever its bias


def test_dfq_reaches_the_closed_form_of_a_depthwise_triple() -> None:
    torch.manual_seed(0)
    expand, depthwise, project = torch.rand(1, 8, 3) + 0.01, torch.rand(8, 1, 1) + 0.01, torch.rand(1, 4, 8) + 0.01
    r1, r2, r3 = expand.amax(2).flatten(), depthwise.flatten(), project.amax(1).flatten()
    found = dfq_factors([x.double() for x in (expand, depthwise, project)], [(0, 1), (1, 2)], tolerance=1e-9)
    root = (r1 * r2 * r3).double() ** (1 / 3)  # the three ranges end up equal, and their product is kept
    torch.testing.assert_close(found.factors[0], r1 / root)
    torch.testing.assert_close(found.factors[1], root / r3)
    assert found.last_step <= 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=3, max_size=6))
def test_dfq_equalizes_every_pair_of_a_chain(seed: int, widths: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = list(zip(widths[1:], widths[:-1], strict=True))
    ranges = [torch.rand(1, o, i, generator=generator, dtype=torch.float64) + 1e-3 for o, i in sizes]
    pairs = [(k, k + 1) for k in range(len(ranges) - 1)]
    dfq_factors(ranges, pairs, tolerance=1e-6)
    for i, j in pairs:
        torch.testing.assert_close(ranges[i].amax(2).flatten(), ranges[j].amax(1).flatten(), rtol=1e-4, atol=0)


def test_dfq_keeps_dead_channels_and_says_when_it_did_not_settle() -> None:
    first, second = torch.tensor([[[0.0], [4.0]]]).double(), torch.tensor([[[3.0, 1.0]]]).double()
    found = dfq_factors([first, second], [(0, 1)], sweeps=1)
    assert found.factors[0].tolist() == [1.0, 2.0]
    assert (found.sweeps, found.last_step) == (1, 1.0)
