"""What calibrating, simulating and preparing cost, as ratios to the user's own float forward in eager torch.

    python bench/calibration.py [--rounds 8] [--batches 4] [--size 8] [--threads 2] [--only NAMES] [--no-peers]
    [--compile]

ResNet-18, 224 x 224. Every row runs once per round, rounds are interleaved, the minimum counts. ``cpu`` is the same
ratio in processor seconds, which other programs on the machine disturb less. Memory is the largest resident size of a
process of its own (Linux), in which both kinds of work have imported the same. Peers are measured when they are
installed (``pip install nncf onnxruntime torchao``).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _calibration_peers import PEERS
from _resnet18 import ResNet18, images, resnet18
from torch import Tensor, nn

OBSERVERS = ("minmax", "percentile", "entropy", "mse", "diffs")
BARS = {"minmax": 0.95, "simulated": 1.0, "compiled": 0.70, **dict.fromkeys(OBSERVERS[1:], 1.20)}
MEMORY_BAR, PREPARE_BAR, IMPORT_BAR, CHECK_BAR = 1.15, 3.0, 0.1, 0.5
Work = Callable[[], Any]


def configuration(observer: str) -> dict[str, Any]:
    """Returns weights per channel by minmax, activations per tensor by ``observer``, over all batches."""
    power = {"scale": "power_of_two"} if observer == "diffs" else {}
    activation = {"format": "int8", "symmetric": True, "observer": observer, "statistic": "all", **power}
    return {
        "version": 1,
        "default": {"weight": {"observer": observer if power else "minmax", **power}, "activation": activation},
        "optimize": ["fold_batchnorm"],
    }


def float_forward(model: ResNet18, data: list[Tensor]) -> Work:
    """Returns the yardstick: the user's model, as it is."""

    def run() -> None:
        with torch.no_grad():
            for batch in data:
                model(batch)

    return run


def ours(model: ResNet18, data: list[Tensor], names: tuple[str, ...], compiled: bool) -> dict[str, Work]:
    """Returns what is measured of quantwright; everything is prepared before the clock runs."""
    from quantwright.api import prepare

    works: dict[str, Work] = {}
    for name in (name for name in OBSERVERS if name in names):
        prepared = prepare(model, configuration(name), data[0])
        works[name] = lambda prepared=prepared: prepared.calibrate(data)
    simulated = prepare(model, configuration("minmax"), data[0]).calibrate(data)
    if "simulated" in names:
        works["simulated"] = lambda: [call(simulated, batch) for batch in data]
    if compiled:
        quick = prepare(model, configuration("minmax"), data[0], compile=True).calibrate(data)
        works["compiled"] = lambda: [call(quick, b) for b in data]
    return works


def call(model: Any, batch: Tensor) -> Any:
    """Returns the model's output without gradients."""
    with torch.no_grad():
        return model(batch)


def measure(works: dict[str, Work], rounds: int) -> dict[str, tuple[float, float]]:
    """Returns name -> the least (seconds, processor seconds) of several interleaved rounds, one to warm up."""
    best = dict.fromkeys(works, (float("inf"), float("inf")))
    for round_number in range(rounds + 1):
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            if round_number:
                best[name] = (min(best[name][0], wall), min(best[name][1], processor))
    return best


def peak_memory(options: argparse.Namespace, name: str) -> float:
    """Returns the largest resident size, in MiB, of a process that does nothing but one kind of work."""
    words = [sys.executable, __file__, "--memory", name, "--batches", str(options.batches), "--size", str(options.size)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def one_kind(options: argparse.Namespace) -> None:
    """Does one kind of work and prints the peak; float and ours begin with the same imports."""
    from quantwright.api import prepare

    prepare(nn.Linear(2, 2), configuration("minmax"), torch.zeros(2, 2)).calibrate([torch.zeros(2, 2)])
    model, data = resnet18(), images(options.batches, options.size)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak of making the model does not count
    if options.memory == "float":
        float_forward(model, data)()
    else:
        prepare(model, configuration(options.memory), data[0]).calibrate(data)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def seconds_of(words: list[str], times: int = 5) -> float:
    """Returns the least time of a command."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
    return best


def start_up() -> dict[str, tuple[float, float]]:
    """Returns what -> (seconds, bar) for the things that happen before any work."""
    from quantwright.api import prepare

    python = [sys.executable, "-c"]
    bare = seconds_of([*python, "pass"])
    model, example = resnet18(), images(1, 2)[0]
    prepare(model, configuration("minmax"), example)  # torch.export imports much of torch when it is first used
    start = time.perf_counter()
    prepare(model, configuration("minmax"), example)
    prepared = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text("version: 1\ndefault: {weight: {format: int8}}\n", encoding="utf-8")
        check = seconds_of([sys.executable, "-m", "quantwright", "check", str(path)])
    return {
        "prepare": (prepared, PREPARE_BAR),
        "import quantwright": (seconds_of([*python, "import quantwright"]) - bare, IMPORT_BAR),
        "quantwright check": (check, CHECK_BAR),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default=",".join((*OBSERVERS, "simulated")), help="names separated by commas")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--compile", action="store_true", help="also measure the simulation under torch.compile")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.memory:
        one_kind(options)
        return
    names = tuple(options.only.split(","))
    model, data = resnet18(), images(options.batches, options.size)
    works = {"float": float_forward(model, data), **ours(model, data, names, options.compile)}
    if not options.no_peers:
        for peer, make in PEERS.items():
            try:
                works |= {f"{peer}: {name}": work for name, work in make(model, data).items()}
            except Exception as error:  # noqa: BLE001 - another tool's failure is a line of the result
                print(f"{peer}: not measured: {str(error).splitlines()[0][:200]}")
    best = measure(works, options.rounds)
    memory = {name: peak_memory(options, name) for name in ("float", *(n for n in OBSERVERS if n in names))}
    show(best, memory, options)


def kernels() -> str:
    """Returns a line that says which fast kernels are in use here."""
    from quantwright.observers import _kernel
    from quantwright.simulate.integer import is_exact

    counting = "native kernel" if _kernel.library() else "torch (the native kernel was not built)"
    products = "8-bit integer kernels" if is_exact() else "float32 kernels (no exact 8-bit ones here)"
    return f"histograms and extremes: {counting}; simulated products: {products}"


def show(best: dict[str, tuple[float, float]], memory: dict[str, float], options: argparse.Namespace) -> None:
    """Prints the table."""
    wall, processor = best["float"]
    print(f"float forward: {wall:.3f} s, {processor:.3f} processor s; {options.batches} x {options.size} images")
    print(kernels())
    print(f"{'':28} {'time':>6} {'cpu':>6} {'bar':>6}  {'memory':>6} {'bar':>6}")
    for name, (seconds, cpu_seconds) in best.items():
        bar = f"{BARS[name]:6.2f}" if name in BARS else " " * 6
        held = f"{memory[name] / memory['float']:6.2f} {MEMORY_BAR:6.2f}" if name in memory and name != "float" else ""
        print(f"{name:28} {seconds / wall:6.2f} {cpu_seconds / processor:6.2f} {bar}  {held}")
    for what, (seconds, bar_seconds) in start_up().items():
        print(f"{what:28} {seconds:6.2f} s, bar {bar_seconds} s")


if __name__ == "__main__":
    main()
