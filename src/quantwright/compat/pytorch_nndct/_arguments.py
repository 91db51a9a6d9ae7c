"""The arguments of the original's calls: what each becomes here, and which are refused with the way on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from quantwright.compat.pytorch_nndct._messages import RefusedError, coded, warn
from quantwright.data import Batch
from quantwright.errors import DataError, InputError, UnknownNameError, did_you_mean
from quantwright.targets._vitis import ARCHITECTURES

CALIB, TEST = "calib", "test"
#: argument -> (the value that asks for nothing, why anything else is refused, the way on)
REFUSED: dict[str, tuple[Any, str, str]] = {
    "mix_bit": (False, "widths are not searched", "set bit_width per layer in layer_quantize_config"),
    "lstm": (False, "the 16-bit LSTM engine is not simulated", "leave it out: recurrent layers stay float"),
    "app_deploy": ("CV", "there is no other flow than CV", "leave it out"),
    "qat_proc": (False, "there is no QAT yet", "quantize after training"),
    "custom_quant_ops": (None, "operations are quantized by rules", "use a native file: match: {function: ...}"),
    "dynamo": (False, "networks are captured with torch.export, which needs no switch", "leave it out"),
}  # fmt: skip


def require_supported(given: Mapping[str, Any]) -> None:
    """Raises RefusedError, naming every argument at once that asks for something this face does not have."""
    wrong = {name: REFUSED[name] for name, value in given.items() if value and value != REFUSED[name][0]}
    if wrong:
        raise RefusedError(
            "torch_quantizer: "
            + "; ".join(f"{name}={given[name]!r} is refused: {why}" for name, (_, why, _) in wrong.items()),
            fix="; ".join(f"{name}: {way}" for name, (_, _, way) in wrong.items()),
        )


def as_mode(quant_mode: Any) -> str:
    """Returns ``calib`` or ``test``; the numbers 1 and 2 of older scripts are understood.

    Raises:
        InputError: anything else; the original goes on calibrating then.
    """
    if quant_mode in (CALIB, TEST):
        return str(quant_mode)
    if quant_mode in (1, 2) and not isinstance(quant_mode, bool):
        mode = (CALIB, TEST)[quant_mode - 1]
        warn("DEPRECATED_ARGUMENT", f"quant_mode {quant_mode} is '{mode}'")
        return mode
    raise InputError(
        f"quant_mode {quant_mode!r} is no mode", allowed="'calib', 'test'",
        fix="'float' is a word of the example scripts only: it means to make no quantizer",
    )  # fmt: skip


def as_device(device: torch.device | str) -> str:
    """Returns the device to compute on: the CPU, with a warning, where CUDA was asked for and is not there."""
    asked = torch.device(device)
    if asked.type == "cuda" and not torch.cuda.is_available():
        warn("CUDA_UNAVAILABLE", "CUDA is not available, change device to CPU.")
        return "cpu"
    return str(asked)


def as_example(input_args: Any, input_kwargs: Mapping[str, Any] | None) -> Batch:
    """Returns the example inputs as a Batch: one tensor, or a tuple or list of positional inputs, and keyword inputs.

    Raises:
        DataError: there are none.
    """
    if input_kwargs is not None and not isinstance(input_kwargs, Mapping):
        raise DataError(
            f"input_kwargs is a {type(input_kwargs).__name__}", allowed="a dict of keyword inputs",
            fix="the fourth argument is input_kwargs, as in version 3.5; name state_dict_file",
        )  # fmt: skip
    args = tuple(input_args) if isinstance(input_args, (tuple, list)) else (input_args,)
    batch = Batch(args=() if input_args is None else args, kwargs=dict(input_kwargs or {}))
    if not batch.tensors():
        raise DataError(
            "there are no example inputs", allowed="input_args: a tensor or a tuple; input_kwargs: a dict of tensors",
            fix="give one batch the model can be called with",
        )  # fmt: skip
    return batch


def as_config(path: str | None, bitwidth: int | None) -> Any:
    """Returns the configuration: the file's, or the original's own default with ``bitwidth`` bits for every tensor."""
    if path is not None:
        if bitwidth is not None:
            warn("BITWIDTH_MISMATCH", f"bitwidth={bitwidth} is not used: the widths are those of {path}")
        return path
    if bitwidth is None:
        return "vai_q_pytorch"
    return {"target_device": "DPU", "overall_quantize_config": {"bit_width": bitwidth}}


def require_architecture(name: str) -> str:
    """Returns ``name`` after making sure that it is one of the original's DPU architectures.

    Raises:
        RefusedError: a fingerprint. UnknownNameError: none of them; the message lists them.
    """
    if name.startswith("0x"):
        raise coded(
            "INSPECTOR_INPUT_FORMAT",
            RefusedError(f"'{name}' is a fingerprint", allowed=ARCHITECTURES, fix="give the architecture's name"),
        )
    if name not in ARCHITECTURES:
        raise coded(
            "UNREGISTERED_TARGET",
            UnknownNameError(f"no DPU architecture is called '{name}'", allowed=ARCHITECTURES,
                             fix=did_you_mean(name, ARCHITECTURES)),
        )  # fmt: skip
    return name
