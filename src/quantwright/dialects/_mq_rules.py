"""The ``extra_quantizer_dict`` of MQBench and sophgo-mq as rules: what is quantized besides, and what is not.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq. Excluding takes back what an *operation*
asks for: a value that another one asks for as well stays quantized (3). Later rules win, so additions stand last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Match, Rule
from quantwright.config.document import JsonPath
from quantwright.config.spec import QuantSpec
from quantwright.dialects._mq_reader import Entry, MqReader

EXCLUDES = ("exclude_module_name", "exclude_function_type", "exclude_node_name")
ADDITIONS = ("additional_function_type", "additional_module_type", "additional_node_name")
FLOAT = QuantSpec(format="float32")
#: 3: what a backend's quantizer does not read
IGNORED = {
    "Vitis": ADDITIONS,
    "ONNX_QNN": ("additional_function_type", "additional_module_type"),
    "OPENVINO": ("additional_function_type", "additional_node_name"),
}


def quantizer_rules(
    reader: MqReader, known: Mapping[str, Any], path: JsonPath, ignored: tuple[str, ...] = (), who: str = ""
) -> list[Rule]:
    """Returns the rules of the six lists, exclusions first.

    Args:
        known: the dict, of keys that are known.
        ignored: the lists that the backend's quantizer does not read.
        who: that backend.
    """
    listed: dict[str, list[Entry]] = {}
    for key in (*EXCLUDES, *ADDITIONS):
        if key not in known:
            continue
        entries = reader.names(known[key], (*path, key))
        if entries and key in ignored:
            reader.note((*path, key), f"no effect: the quantizer of {who} does not read it")
            continue
        listed[key] = entries
    added = {entry.text for entry in listed.get("additional_node_name", ())}
    rules = [_excluded(reader, entry, "name", entry.text) for entry in listed.get("exclude_module_name", ())]
    rules += [_excluded(reader, entry, "function", entry.text) for entry in listed.get("exclude_function_type", ())]
    for entry in listed.get("exclude_node_name", ()):
        if entry.text in added:
            reader.note(entry.path, f"no effect: additional_node_name names '{entry.text}' too, and wins")
            continue
        rules.append(_not_asking(reader, entry))
    rules += [_added(reader, entry, "function", entry.text) for entry in listed.get("additional_function_type", ())]
    rules += [_added(reader, entry, "type", entry.text) for entry in listed.get("additional_module_type", ())]
    rules += [_added(reader, entry, "name", f"fx:{entry.text}") for entry in listed.get("additional_node_name", ())]
    return rules


def _excluded(reader: MqReader, entry: Entry, by: str, word: str) -> Rule:
    """Returns the rule of an operation that asks for nothing and whose weight stays float."""
    source = reader.source(entry.path, f"exclude {by} {entry.text}")
    return Rule(match=Match(**{by: word}), exclude=True, if_unmatched="warn", source=source)


def _not_asking(reader: MqReader, entry: Entry) -> Rule:
    """Returns the rule of a node whose inputs are not asked for, while its weight stays quantized (3)."""
    source = reader.source(entry.path, f"exclude node {entry.text}")
    return Rule(
        match=Match(name=f"fx:{entry.text}"),
        input=FLOAT,
        if_unmatched="warn",
        source=source,
        field_sources={"input.format": source},
    )


def _added(reader: MqReader, entry: Entry, by: str, word: str) -> Rule:
    """Returns the rule of an operation whose inputs are quantized although the backend would not."""
    source = reader.source(entry.path, f"additional {by} {entry.text}")
    return Rule(match=Match(**{by: word}), include=True, if_unmatched="warn", source=source)
