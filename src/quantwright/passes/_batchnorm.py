"""Batch norm as arithmetic: x g + beta - mean g with g = gamma / sqrt(var + eps)."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.numerics.roots import sqrt
from quantwright.passes import Change
from quantwright.passes._sharing import separate


def terms(graph: Graph, norm: ops.BatchNormInfo) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (g, beta, mean * g), at least in float32.

    Shapes:
        each: [C].
    """
    gamma, beta = affine(graph, norm)
    g = gamma / sqrt(_float(graph, norm.var) + norm.eps)  # spec vai_q_pytorch 4, step 3
    return g, beta, _float(graph, norm.mean) * g


def affine(graph: Graph, norm: ops.BatchNormInfo) -> tuple[Tensor, Tensor]:
    """Returns (gamma, beta), the deviation (but for its sign) and the mean of the output; (1, 0) where there are none.

    Shapes:
        each: [C].
    """
    like = _float(graph, norm.mean)
    gamma = torch.ones_like(like) if norm.weight is None else _float(graph, norm.weight)
    beta = torch.zeros_like(like) if norm.bias is None else _float(graph, norm.bias)
    return gamma, beta


@torch.no_grad()
def simplify(graph: Graph) -> list[Change]:
    """Returns the changes after rewriting every batch norm to x gamma' + beta' (spec vai_q_pytorch 4, step 3).

    gamma' = g, beta' = beta - mean g, mean 0, variance 1, eps 0.
    """
    infos = [ops.batch_norm_info(node) for node in graph.module.graph.nodes]
    norms = [norm for norm in infos if norm is not None and not _is_simple(graph, norm)]
    _tell_apart(graph, norms)
    done: dict[tuple[str | None, ...], tuple[str, str]] = {}
    for old in norms:
        norm = ops.batch_norm_info(old.node) or old
        names = _names(norm)
        if names not in done:
            done[names] = _simplify_parameters(graph, norm)
        for argument, name in zip(("weight", "bias"), done[names], strict=True):
            edit.set_parameter_of(graph, norm.node, argument, name)
        ops.set_argument(norm.node, "epsilon" if ops.op_name(norm.node) == "cudnn_batch_norm" else "eps", 0.0)
    text = "a batch norm with no convolution before it: simplified to a scale and a shift per channel"
    return [Change(by="fold_batchnorm", node=norm.node.name, text=text) for norm in norms]


def _is_simple(graph: Graph, norm: ops.BatchNormInfo) -> bool:
    mean, var = _float(graph, norm.mean), _float(graph, norm.var)
    return norm.eps == 0 and norm.weight is not None and bool((mean == 0).all()) and bool((var == 1).all())


def _names(norm: ops.BatchNormInfo) -> tuple[str | None, ...]:
    return tuple(ops.parameter_of(node) for node in (norm.weight, norm.bias, norm.mean, norm.var))


def _tell_apart(graph: Graph, norms: list[ops.BatchNormInfo]) -> None:
    """Gives norms that share some, but not all, of their numbers parameters of their own."""
    keys = {norm.node: (*_names(norm), norm.eps) for norm in norms}
    for name in {name: None for norm in norms for name in _names(norm) if name}:
        separate(graph, name, keys)


def _simplify_parameters(graph: Graph, norm: ops.BatchNormInfo) -> tuple[str, str]:
    """Returns the names of gamma' and beta' after writing them, a mean of 0 and a variance of 1."""
    g, beta, shift = terms(graph, norm)
    weight, bias, mean, var = _names(norm)
    graph.set_parameter(str(mean), torch.zeros_like(graph.parameter(str(mean))))
    graph.set_parameter(str(var), torch.ones_like(graph.parameter(str(var))))
    dtype = graph.parameter(str(mean)).dtype
    stem = str(mean).rpartition(".")[0]
    names = ((weight, f"{stem}.weight", g), (bias, f"{stem}.bias", beta - shift))
    new_weight, new_bias = (_write(graph, name, new_name, value.to(dtype)) for name, new_name, value in names)
    return new_weight, new_bias


def _write(graph: Graph, name: str | None, new_name: str, value: Tensor) -> str:
    if name is None:
        return graph.add_parameter(graph.free_name(new_name.lstrip(".")), value)
    graph.set_parameter(name, value)
    return name


def _float(graph: Graph, node: fx.Node) -> Tensor:
    value = graph.parameter(str(ops.parameter_of(node))).detach()
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
