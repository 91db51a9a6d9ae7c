"""Other quantizers on the same float ONNX file and the same images: ONNX Runtime's calibrators and NNCF."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

BATCH = 32  # images per calibration step at most, as for us; all steps the same: histograms want equal shapes
Peer = Callable[[Path, Path, Tensor], None]
"""(float file, file to write, calibration images)"""


def steps(images: Tensor) -> tuple[Tensor, ...]:
    """Returns the images in equal batches."""
    size = next(size for size in range(BATCH, 0, -1) if len(images) % size == 0)
    return images.split(size)


def peers() -> dict[str, Peer]:
    """Returns name -> peer, of those that are installed: every calibrator with and without a zero point."""
    made: dict[str, Peer] = {}
    for method in ("MinMax", "Entropy", "Percentile"):
        for symmetric in (False, True):
            word = "symmetric" if symmetric else "asymmetric"
            made[f"ONNX Runtime {method}, {word}"] = _onnxruntime(method, symmetric)
    if importlib.util.find_spec("nncf") is not None:
        for preset in ("MIXED", "PERFORMANCE"):
            for fast in (True, False):
                made[f"NNCF {preset.lower()}, {'fast' if fast else 'full'} bias correction"] = _nncf(preset, fast)
    return made


def _onnxruntime(method: str, symmetric: bool) -> Peer:
    """Returns quantize_static of ONNX Runtime: QDQ, weights int8 per channel."""

    def run(source: Path, target: Path, images: Tensor) -> None:
        from onnxruntime import quantization as ort

        ort.quantize_static(
            str(source), str(target), _Reader(images), quant_format=ort.QuantFormat.QDQ, per_channel=True,
            activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8, calibrate_method=getattr(ort.CalibrationMethod, method),
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
        )  # fmt: skip

    return run


class _Reader:
    """Hands out the images as ONNX Runtime's calibrators ask for them."""

    def __init__(self, images: Tensor) -> None:
        self.batches = iter(steps(images))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"x": batch.numpy()}


def _nncf(preset: str, fast: bool) -> Peer:
    """Returns post-training quantization of NNCF on the ONNX file."""

    def run(source: Path, target: Path, images: Tensor) -> None:
        os.environ.setdefault("NNCF_CI", "1")  # sends no statistics
        import nncf
        import onnx

        nncf.set_log_level(logging.ERROR)
        data = nncf.Dataset([{"x": batch.numpy()} for batch in steps(images)])
        with quiet():
            made = nncf.quantize(
                onnx.load(source), data, preset=getattr(nncf.QuantizationPreset, preset),
                fast_bias_correction=fast, subset_size=len(images),
            )  # fmt: skip
        onnx.save(made, target)

    return run


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Yields while progress bars are not shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
