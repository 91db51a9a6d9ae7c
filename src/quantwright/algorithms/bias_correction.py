"""Shifts biases so that the mean of every layer's output is what it was in float.

``method: empirical`` (Nagel et al. 2019, arXiv 1906.04721, section 4.2 "empirical bias correction"): layer after layer,
the difference of the channel means of float and quantized output, each layer seeing the corrected layers before it.
``method: vitis``: what vai_q_pytorch does while it calibrates (spec vai_q_pytorch 4.7): on every batch a small step
against the local error of the layer, until the noise stops shrinking.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, fx

from quantwright.algorithms import Algorithm
from quantwright.algorithms._lockstep import channel_mean, first_batches, lockstep
from quantwright.algorithms._vitis_bias import VitisBiasCorrection
from quantwright.calibrate import BatchHook
from quantwright.config.kinds import CONV, CONV_TRANSPOSE, LINEAR
from quantwright.data import Batch
from quantwright.passes import Change
from quantwright.plan.facts import NodeFacts
from quantwright.prepare import PreparedModel

PARAMS = {
    "method": {"type": "str", "default": "empirical", "choices": ["empirical", "vitis"], "help": "which correction"},
    "samples": {"type": "int", "default": 256, "min": 1, "max": 1000000, "help": "empirical: samples held in memory"},
    "rate": {"type": "float", "default": 0.05, "min": 0.0, "max": 1.0, "help": "vitis: step size"},
}
KINDS = (*CONV, *CONV_TRANSPOSE, *LINEAR)


def run(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    method: str = "empirical",
    samples: int = 256,
    rate: float = 0.05,
) -> list[Change]:
    """Returns the corrections made on a calibrated model; the ``vitis`` method did its work during calibration."""
    del rate
    if method == "vitis":
        return []
    layers = {facts.name: facts for facts in correctable(prepared)}
    changes: list[Change] = []

    def on_layer(node: fx.Node, floats: list[Any], quantized: list[Any]) -> None:
        changes.append(_correct(prepared, layers[node.name], floats, quantized))

    lockstep(prepared, first_batches(batches, samples), set(layers), on_layer)
    return changes


def correctable(prepared: PreparedModel) -> list[NodeFacts]:
    """Returns the layers that have a bias and a quantized weight."""
    return [
        facts
        for facts in prepared.graph.facts().nodes
        if facts.kind in KINDS and facts.weight and facts.bias and facts.weight.name in prepared.quantizers
    ]


def channel_axis(facts: NodeFacts) -> int:
    """Returns the channel axis of a layer's output: the last one for linear, else 1."""
    return -1 if facts.kind in LINEAR else 1


def _correct(prepared: PreparedModel, facts: NodeFacts, floats: list[Tensor], quantized: list[Tensor]) -> Change:
    """Returns the correction of one layer; also moves the quantized outputs to where the new bias puts them."""
    assert facts.bias is not None  # correctable() chose it
    axis = channel_axis(facts)
    error_C = channel_mean(quantized, axis) - channel_mean(floats, axis)
    name = facts.bias.name
    old_C = prepared.graph.parameter(name).detach()
    quantizer = prepared.quantizers.get(name)
    before_C = old_C if quantizer is None else quantizer(old_C)
    new_C = (before_C.double() - error_C).to(old_C.dtype)  # the error holds the rounding of the old bias already
    after_C = new_C if quantizer is None else quantizer(new_C)
    prepared.change_parameter(name, new_C)
    shape = [1] * quantized[0].ndim
    shape[axis] = -1
    for index, value in enumerate(quantized):
        quantized[index] = value + (after_C - before_C).reshape(shape)
    return Change(
        by="bias_correction",
        node=facts.name,
        text=f"bias of {facts.label} shifted by up to {float(error_C.abs().max()):.3g}",
        data={"bias": name, "mean_abs_shift": float(error_C.abs().mean())},
    )


def during_calibration(
    prepared: PreparedModel, *, method: str = "empirical", samples: int = 256, rate: float = 0.05
) -> BatchHook | None:
    """Returns the hook of the ``vitis`` method; the empirical one needs none."""
    del samples
    if method != "vitis":
        return None
    return VitisBiasCorrection(prepared, [(f, channel_axis(f)) for f in correctable(prepared)], rate)


plugin = Algorithm(run=run, during_calibration=during_calibration)
