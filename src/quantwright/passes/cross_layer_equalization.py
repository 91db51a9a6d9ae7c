"""Evens out the channel ranges of layers in a row, so that one scale per tensor fits them; the function is kept.

``vitis`` is what vai_q_pytorch does (spec vai_q_pytorch 4.2): once over the convolutions of a chain, biases counted in.
``vitis_keras`` is what vai_q_tensorflow2 does (spec vai_q_tensorflow2 5.1): ten sweeps, convolutions behind ReLUs only.
``dfq`` is the published method (Nagel et al. 2019, arXiv 1906.04721): all layers, iterated until it settles; on request
high biases are then absorbed by the next layer, an approximation. Run ``relu6_to_relu`` and ``fold_batchnorm`` first:
a ReLU6 or a batch norm ends a chain, and absorption needs the statistics that folding leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantwright.config import kinds
from quantwright.errors import ConfigError, Problem, Problems, UnknownNameError, did_you_mean
from quantwright.graph import edit
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.passes._absorption import SIGMAS, absorb, scale_statistics
from quantwright.passes._activations import made_by_module
from quantwright.passes._chains import Layer, Pair, find_pairs
from quantwright.passes._channels import per_input, per_output
from quantwright.passes._equalization import TOLERANCE, dfq_factors, keras_factors, vitis_factors
from quantwright.passes._sharing import unshare

PARAMS = {
    "method": {
        "type": "str",
        "default": "dfq",
        "choices": ["dfq", "vitis", "vitis_keras"],
        "help": "dfq: all layers, iterated until it settles; vitis: as vai_q_pytorch does; vitis_keras: as "
        "vai_q_tensorflow2 does",
    },
    "steps": {"type": "int", "default": 10, "min": 0, "max": 1000000, "help": "vitis_keras: sweeps over all pairs"},
    "balance": {
        "type": "str",
        "default": "max",
        "choices": ["max", "avg"],
        "help": "vitis_keras: the range of a channel is its largest or its average magnitude",
    },
    "threshold": {"type": "float", "default": 0.1, "min": 0, "help": "vitis_keras: smaller channels are left alone"},
    "through_relu6": {
        "type": "bool",
        "default": False,
        "help": "vitis_keras: also through ReLU6 and padding, which changes the network",
    },
    "absorb_bias": {
        "type": "bool",
        "default": False,
        "help": "dfq: move biases that ReLU hardly ever cuts off into the next layer (an approximation)",
    },
    "sigmas": {
        "type": "float",
        "default": 3.0,
        "min": 0,
        "help": "absorb_bias: a channel counts as above mean - sigmas * deviation; larger moves less and errs less",
    },
    "absorb_padded": {
        "type": "bool",
        "default": False,
        "help": "absorb_bias: into zero-padded layers too, which changes values at the border",
    },
}

_NAME = "cross_layer_equalization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """Returns what tells one method from another: which layers form chains, and how their factors are found."""

    members: tuple[str, ...]
    through: tuple[str, ...]
    equalize: Callable[[Graph, list[Pair]], list[tuple[Pair, Tensor, dict[str, Any]]]]


def run(
    graph: Graph,
    method: str = "dfq",
    absorb_bias: bool = False,
    sigmas: float = SIGMAS,
    absorb_padded: bool = False,
    steps: int = 10,
    balance: str = "max",
    threshold: float = 0.1,
    through_relu6: bool = False,
) -> list[Change]:
    """Returns one change per pair of layers that was equalized, and one per absorbed bias.

    Raises:
        ConfigError: a parameter that has no effect with the others.
        UnknownNameError: no such method.
    """
    if method not in CHOICES:
        raise UnknownNameError(f"no equalization method '{method}'", allowed=CHOICES, fix=did_you_mean(method, CHOICES))
    _refuse_without_effect(method, absorb_bias, sigmas, absorb_padded)
    if (steps, balance, threshold, through_relu6) != (10, "max", 0.1, False) and method != "vitis_keras":
        why = f"the method {method} has no steps, balance, threshold or through_relu6"
        raise ConfigError([_without_effect("steps", steps, why, "method: vitis_keras")])
    if method == "vitis_keras":
        changes = [Change(by=_NAME, node=node, text=text) for node, text in unshare(graph, KERAS_MEMBERS)]
        through = ("relu", "relu6", "pad") if through_relu6 else ("relu",)
        found = find_pairs(graph, members=KERAS_MEMBERS, through=through)
        changes += [_scaled(pair, s, {}) for pair, s in _keras(graph, found, steps, balance, threshold)]
        edit.clean(graph)
        return changes
    chosen, changes = METHODS[method], []
    if method == "vitis":
        changes += [Change(by=_NAME, node=node, text=text) for node, text in unshare(graph, chosen.members)]
    pairs = find_pairs(graph, members=chosen.members, through=chosen.through)
    changes += [_scaled(pair, s, data) for pair, s, data in chosen.equalize(graph, pairs)]
    if absorb_bias:
        moved = [(pair, absorb(graph, pair, sigmas, padded=absorb_padded)) for pair in pairs]
        changes += [_absorbed(pair, c) for pair, c in moved if c is not None]
    edit.clean(graph)
    return changes


def _refuse_without_effect(method: str, absorb_bias: bool, sigmas: float, absorb_padded: bool) -> None:
    problems = Problems()
    if method == "vitis" and absorb_bias:
        problems.add(_without_effect("absorb_bias", True, "the method vitis absorbs no biases", "method: dfq"))
    for name, value, changed in (("sigmas", sigmas, sigmas != SIGMAS), ("absorb_padded", True, absorb_padded)):
        if changed and not absorb_bias:
            problems.add(_without_effect(name, value, "nothing is absorbed", "add absorb_bias: true"))
    problems.raise_if_any()


def _without_effect(name: str, value: object, why: str, fix: str) -> Problem:
    path = f"optimize.{_NAME}.{name}"
    text = f"{name} has no effect: {why}"
    return Problem(code="no_effect", message=text, path=path, value=value, fix=f"remove {name}, or {fix}")


def _scaled(pair: Pair, s: Tensor, data: dict[str, Any]) -> Change:
    low, high = float(s.min()), float(s.max())
    return Change(
        by=_NAME,
        node=pair.first.node.name,
        text=f"{pair.first.weight} / s, {pair.second.weight} * s, s from {low:.3g} to {high:.3g}",
        data={"second": pair.second.node.name, "smallest": low, "largest": high, **data},
    )


def _absorbed(pair: Pair, c: Tensor) -> Change:
    return Change(
        by=_NAME,
        node=pair.first.node.name,
        text=f"up to {float(c.max()):.3g} of {pair.first.bias} absorbed by {pair.second.node.name}",
        data={"second": pair.second.node.name, "channels": int((c > 0).sum()), "largest": float(c.max())},
    )


def _vitis(graph: Graph, pairs: list[Pair]) -> list[tuple[Pair, Tensor, dict[str, Any]]]:
    """Returns the factors applied, pair by pair, once (spec vai_q_pytorch 4.2); pairs done before are left."""
    done: list[tuple[Pair, Tensor, dict[str, Any]]] = []
    for pair in pairs:
        if pair.first.node.meta.get("equalized") == "vitis":
            continue
        bias = None if pair.first.bias is None else graph.parameter(pair.first.bias).detach()
        s = vitis_factors(pair.first.weight_view(graph), bias, pair.second.weight_view(graph))
        scale_outputs(graph, pair.first, s)
        scale_inputs(graph, pair.second, s)
        pair.first.node.meta["equalized"] = "vitis"
        done.append((pair, s, {}))
    return done


def _dfq(graph: Graph, pairs: list[Pair]) -> list[tuple[Pair, Tensor, dict[str, Any]]]:
    """Returns the factors applied after the ranges of all pairs settled (arXiv 1906.04721, section 4.1)."""
    layers: dict[str, Layer] = {}
    for pair in pairs:
        layers.setdefault(pair.first.node.name, pair.first)
        layers[pair.second.node.name] = pair.second  # knows how many of its inputs carry one channel
    index = {name: position for position, name in enumerate(layers)}
    ranges_GOI = [layer.weight_view(graph).abs().amax(3).double() for layer in layers.values()]
    found = dfq_factors(ranges_GOI, [(index[p.first.node.name], index[p.second.node.name]) for p in pairs])
    done: list[tuple[Pair, Tensor, dict[str, Any]]] = []
    if found.sweeps == 1 and found.last_step <= TOLERANCE:
        return done  # equalized already
    for pair, s in zip(pairs, found.factors, strict=True):
        scale_outputs(graph, pair.first, s)
        scale_inputs(graph, pair.second, s)
        done.append((pair, s, {"sweeps": found.sweeps, "last_step": found.last_step}))
    return done


def _keras(graph: Graph, pairs: list[Pair], steps: int, balance: str, threshold: float) -> list[tuple[Pair, Tensor]]:
    """Returns the factors of every pair, all steps together (spec vai_q_tensorflow2 5.1).

    In a sweep the tool takes convolutions in a row first, then those with an ``Activation`` between, then a ``ReLU``.
    """
    pairs = sorted(pairs, key=lambda pair: sum(1 + made_by_module(node, "ReLU") for node in pair.between[:1]))
    totals: list[Tensor | None] = [None] * len(pairs)
    for _ in range(steps):
        for index, pair in enumerate(pairs):
            bias = None if pair.first.bias is None else graph.parameter(pair.first.bias).detach()
            weights = pair.first.weight_view(graph), pair.second.weight_view(graph)
            s = keras_factors(weights[0], bias, weights[1], balance=balance, threshold=threshold)
            scale_outputs(graph, pair.first, s)
            scale_inputs(graph, pair.second, s)
            total = totals[index]
            totals[index] = s if total is None else total * s
    return [(pair, total) for pair, total in zip(pairs, totals, strict=True) if total is not None]


@torch.no_grad()
def scale_outputs(graph: Graph, layer: Layer, s: Tensor) -> None:
    """Divides weight, bias and known statistics of each output channel of ``layer`` by its factor.

    Shapes:
        s: [C].
    """
    weight = graph.parameter(layer.weight).detach().clone(memory_format=torch.contiguous_format)
    view = layer.layout.view(weight)
    view.div_(per_output(s, view))
    graph.set_parameter(layer.weight, weight)
    if layer.bias is not None:
        bias = graph.parameter(layer.bias).detach()
        graph.set_parameter(layer.bias, (bias / s).to(bias.dtype))
    scale_statistics(layer.node, s)


@torch.no_grad()
def scale_inputs(graph: Graph, layer: Layer, s: Tensor) -> None:
    """Multiplies what ``layer`` multiplies each of its input channels with by the channel's factor.

    Shapes:
        s: [C].
    """
    weight = graph.parameter(layer.weight).detach().clone(memory_format=torch.contiguous_format)
    view = layer.layout.view(weight)
    view.mul_(per_input(s, view))
    graph.set_parameter(layer.weight, weight)


KERAS_MEMBERS = ("conv2d", "depthwise_conv2d")  # spec vai_q_tensorflow2 5.1
CHOICES = ("dfq", "vitis", "vitis_keras")
METHODS = {
    "dfq": Method(
        members=(*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR),
        through=("relu", "leaky_relu", "prelu", "max_pool", "adaptive_max_pool", "avg_pool", "adaptive_avg_pool",
                 "mean", "pad", *kinds.RESIZE, *kinds.MOVEMENT),
        equalize=_dfq,
    ),
    "vitis": Method(
        members=("conv2d", "conv3d", "depthwise_conv2d", "depthwise_conv3d", "conv_transpose2d", "conv_transpose3d"),
        through=("relu", "max_pool", "avg_pool", "adaptive_avg_pool"),
        equalize=_vitis,
    ),
}  # fmt: skip
plugin = run
