"""Lockstep: run the float and the quantized network side by side, node by node, over all batches at once.

Correcting layer after layer needs, for each layer, statistics of a network whose earlier layers are corrected
already. Done naively that is one pass over the data per layer; stepping both networks together it is one pass in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from quantwright.data import Batch
from quantwright.errors import DataError
from quantwright.prepare import PreparedModel

Values = list[Any]  # one value per batch
OnLayer = Callable[[fx.Node, Values, Values], None]


@torch.no_grad()
def lockstep(prepared: PreparedModel, batches: Sequence[Batch], watched: set[str], on_layer: OnLayer) -> None:
    """Runs both networks; ``on_layer(node, float_values, quantized_values)`` may change the quantized values in place.

    Args:
        watched: names of the nodes to stop at.
    """
    module = prepared.graph.module
    last_use = last_uses(module)
    floats: dict[fx.Node, Values] = {}
    quantized: dict[fx.Node, Values] = {}
    flat = [prepared.graph.flat_inputs(batch.args, dict(batch.kwargs)) for batch in batches]
    position = 0
    for node in module.graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            floats[node] = quantized[node] = [inputs[position] for inputs in flat]
            position += 1
        elif node.op == "get_attr":
            value = prepared.graph.attribute(str(node.target))
            before = prepared.float_parameters.get(str(node.target), value)  # other algorithms may have changed it
            floats[node], quantized[node] = [before] * len(batches), [value] * len(batches)
        elif node.meta.get("point") is not None:
            source = node.args[0]
            assert isinstance(source, fx.Node)  # a quantizer reads one value
            quantizer = prepared.quantizers[node.meta["point"]]
            floats[node] = floats[source]
            quantized[node] = [quantizer(value) for value in quantized[source]]
        else:
            floats[node] = apply_node(module, node, floats, len(batches))
            quantized[node] = apply_node(module, node, quantized, len(batches))
        if node.name in watched:
            on_layer(node, floats[node], quantized[node])
        for done in last_use.get(node, ()):
            floats.pop(done, None)
            quantized.pop(done, None)


def apply_node(module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Values], count: int) -> Values:
    """Returns what a node gives in each of ``count`` batches."""
    results = []
    for index in range(count):
        args, kwargs = _arguments(node, values, index)
        if node.op == "call_function":
            results.append(node.target(*args, **kwargs))  # type: ignore[operator]
        else:
            results.append(module.get_submodule(str(node.target))(*args, **kwargs))
    return results


def _arguments(node: fx.Node, values: dict[fx.Node, Values], index: int) -> Any:
    """Returns (args, kwargs) of ``node`` with every node replaced by its value in batch ``index``."""

    def value_of(source: fx.Node) -> Any:
        return values[source][index]

    return fx.node.map_arg((node.args, node.kwargs), value_of)


def last_uses(module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Returns node -> the values nobody needs after it."""
    seen: set[fx.Node] = set()
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(module.graph.nodes):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                last.setdefault(node, []).append(source)
    return last


def channel_mean(values: Sequence[Tensor], axis: int) -> Tensor:
    """Returns the mean over all batches and all axes but ``axis``, in float64.

    Shapes:
        values: tensors of equal rank; result: [C].
    """
    total: Tensor | None = None
    count = 0
    for value in values:
        moved = value.movedim(axis, 0).flatten(1)
        part = moved.sum(1, dtype=torch.float64)
        total = part if total is None else total + part
        count += moved.shape[1]
    assert total is not None  # calibration refuses empty data
    return total / count


def first_batches(batches: Iterable[Batch], samples: int) -> list[Batch]:
    """Returns the first batches that hold at least ``samples`` samples; no more are read."""
    chosen: list[Batch] = []
    count = 0
    for batch in batches:
        chosen.append(batch)
        count += batch.size
        if count >= samples:
            break
    if not chosen:
        raise DataError("there is no data to refine on: not one batch", fix="refine on the calibration batches")
    return chosen
