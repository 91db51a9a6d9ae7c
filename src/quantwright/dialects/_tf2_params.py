"""Reads quantizers of vai_q_tensorflow2: type and parameters, in the document's spelling and in the code's.

Section numbers are those of the behavioural spec of vai_q_tensorflow2 3.5 (0.3 spellings, 4 numerics).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quantwright.config.config import Source
from quantwright.config.document import Document, JsonPath, path_text
from quantwright.config.reader import kind_of, shown
from quantwright.dialects._tf2_names import METHODS, QUANTIZERS, ROUND_MODES, TOOL
from quantwright.dialects._vai_params import Setting, VaiReader

Settings = dict[str, Setting]
_GRID = ("bit_width", "method", "method_percentile", "round_mode", "symmetry", "per_channel", "channel_axis",
         "unsigned", "narrow_range", "data_format", "epsilon")  # fmt: skip
_POSITIONS = ("min_quantize_pos", "max_quantize_pos")
_KERNEL = ("use_framework_quant", "use_framework_quantizer", "use_fixneuron_quant")
PARAMS = {
    "Pof2SQuantizer": (*_GRID, *_POSITIONS, *_KERNEL),
    "FSQuantizer": (*_GRID, *_KERNEL),
    "MAFSQuantizer": (*_GRID, "ema_decay", *_KERNEL),
    "TQTQuantizer": (*_GRID, *_POSITIONS, *_KERNEL),
    "BFPQuantizer": ("data_format", "bit_width", "tile_size", "round_mode", "per_channel", "channel_axis"),
}
FLAGS = ("symmetry", "per_channel", "unsigned", "narrow_range", "use_framework_quant")
DATA_FORMATS = ("INT", "UINT", "BFP16", "FP16")
BLOCK_FORMATS = ("fp32", "bf16", "bfp", "msfp")
#: what a parameter is when the quantizer does not give it
DEFAULTS: Mapping[str, Any] = {
    "bit_width": 8, "method": 0, "method_percentile": 99.99, "round_mode": 1, "symmetry": True, "per_channel": False,
    "channel_axis": -1, "unsigned": False, "narrow_range": False, "ema_decay": 0.999, "tile_size": 8,
}  # fmt: skip


class Tf2Reader(VaiReader):
    """Returns a reader of this tool's documents; it also collects notes and what could not be carried over."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self._told: set[tuple[str, JsonPath, str]] = set()

    def add(
        self,
        code: str,
        path: JsonPath,
        message: str,
        *,
        value: object = None,
        allowed: Iterable[str] | str | None = None,
        fix: str | None = None,
    ) -> None:
        """Adds one problem at ``path``, once: a handy key reaches many quantizers."""
        if (code, path, message) not in self._told:
            self._told.add((code, path, message))
            super().add(code, path, message, value=value, allowed=allowed, fix=fix)

    def where(self, setting: Setting, text: str = "") -> Source:
        """Returns the Source of a setting; the tool's own defaults are told as such."""
        if setting.path is None:
            return Source(kind="dialect", text=text or f"{TOOL} default")
        return self.source(setting.path, text or path_text(setting.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """Returns one quantizer: its type, the parameters it gives, and where it stands (None: built in).

    Attributes:
        name: what ``shared_quantizer`` calls it.
        origin: what a built-in parameter is a default for ("fs default for Conv2D.kernel").
    """

    kind: str
    params: Mapping[str, Setting]
    path: JsonPath | None = None
    name: str = ""
    origin: str = ""
    words: frozenset[str] = field(default_factory=frozenset)  # parameters given in the document's words

    def get(self, name: str) -> Setting:
        """Returns a parameter, or the default of the tool's constructor."""
        return self.params.get(name) or Setting(value=DEFAULTS.get(name))

    def given(self, name: str) -> bool:
        """Returns whether the document says this parameter."""
        return name in self.params and self.params[name].path is not None

    def with_param(self, name: str, setting: Setting, word: bool = False) -> Quantizer:
        """Returns the quantizer with one parameter replaced."""
        words = self.words | {name} if word else self.words - {name}
        return replace(self, params={**self.params, name: setting}, words=words)


def built_in(kind: str, values: Mapping[str, Any], origin: str) -> Quantizer:
    """Returns a quantizer of a built-in strategy."""
    return Quantizer(kind=kind, params={key: Setting(value=item) for key, item in values.items()}, origin=origin)


def read_quantizer(reader: Tf2Reader, value: Any, path: JsonPath) -> Quantizer | None:
    """Returns a quantizer of the document, or None after problems were added."""
    keys = ("name", "type", "params", "quantizer_type", "quantizer_params")
    known = reader.mapping(value, path, keys, "a quantizer")
    if not isinstance(value, dict):
        return None
    for short, long in (("type", "quantizer_type"), ("params", "quantizer_params")):
        if short in known and long in known:
            message = f"'{short}' and '{long}' are two spellings of one key"
            reader.add("duplicate_key", (*path, long), message, value=long, fix=f"keep '{short}' and remove '{long}'")
    kind = _kind(reader, known, path)
    key = "quantizer_params" if "quantizer_params" in known else "params"
    params: dict[str, Any] = {}
    words: frozenset[str] = frozenset()
    if known.get(key) is not None:
        params, words = read_params(reader, known[key], (*path, key), PARAMS.get(kind or "", _ALL))
    name = known.get("name")
    if name not in (None, "") and not isinstance(name, str):
        reader.add("type", (*path, "name"), f"'name' is {kind_of(name)}, not text", value=name, fix="write text")
        name = ""
    return None if kind is None else Quantizer(kind=kind, params=params, path=path, name=name or "", words=words)


_ALL = tuple(dict.fromkeys(name for names in PARAMS.values() for name in names))


def _kind(reader: Tf2Reader, known: Mapping[str, Any], path: JsonPath) -> str | None:
    key = "quantizer_type" if "quantizer_type" in known else "type"
    if key not in known:
        message, fix = "the quantizer has no type", 'add "type": "Pof2SQuantizer"'
        reader.add("missing_key", path, message, allowed=QUANTIZERS, fix=fix)
        return None
    return reader.word(known[key], (*path, key), QUANTIZERS, "quantizer type", code="tf2_quantizer")


def read_params(
    reader: Tf2Reader, value: Any, path: JsonPath, allowed: tuple[str, ...]
) -> tuple[Settings, frozenset[str]]:
    """Returns the checked parameters, under the code's names, and which were given as words."""
    known = reader.mapping(value, path, allowed, f"'{path[-1]}'")
    found: Settings = {}
    words = set()
    for key, item in known.items():
        place = (*path, key)
        name = "use_framework_quant" if key == "use_framework_quantizer" else key
        if item is None:
            reader.note("null", place, "null is read as not given")
            continue
        if name in found:
            message = f"'{key}' and '{name}' are two spellings of one key"
            reader.add("duplicate_key", place, message, value=key, fix=f"remove '{key}'")
        checked = read_param(reader, name, item, place)
        if isinstance(item, str) and name in ("method", "round_mode"):
            words.add(name)
        found[name] = Setting(value=checked, path=place)
    return found, frozenset(words)


def read_param(reader: Tf2Reader, name: str, value: Any, path: JsonPath) -> Any:
    """Returns one checked parameter, or None after a problem was added; words become the code's numbers."""
    if name in FLAGS:
        return reader.flag(value, path, code="tf2_bool")
    if name == "method":
        return _numbered(reader, value, path, METHODS, "method")
    if name == "round_mode":
        return _numbered(reader, value, path, ROUND_MODES, "round mode")
    if name == "data_format":
        return _data_format(reader, value, path)
    if name == "bit_width":
        return _bit_width(reader, value, path)
    ranges: dict[str, tuple[bool, float, float]] = {
        "method_percentile": (False, 0, 100),
        "channel_axis": (True, -5, 5),
        "epsilon": (False, 0, 1),
        "min_quantize_pos": (True, -126, 126),
        "max_quantize_pos": (True, -126, 126),
        "ema_decay": (False, 0, 1),
        "tile_size": (True, 1, 65536),
        "use_fixneuron_quant": (True, 0, 2),
    }
    integer, low, high = ranges[name]
    number = reader.number(value, path, integer=integer, low=low, high=high, code=f"tf2_{name}")
    if name == "ema_decay" and number == 1:
        reader.add("tf2_ema_decay", path, "'ema_decay' is 1, which keeps the first batch only", fix="write e.g. 0.999")
        return None
    if name == "method_percentile" and number == 0:
        reader.add("tf2_method_percentile", path, "'method_percentile' is 0, which keeps nothing", fix="write 99.99")
        return None
    return number


def _numbered(reader: Tf2Reader, value: Any, path: JsonPath, words: Mapping[str, int], what: str) -> int | None:
    """Returns the number of a word, or a number that one of the words has."""
    if isinstance(value, int) and not isinstance(value, bool) and value in words.values():
        return value
    if isinstance(value, str):
        word = reader.word(value, path, words, what, code="tf2_word")
        if word == "HALF_TO_ZERO":
            text = "what the document calls HALF_TO_ZERO rounds halves away from zero in the tool, and so it is here"
            reader.note("half_to_zero", path, text)
        return None if word is None else words[word]
    allowed = ", ".join(f"{number} ({word})" for word, number in words.items())
    fix = "write one of the words or their numbers"
    reader.add("tf2_word", path, f"{shown(value)} is not a {what}", value=value, allowed=allowed, fix=fix)
    return None


def _data_format(reader: Tf2Reader, value: Any, path: JsonPath) -> str | None:
    return reader.word(value, path, (*DATA_FORMATS, *BLOCK_FORMATS), "data format", code="tf2_data_format")


def _bit_width(reader: Tf2Reader, value: Any, path: JsonPath) -> int | None:
    number = reader.number(value, path, integer=True, low=1, high=32, code="tf2_bit_width")
    if number == 1:
        message = "'bit_width' is 1: a signed grid of 1 bit holds only -1 and 0"
        reader.add("tf2_bit_width", path, message, value=value, allowed="2 to 32", fix="write 2 or more")
        return None
    return None if number is None else int(number)
