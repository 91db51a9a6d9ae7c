"""How many output values of the exported file differ from the simulation, over all test images of real networks.

    python bench/agreement.py DATA_FOLDER [--models resnet20,...] [--configs int8;power_of_two;vai dpu] [--images 3000]

Files of the DPU configurations are written with exact rounding nodes: plain QuantizeLinear rounds ties another way.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from accuracy import CONFIGS, networks
from torch import Tensor

from quantwright.api import PreparedModel, prepare
from quantwright.data import Batch
from quantwright.verify.runtime import OrtRunner


def compare(model: PreparedModel, path: Path, images: Tensor) -> tuple[int, int, int]:
    """Returns (differing output values, output values, images whose highest score differs)."""
    runner = OrtRunner(path)
    values = differing = decisions = 0
    for part in images.split(50):
        batch = Batch(args=(part,), kwargs={})
        simulated, exported = model.run(batch), runner(batch)[0]
        values += simulated.numel()
        differing += int((simulated != exported).sum())
        decisions += int((simulated.argmax(1) != exported.argmax(1)).sum())
    return differing, values, decisions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--models", default="resnet20_many,resnet8_many,mobilenetv2,squeezenet,smallcnn_mnist,smallcnn_digits"
    )
    parser.add_argument("--configs", default="int8;power_of_two;vai dpu")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--calib", type=int, default=128)
    options = parser.parse_args()
    torch.manual_seed(0)
    known = networks(options.data)
    print(f"{'network':<18}{'configuration':<18}{'images':>8}{'values':>10}{'differing':>11}{'decisions':>11}")
    for name in options.models.split(","):
        model, calibration, test, _ = known[name]()
        batches, test = list(calibration[: options.calib].split(32)), test[: options.images]
        for config in options.configs.split(";"):
            prepared = prepare(model, CONFIGS[config], batches[0]).calibrate(batches).refine(batches)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                prepared.export(path, exact_rounding=config.startswith("vai dpu"))
                differing, values, decisions = compare(prepared, path, test)
            print(f"{name:<18}{config:<18}{len(test):>8}{values:>10}{differing:>11}{decisions:>11}", flush=True)


if __name__ == "__main__":
    main()
