"""Reads what a document of sophgo-mq means. Section 7 of the behavioural spec of MQBench and sophgo-mq."""

from __future__ import annotations

from typing import Any

from quantwright import registry
from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule, Source, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import BASE_SPEC, QuantSpec, Role
from quantwright.dialects._mq_read import the_rest
from quantwright.dialects._mq_reader import MqReader
from quantwright.dialects._mq_rules import FLOAT, quantizer_rules
from quantwright.dialects._mq_specs import ROLES, Half, Side, Value, Vocabulary, read_side, spec_of
from quantwright.dialects._mq_words import CHIPS, SOPHGO_FAKE_QUANTS, SOPHGO_OBSERVERS
from quantwright.dialects._sophgo_document import LISTS, QCONFIGS, QUANTIZER, Found, find
from quantwright.dialects._sophgo_rules import list_rules, name_rules, observer_only_rules, type_rules
from quantwright.targets import Target
from quantwright.targets._mqbench import LAYERS
from quantwright.targets._sophgo import LISTED

TOOL = "sophgo"
WORDS = Vocabulary(observers=SOPHGO_OBSERVERS, fake_quants=SOPHGO_FAKE_QUANTS)
#: 7: widths a chip takes in a user's qscheme
BITS: dict[str, dict[Half, tuple[int, ...]]] = {
    "BM1688": {"w": (4, 8), "a": (4, 8)}, "BM1684X": {"a": (8,)}, "BM1690": {"a": (8,)},
}  # fmt: skip
_ONLY_OURS = ("object_type", "module_name", *LISTS, "module_only_enable_observer")


def detect(document: Document) -> str | None:
    """Returns why a document is one of sophgo-mq, or None."""
    value = document.value
    if not isinstance(value, dict):
        return None
    inner = value.get("prepare_custom_config_dict")
    holder = inner if isinstance(inner, dict) else value
    if "quant_dict" in holder:
        return "it has 'quant_dict'"
    quant = value.get("quant")
    if isinstance(quant, dict) and any(key in quant for key in ("a_qconfig", "w_qconfig", "chip")):
        return "it has 'quant' with " + ", ".join(f"'{key}'" for key in list(quant)[:2])
    if any(key in value for key in ("backend", "deploy_backend", "extra_prepare_dict", "extra_config")):
        return None
    dicts = [key for key in ("extra_qconfig_dict", "extra_quantizer_dict") if key in holder]
    told = [key for name in dicts if isinstance(holder[name], dict) for key in _ONLY_OURS if key in holder[name]]
    if told:
        return "it has " + ", ".join(f"'{key}'" for key in told[:3])
    return "it has " + ", ".join(f"'{key}'" for key in dicts) if dicts else None


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what sophgo-mq would do, as a config, and what could not be carried over.

    Raises:
        ConfigError: every unknown name, bad value and contradiction at once.
    """
    reader = MqReader(document, TOOL)
    found = find(reader, WORDS)
    target = target_of(found)
    known, path = _qconfig(reader, found)
    halves: tuple[Half, ...] = ("w", "a")
    sides = {half: found.sides.get(half) or read_side(reader, known, path, half, WORDS) for half in halves}
    specs: dict[Role, QuantSpec] = {}
    sources: dict[str, Source] = {}
    base: dict[Half, QuantSpec] = {}
    for half, side in sides.items():
        _check_side(reader, found, side)
        default = (target.defaults.get(ROLES[half][0]) or QuantSpec()).over(BASE_SPEC)
        spec, places = spec_of(reader, side, default, WORDS)
        base[half] = spec.over(default)
        for role in ROLES[half] if spec.fields_set() else ():
            specs[role] = spec
            sources |= {f"{role}.{name}": place for name, place in places.items()}
    _weight_only(reader, found, sides, specs, sources)
    rules = _rules(reader, found, known, path, base)
    the_rest(reader, found)
    reader.raise_if_any()
    config = QuantConfig(
        target=target.name,
        default=RoleSpecs(**{str(role): spec for role, spec in specs.items()}),
        default_sources=sources,
        rules=tuple(rules),
        dialect=TOOL,
        source=reader.source((), TOOL),
        notes=tuple(reader.notes),
    )
    return config, reader.unmapped


def target_of(found: Found) -> Target:
    """Returns the target of a chip and strategy; Academic has one for both."""
    name = CHIPS[found.chip.value if found.chip is not None else "BM1690"]
    transformer = found.strategy is not None and found.strategy.value == "Transformer"
    suffix = "_transformer" if transformer and name != "sophgo_academic" else ""
    return registry.load("targets", name + suffix)  # type: ignore[no-any-return]


def _qconfig(reader: MqReader, found: Found) -> tuple[dict[str, Any], tuple[str | int, ...]]:
    value, path = found.parts.get("extra_qconfig_dict", ({}, ("extra_qconfig_dict",)))
    if value is None:
        return {}, path
    return dict(reader.ignoring(value, path, QCONFIGS, "'extra_qconfig_dict'")), path


def _check_side(reader: MqReader, found: Found, side: Side) -> None:
    """Adds a problem for a width the chip does not take, and for a fake quantizer that only Academic has."""
    chip = found.chip.value if found.chip is not None else ""
    allowed = BITS.get(chip, {}).get(side.half)
    bit = side.scheme.get("bit")
    if allowed is not None and bit is not None and bit.value not in allowed:
        what = "weights" if side.half == "w" else "activations"
        message = f"{what} of {bit.value} bits are not for {chip}"
        words = " or ".join(str(item) for item in allowed)
        reader.add(
            "sophgo_bits", bit.path or (), message, value=bit.value, allowed=words, fix=f"write bit: {allowed[-1]}"
        )
    if side.fake is not None and side.fake.value == "NNIEFakeQuantize" and chip != "Academic":
        message = f"NNIEFakeQuantize is for the chip Academic only, not for {chip or 'others'}"
        reader.add("sophgo_nnie", side.fake.path or (), message, value=side.fake.value, fix="choose another")
    if side.fake is not None and side.fake.value == "E5M2FakeQuantize":
        effect = "scales here cover the range, and need not be 1"
        reader.drop(side.fake.path or (), "E5M2FakeQuantize stores values themselves, with scale 1", effect)


def _weight_only(
    reader: MqReader,
    found: Found,
    sides: dict[Half, Side],
    specs: dict[Role, QuantSpec],
    sources: dict[str, Source],
) -> None:
    """Leaves activations and biases float in mode weight_only, which strategy CNN does not have."""
    if found.quantmode is None or found.quantmode.value != "weight_only":
        return
    place = found.quantmode.path or ()
    if found.strategy is not None and found.strategy.value == "CNN":
        message = "quantmode weight_only goes with strategy Transformer only"
        fix = "set strategy: Transformer, or quantmode: weight_activation"
        reader.add("sophgo_weight_only", place, message, value="weight_only", fix=fix)
    side = sides["a"]
    if side.observer is not None or side.fake is not None or side.scheme:
        given = [v.path for v in (side.observer, side.fake, *side.scheme.values()) if v is not None and v.path]
        reader.note(given[0] if given else (), "no effect: quantmode is weight_only, activations stay float")
    source = reader.where(place)
    for role in (*ROLES["a"], "bias"):
        specs[role] = FLOAT  # type: ignore[index]  # the three are roles
        for key in [key for key in sources if key.startswith(f"{role}.")]:
            del sources[key]
        sources[f"{role}.format"] = source


def _rules(
    reader: MqReader, found: Found, known: dict[str, Any], path: tuple[str | int, ...], base: dict[Half, QuantSpec]
) -> list[Rule]:
    """Returns the rules of a document: name over type over global, then what is excluded and only observed."""
    rules: list[Rule] = []
    if found.mixed is not None:
        rules.append(_mixed(reader, found.mixed))
    if known.get("object_type"):
        rules += type_rules(reader, known["object_type"], (*path, "object_type"), base, WORDS)
    rules += list_rules(reader, known, path)
    if known.get("module_name"):
        rules += name_rules(reader, known["module_name"], (*path, "module_name"), base, WORDS)
    for key in ("extra_quantizer_dict", "astray"):
        value, place = found.parts.get(key, (None, ()))
        if value is None:
            continue
        lists = reader.ignoring(value, place, QUANTIZER, "'extra_quantizer_dict'")
        rules += quantizer_rules(reader, lists, place)
        if "module_only_enable_observer" in lists:
            inner = (*place, "module_only_enable_observer")
            entries = reader.names(lists["module_only_enable_observer"], inner)
            if found.quantmode is not None and found.quantmode.value == "weight_only":
                reader.note(inner, "no effect: it is read in quantmode weight_activation only")
                continue
            rules += observer_only_rules(reader, entries)
    return rules


def mixed_match() -> Match:
    """Returns the match of what ``bf16_mix_prec`` computes in bfloat16: the op list without layers with weights."""
    return Match(function="|".join(f"kind:{kind}" for kind in LISTED if kind not in LAYERS))


def _mixed(reader: MqReader, mixed: Value) -> Rule:
    """Returns the rule of ``bf16_mix_prec``."""
    path = mixed.path or ()
    effect = "what listed operations give is rounded; what others give, or read, is not rounded once more"
    reader.drop(path, "the tool rounds what every operation reads and gives to bfloat16", effect)
    source = reader.source(path, "bf16_mix_prec")
    wide = QuantSpec(format="bfloat16")
    return Rule(match=mixed_match(), output=wide, if_unmatched="ignore", source=source)
