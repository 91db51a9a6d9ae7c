"""Compensated rounding: less error of the products than rounding alone, on the same grids, and the means stay."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantwright.algorithms._compensate import Cells, compensated, error_of
from quantwright.api import PreparedModel, prepare
from quantwright.errors import DataError
from quantwright.numerics import affine

COARSE: dict[str, Any] = {
    "version": 1,
    "default": {"weight": {"format": "int4", "granularity": "per_channel"}},
    "refine": ["compensated_rounding"],
}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cells(shape: tuple[int, ...], scale: float = 0.5, low: float = -3, high: float = 3) -> Cells:
    return Cells(**{name: torch.full(shape, value, dtype=torch.float64) for name, value in
                    (("scale", scale), ("low", low), ("high", high))})  # fmt: skip


def gram_of(x_GKP: Tensor) -> Tensor:
    return x_GKP @ x_GKP.transpose(1, 2) / x_GKP.shape[2]


def related(seed: int, groups: int, columns: int) -> Tensor:
    """Returns inputs that go together, as neighbouring pixels do."""
    return noise(seed, groups, columns, columns) @ noise(seed + 1, groups, columns, 200) + noise(
        seed + 2, groups, 1, 200
    )


# -- the rounding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 30, 130, 300])
def test_values_are_on_the_grid_and_no_row_is_worse_than_rounded_alone(columns: int) -> None:
    weight, gram, grid = noise(0, 2, 5, columns), gram_of(related(1, 2, columns)), cells((2, 5, columns))
    found = compensated(weight, gram, grid, 0.01)
    assert torch.equal(grid.nearest(found), found)
    errors, plain = error_of(found - weight, gram), error_of(grid.nearest(weight) - weight, gram)
    assert bool((errors <= plain).all())
    if columns > 1:
        assert float(errors.sum()) < 0.7 * float(plain.sum())


def test_little_is_lost_against_the_best_of_all_roundings() -> None:
    shape = (1, 6, 4)
    weight, gram, grid = noise(3, *shape), gram_of(related(4, 1, 4)), cells(shape)
    found = error_of(compensated(weight, gram, grid, 0.0) - weight, gram)
    every = torch.tensor(list(product([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5], repeat=4)), dtype=torch.float64)
    best = torch.stack([error_of((every - row).unsqueeze(0), gram).min() for row in weight[0]])
    plain = error_of(grid.nearest(weight) - weight, gram).sum()
    assert bool((found[0] >= best - 1e-12).all())
    assert float(found.sum() - best.sum()) < 0.5 * float(plain - best.sum())


def test_inputs_that_have_nothing_to_do_with_each_other_leave_rounding_alone() -> None:
    weight, grid = noise(5, 1, 4, 7), cells((1, 4, 7), low=-9, high=9)
    gram = torch.diag(torch.arange(1.0, 8.0, dtype=torch.float64)).unsqueeze(0)
    assert torch.equal(compensated(weight, gram, grid, 0.01), grid.nearest(weight))


def test_no_inputs_and_inputs_that_are_always_zero() -> None:
    weight, grid = noise(6, 2, 3, 5), cells((2, 3, 5))
    assert torch.equal(compensated(weight, torch.zeros(2, 5, 5, dtype=torch.float64), grid, 0.01), grid.nearest(weight))
    gram = gram_of(related(7, 2, 5))
    gram[:, 2], gram[:, :, 2] = 0.0, 0.0
    found = compensated(weight, gram, grid, 0.01)
    assert bool(found.isfinite().all()) and torch.equal(grid.nearest(found), found)


# -- on networks ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Every kind of layer it knows, and some it leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.apart = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.four = nn.Conv2d(8, 12, (1, 2), groups=2, dilation=2)
        self.up = nn.ConvTranspose2d(12, 4, 2)
        self.line = nn.Conv1d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.four(torch.relu(self.apart(torch.relu(self.one(x)))))
        x = torch.relu(self.line(torch.relu(self.up(x)).flatten(2)))
        return self.head(x.amax(2))


def smooth(seed: int) -> Tensor:
    """Returns images whose neighbours are alike, not around zero."""
    x = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) + 1.0
    return nn.functional.interpolate(x, scale_factor=3, mode="bilinear")


def made(config: dict[str, Any] = COARSE) -> tuple[PreparedModel, list[Tensor]]:
    torch.manual_seed(0)
    batches = [smooth(0), smooth(1)]
    return prepare(Net().eval(), config, batches[0]).calibrate(batches), batches


def error(model: PreparedModel, x: Tensor) -> float:
    with torch.no_grad():
        with model.floating():
            wanted = model(x)
        return float((model(x) - wanted).square().mean())


def test_a_network_comes_closer_to_float_on_images_it_has_not_seen() -> None:
    plain, batches = made({**COARSE, "refine": ["bias_correction"]})
    plain.refine(batches)
    both, _ = made({**COARSE, "refine": ["compensated_rounding", "bias_correction"]})
    both.refine(batches)
    assert error(both, smooth(9)) < 0.8 * error(plain, smooth(9))
    model, _ = made()
    model.refine(batches)
    assert {change.node for change in model.changes} >= {"conv2d", "conv2d_1", "conv2d_2", "linear"}
    assert all(0 < change.data["error_share"] < 1 for change in model.changes)


def test_weights_are_on_their_grids_and_float_is_what_it_was() -> None:
    model, batches = made()
    with torch.no_grad(), model.floating():
        float_output = model(batches[0])
    scales = {name: q.qparams.scale.clone() for name, q in model.quantizers.items() if q.qparams is not None}
    model.refine(batches)
    with torch.no_grad(), model.floating():
        assert torch.equal(model(batches[0]), float_output)
    for change in model.changes:
        quantizer, weight = model.quantizers[change.data["weight"]], model.parameter(change.data["weight"])
        assert torch.allclose(affine.fake_quantize(weight, quantizer.qparams, quantizer.spec), weight, atol=1e-6)
        assert quantizer.qparams is not None and torch.equal(quantizer.qparams.scale, scales[change.data["weight"]])


def test_the_bias_takes_over_the_mean_of_the_error() -> None:
    model, batches = made()
    model.refine(batches)
    means = []
    for floating in (True, False):
        seen: list[Tensor] = []
        with torch.no_grad():
            if floating:
                with model.floating():
                    model.graph.run((batches[0],), {}, {"conv2d": lambda v, s=seen: s.append(v)})
            else:
                model.graph.run((batches[0],), {}, {"conv2d": lambda v, s=seen: s.append(v)})
        means.append(seen[0].mean((0, 2, 3)))
    spread = float(means[0].std())
    assert float((means[0] - means[1]).abs().max()) < 0.02 * spread


def test_two_runs_give_the_same_bytes() -> None:
    states = []
    for _ in range(2):
        model, batches = made()
        model.refine(batches)
        states.append({name: model.parameter(name) for change in model.changes for name in (change.data["weight"],)})
    assert states[0].keys() == states[1].keys() and len(states[0]) >= 4
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_weight_used_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    torch.manual_seed(0)
    x = torch.randn(32, 6)
    model = prepare(Twice().eval(), COARSE, x).calibrate([x]).refine([x])
    assert model.changes == []


def test_bias_correction_behind_it_still_aims_at_the_float_network() -> None:
    """The float side of the comparison is the network before any algorithm, not what the one before has left."""
    model, batches = made({**COARSE, "refine": ["compensated_rounding", "bias_correction"]})
    model.refine(batches)
    outputs = []
    with torch.no_grad():
        outputs.append(torch.cat([model(x) for x in batches]))
        with model.floating():
            outputs.append(torch.cat([model(x) for x in batches]))
    gap, spread = (outputs[0] - outputs[1]).mean(0), outputs[1].std(0)
    assert bool((gap.abs() < 0.05 * spread).all())


def test_no_data_is_refused() -> None:
    model, _ = made()
    with pytest.raises(DataError, match="not one batch"):
        model.refine([])
