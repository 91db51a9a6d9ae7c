"""The recorded runs of vai_q_pytorch through its face: its files are the files we write, and we read its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vai_models

from quantwright.compat.pytorch_nndct.apis import torch_quantizer

RUNS = ["net_default", "net_default_nocle_nobc", "chain_default", "net_dpu_maxmin", "net_uif", "net_cpu_maxmin",
        "net_cpu_off", "net_cpu_asym", "net_cpu_bf16", "net_cpu_w4_inputq"]  # fmt: skip
FIXED = [name for name in RUNS if "cpu" not in name]
_DONE: dict[str, tuple[Path, dict[str, Any], torch.Tensor]] = {}


def network(name: str) -> str:
    return "Chain" if name.startswith("chain") else "Net"


def quantizer(run: dict[str, Any], name: str, mode: str, folder: Path) -> torch_quantizer:
    """Returns the quantizer as the recorded run made it."""
    config = run["config"]
    if config is None and run["opts"]:  # switches of the original's environment; here they are the file's
        config = {"target_device": "DPU", "include_cle": run["opts"]["cle"], "include_bias_corr": run["opts"]["pc"]}
    path = None
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
        path = str(folder / "config.json")
    model, example = vai_models.build(network(name)), vai_models.data(network(name))[0]
    return torch_quantizer(
        mode, model, (example,), output_dir=str(folder), device=torch.device("cpu"), quant_config_file=path
    )


def calibrated(vai: Any, name: str, tmp: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], torch.Tensor]:
    """Returns the folder of the run after calibration, what was recorded, and the output for the first batch."""
    if name not in _DONE:
        run, folder = vai["e2e"][name], tmp.mktemp(name)
        made = quantizer(run, name, "calib", folder)
        for batch in vai_models.data(network(name)):
            made.quant_model(batch)
        made.export_quant_config()
        _DONE[name] = (folder, run, made.quant_model(vai_models.data(network(name))[0]))
    return _DONE[name]


@pytest.mark.parametrize("name", RUNS)
def test_quant_info_names_the_recorded_tensors(vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, run, _ = calibrated(vai, name, tmp_path_factory)
    ours, theirs = json.loads((folder / "quant_info.json").read_text()), run["quant_info"]
    assert list(ours["param"]) == list(theirs["param"]) and set(ours["output"]) == set(theirs["output"])
    assert ours["input"] == {}  # the original quantizes one input in net_cpu_w4_inputq by accident: docs/dialects.md
    assert ours.get("dtype", {}).get("param") == theirs.get("dtype", {}).get("param")
    assert ours["bias_corrected"] == theirs["bias_corrected"] and ours["fast_finetuned"] is False
    assert (folder / "bias_corr.pth").exists() == theirs["bias_corrected"]


@pytest.mark.parametrize("name", FIXED)
def test_positions_equal_the_recorded_file(vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, run, _ = calibrated(vai, name, tmp_path_factory)
    ours, theirs = json.loads((folder / "quant_info.json").read_text()), run["quant_info"]
    assert ours["param"] == theirs["param"]
    assert ours["output"] == theirs["output"]


@pytest.mark.parametrize("name", [name for name in RUNS if name not in FIXED])
def test_scales_equal_the_recorded_file(vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, run, _ = calibrated(vai, name, tmp_path_factory)
    ours, theirs = json.loads((folder / "quant_info.json").read_text()), run["quant_info"]
    for key, [[bits, scale, zero_point, _]] in theirs["param"].items():
        assert ours["param"][key][0][:3] == [bits, pytest.approx(scale, rel=1e-6), zero_point], key
    for key in theirs["output"] if "w4" not in name else ():  # there the original narrows one input by accident
        bits, scale, zero_point, _ = theirs["output"][key][0]
        assert ours["output"][key][0][:3] == [bits, pytest.approx(scale, rel=1e-6), zero_point], key


@pytest.mark.parametrize("name", ["chain_default", "net_default"])
def test_bias_corrections_are_written_by_the_recorded_names(
    vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, run, _ = calibrated(vai, name, tmp_path_factory)
    ours = torch.load(folder / "bias_corr.pth", weights_only=True)
    assert list(ours) == list(run["bias_corr"])
    for key, wanted in run["bias_corr"].items():
        np.testing.assert_allclose(ours[key], wanted, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("name", RUNS)
def test_the_test_phase_computes_what_calibration_ended_with(
    vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, run, wanted = calibrated(vai, name, tmp_path_factory)
    again = quantizer(run, name, "test", folder)
    assert torch.equal(again.quant_model(vai_models.data(network(name))[0]), wanted)


@pytest.mark.parametrize("name", FIXED)
def test_files_that_the_original_wrote_are_read(vai: Any, name: str, tmp_path: Path) -> None:
    run = vai["e2e"][name]
    (tmp_path / "quant_info.json").write_text(json.dumps(run["quant_info"]))
    if run["quant_info"]["bias_corrected"]:
        torch.save(run["bias_corr"], tmp_path / "bias_corr.pth")
    made = quantizer(run, name, "test", tmp_path)
    output = made.quant_model(vai_models.data(network(name))[0]).numpy()
    np.testing.assert_array_equal(output, np.array(run["test_output"], np.float32))


@pytest.mark.parametrize("name", ["net_default"])
def test_every_name_of_the_mixed_run_is_ours(vai: Any, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The run with bfloat16 recorded the name of every operation of Net, with equalization off."""
    recorded = list(vai["e2e"]["net_cpu_bf16"]["quant_info"]["dtype"]["output"])
    folder = tmp_path_factory.mktemp("names")
    made = quantizer(vai["e2e"]["net_default_nocle_nobc"], name, "calib", folder)
    from quantwright.compat.pytorch_nndct._names import operations

    ours = [operation.name for operation in operations(made.quant_model.prepared.graph)]
    assert ours[1:] == recorded  # the input is skipped there
