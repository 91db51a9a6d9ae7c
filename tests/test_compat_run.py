"""``quantwright run --as``: an unmodified script runs as python would run it, with its imports redirected."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import ROOT

from quantwright import cli, compat
from quantwright.errors import UnknownNameError

SCRIPT = ROOT / "tests" / "vai_script.py"
RUN = ["run", "--as", "pytorch_nndct"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(text: str) -> str:
    Path("script.py").write_text(text)
    return "script.py"


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([*RUN, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- as python does ---------------------------------------------------------------------------------------------------
PROBE = """
import json, os, sys
print(json.dumps([sys.argv, __name__, os.path.basename(__file__), os.getcwd(), os.path.realpath(sys.path[0])]))
sys.stderr.write("to stderr\\n")
sys.exit({code})
"""


@pytest.mark.parametrize("code", ["0", "3", "None", "'a message'"])
def test_arguments_folder_and_exit_code_are_those_of_python(code: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    Path("inner/probe.py").write_text(PROBE.format(code=code))
    words = ["inner/probe.py", "--json", "--traceback", "--as", "x", "-h", "--", "y z"]
    python = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    ours = subprocess.run([sys.executable, "-m", "quantwright", *RUN, *words], capture_output=True, text=True)
    assert (ours.returncode, ours.stdout, ours.stderr) == (python.returncode, python.stdout, python.stderr)


def test_an_error_in_the_script_shows_its_traceback_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(script("def f():\n    raise ValueError('mine')\nf()\n"), capsys=capsys)
    assert code == 1
    assert err.splitlines()[:2] == ["Traceback (most recent call last):", '  File "script.py", line 3, in <module>']
    assert err.splitlines()[-1] == "ValueError: mine" and "runpy" not in err
    code, _, err = run(script("x = (\n"), capsys=capsys)
    assert code == 1 and err.splitlines()[-1].startswith("SyntaxError")


def test_wrong_calls_are_told_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    name = script("open('ran', 'w')")
    assert run("missing.py", capsys=capsys)[0] == 2
    code, _, err = run(name, "--nndct_quant_off", capsys=capsys)
    assert code == 2 and "include_cle" in err
    assert cli.main(["run", "--as", "mqbench", name]) == 2
    assert "pytorch_nndct" in capsys.readouterr().err
    assert cli.main(["run", name]) == 2
    assert not Path("ran").exists()


def test_a_script_without_tensors_needs_none() -> None:
    words = [*RUN, script("import sys\nprint(sorted({'torch', 'numpy'} & set(sys.modules)))\n")]
    done = subprocess.run([sys.executable, "-m", "quantwright", *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


# -- redirected imports -----------------------------------------------------------------------------------------------
def test_imports_find_the_face_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    text = """
import pytorch_nndct, pytorch_nndct.apis as apis
from pytorch_nndct import QatProcessor
from pytorch_nndct.nn import QuantStub, DeQuantStub
from pytorch_nndct.apis import torch_quantizer, Inspector, dump_xmodel
print(torch_quantizer.__module__, pytorch_nndct.apis is apis)
try:
    import pytorch_nndct.quantization
except ModuleNotFoundError as error:
    print(error)
"""
    code, out, _ = run(script(text), capsys=capsys)
    assert code == 0
    assert out.splitlines()[0] == "quantwright.compat.pytorch_nndct.apis True"
    assert "pytorch_nndct.quantization is not part of the face" in out and "pytorch_nndct.apis" in out
    assert not any(name.split(".")[0] == "pytorch_nndct" for name in sys.modules)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pytorch_nndct")
    module = importlib.import_module("quantwright.compat.pytorch_nndct.apis")
    assert module.__spec__ is not None and module.__spec__.name == module.__name__


CHILDREN = """
import multiprocessing, os, subprocess, sys
from pytorch_nndct.apis import torch_quantizer

def work(queue):
    queue.put(torch_quantizer.__module__)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=work, args=(queue,))
    child.start()
    print(queue.get(timeout=100))
    child.join()
    code = "import pytorch_nndct.nn, pytorch_nndct; print(pytorch_nndct.nn.QuantStub.__module__)"
    sys.stdout.flush()
    sys.exit(subprocess.run([sys.executable, "-c", code]).returncode)
"""


def test_processes_that_the_script_starts_are_redirected_too() -> None:
    before = os.environ.get("PYTHONPATH")
    words = [*RUN, script(CHILDREN)]
    done = subprocess.run([sys.executable, "-m", "quantwright", *words], capture_output=True, text=True, timeout=200)
    home = "quantwright.compat.pytorch_nndct"
    assert (done.returncode, done.stdout.split()) == (0, [f"{home}.apis", f"{home}.nn"]), done.stderr
    assert os.environ.get("PYTHONPATH") == before


def test_the_face_wins_over_an_installed_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytorch_nndct").mkdir()
    (tmp_path / "pytorch_nndct" / "__init__.py").write_text("original = True")
    (tmp_path / "pytorch_nndct" / "apis.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    original = importlib.import_module("pytorch_nndct")
    try:
        with compat.redirect("pytorch_nndct"):
            assert hasattr(importlib.import_module("pytorch_nndct.apis"), "torch_quantizer")
        assert sys.modules["pytorch_nndct"] is original
        assert not hasattr(importlib.import_module("pytorch_nndct.apis"), "torch_quantizer")
    finally:
        for name in [name for name in sys.modules if name.startswith("pytorch_nndct")]:
            del sys.modules[name]


def test_faces_are_the_packages_of_the_folder() -> None:
    assert "pytorch_nndct" in compat.names()
    with pytest.raises(UnknownNameError, match="pytorch_nndct"), compat.redirect("pytorch_nnct"):
        pass


# -- the whole flow ---------------------------------------------------------------------------------------------------
def flow(config: str | None, capsys: pytest.CaptureFixture[str]) -> float:
    """Returns the accuracy after calib and test with deployment."""
    extra = [] if config is None else ["--config_file", str(ROOT / "examples" / "digits" / config)]
    code, out, err = run(str(SCRIPT), "--quant_mode", "calib", *extra, capsys=capsys)
    assert code == 0 and out.endswith("-------- end\n"), err
    assert "Exporting quant config.(quantize_result/quant_info.json)" in err
    code, out, err = run(str(SCRIPT), "--quant_mode", "test", "--deploy", "--batch_size", "100", *extra, capsys=capsys)
    assert code == 0 and out.endswith("-------- end\n"), err
    accuracy = next(line for line in out.splitlines() if line.startswith("top-1 accuracy"))
    return float(accuracy.rpartition(" ")[2])


@pytest.mark.parametrize("config", [None, "cpu.json"])
def test_a_script_of_the_original_runs_unmodified(
    config: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    code, out, _ = run(str(SCRIPT), "--quant_mode", "float", capsys=capsys)
    floating = float(out.splitlines()[1].rpartition(" ")[2])
    assert code == 0 and floating > 0.97
    assert flow(config, capsys) > floating - 0.015
    results = set(os.listdir("quantize_result"))
    corrected = {"bias_corr.pth"} if config is None else set()
    assert results == {"quant_info.json", "DigitsNet.py", "DigitsNet_int.onnx", "DigitsNet_int.pt"} | corrected
    info = json.loads(Path("quantize_result/quant_info.json").read_text())
    assert len(info["param"]["DigitsNet::stem.conv.weight"][0]) == (2 if config is None else 4)
    from examples.digits.data import test

    images, labels = test()[0]
    session = onnxruntime.InferenceSession("quantize_result/DigitsNet_int.onnx")
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    script_scores = torch.jit.load("quantize_result/DigitsNet_int.pt")(images)
    for found in (torch.from_numpy(scores), script_scores):
        assert (found.argmax(1) == labels).float().mean() > 0.95
    assert (script_scores.argmax(1) == torch.from_numpy(scores).argmax(1)).float().mean() >= 0.99


def test_refused_calls_end_the_script_with_their_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    code, _, err = run(str(SCRIPT), "--fast_finetune", capsys=capsys)
    assert code == 1 and "fast_finetune is not there yet" in err and 'vai_script.py", line' in err
    code, out, _ = run(
        str(SCRIPT), "--quant_mode", "float", "--inspect", "--target", "DPUCZDX8G_ISA1_B4096", capsys=capsys
    )
    assert code == 0 and "All the operators are assigned to the DPU." in out
    assert Path("quantize_result/inspect_DPUCZDX8G_ISA1_B4096.txt").exists()


def test_a_real_network_keeps_its_accuracy(dev_models: Any) -> None:
    """ResNet-8 of the reference folder, calib and test, as a script would call them."""
    from quantwright.compat.pytorch_nndct.apis import torch_quantizer

    images = dev_models.data("cifar10_dev.npz")
    model, calibration = dev_models.resnet8(), dev_models.PREP["raw"](images["calib_x"][:64])
    cpu = torch.device("cpu")
    made = torch_quantizer("calib", model, calibration[:8], device=cpu)
    for batch in calibration.split(16):
        made.quant_model(batch)
    made.export_quant_config()
    test = torch_quantizer("test", model, calibration[:8], device=cpu)
    x, y = images["test_x"][:200], images["test_y"][:200]
    floating = dev_models.logits(model, x, "raw")
    quantized = dev_models.logits(test.quant_model, x, "raw")
    assert (quantized.argmax(1) == floating.argmax(1)).float().mean() > 0.93
    assert abs(dev_models.top1(quantized, y) - dev_models.top1(floating, y)) <= 0.03
