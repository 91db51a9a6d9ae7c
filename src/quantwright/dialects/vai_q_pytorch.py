"""vai_q_pytorch (Vitis AI 3.5): the JSON of ``quant_config_file``, and what the tool does without one."""

from __future__ import annotations

from quantwright.config.config import QuantConfig, Source, Unmapped
from quantwright.config.document import Document
from quantwright.dialects import Dialect
from quantwright.dialects._vai_map import resolve_layers, to_config
from quantwright.dialects._vai_params import BLOCKS, FLAGS, PARAMS, TOOL, TOP, VaiReader, read_effective
from quantwright.dialects._vai_rules import check
from quantwright.dialects._vai_write import write

_TELLING = ("target_device", *BLOCKS, *FLAGS, "quantizable_data_type")


def detect(document: Document) -> str | None:
    """Returns why a document is a vai_q_pytorch configuration, or None."""
    if not isinstance(document.value, dict):
        return None
    found = [key for key in _TELLING if key in document.value]
    if not found:
        found = [key for key in PARAMS if key in document.value]
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
