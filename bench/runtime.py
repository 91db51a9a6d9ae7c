"""How much faster than the float file an exported file runs in ONNX Runtime: ResNet-18, interleaved, one process.

    python bench/runtime.py [--threads 2] [--rounds 10] [--batch 1,8] [--profile FOLDER] [--json]

Every figure is the time of the float file over the time of a quantized one, each the least of several rounds. The bars
are those of the plan: 2.5 for the preset ``int8``, 2.0 for symmetric signed activations. ``--profile`` writes where the
time goes, per operator of the graph as ONNX Runtime rewrote it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from _resnet18 import images, resnet18

import quantwright as qw
from quantwright.exporters.onnx import export_float

SIGNED = {
    "version": 1,
    "target": "onnxruntime",
    "default": {"activation": {"format": "int8", "symmetric": True, "observer": "mse"}},
}
#: row -> (config, options of the exporter, bar or None)
ROWS: dict[str, tuple[Any, dict[str, Any], float | None]] = {
    "preset int8": ("int8", {}, 2.5),
    "symmetric int8": (SIGNED, {}, 2.0),
    "symmetric int8, kept signed": (SIGNED, {"keep_signed": True}, None),
}
INTEGER = ("QLinearConv", "QLinearAdd", "QGemm", "QLinearMatMul", "MatMulInteger", "NhwcMaxPool", "MaxPool", "Clip",
           "QLinearGlobalAveragePool", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [int(size) for size in options.batch.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write(folder)
        graphs = {row: rewritten(path, folder) for row, path in files.items()}
        speedups = {size: measure(files, size, options.threads, options.rounds) for size in sizes}
        if options.profile is not None:
            profile(files, options.profile, max(sizes), options.threads)
    show(speedups, graphs, as_json=options.json)


def write(folder: Path) -> dict[str, Path]:
    """Returns row -> file: the float network and every quantized one."""
    batches = images(2, 8)
    files = {"float": folder / "float.onnx"}
    for row, (config, options, _) in ROWS.items():
        prepared = qw.prepare(resnet18(), config, batches[0])
        if row == "preset int8":
            export_float(prepared.graph, files["float"], prepared.example)
        prepared.calibrate(batches).refine(batches)
        files[row] = folder / f"{len(files)}.onnx"
        prepared.export(files[row], **options)
    return files


def rewritten(path: Path, folder: Path) -> Counter[str]:
    """Returns operator -> count in the graph that ONNX Runtime makes of a file."""
    options = session_options(0)
    options.optimized_model_filepath = str(folder / "rewritten.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def session_options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return options


def measure(files: dict[str, Path], size: int, threads: int, rounds: int) -> dict[str, float]:
    """Returns row -> seconds, the least of all rounds; every round runs every file."""
    sessions = {
        row: onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
        for row, path in files.items()
    }
    feed = {"x": images(1, size, 9)[0].numpy()}
    best = dict.fromkeys(files, float("inf"))
    for _ in range(rounds):
        for row, session in sessions.items():
            session.run(None, feed)
            for _ in range(3):
                start = time.perf_counter()
                session.run(None, feed)
                best[row] = min(best[row], time.perf_counter() - start)
    return best


def profile(files: dict[str, Path], folder: Path, size: int, threads: int) -> None:
    """Writes the share of the time of every operator type, per file."""
    folder.mkdir(parents=True, exist_ok=True)
    feed = {"x": images(1, size, 9)[0].numpy()}
    for row, path in files.items():
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / row.replace(" ", "-"))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(5):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        spent: Counter[str] = Counter()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                spent[event["args"]["op_name"]] += event["dur"]
        total = sum(spent.values())
        print(f"{row}: " + ", ".join(f"{kind} {100 * us / total:.1f} %" for kind, us in spent.most_common(8)))


def show(speedups: dict[int, dict[str, float]], graphs: dict[str, Counter[str]], *, as_json: bool) -> None:
    """Prints the table, or one JSON document."""
    ratios = {row: {size: best["float"] / best[row] for size, best in speedups.items()} for row in graphs}
    left = {row: {kind: n for kind, n in graph.items() if kind not in INTEGER} for row, graph in graphs.items()}
    if as_json:
        print(json.dumps({"ratios": ratios, "float_operators": left}, indent=1))
        return
    print(f"{'file':30}" + "".join(f" batch {size:>3}" for size in speedups) + "   bar  operators left in float")
    for row, by_size in ratios.items():
        bar = None if row == "float" else ROWS[row][2]
        words = ", ".join(f"{kind} {count}" for kind, count in sorted(left[row].items()))
        cells = "".join(f" {ratio:>7.2f} x" for ratio in by_size.values())
        print(f"{row:30}{cells} {'' if bar is None else f'{bar:.1f} x':>5}  {words if row != 'float' else 'all'}")


if __name__ == "__main__":
    main()
