"""Reads what a document of MQBench means.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq.
"""

from __future__ import annotations

from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Source, Step, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import QuantSpec
from quantwright.dialects._mq_document import DICTS, FUSE, OTHERS, QCONFIG, Found, Parts, find
from quantwright.dialects._mq_reader import MqReader
from quantwright.dialects._mq_rules import ADDITIONS, EXCLUDES, IGNORED, quantizer_rules
from quantwright.dialects._mq_specs import ROLES, Half, Side, Vocabulary, read_side, spec_of
from quantwright.dialects._mq_words import BACKENDS, FAKE_QUANTS, NEEDING_ALL, OBSERVERS
from quantwright.targets import Target

TOOL = "mqbench"
WORDS = Vocabulary(observers=OBSERVERS, fake_quants=FAKE_QUANTS)
#: what only the other of the two tools reads
_SOPHGO = ("quant_dict", "quant")


def detect(document: Document) -> str | None:
    """Returns why a document is one of MQBench, or None."""
    value = document.value
    if not isinstance(value, dict) or any(key in value for key in _SOPHGO):
        return None
    inner = value.get("prepare_custom_config_dict")
    if isinstance(inner, dict) and "quant_dict" in inner:
        return None
    backends = [key for key in ("deploy_backend", "backend", "backend_type") if _names_a_backend(value.get(key))]
    if backends:
        return f"it has '{backends[0]}: {value[backends[0]]}'"
    found = [key for key in ("extra_prepare_dict", "extra_config", *DICTS, *OTHERS) if key in value]
    found += ["prepare_custom_config_dict"] if isinstance(inner, dict) else []
    return "it has " + ", ".join(f"'{key}'" for key in found[:3]) if found else None


def _names_a_backend(value: Any) -> bool:
    return isinstance(value, str) and value.rpartition(".")[2] in BACKENDS


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what MQBench would do, as a config, and what could not be carried over.

    Raises:
        ConfigError: every unknown name, bad value and contradiction at once.
    """
    reader = MqReader(document, TOOL)
    found = find(reader)
    backend = found.backend or _assumed(reader, found)
    target: Target = registry.load("targets", BACKENDS[backend])
    halves = _halves(reader, found, backend)
    specs: dict[str, QuantSpec] = {}
    sources: dict[str, Source] = {}
    for half, side in halves.items():
        base = target.defaults.get(ROLES[half][0]) or QuantSpec()
        spec, places = spec_of(reader, side, base, WORDS, format_fixed=backend == "OPENVINO")
        if not spec.fields_set():
            continue
        for role in ROLES[half]:
            specs[role] = spec
            sources |= {f"{role}.{name}": place for name, place in places.items()}
    known, path = found.mapping("extra_quantizer_dict")
    _require_mapping(reader, found, "extra_quantizer_dict")
    known = reader.ignoring(known, path, (*EXCLUDES, *ADDITIONS, "academic_mode"), "'extra_quantizer_dict'")
    rules = quantizer_rules(reader, known, path, IGNORED.get(backend, ()), backend)
    optimize = _academic_mode(reader, known, (*path, "academic_mode"), backend, specs, sources)
    the_rest(reader, found)
    reader.raise_if_any()
    config = QuantConfig(
        target=target.name,
        default=RoleSpecs(**specs),
        default_sources=sources,
        rules=tuple(rules),
        optimize=optimize,
        refine=found.refine,
        dialect=TOOL,
        source=reader.source((), TOOL),
        notes=tuple(reader.notes),
    )
    return config, reader.unmapped


def _assumed(reader: MqReader, found: Found) -> str:
    """Returns the backend of a document that names none: Academic, where everything is said (2)."""
    if not found.named:
        known, _ = found.mapping("extra_qconfig_dict")
        needed = [key for key in QCONFIG if not key.endswith(("params", "args"))]
        if all(key in known for key in needed):
            text = "no backend is named; the document says everything itself, so it is read as Academic"
            reader.note((), f"{text} (add backend: Tensorrt, or another, if that is meant)")
        else:
            message = "no backend is named: in the tool it is an argument of prepare_by_platform"
            reader.add("mq_backend", (), message, allowed=BACKENDS, fix='add "backend": "Tensorrt", or another')
    return "Academic"


def _halves(reader: MqReader, found: Found, backend: str) -> dict[Half, Side]:
    """Returns both halves of the qconfig."""
    _require_mapping(reader, found, "extra_qconfig_dict")
    given, path = found.mapping("extra_qconfig_dict")
    known = dict(reader.ignoring(given, path, QCONFIG, "'extra_qconfig_dict'"))
    if found.backend in NEEDING_ALL:
        for key in QCONFIG:
            if key not in known and not key.endswith(("params", "args")):
                message = f"'{key}' is required: {backend} has no preset"
                reader.add("missing_key", path, message, fix=f"add '{key}' to extra_qconfig_dict")
    if backend == "NNIE":  # 2: "ignores fakequantize and qscheme, honours observers"
        for key in [key for key in known if not key.endswith(("observer", "observer_extra_args"))]:
            reader.note((*path, key), f"no effect: NNIE has a grid of its own and does not read '{key}'")
            del known[key]
    halves: tuple[Half, ...] = ("w", "a")
    return {half: read_side(reader, known, path, half, WORDS) for half in halves}


def _require_mapping(reader: MqReader, found: Parts, key: str) -> None:
    value, path = found.parts.get(key, ({}, ()))
    if value is not None and not isinstance(value, dict):
        reader.mapping(value, path, (), f"'{key}'")


def _academic_mode(
    reader: MqReader,
    known: Any,
    path: tuple[str | int, ...],
    backend: str,
    specs: dict[str, QuantSpec],
    sources: dict[str, Source],
) -> tuple[Step, ...] | None:
    """Returns the passes of OpenVINO's academic mode, which fuses nothing and has weights from -63 (2)."""
    if "academic_mode" not in known:
        return None
    on = reader.flag(known["academic_mode"], path)
    if backend != "OPENVINO":
        reader.note(path, f"no effect: only OPENVINO reads it, and the backend is {backend}")
        return None
    if not on:
        return None
    specs["weight"] = QuantSpec(narrow_range=True).over(specs.get("weight", QuantSpec()))
    sources["weight.narrow_range"] = reader.where(path)
    return ()


_ARGUMENTS = "arguments of the tracer", "give the model example inputs: what they leave out has its default"
_OTHERS = {
    "preserve_attr": ("attributes of the model are no matter of quantization", "take them from the model"),
    "leaf_module": ("the model is captured down to its operators", "a layer of another class is seen into"),
    "concrete_args": _ARGUMENTS,
    "concrect_args": _ARGUMENTS,
}


def the_rest(reader: MqReader, found: Parts) -> None:
    """Tells about what is no matter of quantization here: tracing, fusing, attributes."""
    fuse, path = found.mapping("extra_fuse_dict")
    _require_mapping(reader, found, "extra_fuse_dict")
    for key in reader.ignoring(fuse, path, FUSE, "'extra_fuse_dict'"):
        if key == "additional_qat_module_mapping":
            effect = "layers are known by what they compute, not by a table of classes"
            reader.drop((*path, key), f"'{key}' swaps classes for trained quantization", effect)
        else:
            reader.note((*path, key), f"no effect: the tool hands '{key}' on and never reads it")
    for key in OTHERS:
        if key not in found.parts:
            continue
        value, path = found.parts[key]
        if key == "concrect_args":
            reader.note(path, "read as 'concrete_args': the document misspells it, and the tool ignores that silently")
        if value:
            message, effect = _OTHERS[key]
            reader.drop(path, f"'{key}': {message}", effect)
