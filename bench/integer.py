"""The integer machine on real networks: values compared, values that differ, and its time beside the float network's.

    python bench/integer.py DATA_FOLDER [--models resnet20,...] [--configs int8,...] [--images N] [--threads N] [--onnx]

Every value of every point (weights and biases too) is compared with the simulation, on all images of the folder.
``--onnx`` also runs the exported file in ONNX Runtime: node by node, and as it fuses it. The time is that of the
machine with every accumulator watched, without a comparison: the best of nine runs of each on one batch, in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accuracy import networks
from torch import Tensor, nn

from quantwright.api import PreparedModel, prepare
from quantwright.data import Batch
from quantwright.verify.integer import IntegerReport, Machine, check

CONFIGS: dict[str, Any] = {"int8": "int8", "power_of_two": "power_of_two", "dpu": "dpu"}
MODELS = "resnet20,resnet8,mobilenetv2,squeezenet"


def every_image(name: str, calibration: Tensor, test: Tensor) -> Tensor:
    """Returns all images of the folder for a network: those kept for calibration and those for tests."""
    return test if name == "squeezenet" else torch.cat([test, calibration])


def timed(model: nn.Module, machine: Machine, images: Tensor, clock: Callable[[], float]) -> tuple[float, float]:
    """Returns (seconds of the machine, seconds of the float network) for one batch, the best of nine."""
    batch = Batch(args=(images,))

    def seconds(run: Callable[[], Any]) -> float:
        start = clock()
        with torch.no_grad():
            run()
        return clock() - start

    rounds = [(seconds(lambda: machine.everything(batch)), seconds(lambda: model(images))) for _ in range(10)][1:]
    return min(a for a, _ in rounds), min(b for _, b in rounds)


def compared(prepared: PreparedModel, images: Tensor, size: int, *, onnx: bool, exact: bool) -> IntegerReport:
    """Returns the report on all images."""
    batches = [Batch(args=(part,)) for part in images.split(size)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if onnx:
            prepared.export(path, exact_rounding=exact)
        return check(prepared, batches, file=path if onnx else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--configs", default=",".join(CONFIGS))
    parser.add_argument("--images", type=int, default=None, help="at most so many")
    parser.add_argument("--calib", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="processor time: with --threads 1, on a busy machine")
    parser.add_argument("--onnx", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    known = networks(options.data)
    print(f"{'network':<13}{'configuration':<14}{'images':>7}{'values':>16}{'differing':>10}{'machine':>10}{'float':>9}"
          f"{'ratio':>7}{'bits':>6}")  # fmt: skip
    for name in options.models.split(","):
        model, calibration, test, _ = known[name]()
        images = every_image(name, calibration, test)[: options.images]
        batches = list(calibration[: options.calib].split(32))
        for label in options.configs.split(","):
            prepared = prepare(model, CONFIGS[label], batches[0]).calibrate(batches).refine(batches)
            ours, real = timed(model.eval(), Machine(prepared), images[: options.batch_size], clock)
            report = compared(prepared, images, options.batch_size, onnx=options.onnx, exact=label == "dpu")
            bits = max(layer.bits_needed for layer in report.layers)
            print(
                f"{name:<13}{label:<14}{report.samples:>7}{report.simulation.values:>16,}{report.simulation.differing:>10}"
                f"{1000 * ours:>7.0f} ms{1000 * real:>6.0f} ms{ours / real:>7.2f}{bits:>6}",
                flush=True,
            )
            for row in (*report.problems(), *(f"{c.what}: {c.differing} of {c.values:,}, at most {c.max_lsb:.3g} LSB"
                                              for c in report.exported)):  # fmt: skip
                print(f"  {row}", flush=True)


if __name__ == "__main__":
    main()
