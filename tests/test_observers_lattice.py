"""mse puts few values that are equally far apart on a grid they are on, and does nothing like it to others."""

from __future__ import annotations

import pytest
import torch
from numerics_helpers import make, noise, one_thread, spec  # noqa: F401
from torch import Tensor

from quantwright.config.spec import QuantSpec
from quantwright.numerics import affine

UNSIGNED = spec(format="uint8", symmetric=False)
SIGNED = spec(format="int8", symmetric=True)


def grid_error(x: Tensor, what: QuantSpec) -> float:
    """Returns the largest rounding error in steps."""
    observer = make("mse", what)
    observer.observe(x.reshape(1, -1))
    qparams = observer.qparams()
    return float((affine.fake_quantize(x, qparams, what) - x).abs().max() / qparams.scale)


def levels(count: int, offset: float, size: float, seed: int = 0) -> Tensor:
    """Returns pixels of an image of few grey levels, shifted and scaled; the ends are among them."""
    grey = torch.randint(0, count, (4000,), generator=torch.Generator().manual_seed(seed))
    grey[:2] = torch.tensor([0, count - 1])
    return (grey / (count - 1) - offset) * size


@pytest.mark.parametrize("count, offset", [(17, 0.3), (2, 0.5), (11, 0.0), (100, 0.0), (129, 0.25), (256, 0.0)])
def test_grey_levels_lie_on_the_grid(count: int, offset: float) -> None:
    assert grid_error(levels(count, offset, 1 / 0.38), UNSIGNED) < 0.02


@pytest.mark.parametrize("count", [3, 15, 29, 101])
def test_so_do_symmetric_ones(count: int) -> None:
    assert grid_error(levels(count, 0.5, 3.7), SIGNED) < 0.02


def test_levels_that_are_not_equally_far_apart_keep_the_range_of_least_error() -> None:
    x = noise(0, 40)[torch.randint(0, 40, (3000,), generator=torch.Generator().manual_seed(1))]
    observer = make("mse", SIGNED)
    observer.observe(x.reshape(1, -1))
    assert grid_error(x, SIGNED) > 0.2
    low_G, high_G = observer.range()
    assert float((high_G - low_G) / (2 * x.abs().max())) < 2.02


@pytest.mark.parametrize("what", [UNSIGNED, SIGNED], ids=["unsigned", "signed"])
def test_other_values_get_no_more_than_their_own_range(what: QuantSpec) -> None:
    x = noise(2, 20_000)
    observer = make("mse", what)
    observer.observe(x.reshape(1, -1))
    low_G, high_G = observer.range()
    assert float(low_G) >= float(x.min()) and float(high_G) <= float(x.max())


def test_rows_are_decided_one_by_one() -> None:
    x_GN = torch.stack([levels(17, 0.3, 2.0), noise(3, 4000)])
    observer = make("mse", UNSIGNED)
    observer.observe(x_GN)
    low_G, high_G = observer.range()
    alone = make("mse", UNSIGNED)
    alone.observe(x_GN[1:])
    assert float(high_G[0]) > float(x_GN[0].max())
    assert (float(low_G[1]), float(high_G[1])) == tuple(float(end) for end in alone.range())
