"""The bias correction vai_q_pytorch does while it calibrates (spec vai_q_pytorch 4.7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from quantwright.fakequant.fixed import Quantizer
from quantwright.passes import Change
from quantwright.plan.facts import NodeFacts
from quantwright.prepare import PreparedModel

EFFICIENCY_EMA = 0.8  # weight of the past in both moving averages
HALVE_ABOVE = 4.0  # the step is halved once the efficiency's average is above this
STOP_ABOVE = 4.3  # no further correction above this efficiency
STOP_RATIO = 0.05  # ... or when the deviation is this small against the average, or changes this little


@dataclass(slots=True)
class Progress:
    """Returns the moving averages of one layer and whether its correction goes on."""

    efficiency: float = 0.0
    average: float = 0.0
    deviation: float = 0.0
    stopped: bool = False

    def to_tensor(self) -> Tensor:
        """Returns the four fields as float64."""
        return torch.tensor([self.efficiency, self.average, self.deviation, float(self.stopped)], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, fields: Tensor) -> Progress:
        """Returns what ``to_tensor`` gave."""
        efficiency, average, deviation, stopped = fields.tolist()
        return cls(efficiency=efficiency, average=average, deviation=deviation, stopped=bool(stopped))

    def update(self, signal: float, noise: float, rate: float) -> float:
        """Returns the step to take on this batch (0.0 when correction has ended).

        Args:
            signal: mean of the squared float output. noise: mean of the squared error.
        """
        if self.stopped:
            return 0.0
        if noise == 0.0 or signal == 0.0:
            self.stopped = True
            return 0.0
        efficiency = 1.25 * math.log10(signal / noise)
        deviation = abs(efficiency - self.average)
        unchanged = efficiency == self.efficiency
        self.efficiency = efficiency
        self.average = EFFICIENCY_EMA * self.average + (1 - EFFICIENCY_EMA) * efficiency
        self.deviation = EFFICIENCY_EMA * self.deviation + (1 - EFFICIENCY_EMA) * deviation
        settled = (
            unchanged
            or self.average > STOP_ABOVE
            or (self.average != 0 and self.deviation / self.average < STOP_RATIO)
            or (deviation != 0 and abs((deviation - self.deviation) / deviation) < STOP_RATIO)
        )
        if settled:
            self.stopped = True
            return 0.0
        return rate * (0.5 if self.average > HALVE_ABOVE else 1.0)


@dataclass(slots=True)
class Layer:
    """Returns what the correction keeps of one layer: its node, its float parameters and this batch's values."""

    facts: NodeFacts
    axis: int
    node: fx.Node
    weight: Tensor
    bias: Tensor
    inputs: Tensor | None = None
    output: Tensor | None = None
    progress: Progress = field(default_factory=Progress)


class VitisBiasCorrection:
    """Returns the calibration hook: taps every layer's input and output and steps its bias after each batch."""

    def __init__(self, prepared: PreparedModel, layers: Sequence[tuple[NodeFacts, int]], rate: float) -> None:
        self.prepared = prepared
        self.rate = rate
        self.layers = [self._layer(facts, axis) for facts, axis in layers]
        self._taps: dict[str, list[Callable[[Tensor], None]]] = {}
        for layer in self.layers:
            self._tap(_input_node(layer.node).name, layer, "inputs")
            self._tap(_end_node(layer.node).name, layer, "output")

    def _layer(self, facts: NodeFacts, axis: int) -> Layer:
        assert facts.weight is not None and facts.bias is not None  # correctable() chose it
        parameter = self.prepared.graph.parameter
        return Layer(
            facts=facts,
            axis=axis,
            node=self.prepared.graph.node(facts.name),
            weight=parameter(facts.weight.name).detach(),
            bias=parameter(facts.bias.name).detach().clone(),
        )

    def _tap(self, name: str, layer: Layer, attribute: str) -> None:
        self._taps.setdefault(name, []).append(lambda value: setattr(layer, attribute, value))

    @property
    def taps(self) -> Mapping[str, Callable[[Tensor], None]]:
        """Returns node name -> what is done with its value."""

        def all_of(actions: list[Callable[[Tensor], None]]) -> Callable[[Tensor], None]:
            def run_all(value: Tensor) -> None:
                for action in actions:
                    action(value)

            return run_all

        return {name: all_of(actions) for name, actions in self._taps.items()}

    def before(self) -> None:
        """Rounds every bias once; from here on it moves in float, as the tool does."""
        for layer in self.layers:
            quantizer = self._bias_quantizer(layer)
            if quantizer is not None and quantizer.ready:
                self.prepared.change_parameter(self._bias_name(layer), quantizer.apply_qparams(layer.bias))
                quantizer.mode = "float"

    def after_batch(self) -> None:
        """Steps every bias against the mean error of its layer on this batch."""
        for layer in self.layers:
            if layer.inputs is None or layer.output is None:
                continue
            wanted = self._float_output(layer)
            error = layer.output - wanted
            step = layer.progress.update(float(wanted.square().mean()), float(error.square().mean()), self.rate)
            if step:
                axes = [axis for axis in range(error.ndim) if axis != layer.axis % error.ndim]
                bias = self.prepared.graph.parameter(self._bias_name(layer)).detach()
                self.prepared.change_parameter(self._bias_name(layer), bias - step * error.mean(axes))
            layer.inputs = layer.output = None

    def after(self) -> list[Change]:
        """Returns what was corrected."""
        changes = []
        for layer in self.layers:
            shift = self.prepared.graph.parameter(self._bias_name(layer)).detach() - layer.bias
            changes.append(
                Change(
                    by="bias_correction",
                    node=layer.facts.name,
                    text=f"bias of {layer.facts.label} shifted by up to {float(shift.abs().max()):.3g}",
                    data={"bias": self._bias_name(layer), "correction": [-value for value in shift.tolist()]},
                )
            )
        return changes

    def state(self) -> dict[str, Tensor]:
        """Returns every layer's bias as it stands, and its moving averages."""
        flat: dict[str, Tensor] = {}
        for index, layer in enumerate(self.layers):
            flat[f"{index}/bias"] = self.prepared.graph.parameter(self._bias_name(layer)).detach()
            flat[f"{index}/progress"] = layer.progress.to_tensor()
        return flat

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from what ``state`` gave."""
        for index, layer in enumerate(self.layers):
            self.prepared.change_parameter(self._bias_name(layer), state[f"{index}/bias"])
            layer.progress = Progress.from_tensor(state[f"{index}/progress"])

    def _bias_name(self, layer: Layer) -> str:
        assert layer.facts.bias is not None  # correctable() chose it
        return layer.facts.bias.name

    def _bias_quantizer(self, layer: Layer) -> Quantizer | None:
        return self.prepared.quantizers.get(self._bias_name(layer))

    @torch.no_grad()
    def _float_output(self, layer: Layer) -> Tensor:
        """Returns the layer's output for this batch's (quantized) input with float weight and bias."""
        args = list(layer.node.args)
        args[0], args[1], args[2] = layer.inputs, layer.weight, layer.bias  # type: ignore[call-overload]
        result: Tensor = layer.node.target(*args, **layer.node.kwargs)  # type: ignore[operator]
        return result


def _input_node(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)  # the first argument of a layer is its input
    return source


def _end_node(node: fx.Node) -> fx.Node:
    """Returns the layer's quantizer when the layer ends its group, else the layer itself."""
    for user in node.users:
        if user.meta.get("point") is not None and not user.meta.get("edge"):
            return user
    return node
