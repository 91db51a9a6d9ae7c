"""Reads a document of sophgo-mq: the call's dictionary, or the YAML of its examples, whose other settings are not ours.

Section 7 of the behavioural spec of MQBench and sophgo-mq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.dialects._mq_document import OTHERS, QCONFIG, Parts
from quantwright.dialects._mq_reader import MqReader
from quantwright.dialects._mq_rules import ADDITIONS, EXCLUDES
from quantwright.dialects._mq_specs import Half, Side, Value, Vocabulary, read_fake, read_observer, read_scheme
from quantwright.dialects._mq_words import CHIP_ALIASES, CHIPS, QUANTMODES, STRATEGIES
from quantwright.errors import did_you_mean

WRAPPERS = ("prepare_custom_config_dict", "extra_prepare_dict")
CALL = ("input_shape_dict", "cuda", "custom_tracer")
TOP = (
    "quant_dict",
    "extra_qconfig_dict",
    "extra_quantizer_dict",
    "extra_fuse_dict",
    *OTHERS,
    *WRAPPERS,
    "quant",
    *CALL,
)
QUANTIZER = (*EXCLUDES, *ADDITIONS, "module_only_enable_observer")
LISTS = ("int4_op", "int8_op", "f16_op")
QCONFIGS = (*QCONFIG, "object_type", "module_name", *LISTS)
QUANT_DICT = ("chip", "quantmode", "strategy")
FLAGS = ("bf16_mix_prec", "not_dynamic_update_param", "use_tpu_mlir_fwd", "model_name")
SCRIPT = ("a_qconfig", "w_qconfig", "scaling_method", "calibrate", "pot_scale", *QUANT_DICT)
SCRIPT_SIDE = {"quantizer": "", "observer": "", "bit": "bit", "symmetric": "symmetry", "per_channel": "per_channel"}


@dataclass(slots=True, kw_only=True)
class Found(Parts):
    """Returns what a document of sophgo-mq says.

    Attributes:
        chip, quantmode, strategy: as sophgo-mq spells them; None where the document has none, or a wrong one.
        sides: both halves of a script's ``quant`` section; of a call they are in ``extra_qconfig_dict``.
    """

    chip: Value | None = None
    quantmode: Value | None = None
    strategy: Value | None = None
    mixed: Value | None = None
    sides: dict[Half, Side] = field(default_factory=dict)


def find(reader: MqReader, words: Vocabulary) -> Found:
    """Returns the parts of the document; what is of another shape is a problem."""
    found = Found()
    value = reader.document.value
    if not isinstance(value, dict):
        reader.add("type", (), f"the configuration is {kind_of(value)}, not a mapping", value=value, allowed=TOP)
        return found
    if "quant" in value and "quant_dict" not in value:
        _script(reader, found, value, words)
    else:
        _collect(reader, found, value, ())
        _slip(reader, found)
        _quant_dict(reader, found)
    return found


def _collect(reader: MqReader, found: Found, value: Mapping[str, Any], path: JsonPath) -> None:
    for key, item in value.items():
        place = (*path, key)
        if key in WRAPPERS and not path:
            if isinstance(item, dict):
                _collect(reader, found, item, place)
            elif item is not None:
                reader.mapping(item, place, TOP[:4], f"'{key}'")
        elif key in CALL:
            reader.drop(
                place, f"'{key}' is an argument of the call", "it is not read: the model is captured by example"
            )
        elif key in TOP and key != "quant":
            if key in found.parts:
                reader.add("duplicate_key", place, f"'{key}' stands twice", fix="keep one of them")
            found.parts[key] = (item, place)
        else:
            near = did_you_mean(key, TOP)
            if near:
                message = f"unknown key '{key}', which {reader.tool} would ignore silently"
                reader.add("unknown_key", place, message, value=key, allowed=TOP, fix=near)
            else:
                reader.note(place, f"no effect: {reader.tool} reads no '{key:.60}'")


def _slip(reader: MqReader, found: Found) -> None:
    """Reads keys of the quantizer that stand under ``extra_qconfig_dict``, as the document of the tool has it."""
    known, path = found.mapping("extra_qconfig_dict")
    astray = [key for key in known if key in QUANTIZER]
    if not astray:
        return
    text = f"{', '.join(astray)} belong in extra_quantizer_dict and are read so; the document of the tool has that slip"
    reader.note(path, text)
    other, _ = found.mapping("extra_quantizer_dict")
    for key in astray:
        if key in other:
            reader.add("duplicate_key", (*path, key), f"'{key}' stands in both dictionaries", fix="keep one of them")
    found.parts["extra_qconfig_dict"] = ({key: v for key, v in known.items() if key not in astray}, path)
    if "extra_quantizer_dict" not in found.parts:
        found.parts["extra_quantizer_dict"] = ({key: known[key] for key in astray}, path)
    else:
        found.parts["astray"] = ({key: known[key] for key in astray if key not in other}, path)


def _quant_dict(reader: MqReader, found: Found) -> None:
    if "quant_dict" not in found.parts:
        message = "'quant_dict' is required: it names the chip, the mode and the strategy"
        fix = "add quant_dict: {chip: BM1690, quantmode: weight_activation, strategy: CNN}"
        reader.add("missing_key", (), message, allowed=QUANT_DICT, fix=fix)
        return
    value, path = found.parts["quant_dict"]
    known = reader.ignoring(value, path, (*QUANT_DICT, *FLAGS), "'quant_dict'")
    if not isinstance(value, dict):
        return
    for key in QUANT_DICT:
        if key not in known:
            allowed = {"chip": tuple(CHIPS), "quantmode": QUANTMODES, "strategy": STRATEGIES}[key]
            reader.add("missing_key", path, f"'{key}' is required in quant_dict", allowed=allowed, fix=f"add '{key}'")
    _modes(reader, found, known, path)
    if known.get("bf16_mix_prec") is not None:
        place = (*path, "bf16_mix_prec")
        if reader.flag(known["bf16_mix_prec"], place):
            found.mixed = Value(value=True, path=place)
    for key in FLAGS[1:]:
        if known.get(key):
            reader.drop((*path, key), f"'{key}' is about the tool's own run", "it is not read")


def _modes(reader: MqReader, found: Found, known: Mapping[str, Any], path: JsonPath) -> None:
    """Reads chip, quantmode and strategy of a mapping."""
    if "chip" in known:
        place, value = (*path, "chip"), known["chip"]
        if isinstance(value, str) and value in CHIP_ALIASES:
            reader.note(place, f"'{value}' is read as {CHIP_ALIASES[value]}, its name since May 2024")
            value = CHIP_ALIASES[value]
        word = reader.word(value, place, CHIPS, "chip", code="sophgo_chip")
        found.chip = None if word is None else Value(value=word, path=place)
    if "quantmode" in known:
        place = (*path, "quantmode")
        word = reader.word(known["quantmode"], place, QUANTMODES, "quantmode", code="sophgo_quantmode")
        found.quantmode = None if word is None else Value(value=word, path=place)
    if "strategy" in known:
        place = (*path, "strategy")
        word = reader.word(known["strategy"], place, STRATEGIES, "strategy", code="sophgo_strategy")
        found.strategy = None if word is None else Value(value=word, path=place)


def _script(reader: MqReader, found: Found, value: Mapping[str, Any], words: Vocabulary) -> None:
    """Reads ``quant`` of the example scripts; every other section is told about and left."""
    for key in value:
        if key != "quant":
            reader.drop((key,), f"'{key}' is a setting of the script, not of the quantization", "it is not read")
    known = reader.ignoring(value["quant"], ("quant",), SCRIPT, "'quant'")
    _modes(reader, found, known, ("quant",))
    for key in ("chip", "quantmode"):
        if key not in known:
            reader.add("missing_key", ("quant",), f"'{key}' is required in quant", fix=f"add '{key}'")
    if "strategy" not in known:
        reader.note(("quant",), "no strategy is named: the script that reads this file says Transformer")
        found.strategy = Value(value="Transformer")
    halves: tuple[Half, ...] = ("w", "a")
    for half in halves:
        key = f"{half}_qconfig"
        if key in known:
            found.sides[half] = _script_side(reader, known, key, half, words)
    if "calibrate" in known:
        reader.drop(("quant", "calibrate"), "how many batches calibrate", "it is not read: data is given apart")
    if known.get("scaling_method") not in (None, "max"):
        effect = "scales are those of the largest value"
        reader.drop(("quant", "scaling_method"), f"scaling_method {known['scaling_method']!r:.40}", effect)


def _script_side(reader: MqReader, known: Mapping[str, Any], key: str, half: Half, words: Vocabulary) -> Side:
    path: JsonPath = ("quant", key)
    side = Side(half=half)
    given = reader.ignoring(known[key], path, SCRIPT_SIDE, f"'{key}'")
    if "observer" in given:
        side.observer = read_observer(reader, given["observer"], (*path, "observer"), words)
    if "quantizer" in given:
        side.fake = read_fake(reader, given["quantizer"], (*path, "quantizer"), words)
    scheme = {name: given[name] for name in ("bit", "symmetric", "per_channel") if name in given}
    if scheme or "pot_scale" in known:
        read_scheme(reader, side, {SCRIPT_SIDE[name]: item for name, item in scheme.items()}, path)
        for name in scheme:
            at = side.scheme[SCRIPT_SIDE[name]]
            side.scheme[SCRIPT_SIDE[name]] = Value(value=at.value, path=(*path, name))
        if "pot_scale" in known:
            flag = reader.flag(known["pot_scale"], ("quant", "pot_scale"))
            side.scheme["pot_scale"] = Value(value=bool(flag), path=("quant", "pot_scale"))
    return side
