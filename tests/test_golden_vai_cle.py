"""Folding and equalization against the float parameters vai_q_pytorch had after its own graph passes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from vai_models import build, data

from quantwright.graph.capture import capture
from quantwright.graph.graph import Graph
from quantwright.passes import cross_layer_equalization, fold_batchnorm, relu6_to_relu

EQUALIZED = ("net_default", "net_dpu_maxmin", "net_uif", "net_cpu_maxmin", "chain_default")
PLAIN = ("net_default_nocle_nobc", "net_cpu_off", "net_cpu_asym", "net_cpu_w4_inputq", "net_cpu_bf16")


@cache
def captured(name: str) -> Graph:
    return capture(build(name), data(name)[0])


def optimized(run: str, equalize: bool) -> tuple[str, Graph]:
    """Returns (model name, graph after the passes the tool runs, in its order)."""
    name = "Chain" if run.startswith("chain") else "Net"
    graph = captured(name).copy()
    if equalize:
        relu6_to_relu.run(graph, modules_only=True)
    fold_batchnorm.run(graph, scope="vitis")
    if equalize:
        cross_layer_equalization.run(graph, method="vitis")
    return name, graph


def recorded(vai: Any, run: str) -> dict[str, torch.Tensor]:
    return {key.split("::")[1]: torch.tensor(value) for key, value in vai["e2e"][run]["graph_params"].items()}


@pytest.mark.parametrize("run", PLAIN)
def test_folded_parameters_are_bit_equal(vai: Any, run: str) -> None:
    _, graph = optimized(run, equalize=False)
    want = recorded(vai, run)
    assert set(graph.tensors()) == set(want)
    for key, value in want.items():
        assert torch.equal(graph.parameter(key), value), key


@pytest.mark.parametrize("run", EQUALIZED)
def test_equalized_parameters_are_bit_equal(vai: Any, run: str) -> None:
    _, graph = optimized(run, equalize=True)
    want = recorded(vai, run)
    assert set(graph.tensors()) == set(want)
    for key, value in want.items():
        assert torch.equal(graph.parameter(key), value), key


@pytest.mark.parametrize("run", ["chain_default", "net_cpu_off"])
def test_float_outputs_are_those_of_the_tool(vai: Any, run: str) -> None:
    name, graph = optimized(run, equalize="off" not in run)
    want = torch.tensor(vai["e2e"][run]["float_output"])
    torch.testing.assert_close(graph(data(name)[0]).detach(), want, rtol=1e-5, atol=1e-5)


def test_the_runs_together_cover_every_recorded_one(vai: Any) -> None:
    assert set(EQUALIZED) | set(PLAIN) == set(vai["e2e"])
