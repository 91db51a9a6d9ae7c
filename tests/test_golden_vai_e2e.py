"""Whole runs against those recorded from vai_q_pytorch: positions found and adjusted, scales, biases and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import vai_models

from quantwright.api import PreparedModel, prepare

#: recorded node -> our point
POINTS = {
    "Net": {
        "Net::nndct_input_0": "x:input",
        "Net::nndct_relu_2": "r1:output",
        "Net::nndct_relu6_2": "r1:output",
        "Net::nndct_relu_4": "r2:output",
        "Net::nndct_conv2d_5": "c2:output",
        "Net::nndct_hswish_6": "hs:output",
        "Net::nndct_concat_9": "cat:output",
        "Net::nndct_adaptive_avg_pool2d_10": "p:output",
        "Net::nndct_dense_12": "fc:output",
    },
    "Chain": {
        "Chain::nndct_input_0": "input_1:input",
        "Chain::nndct_relu_2": "ra:output",
        "Chain::nndct_relu_4": "rb:output",
        "Chain::nndct_maxpool_5": "mp:output",
        "Chain::nndct_conv2d_6": "c:output",
    },
}


_RUNS: dict[str, tuple[PreparedModel, dict[str, Any], str]] = {}
_BEFORE: dict[str, dict[str, tuple[int, int]]] = {}  # run -> point -> (bits, position) when calibration had ended


def config_of(run: dict[str, Any]) -> Any:
    """Returns the configuration of a recorded run; no file means the tool's default, with its switches."""
    if run["config"] is not None:
        return run["config"]
    config: dict[str, Any] = {"target_device": "DPU"}
    if run["opts"]:
        config |= {"include_cle": run["opts"]["cle"], "include_bias_corr": run["opts"]["pc"]}
    return config


def calibrated(vai: Any, name: str) -> tuple[PreparedModel, dict[str, Any], str]:
    """Returns our model after the recorded run's calibration, the run, and the network's name."""
    if name in _RUNS:
        return _RUNS[name]
    run = vai["e2e"][name]
    network = "Chain" if name.startswith("chain") else "Net"
    batches = vai_models.data(network)
    prepared = prepare(vai_models.build(network), config_of(run), batches[0], dialect="vai_q_pytorch")
    prepared.calibrate(batches)
    if prepared.target.name == "dpu":
        _BEFORE[name] = {point: position_of(prepared, point) for point in prepared.quantizers}
    prepared.refine(batches)
    _RUNS[name] = (prepared, run, network)
    return _RUNS[name]


INTEGER_RUNS = ["net_default", "net_default_nocle_nobc", "chain_default", "net_dpu_maxmin", "net_uif",
                "net_cpu_maxmin", "net_cpu_off", "net_cpu_asym"]  # fmt: skip


@pytest.mark.parametrize("name", INTEGER_RUNS)
def test_the_same_tensors_are_quantized(vai: Any, name: str) -> None:
    prepared, run, network = calibrated(vai, name)
    activations = {q.point.name for q in prepared.quantizers.values() if q.point.role in ("input", "output")}
    parameters = {q.point.name for q in prepared.quantizers.values() if q.point.role in ("weight", "bias")}
    assert activations == {POINTS[network][node] for node in run["quant_info"]["output"]}
    assert parameters == {key.split("::")[1] for key in run["quant_info"]["param"]}


@pytest.mark.parametrize("name", INTEGER_RUNS)
def test_parameters_match_after_folding_and_equalization(vai: Any, name: str) -> None:
    prepared, run, _ = calibrated(vai, name)
    for key, wanted in run["graph_params"].items():
        parameter = key.split("::")[1]
        ours = prepared.float_parameters.get(parameter, prepared.graph.parameter(parameter)).detach().numpy()
        np.testing.assert_allclose(ours, np.array(wanted, np.float32), rtol=1e-6, atol=1e-8, err_msg=key)


FIXED_POINT = [name for name in INTEGER_RUNS if "cpu" not in name]


@pytest.mark.parametrize("name", FIXED_POINT)
def test_positions_that_calibration_finds_match_exactly(vai: Any, name: str) -> None:
    _, run, network = calibrated(vai, name)
    before, found = run["before_adjust"], _BEFORE[name]
    for key, [[bits, position]] in before["param"].items():
        assert found[key.split("::")[1]] == (bits, position), key
    recorded = list(before["output"].values())
    names = [POINTS[network][node] for node in run["quant_info"]["output"]]
    for point, [[bits, position]] in zip(names, recorded, strict=True):
        assert found[point] == (bits, position), point


@pytest.mark.parametrize("name", FIXED_POINT)
def test_adjusted_positions_match_exactly(vai: Any, name: str) -> None:
    prepared, run, network = calibrated(vai, name)
    for key, [[bits, position]] in run["quant_info"]["param"].items():
        assert position_of(prepared, key.split("::")[1]) == (bits, position), key
    for node, [[bits, position]] in run["quant_info"]["output"].items():
        assert position_of(prepared, POINTS[network][node]) == (bits, position), node
    moved = {change.data["point"] for change in prepared.changes if change.by == "position_adjustment"}
    assert moved == ({"hs:output", "cat:output"} if name == "net_uif" else set())


def position_of(prepared: PreparedModel, point: str) -> tuple[int, int]:
    """Returns (bits, fix position) of a point."""
    quantizer = prepared.quantizers[point]
    assert quantizer.qparams is not None
    return quantizer.spec.bits, round(-float(torch.log2(quantizer.qparams.scale)))


@pytest.mark.parametrize("name", FIXED_POINT)
def test_outputs_are_the_recorded_ones_bit_for_bit(vai: Any, name: str) -> None:
    prepared, run, network = calibrated(vai, name)
    ours = prepared(vai_models.data(network)[0]).detach().numpy()
    np.testing.assert_array_equal(ours, np.array(run["test_output"], np.float32))


def test_chain_bias_correction_is_the_recorded_one(vai: Any) -> None:
    prepared, run, _ = calibrated(vai, "chain_default")
    for key, layer in {
        "Chain::nndct_conv2d_1": "a",
        "Chain::nndct_depthwise_conv2d_3": "b",
        "Chain::nndct_conv2d_6": "c",
    }.items():
        name = f"{layer}.bias"
        correction = (prepared.float_parameters[name] - prepared.graph.parameter(name)).detach().numpy()
        np.testing.assert_allclose(correction, np.array(run["bias_corr"][key], np.float32), atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", ["net_cpu_maxmin", "net_cpu_off", "net_cpu_asym"])
def test_cpu_scales_match(vai: Any, name: str) -> None:
    prepared, run, network = calibrated(vai, name)
    wanted = {key.split("::")[1]: value for key, value in run["quant_info"]["param"].items()}
    wanted |= {POINTS[network][node]: value for node, value in run["quant_info"]["output"].items()}
    for point, [[bits, scale, zero_point, _]] in wanted.items():
        quantizer = prepared.quantizers[point]
        assert quantizer.qparams is not None and quantizer.spec.bits == bits
        assert float(quantizer.qparams.scale) == pytest.approx(scale, rel=1e-6), point
        assert int(quantizer.qparams.zero_point) == zero_point, point


@pytest.mark.parametrize(
    ("name", "apart"),
    [("net_cpu_maxmin", 1e-6), ("net_cpu_off", 1e-6), ("net_cpu_asym", 1e-6), ("net_cpu_bf16", 2**-7)],
)
def test_cpu_outputs_are_the_recorded_ones(vai: Any, name: str, apart: float) -> None:
    """Sums of floats have no one order: the last bit of a scale, or of a bfloat16 result, differs."""
    prepared, run, network = calibrated(vai, name)
    ours = prepared(vai_models.data(network)[0]).detach().numpy()
    difference = np.abs(ours - np.array(run["test_output"], np.float32))
    assert difference.max() <= apart
