"""Whole runs recorded from MQBench and sophgo-mq on a small network: scales, zero points and quantized outputs."""

from __future__ import annotations

from typing import Any

import mq_models
import numpy as np
import pytest
import torch
from conftest import golden
from torch import Tensor

import quantwright
from quantwright.api import PreparedModel
from quantwright.dialects._mq_words import BACKENDS


def network() -> torch.nn.Module:
    """Returns the network with the weights of the recipe."""
    model, random = mq_models.SmallNet(), np.random.default_rng(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = random.standard_normal(tuple(parameter.shape), dtype=np.float32) * np.float32(0.3)
            parameter.copy_(torch.from_numpy(value + np.float32(name.startswith("bn") and name.endswith("weight"))))
        for name, buffer in model.named_buffers():
            if not buffer.is_floating_point():
                continue
            value = random.standard_normal(tuple(buffer.shape), dtype=np.float32)
            value = value * np.float32(0.1) if "mean" in name else np.abs(value) + np.float32(0.5)
            buffer.copy_(torch.from_numpy(value))
    return model.eval()


def batches() -> list[Tensor]:
    """Returns the two calibration batches of the recipe."""
    return [
        torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 3, 8, 8), dtype=np.float32))
        for seed in (71, 72)
    ]


def calibrated(document: dict[str, Any], dialect: str) -> PreparedModel:
    """Returns the network, prepared by a document and calibrated on both batches."""
    prepared = quantwright.prepare(network(), document, batches()[0], dialect=dialect)
    assert isinstance(prepared, PreparedModel)
    prepared.calibrate(batches())
    return prepared


def found(prepared: PreparedModel) -> dict[str, Any]:
    """Returns the QParams of every quantizer, under the names the tools give theirs."""
    names = {
        f"{path}.weight_fake_quant": d for path, d in mq_models.weights(prepared.plan).items()
    } | mq_models.activations(prepared.plan, prepared.graph.facts())
    return {name: prepared.quantizers[decision.point.name].qparams for name, decision in names.items()}


def compare(ours: dict[str, Any], theirs: dict[str, Any], skip: tuple[str, ...] = ()) -> None:
    """Compares scales to six digits and zero points exactly."""
    for name, want in theirs.items():
        if name in skip:
            continue
        scale, zero = torch.tensor(want["scale"]).double(), torch.tensor(want["zero_point"])
        torch.testing.assert_close(
            ours[name].scale, scale, rtol=2e-6, atol=0.0, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert ours[name].zero_point.tolist() == [int(value) for value in zero], name


@pytest.mark.parametrize("backend", ["Tensorrt", "QDQ", "Tensorrt_NLP", "PPLW8A16", "PPLCUDA", "ONNX_QNN",
                                     "Tengine_u8", "STPU"])  # fmt: skip
def test_mqbench_presets(backend: str) -> None:
    run = golden("mqbench_sophgo.json")["mqbench"]["end_to_end_smallnet"]["backends"][backend]
    prepared = calibrated({"backend": backend}, "mqbench")
    ours = found(prepared)
    assert set(ours) == set(run["qparams"])
    compare(ours, run["qparams"])
    assert_outputs(prepared, run)
    assert backend in BACKENDS


def assert_outputs(prepared: PreparedModel, run: dict[str, Any]) -> None:
    """Compares the quantized outputs; float32 sums differ in the last digits."""
    with torch.no_grad():
        out = prepared(batches()[0])
    torch.testing.assert_close(out, torch.tensor(run["quant_out"]), rtol=0.0, atol=2e-6)


def test_mqbench_academic_has_eight_bits_at_the_ends_and_folds_nothing() -> None:
    run = golden("mqbench_sophgo.json")["mqbench"]["end_to_end_smallnet"]["backends"]["Academic"]
    qconfig = {
        "w_observer": "MSEObserver", "a_observer": "EMAMSEObserver",
        "w_fakequantize": "FixedFakeQuantize", "a_fakequantize": "FixedFakeQuantize",
        "w_qscheme": {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False},
        "a_qscheme": {"bit": 4, "symmetry": False, "per_channel": False, "pot_scale": False},
    }  # fmt: skip
    prepared = calibrated({"backend": "Academic", "extra_qconfig_dict": qconfig}, "mqbench")
    assert set(found(prepared)) == set(run["qparams"])
    compare(found(prepared), run["qparams"])
    assert_outputs(prepared, run)


SOPHGO = {"quant_dict": {"chip": "BM1690", "quantmode": "weight_activation", "strategy": "CNN"}}


def of_layers(run: dict[str, Any]) -> dict[str, Any]:
    """Returns recorded QParams without those that are listed again, as inputs of the layers that read them."""
    return {name: want for name, want in run["qparams"].items() if "input_fake_quantizer" not in name}


def test_sophgo_int8_with_quantized_biases() -> None:
    run = golden("mqbench_sophgo.json")["sophgo"]["end_to_end_smallnet"]["int8"]
    prepared = calibrated(SOPHGO, "sophgo")
    ours = found(prepared)
    compare(ours, of_layers(run))
    assert float(ours["x_post_act_fake_quantizer"].scale) == pytest.approx(
        run["qparams"]["conv1.input_fake_quantizer"]["scale"][0], rel=1e-6
    )
    assert {d.spec.format for d in prepared.plan.decisions if d.point.role == "bias" and d.spec} == {"int32"}
    assert_outputs(prepared, run)


def test_sophgo_only_observed() -> None:
    run = golden("mqbench_sophgo.json")["sophgo"]["end_to_end_smallnet"]["only_obs"]
    names = ["fc_post_act_fake_quantizer"]
    prepared = calibrated({**SOPHGO, "extra_quantizer_dict": {"module_only_enable_observer": names}}, "sophgo")
    ours = found(prepared)
    assert names[0] not in ours
    compare(ours, of_layers(run), skip=(names[0],))
    assert_outputs(prepared, run)


def test_sophgo_int4_layers_read_four_bits_and_give_eight() -> None:
    """7: the output quantizer of an int4 layer has the ends of eight bits; its scale there is still that of four."""
    run = golden("mqbench_sophgo.json")["sophgo"]["end_to_end_smallnet"]["int4_op"]
    prepared = calibrated({**SOPHGO, "extra_qconfig_dict": {"int4_op": ["conv2"]}}, "sophgo")
    ours, after = found(prepared), "conv2_post_act_fake_quantizer"
    compare(ours, of_layers(run), skip=(after,))
    assert float(ours["conv2_input_act_fake_quantizer"].scale) == pytest.approx(
        run["qparams"]["conv2.input_fake_quantizer"]["scale"][0], rel=1e-6
    )
    assert run["qparams"][after]["scale"][0] / float(ours[after].scale) == pytest.approx(127.5 / 7.5, rel=1e-5)
