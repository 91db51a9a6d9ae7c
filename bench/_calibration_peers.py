"""What other tools take to calibrate the same network on the same batches; a tool that is not installed is left out."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Work = Callable[[], Any]


def onnxruntime_calibrators(model: nn.Module, data: list[Tensor]) -> dict[str, Work]:
    """Returns ONNX Runtime's calibrators on the exported network."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        return {}
    from onnxruntime.quantization import calibrate

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.onnx"
    torch.onnx.export(
        model, (data[0],), path, input_names=["x"], dynamo=True, external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    arrays = [{"x": batch.numpy()} for batch in data]

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(arrays)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    def run(method: Any, keep: Any = folder) -> None:
        calibrator = calibrate.create_calibrator(
            path, calibrate_method=method, augmented_model_path=str(Path(keep.name) / "augmented.onnx")
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()

    methods = calibrate.CalibrationMethod
    chosen = {"minmax": methods.MinMax, "percentile": methods.Percentile, "entropy": methods.Entropy}
    return {name: lambda method=method: run(method) for name, method in chosen.items()}


def nncf_quantize(model: nn.Module, data: list[Tensor]) -> dict[str, Work]:
    """Returns NNCF's post-training quantization with its defaults, and its simulated forward."""
    if importlib.util.find_spec("nncf") is None:
        return {}
    import nncf

    def quantize() -> Any:
        return nncf.quantize(model, nncf.Dataset(data), subset_size=len(data), fast_bias_correction=True)

    quantized = quantize()

    def simulate() -> None:
        with torch.no_grad():
            for batch in data:
                quantized(batch)

    return {"quantize": quantize, "simulated": simulate}


def torchao_pt2e(model: nn.Module, data: list[Tensor]) -> dict[str, Work]:
    """Returns torchao's observers in a graph it prepared before the clock runs."""
    if importlib.util.find_spec("torchao") is None:
        return {}
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    exported = torch.export.export(model, (data[0],)).module()
    observed = move_exported_model_to_eval(prepare_pt2e(exported, quantizer))

    def run() -> None:
        with torch.no_grad():
            for batch in data:
                observed(batch)

    return {"histogram": run}


PEERS: dict[str, Callable[[nn.Module, list[Tensor]], dict[str, Work]]] = {
    "onnxruntime": onnxruntime_calibrators,
    "nncf": nncf_quantize,
    "torchao": torchao_pt2e,
}
