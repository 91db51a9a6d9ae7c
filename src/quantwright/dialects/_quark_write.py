"""Writes the JSON of Quark 0.13: the nearest it can say, read back and compared, so nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Rule, Step, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import BASE_SPEC, ROLES, QuantSpec, Role
from quantwright.dialects._quark_losses import differences, is_companion
from quantwright.dialects._quark_map import to_config
from quantwright.dialects._quark_names import ALGORITHMS, LAYER_TYPES, ON_DEMAND, OPT_OUT, TARGETS, TOOL
from quantwright.dialects._quark_names import ROLES as KEYS
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.dialects._quark_rules import EMBEDDINGS, quark_names
from quantwright.dialects._quark_spell import tensor
from quantwright.errors import UnknownNameError

_KEYS: dict[str, str] = {role: key for key, role in KEYS.items()}
_MODES = {target: mode for mode, target in TARGETS.items()}
_NAMES = {ours: theirs for theirs, (ours, _) in ALGORITHMS.items() if theirs != "quarot"}
Complete = Mapping[Role, QuantSpec]


def write(config: QuantConfig) -> tuple[str, list[Unmapped]]:
    """Returns the JSON text and everything of the config that the tool would not do."""
    base = complete(config)
    fx = config.target == "quark_fx"
    lost: list[Unmapped] = []
    document: dict[str, Any] = {
        "global_quant_config": _layer(base, fx),
        "exclude": _excludes(config, lost),
        "algo_config": _algorithms(config, lost) or None,
        "softmax_quant_spec": None,
        "quant_method": "quark",
        "layer_type_quant_config": {},
        "layer_quant_config": {},
        "kv_cache_quant_config": {},
        "kv_cache_post_rope": False,
        "quant_mode": _MODES.get(config.target or "", "eager_mode"),
        "version": "0.13",
    }
    written = _rules(config, base, document, lost, fx)
    reader = QuarkReader(Document(value=document))
    back = to_config(reader)
    refused = [
        Unmapped(path=p.path, message=p.message, effect="the tool refuses the file") for p in reader.problems.items
    ]
    lost += [*refused, *differences(config, back, base, complete(back), written)]
    return json.dumps(document, indent=1) + "\n", lost


def complete(config: QuantConfig) -> dict[Role, QuantSpec]:
    """Returns complete specs by role: the built-in base, the target's defaults, the config's."""
    try:
        target = registry.load("targets", config.target).defaults if config.target else RoleSpecs()
    except UnknownNameError:
        target = RoleSpecs()
    empty = QuantSpec()
    return {
        role: (config.default.get(role) or empty).over((target.get(role) or empty).over(BASE_SPEC)) for role in ROLES
    }


def _layer(specs: Complete, fx: bool) -> dict[str, Any]:
    """Returns a QLayerConfig; a role that is not given is null."""
    made = {key: tensor(specs[role], role, fx) if role in specs else None for role, key in _keys()}
    return {**made, "target_device": None}


def _keys() -> list[tuple[Role, str]]:
    return [(role, _KEYS[role]) for role in ("input", "output", "weight", "bias")]


def _rules(config: QuantConfig, base: Complete, document: dict[str, Any], lost: list[Unmapped], fx: bool) -> list[int]:
    """Writes the rules into their places, the last first; returns the numbers of those that are written."""
    written: list[int] = []
    entries: dict[tuple[str, str], dict[Role, QuantSpec]] = {}
    for number in range(len(config.rules) - 1, -1, -1):
        rule = config.rules[number]
        if rule.exclude or (is_companion(rule) and rule.match.type == EMBEDDINGS):
            continue
        place = _place(rule, config.dialect != TOOL)
        if place is None:
            effect = "the layers get what the other entries say"
            lost.append(
                Unmapped(path=f"rules[{number}]", message=f"the tool cannot match by {rule.match}", effect=effect)
            )
            continue
        key, names = place
        specs = {role: spec.over(base[role]) for role in ROLES if (spec := rule.get(role)) is not None}
        written.append(number)
        if key == "softmax_quant_spec":
            document[key] = tensor(specs["output"], "output", fx) if "output" in specs else None
            continue
        for name in names:
            entry = entries.setdefault((key, name), {})
            entry.update({role: spec for role, spec in specs.items() if role not in entry})  # later rules came first
    lost += _partial(config, written)
    floats = any(spec.format == "float32" != base[role].format for e in entries.values() for role, spec in e.items())
    if floats:  # null has to mean float, as it does in the tool, so every entry has to be complete
        document[OPT_OUT] = False
        lost += _overlaps(config, written)
    for (key, name), specs in entries.items():
        document[key][name] = _layer({**base, **specs} if floats else specs, fx)
    return sorted(written)


def _overlaps(config: QuantConfig, written: list[int]) -> list[Unmapped]:
    """Returns a loss for every role that a rule leaves to an earlier one, where entries have to be complete."""
    found: list[Unmapped] = []
    before: set[Role] = set()  # roles that earlier rules set
    for number in sorted(written):
        own = {role for role in ROLES if config.rules[number].get(role) is not None}
        left = [role for role in ROLES if role in before - own]
        if left:
            message = f"an entry has to be complete, so {', '.join(left)} are those of the default"
            effect = "an earlier rule that matches the same layer does not set them"
            found.append(Unmapped(path=f"rules[{number}]", message=message, effect=effect))
        before |= own
    return found


def _place(rule: Rule, inside: bool) -> tuple[str, list[str]] | None:
    """Returns the part of the document a rule can stand in, and its keys there; None when there is none.

    Args:
        inside: a module path covers what is inside too.
    """
    match = rule.match
    given = [key for key in ("type", "name", "function", "pattern") if getattr(match, key) is not None]
    if len(given) != 1 or rule.share is not None:
        return None
    if match.function == "softmax" and rule.include and rule.output is not None:
        return "softmax_quant_spec", []
    if match.type is not None:
        short = match.type.rpartition(".")[2]
        fits = short in LAYER_TYPES and match.type in (short, f"nn.{short}", f"torch.nn.{short}")
        return ("layer_type_quant_config", [short]) if fits and rule.include == (short in ON_DEMAND) else None
    if match.name is None or not _is_path(match.name) or rule.include:
        return None
    return "layer_quant_config", quark_names(match.name, inside)


def _is_path(name: str) -> bool:
    """Returns whether a name is a module path or a glob over them."""
    return not name.startswith(("re:", "fx:")) and "|" not in name


def _partial(config: QuantConfig, written: list[int]) -> list[Unmapped]:
    """Returns a loss for every rule that sets part of a spec whose rest another rule may have set."""
    found: list[Unmapped] = []
    before: dict[Role, set[str]] = {role: set() for role in ROLES}  # fields that earlier rules set
    for number in sorted(written):
        for role in ROLES:
            spec = config.rules[number].get(role)
            if spec is None:
                continue
            left = sorted(before[role] - set(spec.fields_set()))
            if left and (spec.is_integer or spec.format is None):
                message = f"a spec has to be complete, so {', '.join(left)} are those of the default"
                effect = "an earlier rule that matches the same layer does not set them"
                found.append(Unmapped(path=f"rules[{number}].{role}", message=message, effect=effect))
            before[role] |= set(spec.fields_set())
    return found


def _excludes(config: QuantConfig, lost: list[Unmapped]) -> list[str]:
    """Returns the patterns of excluded layers; here a name covers what is inside, there only itself (1.4)."""
    found: list[str] = []
    for number, rule in enumerate(config.rules):
        if not rule.exclude:
            continue
        match = rule.match
        name = match.name
        only = match.type is None and match.function is None and match.pattern is None
        if name is None or not only or not _is_path(name):
            effect = "the layers are quantized"
            lost.append(Unmapped(path=f"rules[{number}]", message=f"the tool cannot exclude by {match}", effect=effect))
            continue
        found += [text for text in quark_names(name, config.dialect != TOOL) if text not in found]
    return found


def _algorithms(config: QuantConfig, lost: list[Unmapped]) -> list[dict[str, Any]]:
    found = []
    for number, step in enumerate(config.refine):
        name = _NAMES.get(step.name)
        if name is None:
            message, effect = f"the tool has no {step.name}", "it is not done"
            lost.append(Unmapped(path=f"refine[{number}]", message=message, effect=effect))
            continue
        found.append({"name": name, **_plain(step)})
    return found


def _plain(step: Step) -> dict[str, Any]:
    return {key: value for key, value in step.params.items() if key != "name"}
