"""Spells specs and matches in the words of vai_q_tensorflow2: quantizers, layer types, patterns."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Pattern
from quantwright.config.spec import QuantSpec, Role
from quantwright.dialects._tf2_names import CLASSES, METHODS, ROUNDING, functions_of
from quantwright.dialects._tf2_spec import BLOCKS, HIGHEST_POSITION

_ROUND = {ours: number for number, ours in ROUNDING.items()}
_METHOD = {"minmax": "No_OF", "min_mse_position": "Min_MSE", "diffs": "Min_MSE", "mse": "Min_MSE", "entropy": "Min_KL",
           "percentile": "Percentile"}  # fmt: skip
_BLOCK = re.compile(r"(bfp|msfp)(\d+)")
_CASTS = {"bfloat16": "bf16", "float32": "fp32"}
#: torch's layer types -> the classes that are the same
TORCH = {
    "Conv1d": ("Conv1D", "DepthwiseConv1D"), "Conv2d": ("Conv2D", "DepthwiseConv2D"), "Conv3d": ("Conv3D",),
    "ConvTranspose2d": ("Conv2DTranspose",), "Linear": ("Dense",), "ReLU": ("ReLU",), "ReLU6": ("ReLU",),
    "LeakyReLU": ("LeakyReLU",), "PReLU": ("PReLU",), "BatchNorm2d": ("BatchNormalization",),
    "LayerNorm": ("LayerNormalization",), "MaxPool2d": ("MaxPooling2D",), "AvgPool2d": ("AveragePooling2D",),
    "AdaptiveAvgPool2d": ("GlobalAveragePooling2D",), "Softmax": ("Softmax",), "Embedding": ("Embedding",),
}  # fmt: skip
_WIDER = ("VitisConvBN", "VitisDepthwiseConvBN", "VitisLayernorm", "VitisAveragePooling2D", "VitisSoftmax",
          "VitisGlobalAveragePooling2D")  # fmt: skip


def quantizer(spec: QuantSpec, role: Role, layer: str = "") -> dict[str, Any] | None:
    """Returns the nearest quantizer for a complete spec, None where the tensor stays float."""
    block = _BLOCK.fullmatch(spec.format or "")
    if block and int(block.group(2)) in BLOCKS:
        tile = spec.granularity.group_size if spec.granularity is not None else None
        params: dict[str, Any] = {"data_format": block.group(1), "bit_width": int(block.group(2))}
        return _named("BFPQuantizer", {**params, **({"tile_size": tile} if tile else {})})
    if not spec.is_integer:
        if spec.format == "float16":
            return _named("FSQuantizer", {"data_format": "FP16"})
        return _named("BFPQuantizer", {"data_format": "bf16"}) if spec.format == "bfloat16" else None
    kind = _kind(spec)
    observer = spec.observer.name if spec.observer is not None else "minmax"
    given = spec.observer.params if spec.observer is not None else {}
    params = {
        "bit_width": spec.bits,
        "method": _method(kind, observer, given),
        "round_mode": _ROUND.get(spec.rounding or "", 1),
        "symmetry": spec.symmetric is not False,
        **_axis(spec, role, layer),
        "unsigned": not spec.signed,
        "narrow_range": bool(spec.narrow_range),
    }
    if observer == "percentile" or given.get("criterion") == "percentile":
        params["method_percentile"] = float(given.get("percentile", 99.99))
    if kind in ("FSQuantizer", "MAFSQuantizer"):
        params["use_framework_quant"] = params["round_mode"] == 1
    if kind == "MAFSQuantizer":
        params["ema_decay"] = spec.ema_decay if spec.ema_decay is not None else 0.999
    return _named(kind, {**params, **_bounds(spec, kind, given)})


def _named(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"quantizer_type": kind, "quantizer_params": params}


def _kind(spec: QuantSpec) -> str:
    if spec.scale == "power_of_two":
        return "TQTQuantizer" if spec.statistic == "last" else "Pof2SQuantizer"
    return "MAFSQuantizer" if spec.statistic == "ema" else "FSQuantizer"


def _method(kind: str, observer: str, params: Mapping[str, Any]) -> int | str:
    """Returns a method: the code's number where the tool has it, else the document's word."""
    word = _METHOD.get(observer, "No_OF")
    if observer == "growing_histogram":
        word = "Percentile" if params.get("criterion") == "percentile" else "Min_KL"
    if observer in ("min_mse_position", "diffs") and params.get("scope", 5) == 1:
        word = "No_OF"
    number = METHODS[word]
    runs = {"Pof2SQuantizer": (0, 1), "TQTQuantizer": (0,), "FSQuantizer": (0, 2, 3)}.get(kind, ())
    return number if number in runs else word


def _bounds(spec: QuantSpec, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the document that say how small and large a step may be."""
    found: dict[str, Any] = {}
    floor = spec.min_scale or 0.0
    if kind in ("Pof2SQuantizer", "TQTQuantizer"):
        position = round(-math.log2(floor)) if floor > 0 else 126
        if position != HIGHEST_POSITION:
            found["max_quantize_pos"] = position
        if "lowest" in given:
            found["min_quantize_pos"] = int(given["lowest"])
    elif floor > 0:
        found["epsilon"] = floor
    return found


def _axis(spec: QuantSpec, role: Role, layer: str) -> dict[str, Any]:
    """Returns ``per_channel`` and ``channel_axis``, counted in Keras's layout."""
    granularity, known = spec.granularity, CLASSES.get(layer)
    if granularity is None or granularity.kind != "per_channel":
        return {"per_channel": False, "channel_axis": -1}
    axis = -1
    if role == "weight" and known is not None and known.weight:
        wanted = known.channels if granularity.axis is None else granularity.axis
        places = [number for number, graph_axis in enumerate(known.axes) if graph_axis == wanted]
        axis = places[0] if places else -1
        axis = -1 if axis == len(known.axes) - 1 else axis
    elif role in ("input", "output") and granularity.axis not in (None, 1):
        axis = {0: 0, 2: 1, 3: 2}.get(granularity.axis or 0, -1)
    return {"per_channel": True, "channel_axis": axis}


# -- layers -------------------------------------------------------------------------------------------------------
def classes_of(function: str) -> tuple[str, ...]:
    """Returns the classes whose kinds a ``function`` of a match lists, () when some of them belong to no class."""
    whole = [name for name, known in CLASSES.items() if functions_of(known.kinds) == function and name not in _WIDER]
    if whole:
        return (whole[0],)
    left, found = set(function.split("|")), []
    for name, known in CLASSES.items():
        words = set(functions_of(known.kinds).split("|"))
        if name not in _WIDER and words <= left:
            found.append(name)
            left -= words
    return () if left else tuple(found)


def types_of(word: str) -> tuple[str, ...]:
    """Returns the layer types that a ``type`` of a match is: classes for torch's own layers, else a class itself."""
    found: dict[str, None] = {}
    for part in word.split("|"):
        last = part.rpartition(".")[2]
        home = part.split(".")[0]
        for name in TORCH.get(last, (part,)) if home in ("torch", "nn", last) else (part,):
            found[name] = None
    return tuple(found)


def regex_of(name: str) -> str:
    """Returns a name of a match as the document has it: a regular expression, or the plain name."""
    if name.startswith("re:"):
        return name.removeprefix("re:")
    return fnmatch.translate(name) if any(mark in name for mark in "*?[") else name


def node_of(pattern: Pattern) -> dict[str, Any] | None:
    """Returns a layer of the document's schema without its quantizers, None for words that it does not have."""
    node: dict[str, Any] = {}
    types: tuple[str, ...] = ()
    if pattern.function is not None:
        types = classes_of(pattern.function)
        if not types:
            return None
    if pattern.type is not None:
        if types:
            return None
        types = types_of(pattern.type)
    if types:
        node["layer_type"] = "|".join(types)
    if pattern.name is not None:
        node["layer_name"] = regex_of(pattern.name)
    if pattern.params:
        node["layer_params"] = {
            key: value.removeprefix("re:") if isinstance(value, str) else value for key, value in pattern.params.items()
        }
    if pattern.inputs is not None:
        inner = [node_of(part) for part in pattern.inputs]
        if any(part is None for part in inner):
            return None
        node["layer_inputs"] = inner
    return node
