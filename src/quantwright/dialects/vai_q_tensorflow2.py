"""vai_q_tensorflow2 (Vitis AI 3.5): quantize strategies, as files and as the arguments of ``VitisQuantizer``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, Source, Unmapped
from quantwright.config.document import Document
from quantwright.dialects import Dialect
from quantwright.dialects._tf2_layers import ENTRY, PAIRS
from quantwright.dialects._tf2_map import TARGETS, to_config
from quantwright.dialects._tf2_names import TOOL
from quantwright.dialects._tf2_params import Tf2Reader
from quantwright.dialects._tf2_read import TOP, read_strategy
from quantwright.dialects._tf2_strategies import ANY_USER_KEY, NAMES, REGISTRY, SECTIONS
from quantwright.dialects._tf2_write import write as write_with

_TELLING = ("quantize_strategy", "custom_quantize_strategy", *SECTIONS, REGISTRY, "user_quantize_config",
            "user_defined_quantize_config", "input_quantize_config", "custom_layer_type")  # fmt: skip
_SINGLE = (*ANY_USER_KEY, *(key for table in SECTIONS.values() for keys in table.values() for key in keys))
_SHARED = ("include_cle", "include_bias_corr", "convert_relu6_to_relu", "onnx_opset_version")  # vai_q_pytorch has them
_ENTRY = tuple(key for key in (*ENTRY, *(key for pair in PAIRS.values() for key in pair))
               if key not in ("layer_type", "layer_name"))  # fmt: skip


def detect(document: Document) -> str | None:
    """Returns why a document is a quantize strategy, or None."""
    value = document.value
    if not isinstance(value, dict):
        return None
    found = [key for key in _TELLING if key in value]
    if not found and has_entries(value.get("layer_quantize_config")):
        return "'layer_quantize_config' has entries of its kind"
    if not found:
        found = [key for key in _SINGLE if key in value and key not in _SHARED]
    return "it has " + ", ".join(f"'{key}'" for key in dict.fromkeys(found[:3])) if found else None


def has_entries(value: Any) -> bool:
    """Returns whether a ``layer_quantize_config`` has entries of one of this tool's schemas."""
    entries = value if isinstance(value, list) else []
    return any(isinstance(item, dict) and any(key in item for key in _ENTRY) for item in entries)


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what the tool would do with this document, as a config, and what could not be carried over.

    Raises:
        ConfigError: every unknown key, bad value and broken pattern at once.
    """
    reader = Tf2Reader(document)
    strategy = read_strategy(reader)
    config = None
    if strategy is not None:
        config = to_config(reader, strategy, registry.load("targets", TARGETS[strategy.name]).kinds)
    reader.raise_if_any()
    if config is None:  # a strategy that could not be read has problems
        raise ValueError("a strategy was not read, and no problem says why")
    return config, reader.unmapped


def default_config(name: str = "pof2s") -> QuantConfig:
    """Returns a built-in strategy; pof2s is what the tool does when it is given none."""
    config, _ = read(Document(value={"quantize_strategy": name}))
    return config.model_copy(update={"source": Source(kind="dialect", text=f"{TOOL}, strategy {name}")})


PRESETS: Mapping[str, Callable[[], QuantConfig]] = {name: partial(default_config, name) for name in NAMES}

plugin = Dialect(
    name=TOOL,
    tool="Vitis AI 3.5 vai_q_tensorflow2",
    detect=detect,
    read=read,
    write=partial(write_with, read=read),
    keys=TOP,
    default=default_config,
    presets=PRESETS,
)
