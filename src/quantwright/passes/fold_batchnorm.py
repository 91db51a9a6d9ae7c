"""Folds batch norms into the convolution, transposed convolution or linear layer before them; the function is kept.

W' = W g per output channel and b' = b g + beta - mean g with g = gamma / sqrt(var + eps). Also folds through a concat
whose inputs are all layers that only it reads (spec vai_q_pytorch 4, step 3). Parameters that several layers share are
copied first where the copies become different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from quantwright.config import kinds
from quantwright.errors import UnknownNameError, did_you_mean
from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.passes._batchnorm import affine, simplify, terms
from quantwright.passes._chains import Layer, layer_of
from quantwright.passes._channels import per_output
from quantwright.passes._sharing import separate, unshare

PARAMS = {
    "scope": {
        "type": "str",
        "default": "all",
        "choices": ["all", "vitis", "vitis_keras"],
        "help": "all: every convolution and linear layer; vitis: 2d and 3d convolutions, other batch norms simplified;"
        " vitis_keras: 2d convolutions and linear layers, other batch norms simplified",
    },
}
_WIDE = tuple(kind for kind in (*kinds.CONV, *kinds.CONV_TRANSPOSE) if not kind.endswith("1d"))
SCOPES = {
    "all": (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR),
    "vitis": _WIDE,  # spec vai_q_pytorch 4, step 3
    # spec vai_q_tensorflow2 5.1; what is left becomes a depthwise 1x1 convolution there: a scale and a shift
    "vitis_keras": ("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Returns one batch norm and the layers it folds into: one, or all inputs of the concat it reads."""

    norm: ops.BatchNormInfo
    layers: tuple[Layer, ...]
    value: fx.Node  # what readers of the normalized tensor read

    def key(self, position: int) -> tuple[object, ...]:
        """Returns what must be equal for two uses of one weight to stay one weight after folding."""
        norm = self.norm
        start = sum(layer.outputs for layer in self.layers[:position])
        return (*(ops.parameter_of(n) for n in (norm.weight, norm.bias, norm.mean, norm.var)), norm.eps, start)


def run(graph: Graph, scope: str = "all") -> list[Change]:
    """Returns one change per layer a batch norm was folded into, and per batch norm that was simplified instead."""
    if scope not in SCOPES:
        raise UnknownNameError(f"no scope '{scope}'", allowed=SCOPES, fix=did_you_mean(scope, SCOPES))
    changes: list[Change] = []
    if scope.startswith("vitis"):
        changes += [Change(by="fold_batchnorm", node=node, text=text) for node, text in unshare(graph, SCOPES[scope])]
    concats = scope != "vitis_keras"
    while folds := _find(graph, SCOPES[scope], concats):  # a batch norm behind a folded one is found in the next round
        changes += _fold(graph, folds)
    if scope.startswith("vitis"):
        changes += simplify(graph)
    edit.clean(graph)
    return changes


def _find(graph: Graph, members: Sequence[str], concats: bool) -> list[Fold]:
    """Returns every batch norm whose input comes from layers of the kinds ``members`` that nobody else reads.

    Args:
        concats: also behind a concat of such layers.
    """
    found = []
    for node in graph.module.graph.nodes:
        norm = ops.batch_norm_info(node)
        value = _value(node) if norm is not None else None
        if norm is None or value is None:
            continue
        sources = _sources(norm.x)
        layers = [_foldable(source, members) for source in sources if concats or sources == [norm.x]]
        if layers and all(layer is not None for layer in layers):
            found.append(Fold(norm=norm, layers=tuple(layer for layer in layers if layer is not None), value=value))
    return found


def _value(node: fx.Node) -> fx.Node | None:
    """Returns the node that carries the normalized tensor: the first item where the operator returns several."""
    if ops.op_name(node) == "batch_norm":
        return node
    items = list(node.users)
    return items[0] if len(items) == 1 and ops.source_of(items[0]) is node and items[0].args[1] == 0 else None


def _sources(x: fx.Node) -> list[fx.Node]:
    """Returns the one node a batch norm reads, or all inputs of a concat along channels; [] when others read it too."""
    if len(edit.users_of(x)) != 1:
        return []
    if ops.kind_of(x) != "cat":
        return [x]
    tensors, rank = ops.argument(x, "tensors"), len(ops.shape_of(x))
    along_channels = rank > 1 and int(ops.argument(x, "dim", 0)) % rank == 1
    distinct = len(set(tensors)) == len(tensors) and all(len(edit.users_of(tensor)) == 1 for tensor in tensors)
    return list(tensors) if along_channels and distinct else []


def _foldable(node: fx.Node, members: Sequence[str]) -> Layer | None:
    """Returns the layer ``node`` is when its output channels are what a batch norm normalizes (axis 1)."""
    layer = layer_of(node)
    if layer is None or layer.kind not in members:
        return None
    rank = len(ops.shape_of(node))
    return layer if rank == (2 if layer.kind in kinds.LINEAR else len(ops.shape_of(_weight(node)))) else None


def _weight(node: fx.Node) -> fx.Node:
    info = ops.layer_info(node)
    if info is None:
        raise ValueError(f"{node.name} is no layer")
    return info.weight


@torch.no_grad()
def _fold(graph: Graph, folds: Sequence[Fold]) -> list[Change]:
    """Returns the changes after folding: shared parameters are told apart first, then each is folded once."""
    keys = {layer.node: fold.key(i) for fold in folds for i, layer in enumerate(fold.layers)}
    for name in {name: None for fold in folds for layer in fold.layers for name in (layer.weight, layer.bias) if name}:
        separate(graph, name, keys)
    changes: list[Change] = []
    folded: dict[str, str] = {}  # weight -> bias
    for fold in folds:
        start = 0
        for old in fold.layers:
            layer = layer_of(old.node) or old  # parameters may have been told apart
            part = slice(start, start + layer.outputs)
            if layer.weight not in folded:
                folded[layer.weight] = _fold_into(graph, layer, fold.norm, part)
            elif layer.bias is None:
                edit.set_parameter_of(graph, layer.node, "bias", folded[layer.weight])
            gamma, beta = affine(graph, fold.norm)  # what its outputs are distributed like: see _absorption.py
            layer.node.meta["batchnorm"] = (gamma[part].clone(), beta[part].clone())
            edit.merge_origins(layer.node, fold.norm.node)
            changes.append(_change(layer, fold.norm))
            start = part.stop
        for node in dict.fromkeys((fold.value, fold.norm.node)):
            edit.erase(graph, node, fold.norm.x)
    return changes


def _change(layer: Layer, norm: ops.BatchNormInfo) -> Change:
    return Change(
        by="fold_batchnorm", node=layer.node.name, text=f"{norm.node.name} folded into {layer.weight}",
        data={"batchnorm": norm.node.name},
    )  # fmt: skip


def _fold_into(graph: Graph, layer: Layer, norm: ops.BatchNormInfo, part: slice) -> str:
    """Returns the name of the layer's bias after its weight and bias took the norm in."""
    g, beta, shift = (term[part] for term in terms(graph, norm))
    weight = graph.parameter(layer.weight).detach().clone(memory_format=torch.contiguous_format)
    view = layer.layout.view(weight)
    view.mul_(per_output(g, view))
    graph.set_parameter(layer.weight, weight)
    if layer.bias is None:
        return edit.set_bias(graph, layer.node, (beta - shift).to(weight.dtype))
    bias = graph.parameter(layer.bias).detach()
    graph.set_parameter(layer.bias, (bias * g + beta - shift).to(bias.dtype))
    return layer.bias


plugin = run
