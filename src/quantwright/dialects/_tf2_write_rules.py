"""Layer entries for the rules of a config: the schema vai_q_tensorflow2 reads, and that of its document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.config import Pattern, QuantConfig, Rule, Unmapped
from quantwright.config.spec import ROLES, QuantSpec, Role
from quantwright.dialects._tf2_compare import Specs
from quantwright.dialects._tf2_layers import PAIRS, role_of
from quantwright.dialects._tf2_names import CLASSES, INTEGERS
from quantwright.dialects._tf2_spell import classes_of, node_of, quantizer, types_of
from quantwright.dialects._tf2_strategies import LAYERS

_SCHEMA = "no version of the tool reads the patterns of its document"


@dataclass(slots=True)
class Written:
    """Returns what rules become.

    Attributes:
        entries: of ``layer_quantize_config``.
        owners: number of an entry -> the rule it is for.
        keys: ``ignore_layers`` and ``layer_config``.
        losses: rules that have no entry, or one the tool itself does not read.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    owners: dict[int, int] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    losses: list[Unmapped] = field(default_factory=list)


def identity(rule: Rule) -> tuple[Any, ...]:
    """Returns what makes two rules the same, wherever they came from."""
    return rule.match, rule.exclude, rule.share, *(rule.get(role) for role in ROLES)


def write_rules(config: QuantConfig, specs: Specs, known: Iterable[Any], strategy: str, spread: bool) -> Written:
    """Returns the entries of all rules that ``known`` (rules the strategy has anyway) does not hold.

    Args:
        spread: also write an entry with the default specs for every class of the strategy, so that no handy keys are
            needed, which would change the other entries too.
    """
    made, known = Written(), list(known)
    deep: list[tuple[int, dict[str, Any]]] = []
    flat: list[tuple[int, dict[str, Any]]] = []
    for index, rule in enumerate(config.rules):
        if identity(rule) in known or _by_key(made, rule, strategy):
            continue
        classes = _classes(rule)
        if classes:
            flat += [(index, _flat(rule, layer, specs, strategy)) for layer in classes]
            continue
        entry = _deep(rule, specs)
        if entry is None:
            effect = "the layers get the settings of their class"
            made.losses.append(Unmapped(path=f"rules[{index}]", message=f"{rule.match} cannot be said", effect=effect))
            continue
        deep.append((index, entry))
        effect = "Quantwright reads the entry; the tool stops at its keys"
        made.losses.append(Unmapped(path=f"rules[{index}].match", message=_SCHEMA, effect=effect))
    if spread:
        taken = {entry["layer_type"].rpartition(".")[2] for _, entry in flat}
        rest = Rule(match={"function": "any"})  # type: ignore[arg-type]  # a rule that sets nothing
        flat += [(-1, _flat(rest, name, specs, strategy)) for name, pairs in LAYERS[strategy].items()
                 if pairs and name not in taken]  # fmt: skip
    for index, entry in (*flat, *deep):
        if index >= 0:
            made.owners[len(made.entries)] = index
        made.entries.append(entry)
    return made


def _by_key(made: Written, rule: Rule, strategy: str) -> bool:
    """Returns whether a rule about one layer became an item of ``ignore_layers`` or ``layer_config``."""
    name = _plain_name(rule)
    if not name:
        return False
    if rule.exclude:
        made.keys.setdefault("ignore_layers", []).append(name)
        return True
    specs = [rule.get(role) for role in ("weight", "bias", "output")]
    first = specs[0]
    if strategy != "pof2s" or first is None or rule.input is not None or first.fields_set() != ("format",):
        return False
    word = next((key for key, ours in INTEGERS.items() if ours == first.format), None)
    if word is None or any(spec != first for spec in specs):
        return False
    made.keys.setdefault("layer_config", {})[name] = word
    return True


def _plain_name(rule: Rule) -> str:
    match = rule.match
    alone = match.type is None and match.function is None and match.pattern is None
    name = match.name or ""
    return name if alone and name and not name.startswith("re:") and not set("*?[|") & set(name) else ""


def _classes(rule: Rule) -> tuple[str, ...]:
    """Returns the layer classes a rule is about, () when it is about something else."""
    match = rule.match
    if match.pattern is not None or match.name is not None or rule.share is not None:
        return ()
    if match.function is not None and match.type is None:
        return classes_of(match.function)
    if match.type is not None and match.function is None and not match.type.startswith("re:"):
        types = types_of(match.type)
        return types if not any(set("*?[") & set(part) for part in types) else ()
    return ()


def _flat(rule: Rule, layer: str, specs: Specs, strategy: str) -> dict[str, Any]:
    """Returns an entry of the tool's schema; an excluded class has no quantizers."""
    known = CLASSES.get(layer)
    home = "" if known is None else "tensorflow.keras.layers."
    entry: dict[str, Any] = {"layer_type": f"{home}{layer}"}
    if rule.exclude:
        return entry
    names = {"weight": (known.weight if known else "") or "w", "bias": (known.bias if known else "") or "b",
             "input": "0", "output": "0"}  # fmt: skip
    has = _roles(layer, strategy)
    for role in ROLES:
        asked = rule.get(role)
        if asked is None and role not in has:
            continue
        made = quantizer((asked or QuantSpec()).over(specs[role]), role, layer)
        if made is None:
            continue
        names_key, quantizers_key = PAIRS["weight" if role == "bias" and names["bias"] == "beta" else role]
        entry.setdefault(names_key, []).append(names[role])
        entry.setdefault(quantizers_key, []).append(made)
    return entry


def _deep(rule: Rule, specs: Specs) -> dict[str, Any] | None:
    """Returns an entry of the document's schema, None for a match it has no words for."""
    match = rule.match
    pattern = match.pattern
    if pattern is None:
        pattern = Pattern(type=match.type, name=match.name, function=match.function)
    elif match.type is not None or match.name is not None or match.function is not None:
        return None
    root = node_of(pattern)
    if root is None:
        return None
    places = {"": root}
    node = _at(root, match.at or "")
    places[match.at or ""] = node
    node["quant_config"] = [] if rule.exclude else _targets(rule, specs, node)
    if rule.share is not None and not _share(rule, node, _at(root, rule.share), specs):
        return None
    return root


def _at(root: dict[str, Any], way: str) -> dict[str, Any]:
    node = root
    for step in way.split(".") if way else ():
        node = node["layer_inputs"][int(step)]
    return node


def _targets(rule: Rule, specs: Specs, node: Mapping[str, Any]) -> list[dict[str, Any]]:
    layer = str(node.get("layer_type", "")).split("|")[0]
    known = CLASSES.get(layer)
    names = {"weight": (known.weight if known else "") or "weight", "bias": (known.bias if known else "") or "bias",
             "input": "0", "output": "output"}  # fmt: skip
    found = []
    for role in ROLES:
        asked = rule.get(role)
        whole = bool(known and (known.weight if role == "weight" else known.bias if role == "bias" else ""))
        if asked is None and not whole:
            continue
        made = quantizer((asked or QuantSpec()).over(specs[role]), role, layer)
        if made is not None:
            config = {"type": made["quantizer_type"], "params": made["quantizer_params"]}
            found.append({"target_name": names[role], "target_type": role, "quantizer_config": config})
    return found


def _share(rule: Rule, node: dict[str, Any], owner: dict[str, Any], specs: Specs) -> bool:
    """Returns whether the output of ``node`` now shares the quantizer of ``owner``'s output."""
    made = quantizer((rule.output or QuantSpec()).over(specs["output"]), "output")
    if made is None or node is owner:
        return False
    config = {"name": "shared", "type": made["quantizer_type"], "params": made["quantizer_params"]}
    others = [target for target in node["quant_config"] if target["target_type"] != "output"]
    node["quant_config"] = [*others, {"target_name": "output", "target_type": "output", "shared_quantizer": "shared"}]
    owner.setdefault("quant_config", []).append(
        {"target_name": "output", "target_type": "output", "quantizer_config": config}
    )
    return True


def _roles(layer: str, strategy: str) -> set[Role]:
    """Returns the roles of a class that a built-in strategy quantizes."""
    pairs = LAYERS[strategy].get(layer, {})
    return {role_of(kind, name) for kind, listed in pairs.items() for name, _ in listed}
