"""What a quantizer of vai_q_tensorflow2 means: a QuantSpec, with the source of every field (spec 4)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from quantwright.config.config import Source
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec, Role
from quantwright.dialects._tf2_names import CLASSES, METHOD_WORDS, MULTIPLIER, POWER_OF_TWO, ROUNDING, TOOL, KerasClass
from quantwright.dialects._tf2_params import DATA_FORMATS, Quantizer, Tf2Reader
from quantwright.dialects._vai_params import Setting

Fields = dict[str, tuple[Any, Source]]
Spec = tuple[QuantSpec, dict[str, Source]]
SCOPE = 5  # 4.4: method 1 tries five positions
HIGHEST_POSITION = 52  # 4.4: a step is never below 2**-52
LOWEST_POSITION = -52  # the document's; the tool has no bound, and no step is ever that large
HISTOGRAMS = ("growing_histogram", "entropy", "percentile")
BLOCKS = (11, 13, 15, 16)  # widths of block floating point that have a name here
FLOAT = QuantSpec(format="float32")


def spec_of(reader: Tf2Reader, quantizer: Quantizer, role: Role, layer: str = "") -> Spec | None:
    """Returns the spec of a quantizer and the source of every field, or None after problems were added.

    Args:
        layer: the Keras class whose tensor it is about; its axes are counted in Keras's layout.
    """
    if any(setting.value is None for setting in quantizer.params.values()):
        return None  # it was told already
    if quantizer.kind == "BFPQuantizer" or _format_word(quantizer) in ("BFP16", "FP16"):
        fields = _block(reader, quantizer, role)
    else:
        _check(reader, quantizer)
        fields = _grid(reader, quantizer, role, CLASSES.get(layer))
    if fields is None:
        return None
    return QuantSpec(**{name: value for name, (value, _) in fields.items()}), {
        name: place for name, (_, place) in fields.items()
    }


def _format_word(quantizer: Quantizer) -> Any:
    setting = quantizer.params.get("data_format")
    return None if setting is None else setting.value


def _where(reader: Tf2Reader, quantizer: Quantizer, name: str) -> Source:
    """Returns where a parameter of a quantizer comes from."""
    setting = quantizer.params.get(name)
    if setting is not None and setting.path is not None:
        return reader.where(setting)
    if quantizer.path is not None:
        return reader.source(quantizer.path, f"{TOOL} default of {quantizer.kind}")
    return Source(kind="dialect", text=quantizer.origin or f"{TOOL} default")


def _block(reader: Tf2Reader, quantizer: Quantizer, role: Role) -> Fields | None:
    """Returns the fields of block floating point and casts (4.8)."""
    word = {"BFP16": "bfp", "FP16": "fp16"}.get(_format_word(quantizer), _format_word(quantizer) or "bfp")
    where = _where(reader, quantizer, "data_format")
    plain = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "INT": None, "UINT": None}
    if word in plain:
        if plain[word] is None:
            path = quantizer.params["data_format"].path or ()
            message = f"'{word}' is no data format of {quantizer.kind}"
            reader.add("tf2_data_format", path, message, allowed="fp32, bf16, bfp, msfp", fix="use FSQuantizer")
            return None
        _note_unread(reader, quantizer, f"a cast to {plain[word]}")
        return {"format": (plain[word], where)}
    if _format_word(quantizer) == "BFP16":
        bits = Setting(value=16)
        _note_unread(reader, quantizer, "BFP16", kept=("channel_axis", "per_channel"))
    else:
        bits = quantizer.params.get("bit_width") or Setting(value=15)
    if bits.value not in BLOCKS or (word == "msfp" and bits.value == 15):
        widths = ", ".join(str(width) for width in BLOCKS if word == "bfp" or width != 15)
        message = f"{word} of {bits.value} bits has no name here"
        reader.add("tf2_block_width", bits.path or quantizer.path or (), message, allowed=widths, fix="choose a width")
        return None
    tile = quantizer.params.get("tile_size") or Setting(value=12 if word == "msfp" else 8)
    rounding = 2 if word == "msfp" else int((quantizer.params.get("round_mode") or Setting(value=0)).value)
    fields: Fields = {
        "format": (f"{word}{bits.value}", where),
        "granularity": (
            Granularity(kind="per_group", group_size=int(tile.value)),
            _where(reader, quantizer, "tile_size"),
        ),
        "scale": ("e8m0", where),  # 4.8: floor(log2(amax)), not below that of 2**-23
        "exponent": ("floor", where),
        "min_scale": (2.0**-23, where),
        "rounding": (ROUNDING[rounding], _where(reader, quantizer, "round_mode")),
    }
    if role in ("input", "output"):  # the exponents of a value are those of every value as it passes
        fields["dynamic"] = (True, where)
    return fields


def _note_unread(reader: Tf2Reader, quantizer: Quantizer, what: str, kept: tuple[str, ...] = ()) -> None:
    for name, setting in quantizer.params.items():
        if setting.path is not None and name not in ("data_format", *kept):
            reader.note("unread", setting.path, f"no effect: {what} does not read it")


def _check(reader: Tf2Reader, quantizer: Quantizer) -> None:
    """Adds what the tool refuses: methods a quantizer does not have, the framework's kernel with another rounding."""
    method = quantizer.get("method")
    allowed = {"Pof2SQuantizer": (0, 1), "TQTQuantizer": (0,)}.get(quantizer.kind, (0, 1, 2, 3))
    path = method.path or quantizer.path or ()
    if method.value not in allowed and "method" not in quantizer.words:  # 0.7: "Invalid method"
        names = ", ".join(f"{number} ({METHOD_WORDS[number]})" for number in allowed)
        message = f"{quantizer.kind} has no method {method.value}"
        fix = f"write {allowed[-1]}, or '{METHOD_WORDS[method.value]}' for what the tool's document promises"
        reader.add("tf2_method", path, message, value=method.value, allowed=names, fix=fix)
    rounding = quantizer.get("round_mode")
    framework = quantizer.params.get("use_framework_quant")
    if quantizer.kind not in POWER_OF_TWO and framework is not None and framework.value and rounding.value != 1:
        message = f"round_mode {rounding.value} ({ROUNDING[rounding.value]}) with the framework's kernel, which rounds"
        fix = "write round_mode 1 (HALF_UP), or use_framework_quant: false"
        reader.add("tf2_framework_round", rounding.path or path, f"{message} half up", value=rounding.value, fix=fix)
    if quantizer.kind == "TQTQuantizer" and quantizer.get("per_channel").value:  # 4.7
        message, fix = "TQTQuantizer has one threshold for a tensor", "write false, or use Pof2SQuantizer"
        reader.add("tf2_tqt_per_channel", quantizer.get("per_channel").path or path, message, value=True, fix=fix)
    percentile = quantizer.params.get("method_percentile")
    if percentile is not None and percentile.path is not None and method.value in (0, 1):
        text = f"no effect: the method is {METHOD_WORDS.get(method.value, method.value)}"
        reader.note("percentile", percentile.path, text)


def _grid(reader: Tf2Reader, quantizer: Quantizer, role: Role, layer: KerasClass | None) -> Fields:
    """Returns the fields of an integer grid."""
    power = quantizer.kind in POWER_OF_TWO
    if quantizer.kind == "TQTQuantizer":
        text = "thresholds stay what calibration finds: training them (TQT) is not available yet"
        reader.note("trained", None, text)
    symmetric = bool(quantizer.get("symmetry").value)
    signed = not _unsigned(reader, quantizer)
    narrow = bool(quantizer.get("narrow_range").value)
    if narrow and not (signed and symmetric):
        text = "no effect: " + ("an unsigned grid begins at 0" if not signed else "an asymmetric grid has no sides")
        reader.note("narrow", quantizer.get("narrow_range").path or quantizer.path, text)
        narrow = False
    observer = _observer(reader, quantizer, power)
    values: dict[str, tuple[Any, str]] = {
        "format": (f"{'' if signed else 'u'}int{quantizer.get('bit_width').value}", "bit_width"),
        "granularity": (_granularity(reader, quantizer, role, layer), "per_channel"),
        "symmetric": (symmetric, "symmetry"),
        "narrow_range": (narrow, "narrow_range"),
        "scale": ("power_of_two" if power else "float", "quantizer_type"),
        "rounding": (ROUNDING[quantizer.get("round_mode").value], "round_mode"),
        "observer": (observer, "method"),
        "statistic": (_statistic(quantizer, role), "quantizer_type"),
        "min_scale": (_min_scale(quantizer, power), "epsilon" if quantizer.given("epsilon") else "max_quantize_pos"),
    }
    if power:
        values["exponent"] = ("ceil", "quantizer_type")
    if symmetric:  # 4.5: after KL and percentile the range is [-A, A] on the whole span of the grid
        spans = not power and observer.name in HISTOGRAMS
        values["fit"] = ("span" if spans else "sides", "method")
    if values["statistic"][0] == "ema":
        values["ema_decay"] = (float(quantizer.get("ema_decay").value), "ema_decay")
    elif quantizer.given("ema_decay"):
        reader.note("ema", quantizer.get("ema_decay").path, "no effect: the values of a parameter do not change")
    return {name: (value, _where(reader, quantizer, key)) for name, (value, key) in values.items()}


def _unsigned(reader: Tf2Reader, quantizer: Quantizer) -> bool:
    word, unsigned = _format_word(quantizer), quantizer.get("unsigned")
    if word is not None and word not in DATA_FORMATS:
        path = quantizer.params["data_format"].path or ()
        message = f"'{word}' is a data format of BFPQuantizer, not of {quantizer.kind}"
        reader.add("tf2_data_format", path, message, value=word, allowed=DATA_FORMATS, fix="use BFPQuantizer, or INT")
    if word == "UINT":
        if quantizer.given("unsigned") and not unsigned.value:
            text = "data_format is UINT, so the grid is unsigned whatever 'unsigned' says"
            reader.note("uint", unsigned.path, text)
        return True
    return bool(unsigned.value)


def _observer(reader: Tf2Reader, quantizer: Quantizer, power: bool) -> ObserverSpec:
    """Returns the observer of a method (4.4, 4.5)."""
    method = quantizer.get("method")
    if quantizer.kind == "FSQuantizer" and method.value == 1 and "method" not in quantizer.words:  # 0.7
        text = "method 1 of FSQuantizer is the full range in the tool, and here; write 'Min_MSE' to search"
        reader.note("fs_mse", method.path, text)
        method = replace(method, value=0)
    if method.value in (2, 3):
        return _histogram(quantizer, method.value)
    if not power:
        return ObserverSpec(name="mse" if method.value == 1 else "minmax")
    lowest = quantizer.params.get("min_quantize_pos")
    bound = {} if lowest is None or lowest.value <= LOWEST_POSITION else {"lowest": int(lowest.value)}
    if method.value == 0 and not bound:
        return ObserverSpec(name="minmax")
    together = {"together": True} if method.value == 1 and quantizer.get("per_channel").value else {}
    return ObserverSpec(
        name="min_mse_position", params={"scope": SCOPE if method.value == 1 else 1, **together, **bound}
    )


def _histogram(quantizer: Quantizer, method: int) -> ObserverSpec:
    """Returns the tool's own histogram; it has none for channels, where the threshold of each is found (4.5)."""
    percentile = {} if method == 2 else {"percentile": float(quantizer.get("method_percentile").value)}
    if quantizer.get("per_channel").value:
        return ObserverSpec(name="percentile" if percentile else "entropy", params=percentile)
    criterion = {"criterion": "percentile"} if percentile else {}
    return ObserverSpec(name="growing_histogram", params={**criterion, **percentile})


def _statistic(quantizer: Quantizer, role: Role) -> str:
    """Returns how batches are combined: 4.4 the most frequent position, 4.7 the last, 4.5 everything, 4.6 an average.

    A parameter is one batch.
    """
    if role in ("weight", "bias"):
        return "all"
    return {"Pof2SQuantizer": "modal", "TQTQuantizer": "last", "MAFSQuantizer": "ema"}.get(quantizer.kind, "all")


def _min_scale(quantizer: Quantizer, power: bool) -> float:
    """Returns the smallest step: ``epsilon``, and for positions 2**-max_quantize_pos."""
    epsilon = quantizer.params.get("epsilon")
    floor = float(epsilon.value) if epsilon is not None else 0.0
    if not power:
        return floor
    highest = quantizer.params.get("max_quantize_pos")
    position = HIGHEST_POSITION if highest is None else int(highest.value)
    if floor > 0:
        position = min(position, math.floor(-math.log2(floor)))
    return float(2.0**-position)


def _granularity(reader: Tf2Reader, quantizer: Quantizer, role: Role, layer: KerasClass | None) -> Granularity:
    """Returns which elements share a scale; an axis of Keras's layout becomes that of the graph's."""
    if not quantizer.get("per_channel").value:
        return Granularity()
    setting = quantizer.get("channel_axis")
    if role == "bias":
        return Granularity(kind="per_channel")
    if role != "weight":  # NHWC -> NCHW; the last axis is the channels, which the plan finds
        axis = {-1: None, 1: 2, 2: 3, 0: 0, -2: 3, -3: 2}.get(setting.value)
        return Granularity(kind="per_channel", axis=axis)
    if layer is None or not layer.weight:
        return Granularity(kind="per_channel")
    axes = layer.axes
    if not -len(axes) <= setting.value < len(axes):
        message = f"'channel_axis' is {setting.value}, and the weight has {len(axes)} axes"
        reader.add("tf2_channel_axis", setting.path or quantizer.path or (), message, value=setting.value,
                   allowed=f"{-len(axes)} to {len(axes) - 1}", fix="write -1 for the last axis")  # fmt: skip
        return Granularity(kind="per_channel")
    axis = axes[setting.value]
    if axis == MULTIPLIER:
        text = "the last axis of a depthwise kernel is its multiplier, which is 1: one scale for all channels"
        reader.note("multiplier", setting.path, text)
        return Granularity()
    return Granularity(kind="per_channel", axis=None if axis == layer.channels else axis)
