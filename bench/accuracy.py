"""Accuracy of real networks, float against simulated against ONNX Runtime, for several configurations.

    python bench/accuracy.py DATA_FOLDER [--models resnet20,...] [--configs int8,...] [--images 300] [--calib 64]

DATA_FOLDER holds ``eval.py``, ``models.py``, ``data/`` and ``weights/`` of the reference data.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantwright.pipeline import quantize


def vai(device: str, **changes: Any) -> dict[str, Any]:
    """Returns a vai_q_pytorch configuration for CPU (float scales) or DPU (power of two)."""
    dpu = device == "DPU"
    config: dict[str, Any] = {
        "target_device": device,
        "include_cle": changes.pop("cle", False),
        "include_bias_corr": changes.pop("bias_corr", False),
        "overall_quantize_config": {
            "bit_width": 8, "method": "diffs" if dpu else "maxmin", "round_mode": "std_round" if dpu else "half_even",
            "symmetry": True, "per_channel": False, "signed": True, "narrow_range": False,
            "scale_type": "poweroftwo" if dpu else "float", "calib_statistic_method": "modal" if dpu else "max",
        },
        "tensor_quantize_config": {"activation": {"round_mode": "half_up"} if dpu else {"method": "mse"}},
    }  # fmt: skip
    if changes.pop("per_channel", False):
        config["tensor_quantize_config"]["weights"] = {"per_channel": True}
    return config


PER_TENSOR = {
    "version": 1,
    "default": {"weight": {"granularity": "per_tensor"}, "activation": {"observer": "mse"}},
    "optimize": ["fold_batchnorm"],
}
CONFIGS: dict[str, Any] = {
    "int8": "int8",
    "power_of_two": "power_of_two",
    "vai cpu, per channel, mse": vai("CPU", per_channel=True),
    "vai cpu, per channel, mse, bias corr": vai("CPU", per_channel=True, bias_corr=True),
    "vai dpu": vai("DPU"),
    "vai dpu, cle, bias corr": vai("DPU", cle=True, bias_corr=True),
    "per tensor": PER_TENSOR,
    **{
        f"per tensor, cle {method}{', bias corr' if refine else ''}": {
            **PER_TENSOR,
            "optimize": ["fold_batchnorm", {"cross_layer_equalization": {"method": method}}],
            "refine": refine,
        }
        for method in ("vitis", "dfq")
        for refine in ([], ["bias_correction"])
    },
}


def networks(folder: Path) -> dict[str, Any]:
    """Returns name -> (model, calibration inputs, test inputs, test labels), each made when it is asked for."""
    sys.path.insert(0, str(folder))
    pack = importlib.import_module("eval")
    cifar, mnist = pack.data("cifar10_dev.npz"), pack.data("mnist.npz")
    imagenet = pack.data("imagenet_dev100.npz")

    def on_cifar(model: nn.Module, prep: str, unseen_only: bool = True) -> Any:
        prepare = pack.PREP[prep]
        x, y = cifar["test_x"], cifar["test_y"]
        if not unseen_only:  # 300 images have a standard error of 1.7 points: add training images not calibrated on
            x, y = np.concatenate([x, cifar["calib_x"][128:]]), np.concatenate([y, cifar["calib_y"][128:]])
        return model, prepare(cifar["calib_x"]), prepare(x), y

    def on_digits() -> Any:
        x, y = pack.digits()
        return (
            pack.load(importlib.import_module("models").SmallCNN(), "smallcnn_digits.pt"),
            x[:-500],
            x[-500:],
            y[-500:],
        )

    return {
        "resnet20": lambda: on_cifar(pack.resnet20(), "imagenet"),
        "resnet8": lambda: on_cifar(pack.resnet8(), "raw"),
        "resnet20_many": lambda: on_cifar(pack.resnet20(), "imagenet", unseen_only=False),
        "resnet8_many": lambda: on_cifar(pack.resnet8(), "raw", unseen_only=False),
        "mobilenetv2": lambda: on_cifar(pack.mobilenet(), "up128"),
        "squeezenet": lambda: (pack.squeezenet(), pack.PREP["mean"](imagenet["x"]), pack.PREP["mean"](imagenet["x"]),
                               imagenet["y"].astype(np.int64) + 1),
        "smallcnn_mnist": lambda: (pack.smallcnn(), pack.PREP["mnist"](mnist["train_x"][:2000]),
                                   pack.PREP["mnist"](mnist["test_x"]), mnist["test_y"]),
        "smallcnn_digits": on_digits,
    }  # fmt: skip


def batches(x: Tensor, size: int, y: Any = None) -> list[Any]:
    """Returns batches of ``size``, with labels if there are any."""
    if y is None:
        return list(x.split(size))
    return list(zip(x.split(size), torch.from_numpy(np.asarray(y)).long().split(size), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", default="resnet20,resnet8,mobilenetv2,squeezenet,smallcnn_mnist,smallcnn_digits")
    parser.add_argument("--configs", default=";".join(CONFIGS), help="names separated by ;")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--calib", type=int, default=128)
    options = parser.parse_args()
    made = networks(options.data)
    head = "".join(f" {word:>7}" for word in ("float", "sim", "ORT", "agree", "SQNR", "ORT=sim"))
    print(f"{'network':16} {'configuration':38}{head} verdict")
    for name in options.models.split(","):
        model, calibration, test, labels = made[name]()
        for label in options.configs.split(";"):
            run(name, label, model, calibration[: options.calib], test[: options.images], labels[: options.images])


def run(name: str, label: str, model: nn.Module, calibration: Tensor, test: Tensor, labels: Any) -> None:
    """Quantizes, exports, evaluates and prints one row."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = quantize(
            model, CONFIGS[label], batches(calibration, 32), out=Path(folder) / "out",
            evaluate=True, eval_data=batches(test, 50, labels),
        )  # fmt: skip
    record = prepared.record
    assert record is not None
    real, simulated, exported = record.evaluation
    ok = record.verdict is not None and record.verdict["ok"]
    print(
        f"{name:16} {label:38} {100 * real['top1']:7.2f} {100 * simulated['top1']:7.2f} {100 * exported['top1']:7.2f} "
        f"{100 * simulated['agreement']:7.2f} {simulated['sqnr_db']:7.1f} {100 * exported['same_as_simulated']:7.2f} "
        f"{'ok' if ok else 'NOT OK'} {time.perf_counter() - start:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
