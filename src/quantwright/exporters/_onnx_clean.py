"""Same inputs, same bytes: removes what varies from run to run, and everything the file does not need."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes import common

from quantwright import __version__
from quantwright.exporters._onnx_trace import DOMAIN

POINTS_KEY = "quantwright.points"  # model metadata: JSON, point name -> value name


def clean(model: ir.Model, name: str, stored: Mapping[str, ir.Value] | None = None) -> None:
    """Removes unused nodes, initializers and domains, metadata and traces; names varying dimensions; sorts.

    Args:
        stored: parameter -> its integers, which take the parameter's name when its float values are gone.
    """
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    model.producer_name, model.producer_version = "quantwright", __version__
    model.graph.name = name
    _name_dimensions(model.graph)
    for wanted, value in (stored or {}).items():
        if wanted not in model.graph.initializers and value.is_initializer():
            value.name = wanted
    _sort(model)
    common.NameFixPass()(model)


def write_points(model: ir.Model, values: Mapping[str, str]) -> None:
    """Writes which value stands for which point into the model, for ``verify`` and for people."""
    model.metadata_props[POINTS_KEY] = json.dumps(dict(values), sort_keys=True)


def _sort(model: ir.Model) -> None:
    """Puts attributes and initializers in the order of their names."""
    for node in model.graph.all_nodes():
        ordered = sorted(node.attributes.items())
        node.attributes.clear()
        node.attributes.update(ordered)
        node.metadata_props.clear()
    initializers = sorted(model.graph.initializers.items())
    model.graph.initializers.clear()
    for _, value in initializers:
        model.graph.register_initializer(value)


def _name_dimensions(graph: ir.Graph) -> None:
    """Renames the symbols of varying dimensions: ``batch`` for a first one, else ``dim_0``, ``dim_1`` ..."""
    names = _dimension_names(graph)
    for value in _values(graph):
        value.metadata_props.clear()
        value.doc_string = None
        if value.shape is not None and any(not isinstance(size, int) for size in value.shape):
            value.shape = ir.Shape([size if isinstance(size, int) else _renamed(size, names) for size in value.shape])


def _dimension_names(graph: ir.Graph) -> dict[str, str]:
    names: dict[str, str] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape if value.shape is not None else ()):
            symbol = None if isinstance(size, int) else size.value
            if symbol is None or symbol in names:
                continue
            stem = "batch" if axis == 0 else "dim"
            taken = sum(known == stem or known.startswith(f"{stem}_") for known in names.values())
            names[symbol] = stem if stem == "batch" and not taken else f"{stem}_{taken}"
    return names


def _renamed(size: ir.SymbolicDim, names: Mapping[str, str]) -> ir.SymbolicDim:
    """Returns the dimension with known symbols renamed; one with an unknown symbol becomes anonymous."""
    if size.value is None:
        return ir.SymbolicDim(None)
    words = set(re.findall(r"[A-Za-z_]\w*", size.value))
    if not words <= set(names):
        return ir.SymbolicDim(None)
    return ir.SymbolicDim(re.sub(r"[A-Za-z_]\w*", lambda word: names[word.group()], size.value))


def _values(graph: ir.Graph) -> list[ir.Value]:
    found = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        found.extend(node.outputs)
    return found
