"""The JSON Schema (draft 2020-12) of the native configuration, for editors that complete and check while one types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright import registry
from quantwright.config.known import known
from quantwright.config.spec import (
    EXPONENTS,
    FITS,
    GRANULARITIES,
    ROLES,
    ROUNDINGS,
    SCALES,
    STATISTICS,
    named_formats,
)

_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "str": "string", "list": "array"}
Schema = dict[str, Any]


def json_schema() -> Schema:
    """Returns the schema; the names of plug-ins and their parameters are those of this installation."""
    roles = {role: {"$ref": "#/$defs/spec", "description": _ROLES[role]} for role in (*ROLES, "activation")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Quantwright configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "version": {"const": 1, "description": "version of this language"},
            "target": {"enum": list(registry.names("targets")), "description": "the device or runtime"},
            "default": _object(roles, "specs by role, for every layer"),
            "rules": {
                "type": "array",
                "items": {"$ref": "#/$defs/rule"},
                "description": "in order; each overrides field by field; the last match wins",
            },
            "optimize": _steps("passes", "data-free rewrites, in order; absent: what the target does"),
            "refine": _steps("algorithms", "algorithms that need data, in order"),
            "calibration": _calibration(),
        },
        "$defs": {
            "spec": _spec(),
            "rule": _rule(roles),
            "pattern": _pattern(),
            "observer": _named("observers", "what chooses the range"),
            "fake_quant": _named("fakequant", "what applies the grid"),
            "granularity": _granularity(),
        },
    }


_ROLES = {
    "weight": "weights of layers",
    "bias": "biases of layers",
    "input": "what a layer reads",
    "output": "what a layer produces",
    "activation": "input and output at once",
}


def _object(properties: Mapping[str, Any], description: str = "", **more: Any) -> Schema:
    said = {"description": description} if description else {}
    return {"type": "object", "additionalProperties": False, "properties": dict(properties), **said, **more}


def _spec() -> Schema:
    # exactly int2..int32 and uint2..uint32, as spec.is_integer_format
    formats = r"^u?int([2-9]|[12][0-9]|3[0-2])$"
    names = ["int8", "uint8", "int4", "int16", "int32", *named_formats()]
    return _object(
        {
            "format": {
                "anyOf": [{"enum": names}, {"pattern": formats}],
                "type": "string",
                "description": "int2 ... int32, uint2 ... uint32, a cast, or one with a scale and no zero point",
            },
            "granularity": {"$ref": "#/$defs/granularity"},
            "symmetric": {"type": "boolean", "description": "the grid is centred on zero"},
            "narrow_range": {"type": "boolean", "description": "a signed grid without its lowest value"},
            "scale": {"enum": list(SCALES), "description": "derived: bias only, input scale times weight scale"},
            "rounding": {"enum": list(ROUNDINGS)},
            "observer": {"$ref": "#/$defs/observer"},
            "exponent": {"enum": list(EXPONENTS), "description": "how a power of two is found for a range"},
            "fit": {"enum": list(FITS), "description": "how a range becomes a symmetric scale"},
            "statistic": {"enum": list(STATISTICS), "description": "over calibration batches"},
            "ema_decay": {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "statistic ema only"},
            "min_scale": {"type": "number", "minimum": 0, "description": "the smallest scale the hardware can hold"},
            "dynamic": {"type": "boolean", "description": "QParams of every value as it passes"},
            "fake_quant": {"$ref": "#/$defs/fake_quant"},
        },
        minProperties=1,
    )


def _granularity() -> Schema:
    detail = _object(
        {
            "kind": {"enum": list(GRANULARITIES)},
            "axis": {"type": "integer"},
            "group_size": {"type": "integer", "minimum": 1},
        },
        required=["kind"],
    )
    plain = {"enum": [kind for kind in GRANULARITIES if kind != "per_group"]}
    return {"anyOf": [plain, detail], "description": "which elements share a scale"}


def _named(kind: str, description: str) -> Schema:
    """Returns the schema of a plug-in's name, alone or with its parameters; one that is to come may have any."""
    choices: list[Schema] = [{"enum": [*registry.names(kind), *known(kind)]}]
    for name in registry.names(kind):
        choices.append(_object({"name": {"const": name}, **_params(kind, name)}, required=["name"]))
    if known(kind):
        later = {"name": {"enum": list(known(kind))}}
        choices.append({"type": "object", "properties": later, "required": ["name"]})
    return {"anyOf": choices, "description": description}


def _params(kind: str, name: str) -> Schema:
    return {key: _param(declared) for key, declared in registry.parameters(kind, name).items()}


def _param(declared: Mapping[str, Any]) -> Schema:
    schema: Schema = {"type": _TYPES[declared.get("type", "str")]}
    for ours, theirs in (("min", "minimum"), ("max", "maximum"), ("choices", "enum"), ("default", "default")):
        if ours in declared:
            schema[theirs] = declared[ours]
    if "help" in declared:
        schema["description"] = declared["help"]
    return schema


def _steps(kind: str, description: str) -> Schema:
    entries = {entry.name: entry.summary for entry in registry.describe(kind)}
    choices: list[Schema] = [{"const": name, "description": summary} for name, summary in entries.items()]
    for name in entries:
        params = _object(_params(kind, name))
        short = {name: {"anyOf": [params, {"type": "null"}]}}
        choices.append(_object(short, required=[name]))
        choices.append(_object({"name": {"const": name}, "params": params}, required=["name"]))
    for name, summary in known(kind).items():
        choices.append({"const": name, "description": f"not available yet: {summary}"})
        choices.append(_object({name: {"type": ["object", "null"]}}, required=[name]))
        choices.append(_object({"name": {"const": name}, "params": {"type": "object"}}, required=["name"]))
    return {"type": "array", "items": {"anyOf": choices} if choices else False, "description": description}


def _words() -> dict[str, Schema]:
    return {
        "type": {"type": "string", "minLength": 1, "description": "module type: torch.nn.Conv2d, Conv2d or a glob"},
        "name": {"type": "string", "minLength": 1, "description": "module path or node name; a glob, or re:..."},
        "function": {"type": "string", "minLength": 1, "description": "torch function, aten name or kind"},
    }


def _pattern() -> Schema:
    inner = {"type": "array", "items": {"$ref": "#/$defs/pattern"}, "description": "what it reads, in order"}
    params = {"type": "object", "description": "arguments of the operation: kernel_size: 3"}
    return _object({**_words(), "params": params, "inputs": inner}, "what an operation must be")


def _rule(roles: Mapping[str, Any]) -> Schema:
    place = {
        "type": ["string", "integer"],
        "description": "a place in the pattern: '' is the head, '0' its first input",
    }
    match = _object(
        {**_words(), "pattern": {"$ref": "#/$defs/pattern"}, "at": place},
        minProperties=1,
    )
    properties = {
        "match": match,
        "exclude": {"type": "boolean", "description": "leaves what matches float"},
        "include": {"type": "boolean", "description": "quantizes what matches although the target leaves it float"},
        "share": {**place, "description": "the place in the pattern whose output grid is used"},
        "if_unmatched": {"enum": ["error", "warn", "ignore"]},
        **roles,
    }
    return _object(properties, required=["match"])


def _calibration() -> Schema:
    return _object(
        {
            "inputs": {"enum": ["float", "quantized"]},
            "batch_qparams": {"enum": ["running", "batch"]},
            "modal_ties": {"enum": ["larger_scale", "smaller_scale", "first"]},
        },
        "how calibration feeds the network",
    )
