"""``quark.torch.quantization.api``: ``ModelQuantizer``, a thin face over ``quantwright.prepare`` and ``calibrate``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from quantwright.compat.quark.torch.quantization.config.config import QConfig
from quantwright.errors import InputError


class ModelQuantizer:
    """Returns a quantizer for a configuration.

    What it gives is a quantwright PreparedModel and not the model it was given, which stays as it was.
    """

    def __init__(self, config: QConfig, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            raise InputError("ModelQuantizer takes a configuration only", fix="ModelQuantizer(quant_config)")
        self.config = config

    def quantize_model(self, model: Any, dataloader: Iterable[Any] | None = None) -> Any:
        """Returns the prepared and calibrated model; a batch may be a tensor, a mapping, or (inputs, labels).

        Raises:
            InputError: there is no batch, without which the network is not known here.
        """
        import quantwright

        batches = iter(dataloader or ())
        first = next(batches, None)
        if first is None:
            raise InputError(
                "ModelQuantizer.quantize_model without data: a batch shows what the network computes",
                fix="give one batch in a list, or call quantwright.prepare(model, config, example_inputs)",
            )
        prepared = quantwright.prepare(model, self.config, first)
        again = dataloader if dataloader is not None and iter(dataloader) is not dataloader else chain([first], batches)
        prepared.calibrate(again)
        return prepared

    def freeze(self, model: Any) -> Any:
        """Returns the model as it is: a calibrated PreparedModel computes what its target computes."""
        return model
