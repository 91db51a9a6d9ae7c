"""Reads a vai_q_pytorch JSON into its effective settings: every key checked, every value with its place.

Section numbers are those of the behavioural spec of vai_q_pytorch 3.5 (2.1 keys, 2.2 merge).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantwright.config.config import Source, Unmapped
from quantwright.config.document import Document, JsonPath, path_text
from quantwright.config.reader import Reader, shown

TOOL = "vai_q_pytorch"
TENSORS = ("input", "weights", "bias", "activation")
DEVICES = ("DPU", "CPU", "GPU", "FLEXML")
FLAGS = {  # 2.1: graph switches and their defaults
    "convert_relu6_to_relu": False,
    "convert_silu_to_hswish": False,
    "include_cle": True,
    "include_bias_corr": True,
    "change_concat_input_fix": False,
    "change_pool_input_fix": False,
    "keep_first_last_layer_accuracy": False,
    "keep_add_layer_accuracy": False,
}
BLOCKS = ("overall_quantize_config", "tensor_quantize_config", "layer_quantize_config")
TOP = (*FLAGS, "onnx_opset_version", "target_device", "quantizable_data_type", *BLOCKS)
LAYER = ("layer_type", "layer_name", "quantizable_data_type", "overall_quantize_config", "tensor_quantize_config")
WORDS = {
    "datatype": ("int", "bfloat16", "float16", "float32"),
    "method": ("maxmin", "percentile", "entropy", "mse", "diffs"),
    "round_mode": ("half_even", "half_up", "half_down", "std_round"),
    "scale_type": ("float", "poweroftwo"),
    "calib_statistic_method": ("modal", "max", "mean", "median"),
}
SWITCHES = ("symmetry", "per_channel", "signed", "narrow_range")
PARAMS = (
    "datatype",
    "bit_width",
    "method",
    "round_mode",
    *SWITCHES,
    "scale_type",
    "calib_statistic_method",
    "percentage",
)
PERCENTAGE = 99.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Returns one value and where it stands; ``path`` None is the tool's default, value None could not be read."""

    value: Any
    path: JsonPath | None = None


Settings = dict[str, Setting]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Returns one entry of ``layer_quantize_config``: whom it is about, and complete settings by tensor type."""

    by: str  # "type" | "name"
    key: str
    path: JsonPath
    tensors: Mapping[str, Settings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """Returns the settings the tool would end up with."""

    device: Setting
    flags: Mapping[str, Setting]
    tensors: Mapping[str, Settings]
    layers: tuple[Layer, ...] = ()

    @property
    def mixed(self) -> bool:
        """Returns whether any tensor has a float datatype, which switches the tool's strategy (3.7)."""
        blocks = [*self.tensors.values(), *(s for layer in self.layers for s in layer.tensors.values())]
        return any(block["datatype"].value not in ("int", None) for block in blocks)


class VaiReader(Reader):
    """Returns a reader that also collects notes (each once) and what could not be carried over."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.notes: list[str] = []
        self.unmapped: list[Unmapped] = []
        self._noted: set[tuple[str, JsonPath | None]] = set()

    def note(self, topic: str, path: JsonPath | None, text: str) -> None:
        """Adds a note once per topic and place."""
        if (topic, path) in self._noted:
            return
        self._noted.add((topic, path))
        self.notes.append(f"{self._place(path)}{text}")

    def drop(self, path: JsonPath, message: str, effect: str) -> None:
        """Adds something that is not carried over, and a note that says so."""
        line = self.document.line(path)
        self.unmapped.append(Unmapped(path=path_text(path), message=message, effect=effect, line=line))
        self.note("unmapped", path, f"{message}: {effect}")

    def where(self, setting: Setting, text: str = "") -> Source:
        """Returns the Source of a setting; the tool's own defaults are told as such."""
        if setting.path is None:
            return Source(kind="dialect", text=text or f"{TOOL} default")
        return self.source(setting.path, text or path_text(setting.path))

    def _place(self, path: JsonPath | None) -> str:
        if path is None:
            return ""
        line = self.document.line(path)
        file = self.document.file or ""
        place = f"{file}:{line}" if file and line else file
        return " ".join(part for part in (place, path_text(path)) if part) + ": " if (place or path) else ""


def built_in(tensor: str) -> Settings:
    """Returns the tool's defaults for one tensor type (2.1: round_mode differs for activations)."""
    values = {
        "datatype": "int", "bit_width": 8, "method": "diffs", "symmetry": True, "per_channel": False, "signed": True,
        "narrow_range": False, "scale_type": "poweroftwo", "calib_statistic_method": "modal",
        "round_mode": "half_up" if tensor == "activation" else "std_round", "percentage": PERCENTAGE,
    }  # fmt: skip
    return {key: Setting(value=value) for key, value in values.items()}


def read_effective(reader: VaiReader) -> Effective:
    """Returns the effective settings of the whole document; problems are in the reader."""
    value = reader.document.value
    flat = _flat_params(reader, value)
    rest = {key: item for key, item in value.items() if key not in flat} if isinstance(value, dict) else value
    top = reader.mapping(rest, (), TOP, "the configuration")
    _model_types(reader, top)
    if "onnx_opset_version" in top:
        _opset(reader, top["onnx_opset_version"])
    blocks = _Blocks(reader, top, ())
    overall = {**flat, **blocks.overall}
    if flat:
        message = "quantization parameters at the top level are read as if they stood in overall_quantize_config"
        reader.note("flat", (), message)
    tensors = {}
    for tensor in TENSORS:
        start = _override(reader, built_in(tensor), overall) if (overall or "overall_quantize_config" in top) else None
        merged = start or built_in(tensor)
        if tensor in blocks.tensors:
            merged = _override(reader, merged, blocks.tensors[tensor], ("tensor_quantize_config", tensor))
        tensors[tensor] = merged
    device, flags = _device(reader, top), _flags(reader, top)
    layers: list[Layer] = []
    if top.get("layer_quantize_config") is not None:
        entries = reader.items(top["layer_quantize_config"], ("layer_quantize_config",), "'layer_quantize_config'")
        read = [_layer(reader, item, ("layer_quantize_config", i), tensors) for i, item in enumerate(entries)]
        layers = [layer for layer in read if layer is not None]
    return Effective(device=device, flags=flags, tensors=tensors, layers=tuple(layers))


def _flat_params(reader: VaiReader, value: Any) -> Settings:
    """Returns parameters that stand at the top level, as in the "Default Configurations" of the tool's document."""
    if not isinstance(value, dict) or value.get("overall_quantize_config") is not None:
        return {}
    return _params(reader, {key: item for key, item in value.items() if key in PARAMS}, ())


class _Blocks:
    """Returns ``overall_quantize_config`` and ``tensor_quantize_config`` of the model or of a layer."""

    def __init__(self, reader: VaiReader, holder: Mapping[str, Any], path: JsonPath) -> None:
        self.overall: Settings = {}
        self.tensors: dict[str, Settings] = {}
        self.has_overall = holder.get("overall_quantize_config") is not None
        if self.has_overall:
            place = (*path, "overall_quantize_config")
            self.overall = _params(reader, holder["overall_quantize_config"], place)
        if holder.get("tensor_quantize_config") is not None:
            place = (*path, "tensor_quantize_config")
            known = reader.mapping(holder["tensor_quantize_config"], place, TENSORS, "'tensor_quantize_config'")
            self.tensors = {tensor: _params(reader, item, (*place, tensor)) for tensor, item in known.items()}


def _params(reader: VaiReader, value: Any, path: JsonPath) -> Settings:
    """Returns the checked parameters of one block (2.1); what cannot be read has the value None."""
    known = reader.mapping(value, path, PARAMS, f"'{path[-1]}'" if path else "the configuration")
    found: Settings = {}
    for key, item in known.items():
        place = (*path, key)
        if key in WORDS:
            checked: Any = reader.word(item, place, WORDS[key], key, code="vai_word")
        elif key in SWITCHES:
            checked = reader.flag(item, place, code="vai_bool")
        elif key == "percentage":
            checked = _percentage(reader, item, place)
        elif item is None:
            reader.note("null", place, "null is read as not given, as the tool does")
            continue
        else:
            checked = _bit_width(reader, item, place)
        found[key] = Setting(value=checked, path=place)
    return found


def _bit_width(reader: VaiReader, value: Any, path: JsonPath) -> int | None:
    number = reader.number(value, path, integer=True, low=1, high=32, code="vai_bit_width")
    if number == 1:
        message = "a signed grid of 1 bit holds only -1 and 0"
        reader.add("vai_bit_width", path, message, value=value, allowed="2 to 32", fix="write 2 or more")
        return None
    return None if number is None else int(number)


def _percentage(reader: VaiReader, value: Any, path: JsonPath) -> float | None:
    if isinstance(value, int) and not isinstance(value, bool):
        message = f"'percentage' is the integer {value}, and the tool takes only numbers with a decimal point"
        reader.add("vai_percentage", path, message, value=value, fix=f"write {value}.0")
        return None
    number = reader.number(value, path, low=0, high=100, code="vai_percentage")
    if number == 0:
        reader.add(
            "vai_percentage", path, "'percentage' is 0, which keeps nothing", value=value, fix="write e.g. 99.99"
        )
        return None
    return None if number is None else float(number)


def _override(reader: VaiReader, base: Settings, block: Settings, path: JsonPath | None = None) -> Settings:
    """Returns ``base`` with a block on top (2.2, key by key).

    The percentage is read only where the method is percentile, and falls back to 99.99 in every block that lacks it.
    """
    merged = {**base, **block}
    method = merged["method"].value
    if method == "percentile" and "percentage" not in block:
        if base["percentage"].value not in (PERCENTAGE, None) and path is not None:
            text = f"it has no percentage, so the tool goes back to {PERCENTAGE} here; repeat it to keep {{}}"
            reader.note("percentage", path, text.format(base["percentage"].value))
        merged["percentage"] = Setting(value=PERCENTAGE)
    elif "percentage" in block and method not in ("percentile", None):
        reader.note("percentage", block["percentage"].path, f"no effect: the method is {method}")
        merged["percentage"] = Setting(value=PERCENTAGE)
    return merged


def _layer(reader: VaiReader, item: Any, path: JsonPath, model: Mapping[str, Settings]) -> Layer | None:
    """Returns one layer entry with complete settings: model config <- layer overall <- layer tensor (2.2)."""
    known = reader.mapping(item, path, LAYER, "a layer entry")
    if not isinstance(item, dict):
        return None
    by, key = _subject(reader, known, path)
    types = _layer_types(reader, known, path)
    blocks = _Blocks(reader, known, path)
    for tensor in blocks.tensors:
        if types is not None and tensor not in types:
            place = (*path, "tensor_quantize_config", tensor)
            message = f"'{tensor}' is not in the quantizable_data_type of this layer, so its settings are incomplete"
            fix = f"add '{tensor}' to quantizable_data_type, or remove it here"
            reader.add("vai_layer_tensor", place, message, allowed=types, fix=fix)
    tensors = {}
    for tensor in types or ():
        merged = _override(reader, model[tensor], blocks.overall, path) if blocks.has_overall else dict(model[tensor])
        if tensor in blocks.tensors:
            merged = _override(reader, merged, blocks.tensors[tensor], (*path, "tensor_quantize_config", tensor))
        tensors[tensor] = merged
    return Layer(by=by, key=key, path=path, tensors=tensors) if key else None


def _subject(reader: VaiReader, known: Mapping[str, Any], path: JsonPath) -> tuple[str, str]:
    """Returns ("type" or "name", which): a type wins over a name, as in the tool."""
    kind, name = known.get("layer_type"), known.get("layer_name")
    for key, value in (("layer_type", kind), ("layer_name", name)):
        if value and not isinstance(value, str):
            reader.add(
                "type", (*path, key), f"'{key}' is {shown(value)}, not text", value=value, fix="write text or null"
            )
            return "type", ""
    if kind:
        if name:
            text = f"the tool ignores it because layer_type is given: the entry holds for every {kind}"
            reader.note("both", (*path, "layer_name"), text)
        short = str(kind).strip().rpartition(".")[2]
        if not short:
            reader.add("value", (*path, "layer_type"), f"{shown(kind)} names no type", fix="write e.g. torch.nn.Conv2d")
        return "type", short
    if not name:
        fix = "give a layer_type such as torch.nn.Conv2d, or a layer_name"
        reader.add("missing_key", path, "the layer entry has neither layer_type nor layer_name", fix=fix)
    return "name", str(name or "")


def _layer_types(reader: VaiReader, known: Mapping[str, Any], path: JsonPath) -> tuple[str, ...] | None:
    place = (*path, "quantizable_data_type")
    if known.get("quantizable_data_type") is None:
        fix = f'add "quantizable_data_type": {list(TENSORS[1:])}'.replace("'", '"')
        reader.add("vai_layer_types", path, "the layer entry has no quantizable_data_type", allowed=TENSORS, fix=fix)
        return None
    types = _tensor_types(reader, known["quantizable_data_type"], place)
    if not known["quantizable_data_type"]:
        reader.add(
            "no_effect", place, "the list is empty, so the entry changes nothing", allowed=TENSORS, fix="name types"
        )
    return types


def _tensor_types(reader: VaiReader, value: Any, path: JsonPath) -> tuple[str, ...]:
    listed = reader.items(value, path, "'quantizable_data_type'")
    words = [reader.word(item, (*path, i), TENSORS, "tensor type", code="vai_word") for i, item in enumerate(listed)]
    return tuple(dict.fromkeys(word for word in words if word is not None))


def _model_types(reader: VaiReader, top: Mapping[str, Any]) -> None:
    """Reads the model's quantizable_data_type; the tool never applies it (0.2), so leaving a type out is only noted."""
    if top.get("quantizable_data_type") is None:
        return
    path = ("quantizable_data_type",)
    types = _tensor_types(reader, top["quantizable_data_type"], path)
    left = [tensor for tensor in TENSORS if tensor not in types]
    if left:
        names = ", ".join(left)
        effect = (
            f"{names} are quantized all the same, as the tool does; to keep a type float, set its datatype to float32"
        )
        reader.drop(path, f"the model's quantizable_data_type without {names} has no effect in {TOOL}", effect)


def _device(reader: VaiReader, top: Mapping[str, Any]) -> Setting:
    path = ("target_device",)
    if "target_device" not in top:
        fix = 'add "target_device": "DPU" (fixed point) or "CPU"'
        reader.add("vai_target_missing", (), "'target_device' is required", allowed=DEVICES[:3], fix=fix)
        return Setting(value=None)
    return Setting(
        value=reader.word(top["target_device"], path, DEVICES, "target device", code="vai_target"), path=path
    )


def _flags(reader: VaiReader, top: Mapping[str, Any]) -> dict[str, Setting]:
    flags = {}
    for name, default in FLAGS.items():
        value = reader.flag(top[name], (name,), code="vai_flag") if name in top else default
        flags[name] = Setting(value=value, path=(name,) if name in top else None)
    for name in ("keep_first_last_layer_accuracy", "keep_add_layer_accuracy"):
        if flags[name].value:
            effect = "no layer is left float; add a rule for the layers that should be (datatype float32)"
            reader.drop((name,), f"'{name}' is a reserved word that {TOOL} does not use", effect)
    return flags


def _opset(reader: VaiReader, value: Any) -> None:
    path = ("onnx_opset_version",)
    if reader.number(value, path, integer=True, low=-1) is not None and value != -1:
        reader.drop(
            path, "the opset is an option of the export", f"opset {value} is not carried over; pass it to the exporter"
        )
