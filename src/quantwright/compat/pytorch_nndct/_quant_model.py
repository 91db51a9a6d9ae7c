"""The model a script calls, and how it is prepared."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from quantwright import registry
from quantwright.api import PreparedModel, prepare
from quantwright.calibrate import Calibrator
from quantwright.compat.pytorch_nndct._messages import RefusedError, coded, note, preparing, warn
from quantwright.config.config import Unmapped
from quantwright.config.load import read_any
from quantwright.data import Batch
from quantwright.errors import ModelError


class QuantModel(nn.Module):
    """Returns the model a script calls: calibrates on every call until calibration ends, then computes quantized.

    Attributes:
        calls: how many times it was called since calibration started.
        calibrating: whether a call calibrates.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__()
        self.prepared = prepared
        self.calls = 0
        self._calibrator: Calibrator | None = None
        self.calibrating = False
        self.eval()

    def calibrate(self) -> None:
        """Starts a calibration with the next call."""
        self.calibrating, self._calibrator, self.calls = True, None, 0

    def finish(self) -> None:
        """Ends the calibration: every tensor has its scale, and calls compute quantized from now on."""
        if self._calibrator is not None:
            self._calibrator.finish()
            self.prepared.refine(())  # what needs no data: positions are adjusted now, as in the original
        self.calibrating, self._calibrator = False, None

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the user's model would return, computed on the scales known so far, without gradients."""
        if not self.calibrating:
            output = self.prepared(*args, **kwargs)
        else:
            if self._calibrator is None:
                hooks = self.prepared.calibration_hooks()
                self._calibrator = Calibrator(self.prepared, hooks=hooks)
            output = self._calibrator.feed(Batch(args=args, kwargs=kwargs))
        self.calls += 1
        return output


def prepare_model(
    module: nn.Module, state_dict_file: str | None, config: Any, example: Batch, device: str
) -> PreparedModel:
    """Returns the prepared model.

    Raises:
        ConfigError, CaptureError: with the original's code. ModelError: the weights cannot be loaded.
        RefusedError: the configuration needs more than one pass over the data.
    """
    with preparing():
        reading = read_any(config)
        prepared = prepare(_with_state(module, state_dict_file), reading.config, example, device=device)
    _require_one_pass(prepared)
    for text in (*(_told(item) for item in reading.unmapped), *prepared.plan.warnings):
        warn("QUANT_CONFIG", text)
    for text in dict.fromkeys((*reading.config.notes, *prepared.graph.notes, *prepared.plan.notes)):
        note(text)
    return prepared


def _require_one_pass(prepared: PreparedModel) -> None:
    """Raises RefusedError for a configuration whose algorithms need the batches again after calibration."""
    again = []
    for step in prepared.config.refine:
        algorithm = registry.load("algorithms", step.name)
        if algorithm.needs_data and algorithm.during_calibration(prepared, **step.params) is None:
            again.append(step.name)
    if again:
        raise coded(
            "QUANT_CONFIG",
            RefusedError(
                f"refine: {', '.join(again)} goes through the data again after calibration, and a script calls"
                " quant_model only once per batch",
                fix="use quantwright.quantize(model, config, data), or leave the step out",
            ),
        )


def _with_state(module: nn.Module, path: str | None) -> nn.Module:
    """Returns the model, or a copy of it with the weights of ``path``.

    Raises:
        ModelError: the file cannot be read, holds more than tensors, or does not fit the model.
    """
    if path is None:
        return module
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        loaded = copy.deepcopy(module)
        loaded.load_state_dict(state.get("state_dict", state))
    except Exception as error:  # noqa: BLE001  a damaged file fails in many ways
        text = str(error).split("\n")[0]
        fix = "give a file that torch.save(model.state_dict(), ...) wrote"
        raise ModelError(f"state_dict_file cannot be loaded: {text}", where=str(path), fix=fix) from error
    return loaded


def _told(item: Unmapped) -> str:
    """Returns what a setting that is not carried over means."""
    return f"{item.path}: {item.message}" + (f": {item.effect}" if item.effect else "")
