"""Settings of single layers of sophgo-mq as rules: by type, by name, lists of names, and what is only observed.

Section 7 of the behavioural spec of MQBench and sophgo-mq. Where the tool crashes or changes the half that an entry
does not name, the entry means what it says: the other half keeps the global settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Match, Pattern, Rule, Source
from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.config.spec import QuantSpec
from quantwright.dialects._mq_reader import Entry, MqReader
from quantwright.dialects._mq_rules import FLOAT
from quantwright.dialects._mq_specs import MAX_BITS, Half, Side, Value, Vocabulary, read_fake, read_observer, spec_of
from quantwright.targets._mqbench import grid

POST, READ, WEIGHT = "_post_act_fake_quantizer", "_input_act_fake_quantizer", ".weight_fake_quant"
ENTRY = ("mode", "bit", "wfakequantize", "wobserver", "wperchannel", "afakequantize", "aobserver")
MODES: dict[str, Half] = {"weight": "w", "activation": "a"}
#: classes that hold a layer and what is fused with it -> (the layer, whether a ReLU is part of it)
FUSED: dict[str, tuple[str, bool]] = {
    "Conv2d": ("Conv2d", False), "ConvBn2d": ("Conv2d", False), "ConvReLU2d": ("Conv2d", True),
    "ConvBnReLU2d": ("Conv2d", True), "Linear": ("Linear", False), "LinearBn1d": ("Linear", False),
    "LinearReLU": ("Linear", True), "ConvTranspose2d": ("ConvTranspose2d", False),
    "ConvTransposeBn2d": ("ConvTranspose2d", False), "ConvTransposeReLU2d": ("ConvTranspose2d", True),
    "ConvTransposeBnReLU2d": ("ConvTranspose2d", True),
}  # fmt: skip
_UNGROUPED = {"Conv2d": "kind:conv2d"}  # 7: grouped convolutions ignore the activations of a type


def type_rules(
    reader: MqReader, value: Any, path: JsonPath, base: Mapping[Half, QuantSpec], words: Vocabulary
) -> list[Rule]:
    """Returns the rules of ``object_type``.

    Args:
        base: the global settings of both halves, complete.
    """
    if not isinstance(value, dict):
        reader.mapping(value, path, (), "'object_type'")
        return []
    rules: list[Rule] = []
    given = {short_type(key) for key in value}
    for key, entry in value.items():
        read = _entry(reader, entry, (*path, key), base, words)
        if read is None:
            continue
        half, spec, sources = read
        name = short_type(key)
        layer, relu = FUSED.get(name, ("", False))
        source = reader.source((*path, key), f"type {key}")
        if not layer:
            rules.append(_rule(Match(type=key), half, spec, source, sources))
            continue
        rules.append(_rule(type_match(layer, relu, half), half, spec, source, sources))
        other = "BnReLU" if relu else "Bn"
        text = f"{name} is read with and without batch norm: folded, the two are one layer"
        if other not in name or relu:
            reader.note((*path, key), text)
        fused = {alias for alias, (of, with_relu) in FUSED.items() if of == layer and with_relu}
        if not relu and not fused & given and layer != "ConvTranspose2d":
            kept = reader.default(f"{layer} fused with a ReLU is another type, and keeps the global settings")
            whole = base[half]
            rules.append(_rule(type_match(layer, True, half), half, whole, kept, {}, "ignore"))
    return rules


def short_type(key: str) -> str:
    """Returns the class of a type key without module and ``_sophgo``."""
    return key.rpartition(".")[2].removesuffix("_sophgo")


def type_match(layer: str, relu: bool, half: Half) -> Match:
    """Returns the match of a layer, alone or fused with a ReLU behind it; of activations without grouped ones."""
    function = _UNGROUPED.get(layer) if half == "a" else None
    if not relu:
        return Match(type=f"torch.nn.{layer}", function=function)
    inner = Pattern(type=f"torch.nn.{layer}", function=function)
    return Match(pattern=Pattern(function="relu", inputs=(inner,)), at="0")


def name_rules(
    reader: MqReader, value: Any, path: JsonPath, base: Mapping[Half, QuantSpec], words: Vocabulary
) -> list[Rule]:
    """Returns the rules of ``module_name``: of modules by their path, or of nodes by their name."""
    if not isinstance(value, dict):
        reader.mapping(value, path, (), "'module_name'")
        return []
    rules = []
    for key, entry in value.items():
        read = _entry(reader, entry, (*path, key), base, words)
        if not key.strip():
            reader.add("type", (*path, key), "the name is empty", fix="write the name of a module")
        elif read is not None:
            half, spec, sources = read
            match = Match(name=f"fx:{key.removesuffix(POST)}" if key.endswith(POST) else key)
            rules.append(_rule(match, half, spec, reader.source((*path, key), f"module {key}"), sources))
    return rules


def _rule(
    match: Match, half: Half, spec: QuantSpec, source: Source, places: Mapping[str, Source], unmatched: str = "warn"
) -> Rule:
    """Returns the rule that sets one half; 4-bit activations are those a layer *reads* (7: its extra quantizer)."""
    role = "weight" if half == "w" else "input" if spec.format == "int4" else "output"
    sources = {f"{role}.{name}": place for name, place in places.items()}
    fields: dict[str, Any] = {"match": match, role: spec, "source": source, "field_sources": sources}
    return Rule(if_unmatched=unmatched, **fields)


def _entry(
    reader: MqReader, value: Any, path: JsonPath, base: Mapping[Half, QuantSpec], words: Vocabulary
) -> tuple[Half, QuantSpec, dict[str, Source]] | None:
    """Returns which half an entry sets, and how; None with a problem."""
    if not isinstance(value, dict):
        message = f"the settings of a layer are {kind_of(value)}, not a mapping"
        reader.add("type", path, message, value=value, allowed=ENTRY, fix="write {mode: weight, bit: 8, ...}")
        return None
    known = reader.ignoring(value, path, ENTRY, "the settings of a layer")
    if "mode" not in known:
        fix = "add mode: weight or mode: activation"
        reader.add("missing_key", path, "'mode' is required", allowed=MODES, fix=fix)
        return None
    word = reader.word(known["mode"], (*path, "mode"), MODES, "mode", code="sophgo_mode")
    if word is None:
        return None
    half = MODES[word]
    other = "a" if half == "w" else "w"
    for key in (f"{other}fakequantize", f"{other}observer", "wperchannel" if half == "a" else ""):
        if key in known:
            reader.note((*path, key), f"no effect: the mode is {word}")
    side = Side(half=half)
    if f"{half}observer" in known:
        side.observer = read_observer(reader, known[f"{half}observer"], (*path, f"{half}observer"), words)
    if f"{half}fakequantize" in known:
        side.fake = read_fake(reader, known[f"{half}fakequantize"], (*path, f"{half}fakequantize"), words)
    bits = reader.integer(known.get("bit", 8), (*path, "bit"), 2, MAX_BITS)
    wide = known.get("wperchannel", False)
    per_channel = half == "w" and "wperchannel" in known and bool(reader.flag(wide, (*path, "wperchannel")))
    side.scheme = {
        "bit": Value(value=8 if bits is None else bits, path=(*path, "bit") if "bit" in known else None),
        "symmetry": Value(value=True),
        "per_channel": Value(value=per_channel, path=(*path, "wperchannel") if per_channel else None),
        "pot_scale": Value(value=False),
        "symmetric_range": Value(value=False),
    }
    spec, sources = spec_of(reader, side, base[half], words)
    return half, spec, sources


def list_rules(reader: MqReader, known: Mapping[str, Any], path: JsonPath) -> list[Rule]:
    """Returns the rules of ``int4_op``, ``int8_op`` and ``f16_op``: names of layers with a format of their own."""
    rules = []
    for key in ("int4_op", "int8_op", "f16_op"):
        for entry in reader.names(known[key], (*path, key)) if key in known else ():
            source = reader.source(entry.path, f"{key} {entry.text}")
            rules.append(
                Rule(match=Match(name=entry.text), if_unmatched="warn", source=source, **op_specs(key))
            )  # fmt: skip
    return rules


def op_specs(key: str) -> dict[str, QuantSpec]:
    """Returns what a list does to its layers; what an int4 layer gives stays as it is for others (7)."""
    if key == "f16_op":
        half = QuantSpec(format="float16")
        return {"weight": half, "output": half}
    bits = 4 if key == "int4_op" else 8
    spec = grid(bits)
    plain = QuantSpec(**{name: getattr(spec, name) for name in ("format", "granularity", "symmetric", "narrow_range")})
    return {"weight": plain, "input" if bits == 4 else "output": plain}


def observer_only_rules(reader: MqReader, entries: list[Entry]) -> list[Rule]:
    """Returns the rules of quantizers that observe and never quantize: what they stand at stays float."""
    rules = []
    for entry in entries:
        source = reader.source(entry.path, f"only observed {entry.text}")
        said = {"source": source, "if_unmatched": "warn"}
        if entry.text.endswith(WEIGHT):
            rules.append(Rule(match=Match(name=entry.text.removesuffix(WEIGHT)), weight=FLOAT, **said))  # type: ignore[arg-type]
        elif entry.text.endswith(POST):
            rules.append(Rule(match=Match(name=f"fx:{entry.text.removesuffix(POST)}"), output=FLOAT, **said))  # type: ignore[arg-type]
        elif entry.text.endswith(READ):
            rules.append(Rule(match=Match(name=f"fx:{entry.text.removesuffix(READ)}"), input=FLOAT, **said))  # type: ignore[arg-type]
        else:
            message = f"'{entry.text}' is no quantizer"
            fix = f"name it as the tool does: layer1.conv{WEIGHT}, or layer1_conv{POST}"
            reader.add("sophgo_quantizer", entry.path, message, value=entry.text, fix=fix)
    return rules
