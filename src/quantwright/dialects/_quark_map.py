"""What a Quark document means as a whole: target, default, rules and algorithms of a QuantConfig (1.1, 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import QuantConfig, RoleSpecs, Rule
from quantwright.config.document import JsonPath
from quantwright.dialects._quark_algorithms import steps
from quantwright.dialects._quark_names import EXPORT, FLOWS, MODES, OPT_OUT, PYTHON_ONLY, TARGETS, TOOL, TOP
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.dialects._quark_rules import (
    cache_rules,
    exclude_rules,
    name_rules,
    read_layer,
    softmax_rule,
    type_rules,
)

HOLDER = "quantization_config"
_GLOBAL = "global_quant_config"
_EFFECTS = {  # python-only fields without a place here: what that means
    "shared_scale_groups": "every weight keeps a scale of its own",
    "sync_moe_expert_input_amax": "every expert's input keeps a range of its own",
    "gpu_resident_blocks": "how the tool saves memory, no effect on the result",
    "keep_prequantized_layers": "a model that is quantized already is refused when it is captured",
}


def find(reader: QuarkReader) -> Mapping[str, Any]:
    """Returns the quantization part of the document; what lies around it is listed as not ours."""
    value = reader.document.value
    if not isinstance(value, dict) or _GLOBAL in value or not isinstance(value.get(HOLDER), dict):
        return reader.mapping(value, (), TOP, "the configuration")
    reader.root = (HOLDER,)
    others = [str(key) for key in value if key != HOLDER]
    if others:
        shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        reader.drop((), f"the model's own settings ({shown})", f"only '{HOLDER}' is read")
    return reader.mapping(value[HOLDER], (HOLDER,), TOP, f"'{HOLDER}'")


def to_config(reader: QuarkReader) -> QuantConfig:
    """Returns the config that says what the document asks for; problems, notes and losses are in the reader."""
    top, root = find(reader), reader.root
    if top.get(_GLOBAL) is None and isinstance(reader.document.value, dict):
        fix = 'add "global_quant_config": {"weight": {...}}'
        reader.add("quark_global", root, f"'{_GLOBAL}' is required", fix=fix)
    mode = _mode(reader, top, root)
    inherit = reader.flag(top[OPT_OUT], (*root, OPT_OUT)) is not False if OPT_OUT in top else True
    how = {"inherit": inherit, "derived": mode == "fx_graph_mode"}
    specs, sources = read_layer(reader, top.get(_GLOBAL) or {}, (*root, _GLOBAL), whole=True, **how)
    if "quant_method" in top:
        reader.word(top["quant_method"], (*root, "quant_method"), (TOOL,), "quant_method", code="quark_method")
    if top.get("version") is not None:
        reader.text(top["version"], (*root, "version"))
    least = _export(reader, top, root)
    rules = _rules(reader, top, root, least, {"whole": False, **how})
    refine = (
        *steps(reader, top.get("pre_quant_opt_config"), (*root, "pre_quant_opt_config")),
        *steps(reader, top.get("algo_config"), (*root, "algo_config")),
    )
    _rest(reader, top, root)
    return QuantConfig(
        target=TARGETS[mode],
        default=RoleSpecs(**{str(role): spec for role, spec in specs.items()}),
        default_sources=sources,
        rules=rules,
        refine=refine,
        dialect=TOOL,
        source=reader.source(root, TOOL),
        notes=tuple(reader.notes),
    )


def _rules(
    reader: QuarkReader, top: Mapping[str, Any], root: JsonPath, least: float, how: Mapping[str, Any]
) -> tuple[Rule, ...]:
    def part(key: str) -> Any:
        return top.get(key) if top.get(key) is not None else {}

    types = type_rules(reader, part("layer_type_quant_config"), (*root, "layer_type_quant_config"), **how)
    names = name_rules(reader, part("layer_quant_config"), (*root, "layer_quant_config"), **how)
    cache = cache_rules(reader, part("kv_cache_quant_config"), (*root, "kv_cache_quant_config"), least, **how)
    softmax = softmax_rule(reader, top.get("softmax_quant_spec"), (*root, "softmax_quant_spec"))
    out = exclude_rules(reader, top.get("exclude") or [], (*root, "exclude"))
    both = {rule.match.name for rule in out} & {rule.match.name for rule in cache}
    for name in sorted(name for name in both if name is not None):
        text = (
            f"'{name}' is excluded and in kv_cache_quant_config: it stays float (the tool quantizes its output alone)"
        )
        reader.note(f"cache {name}", (*root, "kv_cache_quant_config", name), text)
    if top.get("kv_cache_post_rope") is not None:
        flag = reader.flag(top["kv_cache_post_rope"], (*root, "kv_cache_post_rope"))
        if flag:
            message = "keys are quantized after their rotary embedding"
            reader.drop((*root, "kv_cache_post_rope"), message, "they are quantized where their projection gives them")
    return (*types, *softmax, *names, *cache, *out)


def _mode(reader: QuarkReader, top: Mapping[str, Any], root: JsonPath) -> str:
    path = (*root, "quant_mode")
    if top.get("quant_mode") is None:
        return MODES[0]
    mode = reader.word(top["quant_mode"], path, MODES, "quant_mode", code="quark_word")
    if mode == "fx_graph_mode":
        text = "the tool's rewrites (sigmoid to hardsigmoid, pooling constants ...) are not done: the function stays"
        reader.note("fx", path, text)
        if top.get("layer_type_quant_config"):
            place = (*root, "layer_type_quant_config")
            reader.note("fx types", place, "the tool refuses type entries in graph mode; here they hold")
    return mode or MODES[0]


def _export(reader: QuarkReader, top: Mapping[str, Any], root: JsonPath) -> float:
    """Returns the smallest scale of the key/value cache; the other options of the export are noted."""
    path = (*root, "export")
    given: Any = top.get("min_kv_scale")
    place = (*root, "min_kv_scale")
    if top.get("export") is not None:
        known = reader.mapping(top["export"], path, EXPORT, "'export'")
        if given is None:
            given, place = known.get("min_kv_scale"), (*path, "min_kv_scale")
        said = [key for key in ("pack_method", "weight_format", "weight_merge_groups") if known.get(key) is not None]
        if said:
            reader.drop(
                path, f"options of the tool's export ({', '.join(said)})", "choose how to export when you export"
            )
    least = None if given is None else reader.number(given, place, low=0, high=1e6, code="quark_number")
    return float(least or 0.0)


def _rest(reader: QuarkReader, top: Mapping[str, Any], root: JsonPath) -> None:
    """Notes the fields of the Python object that its JSON does not hold (1.1)."""
    if top.get("quant_flow") is not None:
        flow = reader.word(top["quant_flow"], (*root, "quant_flow"), FLOWS, "quant_flow", code="quark_word")
        if flow not in (None, "standard"):
            reader.drop((*root, "quant_flow"), f"quant_flow {flow}", "the model is quantized in memory, as a whole")
    for key, effect in _EFFECTS.items():
        value = top.get(key)
        if value is not None and value != PYTHON_ONLY[key]:
            reader.drop((*root, key), f"'{key}'", effect)
    if top.get("kv_cache_group"):
        reader.drop((*root, "kv_cache_group"), "'kv_cache_group'", "an option of the tool's export")
