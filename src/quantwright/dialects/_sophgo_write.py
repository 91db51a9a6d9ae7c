"""Writes sophgo-mq's dictionary: the nearest it can say, read back and compared, so nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Match, QuantConfig, Rule, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import ROLES, QuantSpec, Role
from quantwright.dialects._mq_compare import complete, differences, target_of
from quantwright.dialects._mq_specs import MAX_BITS, Half
from quantwright.dialects._mq_words import CHIPS
from quantwright.dialects._mq_write import exact, fake_name, half_of, list_of, observer_name
from quantwright.dialects._sophgo_read import WORDS, mixed_match, read
from quantwright.dialects._sophgo_rules import POST, WEIGHT, op_specs, type_match
from quantwright.errors import ConfigError

_CHIP_OF = {target: chip for chip, target in CHIPS.items()}
#: (layer, with a ReLU) -> how the tool calls it
_FUSED = {
    ("Conv2d", True): "ConvReLU2d_sophgo", ("Linear", True): "LinearReLU_sophgo",
    ("ConvTranspose2d", True): "ConvTransposeReLU2d_sophgo", ("Conv2d", False): "torch.nn.Conv2d",
    ("Linear", False): "torch.nn.Linear", ("ConvTranspose2d", False): "torch.nn.ConvTranspose2d",
}  # fmt: skip


def write(config: QuantConfig) -> tuple[str, list[Unmapped]]:
    """Returns the JSON text and everything of the config that the tool would not do."""
    name = (config.target or "").removesuffix("_transformer")
    chip = _CHIP_OF.get(name, "BM1690")
    specs = complete(config)
    only_weights = specs["output"].format == "float32" and specs["input"].format == "float32"
    transformer = only_weights or (config.target or "").endswith("_transformer")
    modes = {
        "chip": chip,
        "quantmode": "weight_only" if only_weights else "weight_activation",
        "strategy": "Transformer" if transformer else "CNN",
    }
    suffix = "_transformer" if transformer and chip != "Academic" else ""
    target = target_of(CHIPS[chip] + suffix)
    qconfig: dict[str, Any] = {}
    halves: tuple[tuple[Half, Role], ...] = (("w", "weight"), ("a", "output"))
    for half, role in halves if not only_weights else halves[:1]:
        default = (target.defaults.get(role) if target else None) or QuantSpec()
        qconfig |= half_of(half, specs[role], default, WORDS)
    lists, unmapped, lost = _rules(config, specs, qconfig, modes)
    document: dict[str, Any] = {"quant_dict": modes}
    if qconfig:
        document["extra_qconfig_dict"] = qconfig
    if lists:
        document["extra_quantizer_dict"] = lists
    text = json.dumps(document, indent=2) + "\n"
    try:
        back, _ = read(Document(value=document))
    except ConfigError as error:
        effect = "the tool refuses the document"
        refused = [Unmapped(path=p.path, message=p.message, effect=effect) for p in error.problems]
        return text, [*unmapped, *refused]
    return text, [*unmapped, *differences(config, back, lost)]


def _rules(
    config: QuantConfig, specs: Mapping[Role, QuantSpec], qconfig: dict[str, Any], modes: dict[str, Any]
) -> tuple[dict[str, Any], list[Unmapped], set[int]]:
    """Returns the lists of the quantizer, the rules nothing can say and their numbers; the rest goes to ``qconfig``."""
    lists: dict[str, Any] = {}
    unmapped, lost = [], set()
    for index, rule in enumerate(config.rules):
        key, word = list_of(rule)
        if key is None:
            key, word = _observed_only(rule)
        if key is not None:
            lists.setdefault(key, []).append(word)
        elif not _layer(rule, specs, qconfig, modes):
            lost.add(index)
            message = f"the rule for {rule.match} cannot be said"
            unmapped.append(Unmapped(path=f"rules[{index}]", message=message, effect="those layers get the settings"))
    return lists, unmapped, lost


def _observed_only(rule: Rule) -> tuple[str | None, str]:
    """Returns the list and name of a quantizer that only observes, for a rule that leaves one tensor float."""
    roles = _roles(rule)
    name = rule.match.name
    alone = name is not None and rule.match.type is None and rule.match.function is None and rule.match.pattern is None
    if name is None or not alone or not exact(name) or len(roles) != 1 or rule.share is not None:
        return None, ""
    spec = rule.get(roles[0])
    if spec is None or spec.format != "float32":
        return None, ""
    if roles[0] == "weight" and not name.startswith("fx:"):
        return "module_only_enable_observer", name + WEIGHT
    if roles[0] == "output" and name.startswith("fx:"):
        return "module_only_enable_observer", name.removeprefix("fx:") + POST
    return None, ""


def _roles(rule: Rule) -> list[Role]:
    return [role for role in ROLES if rule.get(role) is not None]


def _layer(rule: Rule, specs: Mapping[Role, QuantSpec], qconfig: dict[str, Any], modes: dict[str, Any]) -> bool:
    """Returns whether a rule could be said in ``qconfig``: a list of names, a type, or a name."""
    roles, match = _roles(rule), rule.match
    if rule.exclude or rule.include or rule.share is not None or not roles:
        return False
    if _is_mixed(rule):
        modes["bf16_mix_prec"] = True
        return True
    by_name = match.name is not None and match == Match(name=match.name) and exact(match.name)
    if len(roles) > 1:
        for listed in ("int4_op", "int8_op", "f16_op"):
            if by_name and {role: rule.get(role) for role in roles} == op_specs(listed):
                qconfig.setdefault(listed, []).append(match.name)
                return True
        return False
    role = roles[0]
    four = (rule.get(role) or QuantSpec()).format == "int4"
    if role == "bias" or (role in ("input", "output") and (role == "input") != four):
        return False  # what a layer reads is set by four bits only
    half: Half = "w" if role == "weight" else "a"
    key, where = _subject(match, half, by_name)
    if key is None or key in qconfig.get(where, {}):
        return False
    spec = rule.get(role) or QuantSpec()
    if _restores(rule, spec, specs[role], key, qconfig):
        return True
    qconfig.setdefault(where, {})[key] = _entry(half, spec, specs[role])
    return True


def _restores(rule: Rule, spec: QuantSpec, base: QuantSpec, key: str, qconfig: Mapping[str, Any]) -> bool:
    """Returns whether a rule gives layers fused with a ReLU the global settings again, which the tool does unasked."""
    alone = {_FUSED[layer, True]: _FUSED[layer, False] for layer, relu in _FUSED if relu}
    asked = alone.get(key) in qconfig.get("object_type", {})
    return asked and rule.if_unmatched == "ignore" and spec.over(base) == base


def _is_mixed(rule: Rule) -> bool:
    """Returns whether a rule is what ``bf16_mix_prec`` becomes."""
    return _roles(rule) == ["output"] and rule.match == mixed_match() and rule.output == QuantSpec(format="bfloat16")


def _subject(match: Match, half: Half, by_name: bool) -> tuple[str | None, str]:
    """Returns the key of a match and the dictionary it goes to, (None, "") when there is none."""
    if by_name and match.name is not None:
        name = match.name
        return (name.removeprefix("fx:") + POST if name.startswith("fx:") else name), "module_name"
    for (layer, relu), key in _FUSED.items():
        if match == type_match(layer, relu, half):
            return key, "object_type"
    if match.type is not None and match == Match(type=match.type) and exact(match.type):
        return match.type, "object_type"
    return None, ""


def _entry(half: Half, spec: QuantSpec, base: QuantSpec) -> dict[str, Any]:
    """Returns the settings of a layer: always symmetric, its width, and observer and quantizer where they are set."""
    whole = spec.over(base)
    entry: dict[str, Any] = {
        "mode": "weight" if half == "w" else "activation",
        "bit": min(whole.bits, MAX_BITS) if whole.is_integer else 8,
    }
    if spec.observer is not None or spec.statistic is not None:
        entry[f"{half}observer"] = observer_name(half, whole, WORDS)[0]
    if spec.fake_quant is not None or not whole.is_integer:
        entry[f"{half}fakequantize"] = fake_name(whole, WORDS)
    if half == "w" and whole.granularity is not None and whole.granularity.kind == "per_channel":
        entry["wperchannel"] = True
    return entry
