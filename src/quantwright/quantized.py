"""QuantizedModel: what every quantized model is, however it was captured: plan, quantizers, modes, links."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantwright.config.config import QuantConfig
from quantwright.data import Batch
from quantwright.fakequant.fixed import Mode, Quantizer
from quantwright.numerics.qparams import QParams
from quantwright.passes import Change
from quantwright.plan.plan import Plan, ProductOf, SameAs
from quantwright.targets import Target

Tap = Callable[[Tensor], "Tensor | None"]


class QuantizedModel(nn.Module):
    """Returns the part of a quantized model that does not depend on how the user's network was captured.

    Calibration and the first step of every algorithm work on this. Those that capture add ``parameter``,
    ``set_parameter``, ``compute`` and ``forward``, and fill ``quantizers``.

    Attributes:
        plan: what was decided.
        asked: the configuration the plan was made for.
        target: the device the plan is for.
        quantizers: point name -> Quantizer, in execution order.
        example: one batch the model can be run on.
        changes: what passes and algorithms did.
        float_parameters: the values, before any algorithm, of the parameters an algorithm has changed.
    """

    quantizers: Mapping[str, Quantizer]

    def __init__(self, plan: Plan, asked: QuantConfig, target: Target, example: Batch, changes: list[Change]) -> None:
        super().__init__()
        self.plan = plan
        self.asked = asked
        self.target = target
        self.example = example
        self.changes = list(changes)
        self.float_parameters: dict[str, Tensor] = {}

    @property
    @abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """Returns the names of the network's inputs as the user's ``forward`` calls them."""

    @property
    @abstractmethod
    def capture_notes(self) -> tuple[str, ...]:
        """Returns what capture had to do or could not see, in sentences."""

    @abstractmethod
    def parameter(self, name: str) -> Tensor:
        """Returns the parameter that the plan calls ``name``."""

    @abstractmethod
    def set_parameter(self, name: str, value: Tensor) -> None:
        """Sets the parameter that the plan calls ``name``."""

    @abstractmethod
    def compute(self, batch: Batch, taps: Mapping[str, Tap]) -> Any:
        """Returns the output for one batch; each tap saw the value of the node it is for."""

    def watching(self) -> Callable[[Batch], Any]:
        """Returns how to run batches in float while quantizers watch; what is watched must not change meanwhile."""
        return lambda batch: self.compute(batch, {})

    def run(self, batch: Batch) -> Any:
        """Returns the output for one batch, without gradients."""
        with torch.no_grad():
            return self(*batch.args, **batch.kwargs)

    def set_mode(self, mode: Mode) -> None:
        """Sets the mode of every quantizer."""
        for quantizer in self.quantizers.values():
            quantizer.mode = mode

    @contextlib.contextmanager
    def floating(self) -> Iterator[None]:
        """Yields with every quantizer off and every parameter as it was before algorithms; restores both after."""
        modes = {name: quantizer.mode for name, quantizer in self.quantizers.items()}
        changed = {name: self.parameter(name).detach().clone() for name in self.float_parameters}
        try:
            self.set_mode("float")
            for name, value in self.float_parameters.items():
                self.set_parameter(name, value)
            yield
        finally:
            for name, value in changed.items():
                self.set_parameter(name, value)
            for name, mode in modes.items():
                self.quantizers[name].mode = mode

    @contextlib.contextmanager
    def quantizing(self) -> Iterator[None]:
        """Yields with every quantizer on; restores their modes after."""
        modes = {name: quantizer.mode for name, quantizer in self.quantizers.items()}
        try:
            self.set_mode("quantize")
            yield
        finally:
            for name, mode in modes.items():
                self.quantizers[name].mode = mode

    def change_parameter(self, name: str, value: Tensor) -> None:
        """Sets a parameter and remembers its float value, so that ``floating`` can bring it back."""
        self.float_parameters.setdefault(name, self.parameter(name).detach().clone())
        self.set_parameter(name, value)

    def link(self) -> None:
        """Derives the QParams of every point that is related to another one (shared and bias scales)."""
        for decision in self.plan.decisions:
            quantizer = self.quantizers.get(decision.point.name)
            if quantizer is None:
                continue
            if isinstance(decision.relation, SameAs):
                quantizer.qparams = self.quantizers[self.root(decision.point.name)].qparams
            elif isinstance(decision.relation, ProductOf):
                inputs = self.quantizers[self.root(decision.relation.input)].qparams
                weights = self.quantizers[self.root(decision.relation.weight)].qparams
                if inputs is not None and weights is not None:
                    quantizer.qparams = derive_bias(inputs, weights)

    def root(self, point: str) -> str:
        """Returns the point whose QParams ``point`` uses: itself, or where its SameAs relations lead."""
        return self.plan.root(point).point.name


def derive_bias(inputs: QParams, weights: QParams) -> QParams:
    """Returns the QParams of an int32 bias: scale(input) * scale(weight) in float32, as integer hardware adds it."""
    scale_G = inputs.whole_scale.float() * weights.whole_scale.float()
    return QParams(scale=scale_G, zero_point=torch.zeros_like(scale_G, dtype=torch.int32))
