"""AMD Quark for PyTorch (0.6 to 0.13): the JSON of its config, or a Hugging Face model's ``quantization_config``."""

from __future__ import annotations

from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document
from quantwright.dialects import Dialect
from quantwright.dialects._quark_map import HOLDER, to_config
from quantwright.dialects._quark_names import TOOL, WRITTEN
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.dialects._quark_write import write

_TELLING = ("global_quant_config", "layer_type_quant_config", "layer_quant_config", "pre_quant_opt_config")


def detect(document: Document) -> str | None:
    """Returns why a document is a Quark configuration, or None."""
    value = document.value
    if not isinstance(value, dict):
        return None
    inner = value.get(HOLDER)
    if isinstance(inner, dict) and (inner.get("quant_method") == TOOL or "global_quant_config" in inner):
        return f"its '{HOLDER}' is one of Quark"
    found = [key for key in _TELLING if key in value]
    if value.get("quant_method") == TOOL:
        found.insert(0, "quant_method")
    return "it has " + ", ".join(f"'{key}'" for key in found[:3]) if found else None


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what the document asks for as a config, and what could not be carried over.

    Raises:
        ConfigError: every unknown key, bad value and contradiction at once.
    """
    reader = QuarkReader(document)
    config = to_config(reader)
    reader.raise_if_any()
    return config, reader.unmapped


plugin = Dialect(
    name=TOOL, tool="AMD Quark for PyTorch 0.6 to 0.13", detect=detect, read=read, write=write, keys=WRITTEN
)
