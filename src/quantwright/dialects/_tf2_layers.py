"""Reads ``layer_quantize_config`` of vai_q_tensorflow2 in both schemas: the shipped one and the document's (spec 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantwright.config.document import JsonPath
from quantwright.config.reader import shown
from quantwright.config.spec import Role
from quantwright.dialects._tf2_names import BIAS_NAMES, CLASSES, WEIGHT_NAMES, class_name
from quantwright.dialects._tf2_params import Quantizer, Tf2Reader, read_quantizer
from quantwright.errors import did_you_mean

#: what the shipped schema calls the two lists of a target type -> the target type
PAIRS = {
    "input": ("quantizable_inputs", "input_quantizers"),
    "weight": ("quantizable_weights", "weight_quantizers"),
    "bias": ("quantizable_biases", "bias_quantizers"),
    "activation": ("quantizable_activations", "activation_quantizers"),
    "output": ("quantizable_outputs", "output_quantizers"),
}
FLAT = ("layer_type", *(key for pair in PAIRS.values() for key in pair))
NODE = ("layer_type", "layer_name", "layer_params", "layer_inputs", "quant_config")
ENTRY = ("pattern_name", *NODE)
TARGET = ("target_name", "target_type", "shared_quantizer", "quantizer_config")
TARGET_TYPES = tuple(PAIRS)
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PLAIN_NAME = re.compile(r"[\w/-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Returns one thing of a layer that a quantizer is put on.

    Attributes:
        kind: input, weight, bias, activation or output: whose keys of ``user_quantize_config`` change it.
        role: what it is in a plan.
        quantizer: None when it shares the one called ``shared``.
    """

    kind: str
    role: Role
    name: str
    quantizer: Quantizer | None
    shared: str = ""
    path: JsonPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Returns an entry of the shipped schema: all quantizers of one layer class."""

    layer: str
    targets: tuple[Target, ...]
    path: JsonPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Returns one layer of a pattern in the document's schema.

    Attributes:
        types: its classes; none of them is any layer.
        name: a regular expression or a plain name; "" is any.
        inputs: None when it does not matter what it reads.
        targets: None when the entry leaves this layer as it is.
        reference: the pattern that stands here.
    """

    path: JsonPath
    types: tuple[str, ...] = ()
    name: str = ""
    params: Mapping[str, Any]
    inputs: tuple[Node, ...] | None = None
    targets: tuple[Target, ...] | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternEntry:
    """Returns an entry of the document's schema; ``name`` "" cannot be referred to."""

    name: str
    root: Node


def role_of(kind: str, name: str) -> Role:
    """Returns the role of a target: a ``beta`` among the weights is what is added, so a bias here."""
    if kind in ("activation", "output"):
        return "output"
    if kind == "input":
        return "input"
    return "bias" if name in BIAS_NAMES or (kind == "bias" and name not in WEIGHT_NAMES) else "weight"


def read_entries(reader: Tf2Reader, value: Any, path: JsonPath) -> tuple[list[Entry], list[PatternEntry]]:
    """Returns the entries of both schemas, each in order."""
    flat: list[Entry] = []
    patterns: list[PatternEntry] = []
    for index, item in enumerate(reader.items(value, path, f"'{path[-1]}'")):
        place = (*path, index)
        keys = item if isinstance(item, dict) else {}
        if any(key in keys for key in ENTRY if key != "layer_type") or "pattern" in keys:
            name = _text(reader, keys, place, "pattern_name")
            node = _node(reader, {key: part for key, part in keys.items() if key != "pattern_name"}, place)
            if node is not None:
                patterns.append(PatternEntry(name=name, root=node))
        else:
            entry = _flat(reader, item, place)
            if entry is not None:
                flat.append(entry)
    return flat, patterns


# -- the shipped schema -------------------------------------------------------------------------------------------
def _flat(reader: Tf2Reader, item: Any, path: JsonPath) -> Entry | None:
    known = reader.mapping(item, path, FLAT, "a layer entry")
    if not isinstance(item, dict):
        return None
    targets = [target for kind in PAIRS for target in _pair(reader, known, path, kind)]
    types = _types(reader, known.get("layer_type"), (*path, "layer_type"))
    if not types:
        if "layer_type" not in known or known["layer_type"] == "":
            fix = 'add "layer_type": "tensorflow.keras.layers.Conv2D"'
            reader.add("missing_key", path, "the layer entry has no layer_type", fix=fix)
        return None
    if len(types) > 1:
        message = "the entry names several types, which only the document's schema can"
        reader.add("tf2_layer_type", (*path, "layer_type"), message, value=known["layer_type"],
                   fix="write one entry for each type, or use quant_config")  # fmt: skip
        return None
    return Entry(layer=types[0], targets=tuple(targets), path=path)


def _pair(reader: Tf2Reader, known: Mapping[str, Any], path: JsonPath, kind: str) -> list[Target]:
    """Returns the targets of one pair of lists; their lengths must agree."""
    names_key, quantizers_key = PAIRS[kind]
    if known.get(names_key) is None and known.get(quantizers_key) is None:
        return []
    names = reader.items(known.get(names_key, []), (*path, names_key), f"'{names_key}'")
    quantizers = reader.items(known.get(quantizers_key, []), (*path, quantizers_key), f"'{quantizers_key}'")
    if len(names) != len(quantizers):
        message = f"'{names_key}' has {len(names)} entries and '{quantizers_key}' {len(quantizers)}"
        at = names_key if names_key in known else quantizers_key
        reader.add("tf2_length", (*path, at), message, fix="give one quantizer for each")
    found = []
    for index, (name, quantizer) in enumerate(zip(names, quantizers, strict=False)):
        place = (*path, quantizers_key, index)
        read = read_quantizer(reader, quantizer, place)
        text = _target_name(reader, name, (*path, names_key, index))
        if read is not None and text is not None:
            found.append(Target(kind=kind, role=role_of(kind, text), name=text, quantizer=read, path=place))
    return found


def _target_name(reader: Tf2Reader, value: Any, path: JsonPath) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return reader.text(value, path)


def _types(reader: Tf2Reader, value: Any, path: JsonPath) -> tuple[str, ...]:
    """Returns the classes that ``a|b`` names; () for any, or after a problem was added."""
    if value is None or value == "":
        return ()
    if not isinstance(value, str):
        reader.add("type", path, f"'layer_type' is {shown(value)}, not text", value=value, fix="write a class name")
        return ()
    found = []
    for part in value.split("|"):
        if not _DOTTED.fullmatch(part.strip()):
            message = f"{shown(part)} is no layer type"
            fix = did_you_mean(part, CLASSES) or "write a class such as Conv2D or tensorflow.keras.layers.Conv2D"
            reader.add("tf2_layer_type", path, message, value=value, fix=fix)
            continue
        name = class_name(part)
        near = did_you_mean(name, CLASSES) if name not in CLASSES and "." not in name else None
        if near:
            reader.note("near", path, f"'{name}' is no Keras layer and is taken for a class of your own; {near}")
        found.append(name)
    return tuple(dict.fromkeys(found))


# -- the document's schema ----------------------------------------------------------------------------------------
def _node(reader: Tf2Reader, item: Any, path: JsonPath) -> Node | None:
    if isinstance(item, dict) and "pattern" in item:
        known = reader.mapping(item, path, ("pattern",), "a reference to a pattern")
        name = reader.text(known["pattern"], (*path, "pattern"))
        return Node(path=path, reference=name, params={}) if name else None
    known = reader.mapping(item, path, NODE, "a layer of a pattern")
    if not isinstance(item, dict):
        return None
    params = known.get("layer_params") or {}
    if not isinstance(params, dict):
        reader.mapping(params, (*path, "layer_params"), (), "'layer_params'")
        params = {}
    inputs: tuple[Node, ...] | None = None
    if known.get("layer_inputs"):  # 3.2: an empty list matches any inputs
        place = (*path, "layer_inputs")
        items = reader.items(known["layer_inputs"], place, "'layer_inputs'")
        read = [_node(reader, part, (*place, index)) for index, part in enumerate(items)]
        inputs = tuple(node for node in read if node is not None) or None
    targets = None
    if known.get("quant_config") is not None:
        place = (*path, "quant_config")
        items = reader.items(known["quant_config"], place, "'quant_config'")
        found = [_target(reader, part, (*place, index)) for index, part in enumerate(items)]
        targets = tuple(target for target in found if target is not None)
    return Node(
        path=path,
        types=_types(reader, known.get("layer_type"), (*path, "layer_type")),
        name=_layer_name(reader, known, path),
        params={key: value for key, value in params.items() if _is_param(reader, key, value, path)},
        inputs=inputs,
        targets=targets,
    )


def _text(reader: Tf2Reader, known: Mapping[str, Any], path: JsonPath, key: str) -> str:
    value = known.get(key)
    if value is None or value == "":
        return ""
    return reader.text(value, (*path, key)) or ""


def _layer_name(reader: Tf2Reader, known: Mapping[str, Any], path: JsonPath) -> str:
    """Returns a plain name as it is and a regular expression with ``re:`` before it."""
    name = _text(reader, known, path, "layer_name")
    if not name or _PLAIN_NAME.fullmatch(name):
        return name
    try:
        re.compile(name)
    except (re.error, RecursionError, OverflowError) as error:
        message = f"{shown(name)} is no regular expression: {error}"
        reader.add("tf2_layer_name", (*path, "layer_name"), message, value=name, fix="correct the expression")
        return ""
    return f"re:{name}"


def _is_param(reader: Tf2Reader, key: str, value: Any, path: JsonPath) -> bool:
    items = value if isinstance(value, list) else [value]
    if all(item is None or isinstance(item, (bool, int, float, str)) for item in items):
        return True
    message = f"{shown(value)} is nothing an argument can be compared with"
    reader.add("type", (*path, "layer_params", key), message, value=value, fix="write numbers, text or a list of them")
    return False


def _target(reader: Tf2Reader, item: Any, path: JsonPath) -> Target | None:
    known = reader.mapping(item, path, TARGET, "a quant_config")
    if not isinstance(item, dict):
        return None
    if not known.get("target_type"):
        fix = 'add "target_type": "weight"'
        reader.add("missing_key", path, "the target has no target_type", allowed=TARGET_TYPES, fix=fix)
        return None
    kind = reader.word(known["target_type"], (*path, "target_type"), TARGET_TYPES, "target type", code="tf2_target")
    name = "" if known.get("target_name") in (None, "") else _target_name(
        reader, known["target_name"], (*path, "target_name"))  # fmt: skip
    shared = _text(reader, known, path, "shared_quantizer")
    config = known.get("quantizer_config")
    if bool(shared) == bool(config):
        what = "both a quantizer_config and a shared_quantizer" if shared else "neither quantizer_config nor shared"
        reader.add("tf2_shared", path, f"the target has {what}", fix="give one of quantizer_config, shared_quantizer")
        return None
    quantizer = read_quantizer(reader, config, (*path, "quantizer_config")) if config else None
    if kind is None or name is None or (config and quantizer is None):
        return None
    role = role_of(kind, name or ("bias" if kind == "bias" else ""))
    return Target(kind=kind, role=role, name=name, quantizer=quantizer, shared=shared, path=path)
