"""One half of a qconfig of MQBench or sophgo-mq, weights or activations: what it says, and the spec that it means.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quantwright.config.config import Source
from quantwright.config.consistency import conflicts
from quantwright.config.document import JsonPath
from quantwright.config.reader import shown
from quantwright.config.spec import FakeQuantSpec, Granularity, ObserverSpec, QuantSpec, Role
from quantwright.dialects._mq_reader import MqReader
from quantwright.dialects._mq_words import ALIASES, CODEBOOKS, KnownFakeQuant, KnownObserver
from quantwright.errors import did_you_mean

Half = Literal["w", "a"]
NAMES: dict[Half, str] = {"w": "weights", "a": "activations"}
ROLES: dict[Half, tuple[Role, ...]] = {"w": ("weight",), "a": ("input", "output")}
MAX_BITS = 16
Fields = dict[str, tuple[Any, Source]]
#: 3: keys of a qscheme and what they are when a given dict leaves them out
SCHEME: dict[str, Any] = {
    "bit": 8, "symmetry": True, "per_channel": False, "pot_scale": False, "symmetric_range": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Returns one value of a document and where it stands; ``path`` None is the tool's default."""

    value: Any
    path: JsonPath | None = None


@dataclass(slots=True, kw_only=True)
class Side:
    """Returns what a document says about one half; what is None or empty was not given.

    Attributes:
        scheme: every key of the qscheme, complete when it was given.
        arguments: of the observer, from the qscheme and from the extra arguments.
        learned: arguments of the fake quantizer.
    """

    half: Half
    observer: Value | None = None
    fake: Value | None = None
    scheme: dict[str, Value] = field(default_factory=dict)
    arguments: dict[str, Value] = field(default_factory=dict)
    learned: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Returns the observers and fake quantizers one tool knows."""

    observers: Mapping[str, KnownObserver]
    fake_quants: Mapping[str, KnownFakeQuant]


def read_side(reader: MqReader, known: Mapping[str, Any], path: JsonPath, half: Half, words: Vocabulary) -> Side:
    """Returns one half of an ``extra_qconfig_dict``, checked; what cannot be read is a problem and left out."""
    side = Side(half=half)
    key = f"{half}_observer"
    if key in known:
        side.observer = read_observer(reader, known[key], (*path, key), words)
    key = f"{half}_fakequantize"
    if key in known:
        side.fake = read_fake(reader, known[key], (*path, key), words)
    key = f"{half}_qscheme"
    if key in known:
        read_scheme(reader, side, known[key], (*path, key))
    key = f"{half}_observer_extra_args"
    if key in known and isinstance(known[key], dict):
        side.arguments |= {name: Value(value=v, path=(*path, key, name)) for name, v in known[key].items()}
    elif known.get(key) is not None:
        reader.mapping(known[key], (*path, key), (), f"'{key}'")
    key = f"{half}_fakeq_params"
    if key in known and isinstance(known[key], dict):
        side.learned |= {name: Value(value=v, path=(*path, key, name)) for name, v in known[key].items()}
    elif known.get(key) is not None:
        reader.mapping(known[key], (*path, key), (), f"'{key}'")
    return side


def read_observer(reader: MqReader, value: Any, path: JsonPath, words: Vocabulary) -> Value | None:
    """Returns the name of an observer the tool knows, under the name it is registered by."""
    if isinstance(value, str) and _last(value) in ALIASES:
        successor = ALIASES[_last(value)]
        reader.note(path, f"'{_last(value)}' is read as '{successor}', the name {reader.tool} registers it by now")
        return Value(value=successor, path=path)
    word = reader.word(_last(value), path, words.observers, "observer", code="mq_observer")
    return None if word is None else Value(value=word, path=path)


def read_fake(reader: MqReader, value: Any, path: JsonPath, words: Vocabulary) -> Value | None:
    """Returns the name of a fake quantizer the tool knows."""
    word = reader.word(_last(value), path, words.fake_quants, "fake quantizer", code="mq_fakequantize")
    return None if word is None else Value(value=word, path=path)


def read_scheme(reader: MqReader, side: Side, value: Any, path: JsonPath) -> None:
    """Reads a qscheme dict, which replaces the preset's entirely; other keys are arguments of the observer (3)."""
    if not isinstance(value, dict):
        reader.mapping(value, path, SCHEME, f"'{path[-1]}'")
        return
    side.scheme = {key: Value(value=default) for key, default in SCHEME.items()}
    for key, item in value.items():
        place = (*path, key)
        if key == "bit":
            bits = reader.integer(item, place, 2, MAX_BITS)
            side.scheme[key] = Value(value=8 if bits is None else bits, path=place)
        elif key in SCHEME:
            side.scheme[key] = Value(value=bool(reader.flag(item, place)), path=place)
        else:
            side.arguments[key] = Value(value=item, path=place)


def _last(value: Any) -> Any:
    """Returns the last word of a dotted name: classes become text with their module."""
    return value.rpartition(".")[2] if isinstance(value, str) else value


def spec_of(
    reader: MqReader, side: Side, base: QuantSpec, words: Vocabulary, *, format_fixed: bool = False
) -> tuple[QuantSpec, dict[str, Source]]:
    """Returns the partial spec a half means on top of a target's default, and the Source of every field.

    Args:
        base: the target's default for it.
        format_fixed: the backend has formats of its own, whatever the width and symmetry.
    """
    fields: Fields = {}
    if side.scheme:
        _scheme_fields(reader, side, fields, format_fixed)
    _observer_fields(reader, side, base, fields, words)
    _fake_fields(reader, side, base, fields, words)
    casts = fields.get("format", ("", None))[0] in ("float16", "bfloat16", "float32")
    kept = {name: pair for name, pair in fields.items() if name == "format" or not casts}
    spec = QuantSpec(**{name: value for name, (value, _) in kept.items()})
    _check(reader, side, spec, base, kept)
    return spec, {name: source for name, (_, source) in kept.items()}


def _scheme_fields(reader: MqReader, side: Side, fields: Fields, format_fixed: bool) -> None:
    values = {key: item.value for key, item in side.scheme.items()}
    where = {
        key: reader.default(f"{key} of a qscheme without it") if item.path is None else reader.where(item.path)
        for key, item in side.scheme.items()
    }
    symmetric = values["symmetry"]
    if format_fixed:
        at = side.scheme["bit"].path or side.scheme["symmetry"].path or ()
        reader.note(at, f"no effect: this backend has {NAMES[side.half]} of a width of its own", "fixed")
        return
    narrow = values["symmetric_range"] and symmetric
    if values["symmetric_range"] and not symmetric:
        reader.note(side.scheme["symmetric_range"].path or (), "no effect: an asymmetric grid begins at 0")
    if values["per_channel"] and side.half == "a":
        text = f"{reader.tool} takes the batch axis for channels of activations; the channel axis is used here"
        reader.note(side.scheme["per_channel"].path or (), text)
    fields["format"] = (f"{'' if symmetric else 'u'}int{values['bit']}", where["bit"])
    fields["granularity"] = (
        Granularity(kind="per_channel" if values["per_channel"] else "per_tensor"),
        where["per_channel"],
    )
    fields["symmetric"] = (symmetric, where["symmetry"])
    fields["narrow_range"] = (narrow, where["symmetric_range"])
    fields["scale"] = ("power_of_two" if values["pot_scale"] else "float", where["pot_scale"])
    if values["pot_scale"]:
        fields["exponent"] = ("nearest", where["pot_scale"])


def _observer_fields(reader: MqReader, side: Side, base: QuantSpec, fields: Fields, words: Vocabulary) -> None:
    name = side.observer.value if side.observer is not None else preset_observer(base, words)
    known = words.observers[name]
    if side.observer is None and not side.arguments:
        if known.power_of_two and "scale" in fields:  # its powers are its own, whatever pot_scale says
            _floor_fields(reader, side, fields, base, name, reader.default(f"observer {name} of the preset"), None)
        return
    place = side.observer.path if side.observer is not None else None
    source = reader.default(f"observer {name} of the preset") if place is None else reader.where(place)
    params, decay = dict(known.params), 0.9
    for key, item in side.arguments.items():
        at = item.path or ()
        if key not in known.accepted:
            message = f"'{key}' is no argument of {name}"
            near = did_you_mean(key, (*SCHEME, *known.accepted))
            fix = near or "remove it, or choose an observer that takes it"
            reader.add("mq_observer_argument", at, message, value=key, allowed=known.accepted or "none", fix=fix)
        elif key == "ema_ratio":
            number = reader.number(item.value, at, low=0, high=0.999999)
            decay = float(decay if number is None else number)
        else:
            value = _argument(reader, key, item.value, at)
            if value is not None:
                params[known.arguments[key][0]] = value
    fields["observer"] = (ObserverSpec(name=known.observer, params=params), source)
    if side.half == "a":
        fields["statistic"] = (known.statistic, source)
        if known.statistic == "ema":
            ratio = side.arguments.get("ema_ratio")
            where = reader.where(ratio.path) if ratio is not None and ratio.path is not None else source
            fields["ema_decay"] = (decay, where)
    elif known.statistic == "ema":
        reader.note(place or (), "weights do not change between batches: their average is the range itself")
    if known.power_of_two:
        _floor_fields(reader, side, fields, base, name, source, place)


def _floor_fields(
    reader: MqReader, side: Side, fields: Fields, base: QuantSpec, name: str, source: Source, place: JsonPath | None
) -> None:
    """Sets what MinMaxFloor and PoTMode give: powers of two down to 2**-12, symmetric grids only (4)."""
    symmetric = fields["symmetric"][0] if "symmetric" in fields else base.symmetric
    if symmetric is False:
        message = f"{name} divides by the lowest integer, and that of an asymmetric grid is 0"
        fix = "set symmetry: true, or choose another observer"
        reader.add("mq_floor_asymmetric", place or (), message, value=name, fix=fix)
    fields["scale"], fields["exponent"] = ("power_of_two", source), ("ceil", source)
    fields["fit"], fields["min_scale"] = ("sides", source), (2.0**-12, source)


def _argument(reader: MqReader, key: str, value: Any, path: JsonPath) -> float | int | None:
    if key == "bins":
        return reader.number(value, path, integer=True, low=16, high=1 << 20)
    low, high = {"threshold": (0.5, 1.0), "std_scale": (0.0, 1000.0), "p": (0.1, 100.0)}[key]
    number = reader.number(value, path, low=low, high=high)
    return None if number is None else float(number)


def preset_observer(base: QuantSpec, words: Vocabulary) -> str:
    """Returns the tool's name of the observer of a target's default."""
    wanted = base.observer.name if base.observer is not None else "minmax"
    names = [name for name, known in words.observers.items() if known.observer == wanted]
    exact = [name for name in names if words.observers[name].statistic == base.statistic]
    return (exact or names or ["MinMaxObserver"])[0]


def _fake_fields(reader: MqReader, side: Side, base: QuantSpec, fields: Fields, words: Vocabulary) -> None:
    if side.fake is None:
        for item in side.learned.values():
            reader.note(item.path or (), "no effect: no fake quantizer is named here")
        return
    name, path = side.fake.value, side.fake.path or ()
    known, source = words.fake_quants[name], reader.where(path)
    for key, item in side.learned.items():
        if key not in known.arguments:
            message = f"'{key}' is no argument of {name}"
            at = item.path or ()
            reader.add("mq_fake_argument", at, message, value=key, allowed=known.arguments or "none", fix="remove it")
    params = {key: item.value for key, item in side.learned.items() if key in known.arguments}
    if known.learns:
        text = f"{name} is read as fixed QParams, which it computes until it is trained; training is not available yet"
        reader.note(path, text)
        params = {}
    if known.format is not None:
        codebook = params.pop("data_type", None)
        if codebook is not None:
            at = side.learned["data_type"].path or ()
            word = reader.word(codebook, at, CODEBOOKS, "codebook", code="mq_codebook")
            fields["format"] = (CODEBOOKS[word] if word else known.format, reader.where(at))
        else:
            fields["format"] = (known.format, source)
    elif "format" not in fields and not base.is_integer:
        fields["format"] = ("int8", source)
    fields["fake_quant"] = (FakeQuantSpec(name=known.name, params=params), source)
    if known.dynamic and side.half == "a":
        fields["dynamic"] = (True, source)
    if name == "TqtFakeQuantize":
        _tqt_fields(reader, fields, base, path, source)


def _tqt_fields(reader: MqReader, fields: Fields, base: QuantSpec, path: JsonPath, source: Source) -> None:
    """Sets the grid of TQT, whose scale is the power of two above the observer's; it is not learned (4)."""
    over = {name: value for name, (value, _) in fields.items()}
    merged = base.model_copy(update=over)
    several = merged.granularity is not None and merged.granularity.kind != "per_tensor"
    if merged.symmetric is False or several:
        message = "TqtFakeQuantize takes symmetric grids with one scale per tensor only"
        fix = "set symmetry: true and per_channel: false"
        reader.add("mq_tqt", path, message, value="TqtFakeQuantize", fix=fix)
    if merged.scale != "power_of_two":
        fields["scale"], fields["exponent"] = ("power_of_two", source), ("ceil", source)


def _check(reader: MqReader, side: Side, spec: QuantSpec, base: QuantSpec, fields: Fields) -> None:
    """Adds a problem for every contradiction of a half with itself or with what it inherits."""
    for conflict in conflicts(spec.over(base), ROLES[side.half][-1]):
        if conflict.code == "no_effect" or conflict.field not in fields:
            continue
        source = fields[conflict.field][1]
        path = tuple(source.path.split(".")) if source.path else ()
        value = shown(getattr(spec, conflict.field))
        reader.add(conflict.code, path, conflict.message, value=value, fix=conflict.fix)
