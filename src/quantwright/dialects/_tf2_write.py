"""Writes a quantize strategy of vai_q_tensorflow2: the nearest it can say, read back and compared.

Rules about a class of layers are written in the schema the tool reads, everything else in that of its document, which
no version of the tool has ever read: that is told as a loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantwright import registry
from quantwright.config.availability import missing
from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import Role
from quantwright.dialects._tf2_compare import Read, Specs, complete, differences
from quantwright.dialects._tf2_map import TARGETS
from quantwright.dialects._tf2_names import FLOATS
from quantwright.dialects._tf2_spec import HISTOGRAMS
from quantwright.dialects._tf2_spell import quantizer
from quantwright.dialects._tf2_steps import DPU, SWITCHES
from quantwright.dialects._tf2_strategies import OPTIMIZE, QUANTIZE, REFINE
from quantwright.dialects._tf2_write_rules import identity, write_rules
from quantwright.errors import ConfigError, UnknownNameError

_HANDY = {"bit_width": "bit", "method": "method", "method_percentile": "method_percentile", "symmetry": "symmetry",
          "per_channel": "per_channel", "round_mode": "round_mode", "unsigned": "unsigned",
          "narrow_range": "narrow_range"}  # fmt: skip


def write(config: QuantConfig, read: Read) -> tuple[str, list[Unmapped]]:
    """Returns the JSON text and everything of the config that the tool would not do.

    Args:
        read: the dialect's reader.
    """
    specs = complete(config)
    name = _strategy(config, specs)
    first = _attempt(config, specs, name, read, spread=False)
    if any(loss.path.startswith("rules[") for loss in first[1]):
        second = _attempt(config, specs, name, read, spread=True)
        if len(second[1]) < len(first[1]):
            return second
    return first


def _attempt(config: QuantConfig, specs: Specs, name: str, read: Read, spread: bool) -> tuple[str, list[Unmapped]]:
    """Returns a document and its losses; ``spread`` writes defaults as entries instead of handy keys."""
    plain, _ = read(Document(value={"quantize_strategy": name}))
    document: dict[str, Any] = {"quantize_strategy": name, **_pipelines(config, name)}
    document |= _handy(specs, complete(plain), name, spread)
    made = write_rules(config, specs, _known_rules(document, read), name, spread)
    document |= made.keys
    if made.entries:
        document["layer_quantize_config"] = made.entries
    losses = [*made.losses, *differences(config, specs, document, made.owners, read)]
    return json.dumps(document, indent=2) + "\n", losses


def _strategy(config: QuantConfig, specs: Specs) -> str:
    """Returns the built-in strategy that is nearest to a config."""
    if str(specs["weight"].format).startswith(("bfp", "msfp")):
        return "bfp"
    if specs["weight"].scale == "power_of_two":
        return "pof2s_tqt" if specs["output"].statistic == "last" else "pof2s"
    if config.target == TARGETS["fs"] or (specs["bias"].format == "float32" and config.target not in TARGETS.values()):
        return "fs"
    kl = specs["output"].observer is not None and specs["output"].observer.name in HISTOGRAMS
    return "fsx" if kl else "gpu"


def _pipelines(config: QuantConfig, name: str) -> dict[str, Any]:
    """Returns the keys of the pipelines that differ from the strategy's."""
    asked = config.optimize
    if asked is None:
        try:
            asked = registry.load("targets", config.target).optimize if config.target else ()
        except UnknownNameError:
            asked = ()
    steps = {step.name: step.params for step in (*(asked or ()), *config.refine)}
    fold = steps.get("fold_batchnorm")
    cle = steps.get("cross_layer_equalization", {})
    wanted: dict[str, Any] = {
        "convert_relu6_to_relu": "relu6_to_relu" in steps,
        "fold_conv_bn": fold is not None,
        "convert_bn_to_dwconv": "batchnorm_to_depthwise" in steps
        or (fold is not None and str(fold.get("scope", "")).startswith("vitis")),
        "include_cle": "cross_layer_equalization" in steps,
        "cle_steps": cle.get("steps", 10),
        "cle_balance_method": cle.get("balance", "max"),
        "cle_weight_threshold": cle.get("threshold", 0.1),
        "cle_to_relu6": bool(cle.get("through_relu6", False)),
        "train_with_bn": "train_with_batchnorm" in steps,
    }
    found = {key: value for key, value in wanted.items() if OPTIMIZE[name][key] != value}
    if "fast_finetune" in steps:
        found |= {"include_fast_ft": True, "fast_ft_epochs": steps["fast_finetune"].get("epochs", 10)}
    if "bias_correction" in steps:
        found["include_bias_corr"] = True
    if "freeze_after" in steps.get("train_with_batchnorm", {}):
        found["freeze_bn_delay"] = steps["train_with_batchnorm"]["freeze_after"]
    if name.startswith("pof2s"):
        found |= _switches(steps, name)
    return found


def _switches(steps: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, bool]:
    """Returns the keys of DPU operators and adjusted positions that differ from the strategy's."""
    found = {}
    for step, kind, keys in (("dpu_operators", "passes", DPU), ("position_adjustment", "algorithms", SWITCHES)):
        table = QUANTIZE if step == "dpu_operators" else REFINE
        if step not in steps and step in missing(kind):
            continue  # on by default, and only noted
        for key in keys:
            default = DPU[key] if step == "dpu_operators" else True
            value = step in steps and bool(steps[step].get(key if step == "dpu_operators" else SWITCHES[key], default))
            if key in table[name] and value != table[name][key]:
                found[key] = value
    return found


def _handy(specs: Specs, plain: Specs, name: str, spread: bool) -> dict[str, Any]:
    """Returns the handy keys, and the input quantizer, that make the strategy's specs those of the config."""
    found: dict[str, Any] = {}
    groups: tuple[tuple[Role, str], ...] = (("weight", "weight"), ("bias", "bias"), ("output", "activation"))
    for role, group in () if spread else groups:
        if specs[role] == plain[role] or not plain[role].is_integer or (role == "output" and name == "fs"):
            continue
        mine, theirs = quantizer(specs[role], role, "Conv2D"), quantizer(plain[role], role, "Conv2D")
        if mine is None or theirs is None or mine["quantizer_type"] != theirs["quantizer_type"]:
            continue
        for param, handy in _HANDY.items():
            value, default = (part["quantizer_params"].get(param) for part in (mine, theirs))
            if value != default and value is not None:
                if param == "method_percentile" and (name.startswith("pof2s") or group != "activation"):
                    continue
                found[f"{group}_{handy}"] = value
    if name in ("fs", "fsx", "gpu") and any(
        found.get(f"{group}_round_mode", 1) != 1 for group in ("weight", "bias", "activation")
    ):
        found["use_framework_quant"] = False
    if specs["input"] != plain["input"]:
        read = quantizer(specs["input"], "input")
        found["input_quantize_config"] = {
            "input_quantizer": read or {"quantizer_type": "BFPQuantizer", "quantizer_params": {"data_format": "fp32"}}
        }
    word = next((key for key, ours in FLOATS.items() if ours == specs["weight"].format), None)
    if word not in (None, "float32") and name == "pof2s" and len({spec.format for spec in specs.values()}) == 1:
        return {"convert_datatype": word}
    return found


def _known_rules(document: dict[str, Any], read: Read) -> list[tuple[Any, ...]]:
    """Returns the rules that a document gives by itself."""
    try:
        config, _ = read(Document(value=document))
    except ConfigError:
        return []
    return [identity(rule) for rule in config.rules]
