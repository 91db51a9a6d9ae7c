"""``pytorch_nndct.apis``: ``torch_quantizer``, ``Inspector`` and what else scripts import from there.

Two phases, as in the original. ``calib``: every forward of ``quant_model`` calibrates, ``export_quant_config`` ends it
and writes ``quant_info.json``. ``test``: the float model is prepared again and gets its scales from that file. One
process can do both with ``quantize``, ``test`` and ``deploy``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from quantwright import __version__
from quantwright.api import PreparedModel
from quantwright.compat.pytorch_nndct import _arguments as arguments
from quantwright.compat.pytorch_nndct import _model_file, _quant_info
from quantwright.compat.pytorch_nndct._finetuned import load_parameters
from quantwright.compat.pytorch_nndct._inspector import Inspector
from quantwright.compat.pytorch_nndct._messages import RefusedError, coded, note, warn
from quantwright.compat.pytorch_nndct._quant_model import QuantModel, prepare_model
from quantwright.errors import ExportError, InputError, StateError
from quantwright.exporters import _torch_script

__all__ = ["Inspector", "QatProcessor", "dump_xmodel", "load_vai_ops", "torch_quantizer"]

VERSION = f"quantwright {__version__}"
RESULTS = "quantize_result"
FORMATS = ("xmodel", "onnx", "torch_script")


class torch_quantizer:  # noqa: N801  the original's name
    """Returns a quantizer for one model, in mode ``calib`` or ``test``; see the page of this module.

    Args:
        quant_mode: ``calib`` or ``test``.
        module: the float model; it is not changed.
        input_args, input_kwargs: one batch of inputs the model can be called with.
        state_dict_file: weights to load before; tensors only.
        output_dir: where the results of calibration are written and read.
        bitwidth: bits of every tensor when there is no configuration file; 8 when not given.
        device: where to compute; without CUDA the CPU is used, with a warning.
        quant_config_file: the original's JSON, or any other configuration that quantwright reads.
        target: the name of a DPU architecture. It is checked; the plan is that of the target ``dpu``.
        mix_bit, lstm, app_deploy, qat_proc, custom_quant_ops, dynamo: refused by name where they ask for anything.

    Raises:
        RefusedError: every refused argument at once. ConfigError: every problem of the configuration at once.
        CaptureError: the model cannot be captured. StateError: mode ``test`` and no result of a calibration.
    """

    def __init__(
        self,
        quant_mode: str,
        module: nn.Module,
        input_args: Any = None,
        input_kwargs: Mapping[str, Any] | None = None,
        state_dict_file: str | None = None,
        output_dir: str = RESULTS,
        bitwidth: int | None = None,
        mix_bit: bool = False,
        device: torch.device | str = "cuda",
        lstm: bool = False,
        app_deploy: str = "CV",
        qat_proc: bool = False,
        custom_quant_ops: Sequence[str] | None = None,
        quant_config_file: str | None = None,
        target: str | None = None,
        dynamo: bool = False,
    ) -> None:
        self.mode = arguments.as_mode(quant_mode)
        arguments.require_supported(
            {"mix_bit": mix_bit, "lstm": lstm, "app_deploy": app_deploy, "qat_proc": qat_proc,
             "custom_quant_ops": custom_quant_ops, "dynamo": dynamo}
        )  # fmt: skip
        if target is not None:
            arguments.require_architecture(target)
            if quant_config_file is not None:
                warn("HW_AWARE_QUANT", "The hardware-aware quantization is turned off by quant_config_file.")
        self.output_dir = Path(output_dir)
        example = arguments.as_example(input_args, input_kwargs)
        config = arguments.as_config(quant_config_file, bitwidth)
        note(f"Quantization {'calibration' if self.mode == arguments.CALIB else 'test'} process start up...")
        prepared = prepare_model(module, state_dict_file, config, example, arguments.as_device(device))
        self._model = QuantModel(prepared)
        if self.mode == arguments.CALIB:
            self._model.calibrate()
            note(f"Quant Module is generated.({_model_file.write(prepared.graph, self.output_dir, VERSION)})")
        else:
            _quant_info.read(prepared, self.output_dir)

    @property
    def quant_model(self) -> QuantModel:
        """Returns the model to call, on calibration or on test data."""
        note("Get module with quantization.")
        return self._model

    @property
    def deploy_model(self) -> NoReturn:
        """Raises RefusedError: only quantization aware training has one."""
        raise coded("QAT_PROCESS_ERROR", RefusedError("only QAT has a deployable model", fix=QAT))

    # -- calibration --------------------------------------------------------------------------------------------
    def export_quant_config(self) -> None:
        """Ends calibration and writes ``quant_info.json`` (and ``bias_corr.pth``) to ``output_dir``.

        Raises:
            StateError: ``quant_model`` was never called.
        """
        if self.mode != arguments.CALIB:
            warn("NO_CALIBRATION", "export_quant_config does nothing in test mode: the result is there already")
            return
        if self._model.calls == 0:
            fix = "call quant_model on calibration data, then export_quant_config"
            raise coded("NO_CALIBRATION", StateError("there was no calibration", fix=fix))
        self._model.finish()
        note(f"Exporting quant config.({_quant_info.write(self._model.prepared, self.output_dir, VERSION)})")

    def fast_finetune(self, run_fn: Callable[..., Any], run_args: Sequence[Any]) -> NoReturn:
        """Raises RefusedError: there is no such algorithm yet."""
        del run_fn, run_args
        raise coded(
            "FAST_FINETINE",
            RefusedError(
                "fast_finetune is not there yet",
                fix="leave the call out: bias correction and equalization (include_bias_corr, include_cle) need no"
                " tuning; parameters that the original tuned are read by load_ft_param",
            ),
        )

    def load_ft_param(self) -> None:
        """Loads ``param.pth``, the parameters that the original's fast_finetune wrote to ``output_dir``.

        Raises:
            StateError: not in mode ``test``, or there is no such file. ArtifactError: it does not fit the model.
        """
        if self.mode != arguments.TEST:
            raise coded("FAST_FINETINE", StateError("load_ft_param belongs to quant_mode 'test'", fix="call it there"))
        load_parameters(self._model.prepared, self.output_dir)

    # -- export -------------------------------------------------------------------------------------------------
    def export_onnx_model(
        self,
        output_dir: str = RESULTS,
        verbose: bool = False,
        dynamic_batch: bool = False,
        opset_version: int | None = None,
        native_onnx: bool = True,
        dump_layers: bool = False,
        check_model: bool = False,
        opt_graph: bool = False,
    ) -> None:
        """Writes ``<Model>_int.onnx`` (QuantizeLinear / DequantizeLinear), checked and run before it gets its name.

        The batch is dynamic wherever the network allows it, and the file is always checked.

        Raises:
            StateError: ``quant_model`` was not called. RefusedError: ``native_onnx=False`` or ``dump_layers``.
        """
        del dynamic_batch, check_model
        prepared = self._ready()
        if not native_onnx or dump_layers:
            name, way = ("native_onnx=False", "leave it out: every runtime knows the native operators")
            if dump_layers:
                name, way = ("dump_layers=True", "leave it out: quantwright verify compares tensor by tensor")
            raise coded("EXPORT_ONNX", RefusedError(f"{name} is refused", fix=way))
        if opt_graph:
            warn("EXPORT_ONNX", "opt_graph changes nothing: the file is folded and cleaned always")
        options = {} if opset_version is None else {"opset": opset_version}
        path = Path(output_dir) / f"{prepared.graph.name}_int.onnx"
        try:
            record = prepared.export(path, exporter="onnx", **options)
        except ExportError as error:
            raise coded("EXPORT_ONNX", error) from error.__cause__
        for text in record.warnings:
            warn("EXPORT_ONNX", text)
        note(f"{path.name} is generated.({path})" + (f" {record.to_json()}" if verbose else ""))

    def export_torch_script(self, output_dir: str = RESULTS, verbose: bool = False) -> torch.jit.ScriptModule:
        """Returns the TorchScript module it wrote to ``<Model>_int.pt``; torch alone runs it.

        Raises:
            StateError: ``quant_model`` was not called. ExportError: torch cannot trace the network.
        """
        prepared = self._ready()
        path = Path(output_dir) / f"{prepared.graph.name}_int.pt"
        script = _torch_script.export(prepared, path)
        note(f"{path.name} is generated.({path})" + (f"\n{script.graph}" if verbose else ""))
        return script

    def export_xmodel(self, output_dir: str = RESULTS, deploy_check: bool = False, dynamic_batch: bool = False) -> None:
        """Writes what can be written for a DPU and warns that there is no xmodel, which is AMD's format.

        Written are ``quant_info.json`` and ``bias_corr.pth`` (in the original's format, which reads them in its test
        mode) and ``<Model>_int.onnx``. It does not raise: scripts call it last, when everything else is done.
        """
        del deploy_check, dynamic_batch
        prepared = self._ready()
        info = _quant_info.write(prepared, Path(output_dir), VERSION)
        self.export_onnx_model(output_dir)
        written = f"{info} and the ONNX file beside it are written"
        warn("EXPORT_XMODEL", f"no xmodel was written: {XMODEL}; {written}. {XMODEL_WAY}")

    # -- all in one process ---------------------------------------------------------------------------------------
    def quantize(self, run_fn: Callable[..., Any], run_args: Sequence[Any], ft_run_args: Any = None) -> None:
        """Calibrates by ``run_fn(*run_args)`` and writes the result."""
        if ft_run_args is not None:
            self.fast_finetune(run_fn, ft_run_args)
        self.mode = arguments.CALIB
        self._model.calibrate()
        run_fn(*run_args)
        self.export_quant_config()

    def test(self, run_fn: Callable[..., Any], run_args: Sequence[Any]) -> None:
        """Runs ``run_fn(*run_args)`` on the quantized model and logs what it returns."""
        self.mode = arguments.TEST
        note(f"Quantized model evaluation returns metric:\n {run_fn(*run_args)}")

    def deploy(
        self, run_fn: Callable[..., Any], run_args: Sequence[Any], fmt: str = "xmodel", dynamic_batch: bool = False
    ) -> None:
        """Runs ``run_fn(*run_args)`` once and exports ``xmodel``, ``onnx`` or ``torch_script`` to ``output_dir``."""
        if fmt not in FORMATS:
            raise InputError(f"deploy: no format is called '{fmt}'", allowed=FORMATS)
        self.mode = arguments.TEST
        run_fn(*run_args)
        folder = str(self.output_dir)
        if fmt == "xmodel":
            self.export_xmodel(folder)
        elif fmt == "onnx":
            self.export_onnx_model(folder, verbose=True, dynamic_batch=dynamic_batch)
        else:
            self.export_torch_script(folder, verbose=True)

    def _ready(self) -> PreparedModel:
        """Returns the quantizing model.

        Raises:
            StateError: there was no forward, or calibration has not ended.
        """
        if self._model.calls == 0:
            fix = "call quant_model once, then export: the original asks for it, to know the network has run"
            raise coded("NO_FORWARD", StateError("quant_model was not called before exporting", fix=fix))
        if self._model.calibrating:
            fix = "call export_quant_config() first, or export in quant_mode 'test'"
            raise coded("NO_CALIBRATION", StateError("calibration has not ended", fix=fix))
        return self._model.prepared


QAT = "quantize after training: there is no QAT yet"
XMODEL = "the xmodel format is compiled by AMD's xir and vai_c_xir, which are not part of Quantwright"
XMODEL_WAY = (
    "run the original in quant_mode 'test' on this folder and export_xmodel there: it reads these results;"
    " or run the ONNX file"
)


class QatProcessor:
    """Refuses to be made: quantization aware training is not there yet."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        raise coded("QAT_PROCESS_ERROR", RefusedError("QatProcessor is not there yet", fix=QAT))


def dump_xmodel(output_dir: str = RESULTS, deploy_check: bool = False, app_deploy: str = "CV") -> NoReturn:
    """Raises RefusedError: it has no quantizer to write anything from."""
    del output_dir, deploy_check, app_deploy
    raise coded("EXPORT_XMODEL", RefusedError(f"dump_xmodel: {XMODEL}", fix="use torch_quantizer.export_onnx_model()"))


def load_vai_ops() -> None:
    """Does nothing: files written here need no operators of the original's."""
