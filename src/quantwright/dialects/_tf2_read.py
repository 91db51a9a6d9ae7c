"""Reads a document of vai_q_tensorflow2 into the strategy it ends up with: a built-in one with overrides (spec 2.3).

A document stands for the arguments of ``VitisQuantizer`` and ``quantize_model``, or is the file of
``custom_quantize_strategy``: sections, keys of sections and handy keys on one level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of, shown
from quantwright.dialects import _tf2_strategies as data
from quantwright.dialects._tf2_layers import Entry, PatternEntry, Target, read_entries, role_of
from quantwright.dialects._tf2_names import ALIASES, CALL_KEYS, FLOATS, INTEGERS, METHODS, ROUND_MODES, TOOL
from quantwright.dialects._tf2_params import Quantizer, Tf2Reader, built_in, read_param, read_quantizer
from quantwright.dialects._vai_params import Setting
from quantwright.errors import did_you_mean

OWN = ("quantize_strategy", "custom_quantize_strategy", "target", "custom_objects")
_SPELLED = {"user_defined_quantize_config": "user_quantize_config"}  # as the document's heading says
_SECTION_KEYS = tuple(dict.fromkeys(key for table in data.SECTIONS.values() for keys in table.values() for key in keys))
TOP = (*OWN, *data.SECTIONS, data.REGISTRY, *data.REGISTRY_KEYS, *_SPELLED, *_SECTION_KEYS, *data.ANY_USER_KEY,
       *ALIASES, *CALL_KEYS)  # fmt: skip
_WORDS = {
    "cle_balance_method": ("max", "avg"),
    "output_format": ("", "h5", "tf", "pb", "onnx"),
    "convert_datatype": ("", *FLOATS),
}
_LOWEST = {"freeze_bn_delay": -1, "cle_steps": 0, "cle_weight_threshold": 0, "fast_ft_epochs": 1,
           "onnx_opset_version": 1}  # fmt: skip


@dataclass(slots=True)
class Strategy:
    """Returns a strategy while overrides are applied to it.

    Attributes:
        name: a built-in strategy (2.1).
        settings: the keys of its pipelines.
        user: the handy keys that are given.
        words: handy keys given in the document's words.
        layers: class -> its entry; built-in ones have no path.
        patterns: entries of the document's schema, in order.
    """

    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    user: dict[str, Setting] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    input_quantizer: Quantizer | None = None
    input_layers: Setting | None = None
    layers: dict[str, Entry] = field(default_factory=dict)
    patterns: list[PatternEntry] = field(default_factory=list)

    @classmethod
    def built_in(cls, name: str) -> Strategy:
        """Returns a built-in strategy."""
        made = cls(name=name)
        for table in data.SECTIONS.values():
            made.settings |= {key: Setting(value=value) for key, value in table[name].items()}
        made.input_quantizer = built_in(*data.INPUT[name], f"{TOOL} {name} default for inputs")
        made.layers = {layer: _entry(name, layer, pairs) for layer, pairs in data.LAYERS[name].items()}
        return made

    def value(self, key: str) -> Any:
        """Returns the value of a pipeline key, None where the strategy has none."""
        setting = self.settings.get(key)
        return None if setting is None else setting.value

    def asked(self, key: str) -> bool:
        """Returns whether the document gives a pipeline key."""
        return key in self.settings and self.settings[key].path is not None

    def changed(self, key: str) -> bool:
        """Returns whether the document gives a pipeline key another value than the strategy has."""
        default = next(table[self.name][key] for table in data.SECTIONS.values() if key in table[self.name])
        return self.asked(key) and self.value(key) != default


def _entry(name: str, layer: str, pairs: Mapping[str, tuple[tuple[str, data.Quantizer], ...]]) -> Entry:
    targets = [
        Target(
            kind=kind, role=role_of(kind, attribute), name=attribute,
            quantizer=built_in(*quantizer, f"{TOOL} {name} default for {layer}.{attribute}"),
        )
        for kind, listed in pairs.items()
        for attribute, quantizer in listed
    ]  # fmt: skip
    return Entry(layer=layer, targets=tuple(targets))


def read_strategy(reader: Tf2Reader) -> Strategy | None:
    """Returns the strategy that a document ends up with; problems are in the reader."""
    document = reader.document.value
    if not isinstance(document, dict):
        reader.mapping(document, (), TOP, "the configuration")
        return None
    name = _strategy_name(reader, document)
    if name is None:
        return None
    strategy = Strategy.built_in(name)
    custom = document.get("custom_quantize_strategy")
    path: JsonPath = ("custom_quantize_strategy",)
    if isinstance(custom, str):
        reader.drop(path, "it is a file of its own", "read that file instead, or copy its content here")
    elif custom is not None and not isinstance(custom, dict):
        message = f"'custom_quantize_strategy' is {kind_of(custom)}, not a mapping"
        reader.add("type", path, message, value=custom, fix="write what the file holds")
    elif custom:
        _apply(reader, strategy, custom, path, own=False)
    _apply(reader, strategy, document, (), own=True)
    return strategy


def _strategy_name(reader: Tf2Reader, document: Mapping[str, Any]) -> str | None:
    if "quantize_strategy" in document:
        path: JsonPath = ("quantize_strategy",)
        word = reader.word(document["quantize_strategy"], path, data.NAMES, "quantize strategy", code="tf2_strategy")
        if word == "tqt":
            reader.note("tqt", path, f"the name the document has for pof2s_tqt; {TOOL} knows only that one")
        return None if word is None else data.NAMES[word]
    whole = [name for name in data.STRATEGIES if _is_whole(document, name)]
    if not whole:
        return "pof2s"
    name = min(whole, key=lambda one: _distance(document, one))
    if name != "pof2s":
        text = f"the file is a whole strategy and fits {name}: read as if it said quantize_strategy: {name}"
        reader.note("strategy", (), text)
    return name


def _is_whole(document: Mapping[str, Any], name: str) -> bool:
    """Returns whether every pipeline is there, with exactly the keys that a built-in strategy has."""
    return all(
        isinstance(document.get(section), dict) and set(document[section]) == set(table[name])
        for section, table in data.SECTIONS.items()
    )


def _distance(document: Mapping[str, Any], name: str) -> int:
    """Returns how many values and layers of a whole file differ from a built-in strategy."""
    differ: int = sum(
        document[section].get(key) != value
        for section, table in data.SECTIONS.items()
        for key, value in table[name].items()
    )
    registry = document.get(data.REGISTRY)
    listed = registry.get("layer_quantize_config") if isinstance(registry, dict) else None
    types = [item.get("layer_type") for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    named = {str(layer).rpartition(".")[2] for layer in types}
    return differ + len(named ^ set(data.LAYERS[name]))


# -- routing (2.3) ------------------------------------------------------------------------------------------------
def _apply(reader: Tf2Reader, strategy: Strategy, document: Mapping[str, Any], path: JsonPath, own: bool) -> None:
    """Applies one document: its sections first, then single keys, each to the section that has it."""
    for section in data.SECTIONS:
        if section in document:
            _section(reader, strategy, section, document[section], (*path, section))
    if data.REGISTRY in document:
        place = (*path, data.REGISTRY)
        keys = (*data.REGISTRY_KEYS, *_SPELLED)
        for key, value in reader.mapping(document[data.REGISTRY], place, keys, f"'{data.REGISTRY}'").items():
            _registry(reader, strategy, _SPELLED.get(key, key), value, (*place, key))
    for key, value in document.items():
        if key in data.SECTIONS or key == data.REGISTRY:
            continue
        place = (*path, key)
        if key in ("quantize_strategy", "custom_quantize_strategy") and own:
            continue
        if key in (*data.REGISTRY_KEYS, *_SPELLED):
            _registry(reader, strategy, _SPELLED.get(key, key), value, place)
        elif own and key in ("target", *CALL_KEYS, "custom_objects"):
            _call_key(reader, key, value, place)
        else:
            _single(reader, strategy, key, value, place)


def _call_key(reader: Tf2Reader, key: str, value: Any, path: JsonPath) -> None:
    if value is None:
        return
    if key == "target":
        effect = "the settings of this file hold; with a target the tool replaces them by those of its compiler"
        reader.drop(path, "the patterns of single DPUs come from the tool's compiler, which is not at hand", effect)
    elif key == "custom_objects":
        reader.drop(path, "classes of a model are no settings", "they stay float unless an entry is about them")
    else:
        reader.drop(path, f"'{key}' is an argument of the call", "give it where the network is quantized")


def _single(reader: Tf2Reader, strategy: Strategy, key: str, value: Any, path: JsonPath) -> None:
    """Applies a key of a section or a handy key."""
    name = ALIASES.get(key, key)
    if name != key:
        reader.note("alias", path, f"the old spelling of '{name}'")
    if name in data.ANY_USER_KEY:
        _user_key(reader, strategy, name, value, path)
        return
    for section, table in data.SECTIONS.items():
        if name in table[strategy.name]:
            _pipeline_key(reader, strategy, section, name, value, path)
            return
    _foreign(reader, strategy, key, path, TOP)


def _foreign(reader: Tf2Reader, strategy: Strategy, key: str, path: JsonPath, known: tuple[str, ...]) -> None:
    """Adds the problem of a key that the strategy does not have ("Invalid configs")."""
    holders = [name for name in data.STRATEGIES if key in _keys_of(name)]
    if holders:
        message = f"strategy {strategy.name} has no '{key}'"
        fix = f"remove it, or set quantize_strategy: {holders[0]}"
        reader.add("tf2_foreign_key", path, message, value=key, allowed=f"with {', '.join(holders)}", fix=fix)
        return
    fix = did_you_mean(key, known) or "remove the key"
    reader.add("unknown_key", path, f"unknown key '{key}' of strategy {strategy.name}", value=key, fix=fix)


def _keys_of(name: str) -> set[str]:
    return {key for table in data.SECTIONS.values() for key in table[name]} | set(data.user_keys(name))


def _section(reader: Tf2Reader, strategy: Strategy, section: str, value: Any, path: JsonPath) -> None:
    if not isinstance(value, dict):
        reader.mapping(value, path, data.SECTIONS[section][strategy.name], f"'{section}'")
        return
    table = data.SECTIONS[section][strategy.name]
    for key, item in value.items():
        name = ALIASES.get(key) or key
        if name not in table:
            _foreign(reader, strategy, key, (*path, key), tuple(table))
            continue
        _pipeline_key(reader, strategy, section, name, item, (*path, key))


def _pipeline_key(reader: Tf2Reader, strategy: Strategy, section: str, key: str, value: Any, path: JsonPath) -> None:
    """Applies a key of a pipeline; its type is that of its default (the tool never checks it)."""
    default = data.SECTIONS[section][strategy.name][key]
    checked: Any
    if key in _WORDS:
        checked = reader.word(value, path, _WORDS[key], key, code="tf2_word")
    elif isinstance(default, bool):
        checked = reader.flag(value, path, code="tf2_bool")
    elif isinstance(default, str):
        checked = reader.text(value, path)
    else:
        whole = isinstance(default, int)
        checked = reader.number(value, path, integer=whole, low=_LOWEST[key], high=1_000_000, code=f"tf2_{key}")
    if checked is not None:
        strategy.settings[key] = Setting(value=checked, path=path)


def _registry(reader: Tf2Reader, strategy: Strategy, key: str, value: Any, path: JsonPath) -> None:
    if key == "user_quantize_config":
        for name, item in reader.mapping(value, path, data.ANY_USER_KEY, "'user_quantize_config'").items():
            _user_key(reader, strategy, name, item, (*path, name))
    elif key == "custom_layer_type":
        names = _names(reader, value, path)
        if names:
            text = f"classes of the user's own ({', '.join(names)}) stay float unless an entry is about them"
            reader.note("custom", path, text)
    elif key == "input_quantize_config":
        known = reader.mapping(value, path, ("input_layers", "input_quantizer"), "'input_quantize_config'")
        if "input_layers" in known:
            strategy.input_layers = Setting(
                value=_names(reader, known["input_layers"], (*path, "input_layers")), path=(*path, "input_layers")
            )
        if "input_quantizer" in known:
            place = (*path, "input_quantizer")
            strategy.input_quantizer = read_quantizer(reader, known["input_quantizer"], place)
    else:
        flat, patterns = read_entries(reader, value, path)
        strategy.layers |= {entry.layer: entry for entry in flat}
        strategy.patterns += patterns


def _user_key(reader: Tf2Reader, strategy: Strategy, key: str, value: Any, path: JsonPath) -> None:
    """Applies a handy key; null is its default."""
    if key not in data.user_keys(strategy.name):
        if value is not None and value not in ([], {}):
            _foreign(reader, strategy, key, path, data.user_keys(strategy.name))
        return
    if key in data.LISTS:
        checked: Any = _names(reader, value, path)
    elif value is None:
        return
    elif key == "layer_config":
        checked = _layer_config(reader, value, path)
    else:
        _, _, handy = key.partition("_")
        names = {"bit": "bit_width", "quant": key, "format": "data_format"}
        if key in ("use_framework_quant", "use_fixneuron_quant", "data_format"):
            handy = key
        checked = read_param(reader, names.get(handy, handy), value, path)
    strategy.words.discard(key)
    if isinstance(value, str) and (value in METHODS or value in ROUND_MODES):
        strategy.words.add(key)
    if checked is not None:
        strategy.user[key] = Setting(value=checked, path=path)


def _names(reader: Tf2Reader, value: Any, path: JsonPath) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else reader.items(value, path, f"'{path[-1]}'")
    read = [reader.text(item, (*path, index)) for index, item in enumerate(listed)]
    return tuple(dict.fromkeys(name for name in read if name))


def _layer_config(reader: Tf2Reader, value: Any, path: JsonPath) -> dict[str, str] | None:
    """Returns layer name -> data type (1.2)."""
    if not isinstance(value, dict):
        message = f"'layer_config' is {kind_of(value)}, not a mapping of layer names to types"
        reader.add("type", path, message, value=shown(value), fix='write {"conv1": "int16"}')
        return None
    types = (*INTEGERS, *FLOATS)
    read = {name: reader.word(item, (*path, name), types, "data type", code="tf2_word") for name, item in value.items()}
    return {name: word for name, word in read.items() if word is not None}
