"""Writes the JSON of vai_q_pytorch: the nearest it can say, read back and compared, so nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantwright import registry
from quantwright.config.config import QuantConfig, RoleSpecs, Rule, Unmapped
from quantwright.config.document import Document
from quantwright.config.spec import BASE_SPEC, FLOAT_FORMATS, ROLES, QuantSpec, Role
from quantwright.dialects import _vai_map
from quantwright.dialects._vai_map import FIXED_POINT, ROUNDING, resolve_layers, to_config
from quantwright.dialects._vai_params import TENSORS, VaiReader, built_in, read_effective
from quantwright.dialects._vai_rules import check, first_broken
from quantwright.errors import UnknownNameError

_ROUND_MODE = {ours: theirs for theirs, ours in ROUNDING.items()}
_TENSOR: dict[Role, str] = {"weight": "weights", "bias": "bias", "output": "activation"}


def write(config: QuantConfig) -> tuple[str, list[Unmapped]]:
    """Returns the JSON text and everything of the config that the tool would not do."""
    base = _defaults(config)
    device = _device(config, base)
    document: dict[str, Any] = {**_flags(config), "target_device": device, "quantizable_data_type": list(TENSORS)}
    params = {tensor: _params(base[role], role, device) for role, tensor in _TENSOR.items()}
    document.update(_blocks(params, device, _input_spec(config, base).format))
    layers = [_layer(rule, base, device) for rule in config.rules if _is_layer(rule)]
    if layers:
        document["layer_quantize_config"] = layers
    unmapped = [_unwritten(index, rule) for index, rule in enumerate(config.rules) if _is_lost(rule)]
    unmapped += [_named(index, rule) for index, rule in enumerate(config.rules) if _is_layer(rule) and rule.match.name]
    return json.dumps(document, indent=2) + "\n", [*unmapped, *_differences(config, document)]


def _defaults(config: QuantConfig) -> dict[Role, QuantSpec]:
    """Returns complete specs: the built-in base, the target's defaults, the config's."""
    try:
        target = registry.load("targets", config.target).defaults if config.target else RoleSpecs()
    except UnknownNameError:
        target = RoleSpecs()
    empty = QuantSpec()
    complete = {}
    for role in ROLES:
        spec = (target.get(role) or empty).over(BASE_SPEC)
        complete[role] = (config.default.get(role) or empty).over(spec)
    return complete


def _device(config: QuantConfig, base: Mapping[Role, QuantSpec]) -> str:
    by_target = {"dpu": "DPU", "vitis_cpu": "CPU"}
    if config.target in by_target:
        return by_target[config.target]
    return "DPU" if all(spec.scale == "power_of_two" for spec in base.values()) else "CPU"


def _flags(config: QuantConfig) -> dict[str, Any]:
    steps = [step.name for step in config.optimize or ()]
    adjusted = [step.params for step in config.refine if step.name == "position_adjustment"]
    aligned = {ours for params in adjusted for ours, on in params.items() if on}
    return {
        **{flag: True for ours, flag in _vai_map.ALIGNED.items() if ours in aligned},
        "convert_relu6_to_relu": "relu6_to_relu" in steps,
        "convert_silu_to_hswish": "silu_to_hardswish" in steps,
        "include_cle": "cross_layer_equalization" in steps,
        "include_bias_corr": any(step.name == "bias_correction" for step in config.refine),
    }


def _params(spec: QuantSpec, role: Role, device: str) -> dict[str, Any]:
    """Returns the nearest parameters of the tool for a complete spec that it accepts."""
    if not spec.is_integer:
        return {"datatype": spec.format}
    signed = spec.signed
    params: dict[str, Any] = {
        "datatype": "int",
        "bit_width": spec.bits,
        "method": _method(spec, device),
        "round_mode": _ROUND_MODE.get(spec.rounding or "", "half_even"),
        "symmetry": bool(spec.symmetric),
        "per_channel": spec.granularity is not None and spec.granularity.kind == "per_channel",
        "signed": signed or not spec.symmetric,
        "narrow_range": bool(spec.narrow_range),
        "scale_type": "poweroftwo" if spec.scale == "power_of_two" else "float",
    }
    if role == "output":
        params["calib_statistic_method"] = spec.statistic if spec.statistic != "all" else "max"
    params = _accepted(params, _TENSOR.get(role, "input"), device)
    if params["method"] == "percentile" and spec.observer is not None:
        params["percentage"] = float(spec.observer.params.get("percentile", 99.99))
    return params


def _accepted(params: Mapping[str, Any], tensor: str, device: str) -> dict[str, Any]:
    """Returns parameters with every setting that the tool refuses beside the others replaced by one that it takes."""
    made = dict(params)
    broken = first_broken(device, tensor, made)
    for _ in range(len(made)):  # one repair may lead to the next; none leads back
        if broken is None:
            break
        two = made.get("scale_type") == "poweroftwo"
        made[broken] = {
            "method": "diffs" if two else "maxmin", "calib_statistic_method": "modal" if two else "max",
            "round_mode": "half_up" if tensor == "activation" else "std_round", "symmetry": True, "signed": True,
            "per_channel": False, "scale_type": "poweroftwo", "bit_width": 16,
        }[broken]  # fmt: skip
        broken = first_broken(device, tensor, made)
    return made


def _method(spec: QuantSpec, device: str) -> str:
    name = spec.observer.name if spec.observer is not None else "minmax"
    if name == "diffs":
        scope = spec.observer.params.get("scope", _vai_map.SCOPE) if spec.observer is not None else 1
        return "maxmin" if scope == 1 and device not in FIXED_POINT else "diffs"
    return name if name in ("percentile", "entropy", "mse") else "maxmin"


def _blocks(params: Mapping[str, dict[str, Any]], device: str, input_format: str | None = None) -> dict[str, Any]:
    """Returns ``overall_quantize_config`` with what the weights have, and per tensor what differs from it."""
    model = dict(params)
    if device in FIXED_POINT and {"bias", "activation"} <= model.keys() and "bit_width" in model["activation"]:
        model["bias"] = {**model["bias"], "bit_width": model["activation"]["bit_width"]}  # 2.4
    if "activation" in model:  # 0.3: an input takes the activation settings; on the DPU it has to say std_round (2.4)
        rounding = {"round_mode": "std_round"} if device in FIXED_POINT and "round_mode" in model["activation"] else {}
        model["input"] = {**model["activation"], **rounding}
        if input_format in FLOAT_FORMATS:  # 3.7: a float datatype anywhere leaves the inputs float
            model["input"]["datatype"] = input_format
    first = next(iter(model))
    overall = {"datatype": "int", **model[first]}
    statistics = [block["calib_statistic_method"] for block in model.values() if "calib_statistic_method" in block]
    if statistics and overall["datatype"] == "int":
        overall["calib_statistic_method"] = statistics[0]
    tensors = {}
    for tensor, block in model.items():
        changed = {key: value for key, value in block.items() if overall.get(key, _vai_default(tensor, key)) != value}
        if changed and block.get("method") == "percentile":
            changed["percentage"] = block["percentage"]  # 2.2: every block that lacks it goes back to 99.99
        if changed:
            tensors[tensor] = changed
    return {"overall_quantize_config": overall, **({"tensor_quantize_config": tensors} if tensors else {})}


def _vai_default(tensor: str, key: str) -> Any:
    return built_in(tensor)[key].value


def _is_layer(rule: Rule) -> bool:
    """Returns whether a rule can be a layer entry: one plain type or module path."""
    match = rule.match
    if rule.exclude or rule.include or rule.share is not None or match.pattern is not None:
        return False
    if match.function is not None or (match.type is None) == (match.name is None):
        return False
    if all(rule.get(role) is None for role in _TENSOR):
        return False  # what a layer reads is the business of what produces it
    text = match.type or match.name or ""
    return not text.startswith("re:") and not any(mark in text for mark in "*?[|")


def _is_lost(rule: Rule) -> bool:
    return not _is_layer(rule) and rule.match.function != "input"


def _layer(rule: Rule, base: Mapping[Role, QuantSpec], device: str) -> dict[str, Any]:
    """Returns a layer entry with complete settings for the roles the rule sets."""
    roles = [role for role in _TENSOR if rule.get(role) is not None]
    params = {_TENSOR[role]: _params(_over(rule, role, base), role, device) for role in roles}
    blocks = _blocks(params, device)
    blocks.get("tensor_quantize_config", {}).pop("input", None)
    if blocks.get("tensor_quantize_config") == {}:
        del blocks["tensor_quantize_config"]
    subject = {"layer_type": rule.match.type, "layer_name": rule.match.name}
    return {**subject, "quantizable_data_type": [_TENSOR[role] for role in roles], **blocks}


def _over(rule: Rule, role: Role, base: Mapping[Role, QuantSpec]) -> QuantSpec:
    return (rule.get(role) or QuantSpec()).over(base[role])


def _unwritten(index: int, rule: Rule) -> Unmapped:
    how = {"excludes layers": rule.exclude, "includes layers": rule.include, "shares a grid": rule.share is not None}
    what = next((text for text, said in how.items() if said), f"matches by {rule.match}")
    message = f"the rule {what}, which the tool cannot say"
    return Unmapped(path=f"rules[{index}]", message=message, effect="the layers get the model's settings")


def _named(index: int, rule: Rule) -> Unmapped:
    message = f"the tool finds layers by its generated names, not by '{rule.match.name}'"
    effect = "replace layer_name by the name in the tool's regenerated .py file; Quantwright reads both"
    return Unmapped(path=f"rules[{index}].match.name", message=message, effect=effect)


def _differences(config: QuantConfig, document: dict[str, Any]) -> list[Unmapped]:
    """Returns what differs between a config and what the written document says."""
    reader = VaiReader(Document(value=document))
    effective = read_effective(reader)
    check(reader, effective)
    layers = resolve_layers(reader, effective)
    refused = [
        Unmapped(path=p.path, message=p.message, effect="the tool refuses the file") for p in reader.problems.items
    ]
    back = to_config(reader, effective, layers)
    found = _spec_differences("default", _defaults(config), _defaults(back))
    mine = [(i, rule) for i, rule in enumerate(config.rules) if _is_layer(rule)]
    theirs = [rule for rule in back.rules if _is_layer(rule)]
    if [_identity(rule) for _, rule in mine] != [_identity(rule) for rule in theirs]:
        text = "the tool orders and merges layer entries differently: types before names, the last duplicate only"
        found.append(Unmapped(path="rules", message=text, effect="another rule can win"))
    base, back_base = _defaults(config), _defaults(back)
    for index, rule in mine:
        twin = next((other for other in theirs if _identity(other) == _identity(rule)), None)
        roles = [role for role in ROLES if rule.get(role) is not None]
        if twin is not None:
            pair = [{role: _over(r, role, b) for role in roles} for r, b in ((rule, base), (twin, back_base))]
            found += _spec_differences(f"rules[{index}]", *pair)
    found += _input_differences(config, back, base, back_base)
    for name in ("target", "optimize", "refine", "calibration"):
        ours, written = getattr(config, name), getattr(back, name)
        if ours != written:
            message, effect = f"{name} {_told(ours)} cannot be said", f"the tool has {_told(written)}"
            found.append(Unmapped(path=name, message=message, effect=effect))
    return [*refused, *found]


def _identity(rule: Rule) -> tuple[str, str]:
    if rule.match.type is not None:
        return "type", rule.match.type.rpartition(".")[2]
    return "name", rule.match.name or ""


def _input_differences(
    config: QuantConfig, back: QuantConfig, base: Mapping[Role, QuantSpec], back_base: Mapping[Role, QuantSpec]
) -> list[Unmapped]:
    """Returns how the inputs of the network differ."""
    return _spec_differences(
        "network inputs", {"input": _input_spec(config, base)}, {"input": _input_spec(back, back_base)}
    )


def _input_spec(config: QuantConfig, base: Mapping[Role, QuantSpec]) -> QuantSpec:
    """Returns what an input of the network gets: the input role, under the rules for ``function: input``."""
    spec = base["input"]
    for rule in config.rules:
        if rule.match.function == "input" and rule.output is not None:
            spec = rule.output.over(spec)
    return spec


def _spec_differences(where: str, ours: Mapping[Role, QuantSpec], theirs: Mapping[Role, QuantSpec]) -> list[Unmapped]:
    found = []
    for role, spec in ours.items():
        other = theirs.get(role)
        if other is None:
            found.append(Unmapped(path=f"{where}.{role}", message="cannot be said", effect="the model's settings hold"))
            continue
        names = ("format",) if not spec.is_integer and spec.format == other.format else tuple(QuantSpec.model_fields)
        for name in names:
            mine, written = getattr(spec, name), getattr(other, name)
            if mine != written:
                message, effect = f"{name} {_told(mine)} cannot be said", f"the tool has {_told(written)}"
                found.append(Unmapped(path=f"{where}.{role}.{name}", message=message, effect=effect))
    return found


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_told(item) for item in value) + "]"
    name, params = getattr(value, "name", None), getattr(value, "params", None)
    return f"{name}{params or ''}" if name is not None and params is not None else str(value)
