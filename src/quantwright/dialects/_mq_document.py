"""Reads a document of MQBench: the call's dictionary, or the YAML of its examples, whose other settings are not ours.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.config import Step
from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of, shown
from quantwright.dialects._mq_reader import MqReader
from quantwright.dialects._mq_words import BACKENDS
from quantwright.errors import did_you_mean

BACKEND_KEYS = ("deploy_backend", "backend", "backend_type")
WRAPPERS = ("prepare_custom_config_dict", "extra_config", "extra_prepare_dict")
DICTS = ("extra_qconfig_dict", "extra_quantizer_dict", "extra_fuse_dict")
OTHERS = ("preserve_attr", "concrete_args", "concrect_args", "leaf_module")
TOP = (*BACKEND_KEYS, *WRAPPERS, *DICTS, *OTHERS)
QCONFIG = tuple(
    f"{half}_{name}"
    for half in ("w", "a")
    for name in ("observer", "fakequantize", "qscheme", "fakeq_params", "observer_extra_args")
)
FUSE = ("additional_fuser_method_mapping", "additional_fusion_pattern", "additional_qat_module_mapping")
#: settings of the example scripts beside the quantization
NOT_OURS = ("model", "data", "process", "train", "saver", "progress", "trainer", "evaluate")
QUANTIZE = ("quantize_type", "cali_batchsize", "reconstruction", "backend", "deploy")


@dataclass(slots=True, kw_only=True)
class Parts:
    """Returns the dictionaries of a document, each with the place it stands at."""

    parts: dict[str, tuple[Any, JsonPath]] = field(default_factory=dict)

    def mapping(self, key: str) -> tuple[Mapping[str, Any], JsonPath]:
        """Returns a dictionary of the document, {} when it is not there or is none."""
        value, path = self.parts.get(key, ({}, (key,)))
        return (value if isinstance(value, dict) else {}), path


@dataclass(slots=True, kw_only=True)
class Found(Parts):
    """Returns what a document of MQBench says.

    Attributes:
        backend: as MQBench spells it; None when the document has none, or a wrong one.
        named: whether it names one at all.
        refine: the algorithms of the ``quantize`` section of a script.
    """

    backend: str | None = None
    named: bool = False
    refine: tuple[Step, ...] = ()


def find(reader: MqReader) -> Found:
    """Returns the parts of the document; what is of another shape is a problem."""
    found = Found()
    value = reader.document.value
    if not isinstance(value, dict):
        reader.add("type", (), f"the configuration is {kind_of(value)}, not a mapping", value=value, allowed=TOP)
        found.named = True  # nothing more is said about a backend
        return found
    script = any(key in value for key in ("quantize", "extra_prepare_dict"))
    _collect(reader, found, value, (), script)
    if script and "quantize" in value:
        _quantize(reader, found, value["quantize"])
    return found


def _collect(reader: MqReader, found: Found, value: Mapping[str, Any], path: JsonPath, script: bool) -> None:
    for key, item in value.items():
        place = (*path, key)
        if key in BACKEND_KEYS:
            read_backend(reader, found, item, place)
        elif key in WRAPPERS and not path:
            if isinstance(item, dict):
                _collect(reader, found, item, place, script)
            elif item is not None:
                reader.mapping(item, place, (*DICTS, *OTHERS), f"'{key}'")
        elif key in (*DICTS, *OTHERS):
            if key in found.parts:
                first = "".join(f"'{part}' " for part in found.parts[key][1])
                reader.add("duplicate_key", place, f"'{key}' stands twice, also at {first}", fix="keep one of them")
            found.parts[key] = (item, place)
        elif script and not path and key == "quantize":
            continue
        elif script and not path:
            reader.drop(place, f"'{key}' is a setting of the script, not of the quantization", "it is not read")
        else:
            _unknown(reader, key, place)


def _unknown(reader: MqReader, key: str, place: JsonPath) -> None:
    """Tells about a key that the tool ignores silently: a near miss is a problem, anything else a note."""
    near = did_you_mean(key, (*DICTS, *OTHERS, *BACKEND_KEYS))
    if near and key not in NOT_OURS:
        message = f"unknown key '{key}', which {reader.tool} would ignore silently"
        reader.add("unknown_key", place, message, value=key, allowed=TOP, fix=near)
    else:
        reader.note(place, f"no effect: {reader.tool} reads no '{key:.60}'")


def read_backend(reader: MqReader, found: Found, value: Any, path: JsonPath) -> None:
    """Reads the backend: its name, with ``BackendType.`` before it or not."""
    found.named = True
    text = value.rpartition(".")[2] if isinstance(value, str) else value
    word = reader.word(text, path, BACKENDS, "backend", code="mq_backend")
    if word is not None and found.backend not in (None, word):
        message = f"two backends are named, {found.backend} and {word}"
        reader.add("mq_backend", path, message, value=value, fix="name one")
    found.backend = word


def _quantize(reader: MqReader, found: Found, value: Any) -> None:
    """Reads ``quantize`` of the examples: how it is calibrated, and the reconstruction of advanced PTQ (6)."""
    path: JsonPath = ("quantize",)
    known = reader.ignoring(value, path, QUANTIZE, "'quantize'")
    if "backend" in known:
        read_backend(reader, found, known["backend"], (*path, "backend"))
    kind = known.get("quantize_type", "naive_ptq")
    place: JsonPath = (*path, "quantize_type")
    word = reader.word(kind, place, ("naive_ptq", "advanced_ptq", "naive_qat"), "quantize_type")
    for key in ("cali_batchsize", "deploy"):
        if key in known:
            reader.drop((*path, key), f"'{key}' is a setting of the script", "it is not read: data is given apart")
    if word == "naive_qat":
        found.refine = (Step(name="qat"),)
    if word != "advanced_ptq":
        if "reconstruction" in known:
            reader.note((*path, "reconstruction"), f"no effect: quantize_type is {kind}")
        return
    found.refine = (_reconstruction(reader, known.get("reconstruction", {}), (*path, "reconstruction")),)


_RECONSTRUCTION: dict[str, tuple[float, float]] = {  # 6: numbers, and what they can be
    "scale_lr": (0.0, 1.0), "warm_up": (0.0, 1.0), "weight": (0.0, 1e6), "max_count": (1, 1e9), "prob": (0.0, 1.0),
}  # fmt: skip


def _reconstruction(reader: MqReader, value: Any, path: JsonPath) -> Step:
    """Returns the algorithm a reconstruction is: AdaRound layer by layer, BRECQ by blocks, QDrop with a probability."""
    keys = (*_RECONSTRUCTION, "pattern", "b_range", "keep_gpu", "round_mode", "exclude_node_prefix", "exclude_node")
    known = reader.ignoring(value, path, keys, "'reconstruction'")
    params: dict[str, Any] = {}
    for key, (low, high) in _RECONSTRUCTION.items():
        if key in known:
            number = reader.number(known[key], (*path, key), low=low, high=high, integer=key == "max_count")
            if number is not None:
                params[key] = number
    pattern = reader.word(known.get("pattern", "layer"), (*path, "pattern"), ("layer", "block"), "pattern")
    if "round_mode" in known:
        reader.word(known["round_mode"], (*path, "round_mode"), ("learned_hard_sigmoid",), "round_mode")
    if "keep_gpu" in known:
        reader.note((*path, "keep_gpu"), "no effect: where data is kept changes no result")
    if "b_range" in known:
        bounds = known["b_range"]
        if isinstance(bounds, list) and len(bounds) == 2 and all(type(item) in (int, float) for item in bounds):
            params["b_range"] = list(bounds)
        else:
            message = f"'b_range' is {shown(bounds)}, not two numbers"
            reader.add("type", (*path, "b_range"), message, value=bounds, fix="write [20, 2]")
    for key in ("exclude_node_prefix", "exclude_node"):
        if key in known:
            names = [entry.text for entry in reader.names(known[key], (*path, key))]
            if names:
                params["exclude"] = names
    if pattern == "block":
        return Step(name="qdrop" if params.get("prob", 1.0) < 1.0 else "brecq", params=params)
    return Step(name="adaround", params=params)
