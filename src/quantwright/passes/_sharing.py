"""Shared parameters: a pass that changes a parameter for one reader gives the other readers a copy of their own."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

from torch import fx

from quantwright.graph import edit
from quantwright.graph.graph import Graph
from quantwright.passes._chains import layer_of, parameter_readers


def separate(graph: Graph, name: str, keys: Mapping[fx.Node, Hashable]) -> list[str]:
    """Returns the names of the copies it made of the parameter ``name``: one for each further key of its readers.

    Readers with equal keys keep sharing; readers without a key, if any, keep the original.
    """
    groups: dict[Hashable, list[fx.Node]] = {}
    for reader in parameter_readers(graph, name):
        groups.setdefault(keys.get(reader), []).append(reader)
    original = None if None in groups else next(iter(groups), None)
    made = []
    for key, readers in groups.items():
        if key != original:
            made.append(graph.add_parameter(graph.free_name(name), graph.parameter(name)))
            for reader in readers:
                _point_to(graph, reader, name, made[-1])
    return made


def unshare(graph: Graph, members: Collection[str]) -> list[tuple[str, str]]:
    """Returns (node, what happened) after giving each layer of the kinds ``members`` weights of its own."""
    layers = [layer for node in graph.module.graph.nodes if (layer := layer_of(node)) and layer.kind in members]
    keys = {layer.node: layer.node.name for layer in layers}
    happened = []
    for name in {name: None for layer in layers for name in (layer.weight, layer.bias) if name}:
        for copy in separate(graph, name, keys):
            happened.append((parameter_readers(graph, copy)[0].name, f"{name} is shared: copied to {copy}"))
    return happened


def _point_to(graph: Graph, reader: fx.Node, old: str, new: str) -> None:
    """Makes ``reader`` read the parameter ``new`` wherever it read ``old``."""
    source = edit.read(graph, new, reader)
    for node in graph.readers(old):
        reader.replace_input_with(node, source)
