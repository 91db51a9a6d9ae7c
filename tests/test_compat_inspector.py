"""Inspector: what the device would compute, the report it writes, and names it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import vai_models
from torch import Tensor, nn

from quantwright.compat.pytorch_nndct._messages import RefusedError, VaiWarning
from quantwright.compat.pytorch_nndct.apis import Inspector
from quantwright.errors import CaptureError, UnknownNameError

TARGET = "DPUCZDX8G_ISA1_B4096"


class LeNet(nn.Module):
    """A network whose report by the original was published: sigmoids go to the CPU, everything else to the DPU."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5, padding=2)
        self.sigmoid = nn.Sigmoid()
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.f6 = nn.Linear(400, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s2(self.sigmoid(self.c1(x)))
        return self.f6(self.s2(self.sigmoid(self.c3(x))).flatten(1))


def inspected(model: nn.Module, example: Any, tmp_path: Path, **options: Any) -> dict[str, tuple[str, str]]:
    """Returns operation type with its number -> (device, constraint)."""
    inspector = Inspector(TARGET)
    inspector.inspect(model, example, device=torch.device("cpu"), output_dir=str(tmp_path), **options)
    found = inspector.assignments
    return {a.operation.name.partition("::")[2].removeprefix("nndct_"): (a.device, a.constraint) for a in found}


def test_devices_are_those_of_the_published_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(LeNet(), (torch.randn(1, 1, 28, 28),), tmp_path)
    devices = {name: device for name, (device, _) in found.items()}
    assert devices == {
        "input_0": "user", "conv2d_1": "dpu", "sigmoid_2": "cpu", "avgpool_3": "dpu", "conv2d_4": "dpu",
        "sigmoid_5": "cpu", "avgpool_6": "dpu", "flatten_7": "dpu", "dense_8": "dpu",
    }  # fmt: skip
    assert found["sigmoid_2"][1] == "nndct_sigmoid can't be assigned to DPU."
    printed = capsys.readouterr().out
    assert printed.count("nndct_sigmoid can't be assigned to DPU.") == 2 and "conv2d_1" not in printed
    report = (tmp_path / f"inspect_{TARGET}.txt").read_text()
    blocks = [block for block in report.split("=" * 100) if "node name: LeNet::" in block]
    assert len(blocks) == len(found)
    assert "op type: nndct_conv2d" in blocks[1] and "assigned device: dpu" in blocks[1]
    assert "input nodes: ['LeNet::input_0']" in blocks[1] and "outputs shape: [-1, 6, 28, 28]" in blocks[1]
    assert "source range: test_compat_inspector.py:" in blocks[1]


def test_what_follows_the_cpu_and_grouped_convolutions_stay_there(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 8, 3, groups=2)
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
            self.end = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.depthwise(self.grouped(x))
            return self.end(torch.relu(torch.tanh(y)).transpose(2, 3)).softmax(1)

    found = inspected(Mixed(), torch.randn(2, 4, 8, 8), tmp_path)
    assert found["conv2d_1"] == ("cpu", "groups=2 is neither 1 nor the number of input channels.")
    assert found["depthwise_conv2d_2"][0] == "dpu"
    assert found["relu_4"] == ("cpu", "The input of nndct_relu is not on DPU.")
    rest = {name: found[name][0] for name in ("tanh_3", "transpose_5", "conv2d_6", "softmax_7")}
    assert rest == {"tanh_3": "cpu", "transpose_5": "cpu", "conv2d_6": "dpu", "softmax_7": "cpu"}


def test_how_much_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = vai_models.data("Chain")[0]
    inspected(vai_models.build("Chain"), example, tmp_path, verbose_level=0)
    assert capsys.readouterr().out == ""
    inspected(vai_models.build("Chain"), example, tmp_path)
    assert "All the operators are assigned to the DPU." in capsys.readouterr().out
    with pytest.warns(VaiWarning, match="no picture is drawn"):
        inspected(vai_models.build("Chain"), example, tmp_path, verbose_level=2, image_format="png")
    printed = capsys.readouterr().out
    assert printed.count(" dpu") == 6 and "Chain::Chain/MaxPool2d[mp]/max_pool2d" in printed


def test_unknown_targets_and_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'DPUCZDX8G_ISA1_B4096'"):
        Inspector("DPUCZDX8G_ISA1_B409")
    with pytest.raises(RefusedError, match="INSPECTOR_INPUT_FORMAT"):
        Inspector("0x101000056010407")

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3)

    with pytest.raises(CaptureError, match="QUANTIZER_TORCH_PYTORCH_TRACE"):
        inspected(Broken(), torch.randn(2, 4), tmp_path)
    assert list(tmp_path.iterdir()) == []
