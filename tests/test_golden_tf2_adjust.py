"""Position adjustment against what vai_q_tensorflow2 made of random positions, pass by pass and all together."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conftest import golden
from dpu_models import SHAPES, A, B, point_of, positions_of, prepared_of, put

from quantwright.algorithms import position_adjustment
from quantwright.prepare import PreparedModel

PASSES = {
    "adjust_vitis_sigmoid": "hard_sigmoid",
    "adjust_shift_read": "shift_read",
    "adjust_shift_write": "shift_write",
    "adjust_shift_swish": "hard_swish",
    "adjust_shift_cut": "shift_cut",
    "adjust_shift_bias": "shift_bias",
    "adjust_shift_bias_leakyrelu": "leaky_relu_bias",
    "align_concat": "concat",
    "align_pool": "pool",
}
CASES = [(model, seed) for model in ("A", "B") for seed in range(4)]


@cache
def network(name: str) -> PreparedModel:
    return prepared_of({"A": A, "B": B}[name](), torch.randn(SHAPES[name]), target="vitis_keras_dpu")


def case(model: str, seed: int) -> Any:
    found = golden("vai_q_tensorflow2.json")["end_to_end"]["adjust"]
    return next(item for item in found if (item["model"], item["seed"]) == (model, seed))


def adjusted(model: str, recorded: Any, **params: Any) -> dict[str, int]:
    """Returns the positions that changed, by the recorded names."""
    prepared = network(model)
    before = {point_of(name): int(position) for name, position in recorded["before"].items()}
    put(prepared, before)
    changes = position_adjustment.run(prepared, method="vitis_tensorflow2", **params)
    after = positions_of(prepared)
    moved = {change.data["point"] for change in changes}
    assert {point for point in before if after[point] != before[point]} <= moved
    return {
        name: after[point_of(name)] for name in recorded["before"] if after[point_of(name)] != before[point_of(name)]
    }


@pytest.mark.parametrize("model", ["A", "B"])
def test_the_same_tensors_have_positions(model: str) -> None:
    assert set(network(model).quantizers) == {point_of(name) for name in case(model, 0)["before"]}


@pytest.mark.parametrize(("model", "seed"), CASES)
def test_all_adjustments_together_are_exact(model: str, seed: int) -> None:
    recorded = case(model, seed)
    assert adjusted(model, recorded, compatible=True) == recorded["after"]["all"]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(("model", "seed"), CASES)
def test_each_adjustment_alone_is_exact(model: str, seed: int, name: str) -> None:
    recorded = case(model, seed)
    only = {switch: switch == PASSES[name] for switch in PASSES.values()}
    assert adjusted(model, recorded, compatible=True, **only) == recorded["after"][name]


@pytest.mark.parametrize(("model", "seed"), CASES)
def test_without_the_faults_only_shift_write_differs(model: str, seed: int) -> None:
    """T5.3: the tool moves the output to +15 or -15; the shift is what is limited to that."""
    recorded = case(model, seed)
    for name, switch in PASSES.items():
        only = {other: other == switch for other in PASSES.values()}
        ours = adjusted(model, recorded, **only)
        assert set(ours) == set(recorded["after"][name])
        assert name == "adjust_shift_write" or ours == recorded["after"][name]


def test_the_recorded_cases_are_all_here() -> None:
    found = golden("vai_q_tensorflow2.json")["end_to_end"]["adjust"]
    assert [(item["model"], item["seed"]) for item in found] == CASES
    assert set(found[0]["after"]) == {"all", *PASSES}
