"""The face of vai_q_pytorch: the calls of its scripts, in order and out of order, and the files they leave."""

from __future__ import annotations

import ast
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import vai_models
from conftest import ROOT
from torch import Tensor, nn

import quantwright
from quantwright.compat.pytorch_nndct import QatProcessor, dump_xmodel, torch_quantizer
from quantwright.compat.pytorch_nndct._messages import RefusedError, VaiWarning
from quantwright.compat.pytorch_nndct._names import operations
from quantwright.compat.pytorch_nndct.nn import QuantStub
from quantwright.compat.pytorch_nndct.utils import register_custom_op
from quantwright.dialects._vai_names import resolve
from quantwright.errors import ArtifactError, ConfigError, InputError, ModelError, StateError, UnknownNameError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the original writes to ``quantize_result`` in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chain(mode: str, **options: Any) -> torch_quantizer:
    return torch_quantizer(mode, vai_models.build("Chain"), (vai_models.data("Chain")[0],), device=CPU, **options)


def calibrate(**options: Any) -> torch_quantizer:
    made = chain("calib", **options)
    for batch in vai_models.data("Chain"):
        made.quant_model(batch)
    made.export_quant_config()
    return made


# -- the two phases ---------------------------------------------------------------------------------------------------
def test_calibration_by_calls_equals_calibration_by_data() -> None:
    """The user's own loop gives the QParams that ``calibrate`` gives, whatever the sizes of its batches."""
    made = chain("calib")
    batches = [x for batch in vai_models.data("Chain") for x in batch.split(3)]
    for batch in batches:
        made.quant_model(batch)
    made.export_quant_config()
    direct = quantwright.prepare(vai_models.build("Chain"), "vai_q_pytorch", vai_models.data("Chain")[0])
    direct.calibrate(batches)
    for name, quantizer in direct.quantizers.items():
        ours = made.quant_model.prepared.quantizers[name].qparams
        assert ours is not None and quantizer.qparams is not None
        assert torch.equal(ours.scale, quantizer.qparams.scale), name
    assert torch.equal(made.quant_model(batches[0]), _run(direct, batches[0]))


def _run(prepared: Any, batch: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = prepared(batch)
    return result


def test_calls_return_what_the_model_returns_while_they_calibrate() -> None:
    made, batch = chain("calib"), vai_models.data("Chain")[0]
    output = made.quant_model(batch)
    wanted = vai_models.build("Chain")(batch)
    assert output.shape == wanted.shape and not output.requires_grad
    assert (output - wanted).abs().max() < 0.25 * wanted.abs().max()


def test_no_results_before_the_end_of_calibration() -> None:
    made = chain("calib")
    with pytest.raises(StateError, match="QUANTIZER_TORCH_NO_CALIBRATION"):
        made.export_quant_config()
    assert not Path("quantize_result/quant_info.json").exists()
    made.quant_model(vai_models.data("Chain")[0])
    with pytest.raises(StateError, match="calibration has not ended"):
        made.export_onnx_model()


def test_the_test_phase_needs_results_of_the_same_model_and_configuration() -> None:
    with pytest.raises(StateError, match="QUANTIZER_TORCH_NO_CALIB_RESULT"):
        chain("test")
    calibrate()
    chain("test").quant_model(vai_models.data("Chain")[0])
    with pytest.raises(ArtifactError, match=r"CALIB_RESULT_MISMATCH.*not in it: .*param Net::c1.weight"):
        torch_quantizer("test", vai_models.build("Net"), vai_models.data("Net")[0], device=CPU)
    with pytest.raises(ArtifactError, match="calibrated with 8 bits, the configuration asks for 6"):
        chain("test", bitwidth=6)
    Path("cpu.json").write_bytes((ROOT / "examples" / "digits" / "cpu.json").read_bytes())
    config = json.loads(Path("cpu.json").read_text()) | {"layer_quantize_config": []}
    Path("cpu.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"not \[bits, scale, zero point"):
        chain("test", quant_config_file="cpu.json")
    os.unlink("quantize_result/bias_corr.pth")
    with pytest.raises(StateError, match="QUANTIZER_TORCH_BIAS_CORRECTION"):
        chain("test")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda info: "{", "CALIB_RESULT_MISMATCH"),
        (lambda info: json.dumps({**info, "param": None}), "no section 'param'"),
        (lambda info: json.dumps({**info, "output": {**info["output"], "Chain::nndct_relu_2": [None]}}),
         "not calibrated"),
        (lambda info: json.dumps({**info, "output": {**info["output"], "Chain::nndct_relu_2": [[8, "4"]]}}),
         "fix position"),
        (lambda info: json.dumps({**info, "output": {**info["output"], "Chain::nndct_relu_9": [[8, 4]]}}),
         "in it are not in the model: output Chain::nndct_relu_9"),
    ],
)  # fmt: skip
def test_damaged_results_are_named(damage: Any, words: str) -> None:
    calibrate()
    path = Path("quantize_result/quant_info.json")
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises((ArtifactError, StateError), match=words):
        chain("test")


def test_equal_runs_write_equal_files() -> None:
    calibrate(output_dir="one")
    calibrate(output_dir="two")
    assert sorted(os.listdir("one")) == ["Chain.py", "bias_corr.pth", "quant_info.json"] == sorted(os.listdir("two"))
    for name in os.listdir("one"):
        assert (Path("one") / name).read_bytes() == (Path("two") / name).read_bytes(), name


def test_a_correction_file_that_holds_code_is_refused() -> None:
    calibrate()
    torch.save({"Chain::nndct_conv2d_1": os.system}, "quantize_result/bias_corr.pth")
    with pytest.raises(ArtifactError, match="QUANTIZER_TORCH_BIAS_CORRECTION"):
        chain("test")


def test_one_process_can_do_all() -> None:
    made = chain("calib")
    batches, seen = vai_models.data("Chain"), []

    def loop(model: nn.Module, name: str) -> float:
        seen.append(name)
        return float(sum(model(batch).abs().mean() for batch in batches))

    made.quantize(loop, (made.quant_model, "calib"))
    made.test(loop, (made.quant_model, "test"))
    made.deploy(loop, (made.quant_model, "deploy"), fmt="onnx")
    assert seen == ["calib", "test", "deploy"]
    assert {"quant_info.json", "bias_corr.pth", "Chain.py", "Chain_int.onnx"} == set(os.listdir("quantize_result"))
    with pytest.raises(InputError, match="no format is called 'tflite'"):
        made.deploy(loop, (made.quant_model, "x"), fmt="tflite")


# -- exports ----------------------------------------------------------------------------------------------------------
def test_exports_compute_what_the_test_phase_computes() -> None:
    calibrate()
    made, batch = chain("test"), vai_models.data("Chain")[1]
    with pytest.raises(StateError, match="QUANTIZER_TORCH_NO_FORWARD"):
        made.export_onnx_model()
    wanted = made.quant_model(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VaiWarning)  # rounding of ties, measured
        made.export_onnx_model()
    session = onnxruntime.InferenceSession("quantize_result/Chain_int.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    position = json.loads(Path("quantize_result/quant_info.json").read_text())["output"]["Chain::nndct_conv2d_6"][0][1]
    assert np.abs(output - wanted.numpy()).max() <= 2.0**-position
    script = made.export_torch_script()
    loaded = torch.jit.load("quantize_result/Chain_int.pt")
    for x in (batch, batch[:1]):
        assert torch.equal(loaded(x), made.quant_model(x)) and torch.equal(script(x), loaded(x))
    assert {node.kind().partition("::")[0] for node in loaded.graph.nodes()} <= {"aten", "prim"}  # torch alone runs it


def test_torch_script_takes_inputs_one_by_one() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"y": self.fc(x) * scale, "x": x}

    x, scale = torch.randn(5, 4), torch.rand(5, 1)
    made = torch_quantizer("calib", Pair(), input_args=(x,), input_kwargs={"scale": scale}, device=CPU)
    made.quant_model(x, scale=scale)
    made.export_quant_config()
    made.export_torch_script()
    got, wanted = torch.jit.load("quantize_result/Pair_int.pt")(x, scale), made.quant_model(x, scale=scale)
    assert set(got) == set(wanted) and all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_without_an_xmodel_what_can_be_written_is_written() -> None:
    made = calibrate()
    with pytest.warns(VaiWarning, match="QUANTIZER_TORCH_EXPORT_XMODEL.*no xmodel was written") as caught:
        made.export_xmodel("deploy")
    assert any("quant_info.json" in str(w.message) and "quant_mode 'test'" in str(w.message) for w in caught)
    assert set(os.listdir("deploy")) == {"quant_info.json", "bias_corr.pth", "Chain_int.onnx"}
    with pytest.raises(RefusedError, match="export_onnx_model"):
        dump_xmodel()


# -- refused ----------------------------------------------------------------------------------------------------------
def test_refused_arguments_come_at_once_and_before_any_work() -> None:
    with pytest.raises(RefusedError) as caught:
        torch_quantizer("calib", None, None, mix_bit=True, lstm=True, dynamo=True)  # type: ignore[arg-type]
    assert all(f"{word}=True is refused" in str(caught.value) for word in ("mix_bit", "lstm", "dynamo"))
    assert not Path("quantize_result").exists()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: QatProcessor(nn.Linear(1, 1), torch.ones(1)), "QatProcessor is not there yet"),
        (QuantStub, "QuantStub marks a region"),
        (lambda: register_custom_op("my_op"), "'my_op'"),
        (lambda: calibrate().fast_finetune(print, ()), "fast_finetune is not there yet"),
        (lambda: calibrate().export_onnx_model(native_onnx=False), "native_onnx=False"),
        (lambda: chain("calib").deploy_model, "only QAT"),
    ],
)
def test_calls_that_are_not_there_are_refused_by_name(call: Any, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        call()
    assert "QUANTIZER_TORCH_" in str(caught.value) and "fix:" in str(caught.value)


def test_arguments_are_those_of_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="'float' is no mode"):
        chain("float")
    with pytest.warns(VaiWarning, match="quant_mode 1 is 'calib'"):
        chain(1)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(VaiWarning, match="QUANTIZER_TORCH_CUDA_UNAVAILABLE"):
        torch_quantizer("calib", vai_models.build("Chain"), vai_models.data("Chain")[0], device=torch.device("cuda"))
    with pytest.raises(InputError, match="no example inputs"):
        torch_quantizer("calib", vai_models.build("Chain"), device=CPU)
    with pytest.raises(UnknownNameError, match="(?s)UNREGISTERED_TARGET.*DPUCZDX8G_ISA1_B4096"):
        chain("calib", target="DPUCZDX8G_ISA1_B4069")
    assert chain("calib", target="DPUCZDX8G_ISA1_B4096").quant_model.prepared.target.name == "dpu"
    widths = {q.spec.bits for q in chain("calib", bitwidth=6).quant_model.prepared.quantizers.values()}
    assert widths == {6}


def test_configuration_problems_come_at_once_with_the_code() -> None:
    Path("c.json").write_text('{"target_device": "DPU", "overall_quantize_config": {"method": "x", "symetry": true}}')
    with pytest.raises(ConfigError, match="QUANTIZER_TORCH_QUANT_CONFIG") as caught:
        chain("calib", quant_config_file="c.json")
    assert len(caught.value.problems) == 2
    Path("c.json").write_text('{"target_device": "DPU", "overall_quantize_config": {"bit_width": "8"}}')
    with (
        pytest.raises(ConfigError, match="QUANTIZER_TORCH_ILLEGAL_BITWIDTH"),
        pytest.warns(VaiWarning, match="BITWIDTH_MISMATCH"),
    ):
        chain("calib", quant_config_file="c.json", bitwidth=8)
    Path("c.yaml").write_text("version: 1\ntarget: dpu\nrefine: [bias_correction]\n")
    with pytest.raises(RefusedError, match="bias_correction goes through the data again"):
        chain("calib", quant_config_file="c.yaml")


def test_a_state_dict_is_loaded_into_a_copy_and_nothing_in_it_is_executed() -> None:
    model, other = vai_models.build("Chain"), vai_models.build("Chain")
    other.a.weight.data.mul_(2)  # type: ignore[union-attr,operator]
    torch.save({"state_dict": other.state_dict()}, "w.pth")
    before = model.a.weight.clone()  # type: ignore[union-attr,operator]
    example = vai_models.data("Chain")[0]
    config = {"version": 1, "target": "dpu", "optimize": []}
    Path("plain.json").write_text(json.dumps(config))
    made = torch_quantizer(
        "calib", model, example, state_dict_file="w.pth", device=CPU, quant_config_file="plain.json"
    )
    assert torch.equal(made.quant_model.prepared.graph.parameter("a.weight"), other.a.weight)  # type: ignore[arg-type]
    assert torch.equal(model.a.weight, before)  # type: ignore[arg-type]
    torch.save({"a": os.system}, "w.pth")
    with pytest.raises(ModelError, match="state_dict_file"):
        torch_quantizer("calib", model, example, state_dict_file="w.pth", device=CPU)


def test_parameters_the_original_tuned_are_loaded_by_their_module_numbers() -> None:
    calibrate()
    made, batch = chain("test"), vai_models.data("Chain")[0]
    before = made.quant_model(batch)
    with pytest.raises(StateError, match="there is no quantize_result/param.pth"):
        made.load_ft_param()
    weight = made.quant_model.prepared.graph.parameter("c.weight").clone()
    torch.save({"module_6.weight": -weight}, "quantize_result/param.pth")
    made.load_ft_param()
    bias = made.quant_model.prepared.graph.parameter("c.bias").reshape(1, -1, 1, 1)
    mirrored = made.quant_model(batch)
    assert (mirrored - bias + (before - bias)).abs().max() <= 2 * 2.0**-4  # two roundings of position 4
    torch.save({"module_5.weight": weight}, "quantize_result/param.pth")
    with pytest.raises(ArtifactError, match="'module_5.weight' does not fit"):
        made.load_ft_param()


# -- names ------------------------------------------------------------------------------------------------------------
def test_the_listing_is_python_and_its_names_lead_to_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from examples.digits.data import calibration
    from examples.digits.model import digits

    made = torch_quantizer("calib", digits(), calibration()[0][0], device=CPU)
    text = Path("quantize_result/DigitsNet.py").read_text()
    ast.parse(text)
    lines = [line for line in text.splitlines() if " #DigitsNet::" in line]
    found = operations(made.quant_model.prepared.graph)
    assert len(lines) == len(found)
    stem = next(line for line in lines if "Conv2d[conv]" in line)
    assert "Conv2d(in_channels=1, out_channels=16, kernel_size=[3, 3], stride=[1, 1], padding=[1, 1]" in stem
    assert "#DigitsNet::DigitsNet/ConvBlock[stem]/Conv2d[conv]/conv2d(DigitsNet::nndct_conv2d_1)" in stem
    paths = {path for path, _ in made.quant_model.prepared.graph.module_paths}
    for operation in found:
        if operation.nodes[0].weight is not None:
            comment = next(line for line in lines if f"({operation.name})" in line).partition(" #")[2]
            resolved = resolve(comment)
            assert resolved in paths and f"{resolved}.weight" == operation.nodes[0].weight.name
    numbers = [int(operation.name.rpartition("_")[2]) for operation in found]
    assert numbers == list(range(len(found)))


def test_an_operator_with_several_outputs_is_one_operation() -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.drop = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.drop(self.conv(x)).chunk(2, 1)
            return torch.cat([a * b, a], 1)

    made = torch_quantizer("calib", Split().eval(), torch.randn(2, 3, 4, 4), device=CPU)
    types = [operation.type for operation in operations(made.quant_model.prepared.graph)]
    assert types == ["nndct_input", "nndct_conv2d", "nndct_chunk", "nndct_elemwise_mul", "nndct_concat"]
    text = Path("quantize_result/Split.py").read_text()
    assert "output_module_3 = self.module_3(output_module_2, output_module_2)" in text
    assert "output_module_2 = self.module_2(output_module_1)" in text  # through the dropout
    made.quant_model(torch.randn(2, 3, 4, 4))
    made.export_quant_config()


def test_slices_that_follow_each_other_are_one_operation() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + x[:, :, ::2, ::2]

    made = torch_quantizer("calib", Shortcut(), torch.randn(2, 3, 8, 8), device=CPU)
    types = [operation.type for operation in operations(made.quant_model.prepared.graph)]
    assert types == ["nndct_input", "nndct_conv2d", "nndct_strided_slice", "nndct_elemwise_add"]
    assert "self.module_3(output_module_1, output_module_2)" in Path("quantize_result/Shortcut.py").read_text()


# -- nothing in silence -----------------------------------------------------------------------------------------------
def test_what_a_file_says_and_is_not_done_is_told() -> None:
    Path("c.json").write_text(
        '{"target_device": "DPU", "keep_add_layer_accuracy": true, "layer_quantize_config": [{"layer_type":'
        ' "torch.nn.GRU", "quantizable_data_type": ["weights", "bias", "activation"],'
        ' "overall_quantize_config": {"bit_width": 8}}]}'
    )
    with pytest.warns(VaiWarning) as told:
        chain("calib", quant_config_file="c.json")
    assert {Path(item.filename).name for item in told} == {"test_compat_vai.py"}  # the user's line, not ours
    texts = [str(item.message) for item in told]
    assert any("keep_add_layer_accuracy" in text and "no layer is left float" in text for text in texts)
    assert any("GRU" in text for text in texts)


def test_keyword_inputs_are_the_fourth_argument() -> None:
    with pytest.raises(InputError, match="fourth argument is input_kwargs"):
        torch_quantizer("calib", vai_models.build("Chain"), vai_models.data("Chain")[0], "weights.pth")  # type: ignore[arg-type]
