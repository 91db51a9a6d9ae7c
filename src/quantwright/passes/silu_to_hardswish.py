"""Replaces SiLU (swish) by Hardswish, its piecewise form that hardware computes; differs by up to 0.14 near |x| = 3.

x * sigmoid(x) becomes x * relu6(x + 3) / 6 (Howard et al. 2019, arXiv 1905.02244, section 5.2).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.passes._activations import made_by_module, replace

PARAMS = {
    "modules_only": {
        "type": "bool",
        "default": False,
        "help": "only nn.SiLU modules, as vai_q_pytorch does; else also F.silu and x * sigmoid(x)",
    },
}


def run(graph: Graph, modules_only: bool = False) -> list[Change]:
    """Returns one change per SiLU that became a Hardswish."""
    changes = []
    for node in graph.module.graph.nodes:
        x = _silu_input(node)
        if x is not None and (not modules_only or made_by_module(node, "SiLU")):
            for gate in node.all_input_nodes:
                if gate is not x:
                    edit.merge_origins(node, gate)
            changes.append(replace(node, torch.ops.aten.hardswish.default, x, kind="hardswish", by="silu_to_hardswish"))
    edit.clean(graph)
    return changes


def _silu_input(node: fx.Node) -> fx.Node | None:
    """Returns x when ``node`` computes x * sigmoid(x): one operator, or the product written out."""
    kind = ops.kind_of(node)
    if kind == "silu":
        return node.args[0] if isinstance(node.args[0], fx.Node) else None
    if kind != "mul" or len(node.args) < 2:
        return None
    first, second = node.args[:2]
    return _gated(first, second) or _gated(second, first)


def _gated(x: Any, gate: Any) -> fx.Node | None:
    """Returns ``x`` when ``gate`` is its sigmoid and nobody else reads it."""
    if not isinstance(x, fx.Node) or not isinstance(gate, fx.Node) or ops.kind_of(gate) != "sigmoid":
        return None
    return x if gate.args[0] is x and len(gate.users) == 1 else None


plugin = run
