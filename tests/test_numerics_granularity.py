"""Granularity: the [G, N] view against plain loops, and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantwright.config.spec import Granularity
from quantwright.errors import InputError
from quantwright.numerics.granularity import broadcast, ends, group_count, group_shape, group_view, lay_out, ungroup

TENSOR = Granularity()
TOKEN = Granularity(kind="per_token")


def channel(axis: int | None = None) -> Granularity:
    return Granularity(kind="per_channel", axis=axis)


def groups(size: int, axis: int | None = None) -> Granularity:
    return Granularity(kind="per_group", group_size=size, axis=axis)


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


@st.composite
def shapes_and_granularities(draw: st.DrawFn) -> tuple[tuple[int, ...], Granularity]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return shape, draw(st.sampled_from([TENSOR, TOKEN, channel(axis), groups(draw(st.integers(1, 7)), axis)]))


@pytest.mark.parametrize("x_GN", [numbered(1, 7).sub(3), numbered(5, 7), numbered(7, 5).t(), numbered(4, 1)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_ends_are_those_of_every_row(x_GN: Tensor, dtype: torch.dtype) -> None:
    x_GN = x_GN.to(dtype)
    low_G, high_G = ends(x_GN)
    assert low_G.tolist() == [min(row) for row in x_GN.tolist()]
    assert high_G.tolist() == [max(row) for row in x_GN.tolist()]
    assert low_G.dtype == high_G.dtype == dtype
    x_GN = x_GN.clone()
    x_GN[-1, 0] = torch.nan
    assert all(bool(end_G[-1].isnan()) and bool(end_G[:-1].isfinite().all()) for end_G in ends(x_GN))


@given(case=shapes_and_granularities())
@settings(deadline=None, max_examples=150)
def test_ungroup_undoes_group_view(case: tuple[tuple[int, ...], Granularity]) -> None:
    shape, g = case
    x = numbered(*shape)
    x_GN = group_view(x, g)
    assert x_GN.shape[0] == group_count(shape, g)
    assert torch.equal(ungroup(x_GN, shape, g), x)


@given(case=shapes_and_granularities())
@settings(deadline=None, max_examples=150)
def test_broadcast_reaches_the_elements_of_its_group(case: tuple[tuple[int, ...], Granularity]) -> None:
    shape, g = case
    p_G = torch.arange(float(group_count(shape, g)))
    marked = torch.zeros(shape) + broadcast(p_G, shape, g)
    assert marked.shape == torch.Size(shape)
    expected = p_G.unsqueeze(1).expand(-1, group_view(torch.zeros(shape), g).shape[1])
    assert torch.equal(group_view(marked, g), expected)


def test_channels_by_hand() -> None:
    x = numbered(2, 3, 2)
    assert torch.equal(group_view(x, channel(1)), torch.stack([x[:, c].flatten() for c in range(3)]))
    assert torch.equal(group_view(x, channel(-2)), group_view(x, channel(1)))
    assert torch.equal(group_view(x, channel()), x.reshape(2, 6))  # axis 0 when the plan has not said


def test_groups_by_hand() -> None:
    x = numbered(2, 6)
    assert group_view(x, groups(3)).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert group_view(x, groups(2, 0)).tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]


def test_a_short_last_group_repeats_its_last_element() -> None:
    x = numbered(2, 5)
    view = group_view(x, groups(3))
    assert view.tolist() == [[0, 1, 2], [3, 4, 4], [5, 6, 7], [8, 9, 9]]
    assert group_shape((2, 5), groups(3)) == (2, 2)


def test_tokens_by_hand() -> None:
    x = numbered(2, 3, 4)
    assert torch.equal(group_view(x, TOKEN), x.reshape(6, 4))
    assert broadcast(torch.arange(6.0), x.shape, TOKEN).shape == (2, 3, 1)


def test_blocked_layout_is_the_one_onnx_wants() -> None:
    # ONNX DequantizeLinear-21: the scale has the input's shape with the axis divided by block_size, rounded up
    p_G = torch.arange(float(group_count((4, 6), groups(2, 0))))
    laid = lay_out(p_G, (4, 6), groups(2, 0))
    assert laid.shape == (2, 6)
    x = numbered(4, 6)
    assert torch.equal(group_view(x, groups(2, 0)).amax(1), torch.stack([x[:2].amax(0), x[2:].amax(0)]).T.reshape(-1))
    assert laid[1, 2].item() == 5.0  # column 2, second block


@pytest.mark.parametrize("g", [TENSOR, channel(0), groups(4, 1), TOKEN])
def test_contiguous_tensors_are_viewed_not_copied(g: Granularity) -> None:
    x = torch.zeros(4, 8)
    assert group_view(x, g).data_ptr() == x.data_ptr()


def test_a_single_number() -> None:
    x = torch.tensor(3.0)
    assert group_view(x, TENSOR).shape == (1, 1)
    assert ungroup(group_view(x, TENSOR), (), TENSOR).shape == ()
    with pytest.raises(InputError, match="no axis"):
        group_view(x, channel(0))


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_is_not_there_names_shape_and_axes(axis: int) -> None:
    with pytest.raises(InputError, match=r"axis -?\d of a tensor of shape \[2, 3\]") as caught:
        group_view(torch.zeros(2, 3), channel(axis))
    assert "axes -2 to 1" in str(caught.value)
