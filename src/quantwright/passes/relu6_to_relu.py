"""Replaces ReLU6 by ReLU: values above 6 are no longer cut off, which changes the network where they occur.

Cross-layer equalization needs it: ReLU lets a scale through, ReLU6 does not.
"""

from __future__ import annotations

import torch

from quantwright.graph import edit, ops
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.passes._activations import made_by_module, replace

PARAMS = {
    "modules_only": {
        "type": "bool",
        "default": False,
        "help": "only nn.ReLU6 modules, as vai_q_pytorch does; else also F.relu6, hardtanh(0, 6) and clamp(0, 6)",
    },
}


def run(graph: Graph, modules_only: bool = False) -> list[Change]:
    """Returns one change per ReLU6 that became a ReLU."""
    found = [node for node in graph.module.graph.nodes if ops.kind_of(node) == "relu6"]
    changes = [
        replace(node, torch.ops.aten.relu.default, node.args[0], kind="relu", by="relu6_to_relu")
        for node in found
        if not modules_only or made_by_module(node, "ReLU6")
    ]
    edit.clean(graph)
    return changes


plugin = run
