"""The layers of a Quark document: types, names, excludes, key/value cache and softmax as rules, weakest first (1.4).

The tool takes one entry for a layer: excluded, else its name (exactly, then the first pattern), else its type, else the
global one. Here later rules win, field by field, so the order is: types, patterns, exact names, cache, excludes; and in
each of them the last entry of the document comes first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Match, RoleSpecs, Rule, Source
from quantwright.config.document import JsonPath, path_text
from quantwright.config.reader import shown
from quantwright.config.spec import QuantSpec, Role
from quantwright.dialects._quark_names import DEVICES, LAYER, LAYER_TYPES, ON_DEMAND, ROLES
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.dialects._quark_tensor import Specs, tensor_spec
from quantwright.errors import did_you_mean

_GLOB = re.compile(r"[*?\[]")
_HOMES = ("torch.nn.", "nn.", "torch.nn.modules.")
FLOAT = QuantSpec(format="float32")
MODULE = "module:"
EMBEDDINGS = "|".join(f"torch.nn.{name}" for name in ON_DEMAND)


def read_layer(
    reader: QuarkReader, value: Any, path: JsonPath, *, whole: bool, inherit: bool, derived: bool
) -> tuple[dict[Role, QuantSpec], dict[str, Source]]:
    """Returns the specs of a QLayerConfig by role, and the Source of every field (``weight.format``).

    Args:
        whole: it is the global one: a null tensor is left float, and open fields are filled in.
        inherit: in other entries, a null tensor takes what the layer has without this entry.
        derived: see ``tensor_spec``.
    """
    known = reader.mapping(value, path, LAYER, f"'{path[-1]}'")
    specs: dict[Role, QuantSpec] = {}
    sources: dict[str, Source] = {}
    if known.get("target_device") is not None:
        device = reader.word(
            known["target_device"], (*path, "target_device"), DEVICES, "target device", code="quark_word"
        )
        if device is not None:
            reader.drop((*path, "target_device"), f"target_device {device}", "the plan is that of the config's target")
    for key, role in ROLES.items():
        place = (*path, key)
        made = tensor_spec(reader, known.get(key), place, role, whole=whole, derived=derived)  # type: ignore[arg-type]
        if made is None and known.get(key) is None and (whole or not inherit):
            text = "a tensor without a spec is not quantized"
            made = (FLOAT, {"format": reader.said(place) if key in known else reader.own(path, text)})
        if made is not None:
            _add(specs, sources, role, made)  # type: ignore[arg-type]
    if not specs and isinstance(value, dict):
        reader.note("empty", path, "the entry sets nothing: null takes what the layer has without it")
    return specs, sources


def _add(specs: dict[Role, QuantSpec], sources: dict[str, Source], role: Role, made: Specs) -> None:
    specs[role] = made[0]
    sources.update({f"{role}.{name}": place for name, place in made[1].items()})


def type_rules(reader: QuarkReader, value: Any, path: JsonPath, **how: Any) -> list[Rule]:
    """Returns a rule for every entry of ``layer_type_quant_config``, weakest first: the first that fits wins (1.4)."""
    rules = []
    for key, item in reversed(list(_entries(reader, value, path).items())):
        place = (*path, key)
        name = _type(reader, key, place)
        specs, sources = read_layer(reader, item, place, **how)
        if name is not None and specs:
            match = Match(type=f"torch.nn.{name}")
            rules.append(_rule(reader, match, specs, sources, place, include=name in ON_DEMAND))
    return rules


def _type(reader: QuarkReader, key: str, path: JsonPath) -> str | None:
    """Returns the class name of a type entry that the tool can quantize (1.5)."""
    short = key.strip().rpartition(".")[2]
    home = key.strip()[: -len(short)] if short else ""
    if short in LAYER_TYPES and (not home or home in _HOMES or home.startswith("torch.nn.modules.")):
        return short
    message = f"{shown(key)} is not a layer type that the tool quantizes: the entry would change nothing"
    fix = did_you_mean(short, LAYER_TYPES) or "name the layers in layer_quant_config, or remove the entry"
    reader.add("quark_layer_type", path, message, value=key, allowed=LAYER_TYPES, fix=fix)
    return None


def name_rules(reader: QuarkReader, value: Any, path: JsonPath, **how: Any) -> list[Rule]:
    """Returns a rule for every entry of ``layer_quant_config``, weakest first: exact names win over patterns (1.4)."""
    found = []
    for key, item in reversed(list(_entries(reader, value, path).items())):
        place = (*path, key)
        specs, sources = read_layer(reader, item, place, **how)
        if key.strip() and specs:
            rule = _rule(reader, Match(name=module_name(key)), specs, sources, place)
            found += [*_embeddings(rule), rule]
        elif not key.strip():
            reader.add(
                "quark_name", place, "an empty name matches no layer", value=key, fix="write a module path or a pattern"
            )
    return sorted(found, key=lambda rule: not _GLOB.search(rule.match.name or ""))


def _embeddings(rule: Rule) -> list[Rule]:
    """Returns the same rule for embeddings, which an entry for a name quantizes on demand (1.4)."""
    match = Match(name=rule.match.name, type=EMBEDDINGS)
    update = {"match": match, "include": True, "if_unmatched": "ignore"}
    return [rule.model_copy(update=update)] if rule.weight is not None and rule.weight != FLOAT else []


def cache_rules(reader: QuarkReader, value: Any, path: JsonPath, least: float, **how: Any) -> list[Rule]:
    """Returns the rules of ``kv_cache_quant_config``: what the projections of keys and values give (1.4)."""
    rules = [rule for rule in name_rules(reader, value, path, **how) if not rule.include]
    if least <= 0:
        return rules
    changed = []
    for rule in rules:
        if rule.output is not None and rule.output.is_integer:
            output = rule.output.model_copy(update={"min_scale": max(least, rule.output.min_scale or 0.0)})
            rule = rule.model_copy(update={"output": output})
        changed.append(rule)
    return changed


def exclude_rules(reader: QuarkReader, value: Any, path: JsonPath) -> list[Rule]:
    """Returns a rule for every pattern of ``exclude``; one that matches nothing is a warning, as it is a zero there."""
    rules = []
    for index, item in enumerate(reader.items(value, path, "'exclude'")):
        text = reader.text(item, (*path, index))
        if text is not None:
            match = Match(name=module_name(text))
            source = reader.source((*path, index), f"exclude '{text}'")
            rules.append(Rule(match=match, exclude=True, if_unmatched="warn", source=source))
    return rules


def softmax_rule(reader: QuarkReader, value: Any, path: JsonPath) -> list[Rule]:
    """Returns the rule of ``softmax_quant_spec``: what every softmax gives (1.4)."""
    made = tensor_spec(reader, value, path, "output", whole=True)
    if made is None:
        return []
    reader.note("softmax", path, "a softmax inside a fused attention is not seen; use attn_implementation='eager'")
    source = reader.source(path, "softmax_quant_spec")
    sources = {f"output.{name}": place for name, place in made[1].items()}
    match = Match(function="softmax")
    own = {"input.format": source}
    return [
        Rule(match=match, include=True, if_unmatched="warn", source=source, field_sources={**sources, **own},
             output=made[0], input=FLOAT)
    ]  # fmt: skip


def module_name(key: str) -> str:
    """Returns a pattern of the tool as one of ours: it is about modules alone, not what is inside or nodes (1.4).

    A name without wildcards is written as it is, which every other dialect can say too; that of a container then covers
    what is inside, where the tool does nothing.
    """
    plain = key.strip().replace("|", "?")  # "|" separates alternatives here
    return MODULE + plain if _GLOB.search(plain) or ":" in plain else plain


def quark_names(name: str, inside: bool) -> list[str]:
    """Returns a name of ours as patterns of the tool.

    Args:
        inside: a module path covers what is inside too, which takes a second pattern.
    """
    if name.startswith(MODULE):
        return [name.removeprefix(MODULE)]
    return [name, f"{name}.*"] if inside and not name.endswith("*") else [name]


def _entries(reader: QuarkReader, value: Any, path: JsonPath) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    reader.add("type", path, f"'{path[-1]}' is {shown(value)}, not a mapping", value=value, fix="write {} for none")
    return {}


def _rule(
    reader: QuarkReader, match: Match, specs: Mapping[Role, QuantSpec], sources: Mapping[str, Source], path: JsonPath,
    *, include: bool = False,
) -> Rule:  # fmt: skip
    source = reader.source(path, path_text(path))
    roles = RoleSpecs(**{str(role): spec for role, spec in specs.items()})
    return Rule(
        match=match, include=include, if_unmatched="warn", source=source, field_sources=dict(sources),
        weight=roles.weight, bias=roles.bias, input=roles.input, output=roles.output,
    )  # fmt: skip
