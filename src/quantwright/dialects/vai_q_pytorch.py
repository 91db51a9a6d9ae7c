"""vai_q_pytorch (Vitis AI 3.5): the JSON of ``quant_config_file``, and what the tool does without one."""

from __future__ import annotations

from typing import Any

from quantwright.config.config import QuantConfig, Source, Unmapped
from quantwright.config.document import Document
from quantwright.dialects import Dialect
from quantwright.dialects._vai_map import resolve_layers, to_config
from quantwright.dialects._vai_params import BLOCKS, FLAGS, PARAMS, TOOL, TOP, VaiReader, read_effective
from quantwright.dialects._vai_rules import check
from quantwright.dialects._vai_write import write

_TELLING = ("target_device", *BLOCKS, *FLAGS, "quantizable_data_type")
#: keys that vai_q_tensorflow2 has too
_SHARED = ("layer_quantize_config", "include_cle", "include_bias_corr", "convert_relu6_to_relu", "onnx_opset_version")
_TENSORFLOW_KEYS = ("quantize_registry_config", "user_", "input_", "weight_", "bias_", "activation_", "cle_", "adjust_")
_TENSORFLOW_ENTRY = ("quant_config", "pattern", "layer_params", "layer_inputs", "quantizable_weights",
                     "quantizable_outputs", "quantizable_inputs", "quantizable_biases",
                     "quantizable_activations")  # fmt: skip


def _is_of_tensorflow(value: dict[str, Any]) -> bool:
    """Returns whether a document that has only such keys has others that are vai_q_tensorflow2's alone."""
    if any(key in value for key in ("quantize_strategy", "custom_quantize_strategy", "custom_layer_type")):
        return True
    if any(key.endswith("_pipeline_config") or key.startswith(_TENSORFLOW_KEYS) for key in value):
        return True
    entries = value.get("layer_quantize_config")
    return isinstance(entries, list) and any(
        isinstance(item, dict) and any(key.startswith(_TENSORFLOW_ENTRY) or key.endswith("_quantizers") for key in item)
        for item in entries
    )


def detect(document: Document) -> str | None:
    """Returns why a document is a vai_q_pytorch configuration, or None."""
    if not isinstance(document.value, dict):
        return None
    found = [key for key in _TELLING if key in document.value and key not in _SHARED]
    if not found and not _is_of_tensorflow(document.value):
        found = [key for key in _SHARED if key in document.value]
        found = found or [key for key in PARAMS if key in document.value]
    return "it has " + ", ".join(f"'{key}'" for key in found[:3]) if found else None


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what the tool would do with this file, as a config, and what could not be carried over.

    Raises:
        ConfigError: every unknown key, bad value, conflict and unresolvable layer name at once.
    """
    reader = VaiReader(document)
    effective = read_effective(reader)
    check(reader, effective)
    subjects = resolve_layers(reader, effective)
    reader.raise_if_any()
    return to_config(reader, effective, subjects), reader.unmapped


def default_config() -> QuantConfig:
    """Returns what the tool does when it is given no file: DPU, power-of-two, CLE and bias correction."""
    config, _ = read(Document(value={"target_device": "DPU"}))
    return config.model_copy(update={"source": Source(kind="dialect", text=f"{TOOL} without a file")})


plugin = Dialect(
    name=TOOL,
    tool="Vitis AI 3.5 vai_q_pytorch",
    detect=detect,
    read=read,
    write=write,
    keys=TOP,
    default=default_config,
)
