"""Accuracy of real networks, float against simulated against ONNX Runtime, for several configurations.

    python bench/accuracy.py DATA_FOLDER [--models resnet20,...] [--configs int8,...] [--images 300] [--calib 128]
    python bench/accuracy.py DATA_FOLDER --peers [--models resnet20,...]

DATA_FOLDER holds ``eval.py``, ``models.py``, ``data/`` and ``weights/`` of the reference data. ``--peers`` puts the
preset ``int8`` beside ONNX Runtime's calibrators and NNCF, if it is installed (``pip install nncf``): the same float
file, the same images to calibrate and to test on, everything computed by ONNX Runtime.
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
from _peers import peers
from torch import Tensor, nn

import quantwright as qw
from quantwright.data import Batch
from quantwright.exporters.onnx import export_float
from quantwright.pipeline import quantize
from quantwright.verify.evaluate import EvaluationRow, evaluate
from quantwright.verify.runtime import OrtRunner


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


def ablated(observer: Any, *, correct: bool, float_results: bool = False, equalize: bool = False) -> dict[str, Any]:
    """Returns the preset ``int8`` with some of what makes it up taken away."""
    results = {"match": {"function": "linear"}, "output": {"symmetric": False}, "if_unmatched": "warn"}
    return {
        "version": 1,
        "default": {"activation": {"observer": observer}},
        "rules": [] if float_results else [results],
        "optimize": ["fold_batchnorm", *([{"cross_layer_equalization": {"method": "dfq"}}] if equalize else [])],
        "refine": ["bias_correction"] if correct else [],
    }


CONFIGS: dict[str, Any] = {
    "int8": "int8",
    "ablation 1: minmax": ablated("minmax", correct=False),
    "ablation 2: mse": ablated("mse", correct=False),
    "ablation 3: mse, biases": ablated("mse", correct=True),
    "ablation 4: mse, biases, float result": ablated("mse", correct=True, float_results=True),
    "ablation 5: int8, equalized": ablated(
        {"name": "mse", "clipping": 4}, correct=True, float_results=True, equalize=True
    ),
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
    parser.add_argument("--peers", action="store_true", help="the preset int8 beside other quantizers")
    options = parser.parse_args()
    made = networks(options.data)
    if options.peers:
        for name in options.models.split(","):
            model, calibration, test, _ = made[name]()
            beside_peers(name, model, calibration[: options.calib], test[: options.images])
        return
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


def beside_peers(name: str, model: nn.Module, calibration: Tensor, test: Tensor) -> None:
    """Prints the output SQNR of the preset ``int8`` and of every peer, best first, and by how much the preset leads."""
    rows: dict[str, EvaluationRow] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        prepared = qw.prepare(model, "int8", calibration[:32])
        export_float(prepared.graph, source, prepared.example)
        data = batches(calibration, 32)
        prepared.calibrate(data).refine(data).export(target)
        rows["quantwright int8"] = score(model, target, test)
        for peer, quantizer in peers().items():
            try:
                quantizer(source, target, calibration)
                rows[peer] = score(model, target, test)
            except Exception as error:  # noqa: BLE001  a peer that fails is a row of the table
                print(f"{name:16} {peer:42} failed: {type(error).__name__} {' '.join(str(error).split())[:100]}")
    best = max((row.sqnr_db or 0.0 for peer, row in rows.items() if not peer.startswith("quantwright")), default=0.0)
    for peer, row in sorted(rows.items(), key=lambda item: -(item[1].sqnr_db or 0.0)):
        lead = f"  {(row.sqnr_db or 0.0) - best:+.1f} dB" if peer.startswith("quantwright") else ""
        agreement = f"agreement {100 * (row.agreement or 0):6.2f} %"
        print(f"{name:16} {peer:42} {row.sqnr_db:6.1f} dB  {agreement}{lead}", flush=True)


def score(model: nn.Module, path: Path, test: Tensor) -> EvaluationRow:
    """Returns how a quantized file compares with the float network on the test images."""
    float_model = model.eval()

    def run_float(batch: Batch) -> Tensor:
        with torch.no_grad():
            return float_model(*batch.args)

    runners = {"float": run_float, "exported": OrtRunner(path, threads=torch.get_num_threads()).run}
    return evaluate(runners, [Batch(args=(images,)) for images in test.split(50)])[1]


if __name__ == "__main__":
    main()
