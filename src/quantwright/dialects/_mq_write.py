"""Writes MQBench's dictionary: the nearest it can say, read back and compared, so nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantwright.config.config import QuantConfig, Rule, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import QuantSpec
from quantwright.dialects._mq_compare import complete, differences, target_of
from quantwright.dialects._mq_read import WORDS, read
from quantwright.dialects._mq_specs import MAX_BITS, Half, Vocabulary
from quantwright.dialects._mq_words import BACKENDS, NEEDING_ALL
from quantwright.errors import ConfigError

_NAMES = {target: backend for backend, target in BACKENDS.items()}
_ALGORITHMS = {"adaround": ("layer", None), "brecq": ("block", None), "qdrop": ("block", 0.5)}


def write(config: QuantConfig) -> tuple[str, list[Unmapped]]:
    """Returns the JSON text and everything of the config that the tool would not do."""
    backend = _NAMES.get(config.target or "", "Tensorrt")
    qconfig: dict[str, Any] = {}
    specs = complete(config)
    target = target_of(BACKENDS[backend])
    halves: tuple[tuple[Half, QuantSpec], ...] = (("w", specs["weight"]), ("a", specs["output"]))
    for half, spec in halves:
        default = (target.defaults.get("weight" if half == "w" else "output") if target else None) or QuantSpec()
        qconfig |= half_of(half, spec, default, WORDS, everything=backend in NEEDING_ALL)
    document: dict[str, Any] = {"extra_qconfig_dict": qconfig} if qconfig else {}
    lists, unmapped, lost = lists_of(config.rules)
    if backend == "OPENVINO" and specs["weight"].narrow_range:
        lists["academic_mode"] = True
    if lists:
        document["extra_quantizer_dict"] = lists
    quantize = _quantize(config)
    document = {"extra_prepare_dict": document, "quantize": quantize} if quantize else document
    document = {"backend": backend, **document}
    try:
        back, _ = read(Document(value=document))
    except ConfigError as error:
        effect = "the tool refuses the document"
        refused = [Unmapped(path=p.path, message=p.message, effect=effect) for p in error.problems]
        return json.dumps(document, indent=2) + "\n", [*unmapped, *refused]
    return json.dumps(document, indent=2) + "\n", [*unmapped, *differences(config, back, lost)]


def half_of(
    half: Half, spec: QuantSpec, default: QuantSpec, words: Vocabulary, *, everything: bool = False
) -> dict[str, Any]:
    """Returns the keys of one half for a complete spec; {} when it is the backend's preset.

    Args:
        default: the preset.
        everything: also what the preset says, for backends without one.
    """
    scheme = {name: getattr(spec, name) for name in ("format", "granularity", "symmetric", "narrow_range", "scale")}
    same = all(getattr(default, name) == value for name, value in scheme.items())
    found: dict[str, Any] = {}
    pairs = [("observer", "statistic", "ema_decay") if half == "a" else ("observer",), ("fake_quant", "dynamic")]
    tqt = is_tqt(spec)
    fake = "TqtFakeQuantize" if tqt else fake_name(spec, words)
    if everything or tqt or fake_changes(spec, default):
        found[f"{half}_fakequantize"] = fake
        if spec.fake_quant is not None and spec.fake_quant.params:
            found[f"{half}_fakeq_params"] = dict(spec.fake_quant.params)
    if everything or any(getattr(spec, name) != getattr(default, name) for name in pairs[0]):
        name, arguments = observer_name(half, spec, words)
        found[f"{half}_observer"] = name
        if arguments:
            found[f"{half}_observer_extra_args"] = arguments
    if everything or not same:
        found[f"{half}_qscheme"] = {**scheme_of(spec), **({"pot_scale": False} if tqt else {})}
    return found


def is_tqt(spec: QuantSpec) -> bool:
    """Returns whether the power of two above the observer's scale is taken, as TQT does."""
    above = spec.scale == "power_of_two" and spec.exponent == "ceil"
    return above and (spec.observer is None or spec.observer.name != "min_mse_position")


def fake_changes(spec: QuantSpec, default: QuantSpec) -> bool:
    """Returns whether a spec needs a fake quantizer other than the preset's."""
    base = default.fake_quant
    name, wanted = base.name if base is not None else "fixed", spec.fake_quant
    other = wanted is not None and (wanted.name != name or bool(wanted.params))
    return other or (not spec.is_integer and spec.format != default.format) or (spec.is_integer != default.is_integer)


def scheme_of(spec: QuantSpec) -> dict[str, Any]:
    """Returns the nearest qscheme of a spec."""
    integer = spec.is_integer
    symmetric = bool(spec.symmetric) if not integer else bool(spec.symmetric) and spec.signed
    per_channel = spec.granularity is not None and spec.granularity.kind == "per_channel"
    scheme: dict[str, Any] = {"bit": min(spec.bits, MAX_BITS) if integer else 8, "symmetry": symmetric}
    scheme |= {"per_channel": per_channel, "pot_scale": spec.scale == "power_of_two"}
    if spec.narrow_range and symmetric:
        scheme["symmetric_range"] = True
    return scheme


def observer_name(half: Half, spec: QuantSpec, words: Vocabulary) -> tuple[str, dict[str, Any]]:
    """Returns the nearest observer and its arguments."""
    wanted = spec.observer.name if spec.observer is not None else "minmax"
    params: Mapping[str, Any] = spec.observer.params if spec.observer is not None else {}
    names = [name for name, known in words.observers.items() if known.observer == wanted] or ["MinMaxObserver"]
    if half == "a":
        names = [n for n in names if words.observers[n].statistic == spec.statistic] or names
        if wanted not in {known.observer for known in words.observers.values()} and spec.statistic == "ema":
            names = ["EMAMinMaxObserver"]
    known = words.observers[names[0]]
    ours = {theirs: key for key, (theirs, _) in known.arguments.items()}
    arguments = {ours[key]: value for key, value in params.items() if key in ours}
    if half == "a" and known.statistic == "ema" and spec.ema_decay not in (None, 0.9):
        arguments["ema_ratio"] = spec.ema_decay
    return names[0], arguments


def fake_name(spec: QuantSpec, words: Vocabulary) -> str:
    """Returns the nearest fake quantizer."""
    if not spec.is_integer:
        exact = [name for name, known in words.fake_quants.items() if known.format == spec.format]
        if exact:
            return exact[0]
    wanted = spec.fake_quant.name if spec.fake_quant is not None else "fixed"
    names = [name for name, known in words.fake_quants.items() if known.name == wanted and known.format is None]
    return names[0] if names else "FixedFakeQuantize"


def lists_of(rules: tuple[Rule, ...]) -> tuple[dict[str, Any], list[Unmapped], set[int]]:
    """Returns the lists of an ``extra_quantizer_dict``, the rules that none can say, and their numbers."""
    lists: dict[str, Any] = {}
    unmapped, lost = [], set()
    for index, rule in enumerate(rules):
        key, word = list_of(rule)
        if key is None:
            lost.add(index)
            what = "excludes layers" if rule.exclude else "includes layers" if rule.include else "sets specs"
            message = f"the rule that {what} by {rule.match} cannot be said"
            unmapped.append(Unmapped(path=f"rules[{index}]", message=message, effect="those layers get the settings"))
        else:
            lists.setdefault(key, []).append(word)
    return lists, unmapped, lost


def list_of(rule: Rule) -> tuple[str | None, str]:
    """Returns which list of an ``extra_quantizer_dict`` says a rule, and the word it says it with."""
    match = rule.match
    said = [word for word in (match.type, match.name, match.function) if word is not None]
    if match.pattern is not None or rule.share is not None or len(said) != 1 or not exact(said[0]):
        return None, ""
    node = said[0].startswith("fx:")
    word = said[0].removeprefix("fx:")
    specs = [role for role in ("weight", "bias", "input", "output") if getattr(rule, role) is not None]
    if rule.exclude and not specs and match.type is None and not node:
        return ("exclude_module_name" if match.name is not None else "exclude_function_type"), word
    if rule.include and not specs:
        kind = "function_type" if match.function is not None else "module_type" if match.type is not None else ""
        kind = "node_name" if node else kind
        return (f"additional_{kind}" if kind else None), word
    if specs == ["input"] and node and rule.input is not None and rule.input.format == "float32":
        return "exclude_node_name", word
    return None, ""


def exact(word: str) -> bool:
    """Returns whether a word of a match is one name, which the tools compare with."""
    return not word.startswith(("re:", "kind:")) and not any(mark in word for mark in "*?[|")


def _quantize(config: QuantConfig) -> dict[str, Any]:
    """Returns the ``quantize`` section of a script for the algorithms of a config; {} when it has none of them."""
    for step in config.refine:
        if step.name == "qat":
            return {"quantize_type": "naive_qat"}
        if step.name in _ALGORITHMS:
            pattern, _ = _ALGORITHMS[step.name]
            params = {key: value for key, value in step.params.items() if key != "exclude"}
            if "exclude" in step.params:
                params["exclude_node_prefix"] = step.params["exclude"]
            return {"quantize_type": "advanced_ptq", "reconstruction": {"pattern": pattern, **params}}
    return {}
