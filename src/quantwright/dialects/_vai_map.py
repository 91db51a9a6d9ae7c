"""What the effective settings of vai_q_pytorch mean: specs, rules, passes and calibration of a QuantConfig.

Section numbers are those of the behavioural spec of vai_q_pytorch 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Source, Step
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec, Role
from quantwright.dialects._vai_names import Unresolved, resolve
from quantwright.dialects._vai_params import TOOL, Effective, Layer, Setting, Settings, VaiReader

ROUNDING = {"half_even": "half_even", "half_up": "half_up", "half_down": "half_down", "std_round": "half_away"}
ROLES: dict[str, Role] = {"weights": "weight", "bias": "bias", "activation": "output"}
TARGETS = {"DPU": "dpu", "FLEXML": "dpu", "CPU": "vitis_cpu", "GPU": "vitis_cpu"}
FIXED_POINT = ("DPU", "FLEXML")
SCOPE = 5  # 3.5: the DPU engine tries five positions whatever the method says
ALIGNED = {"concat": "change_concat_input_fix", "pool": "change_pool_input_fix"}
INPUT_TEXT = f"{TOOL}: an input of the network takes the activation settings"


def min_scale(bits: int) -> float:
    """Returns the smallest power-of-two scale: positions are capped at 12, or 15 beyond 8 bits (3.4)."""
    return 2.0**-12 if bits <= 8 else 2.0**-15


def to_config(reader: VaiReader, effective: Effective, layers: list[tuple[Layer, str]]) -> QuantConfig:
    """Returns the config that says what the tool would do; notes are in the reader.

    Args:
        layers: what ``resolve_layers`` found.
    """
    device = effective.device.value
    _note_model(reader, effective)
    specs = {tensor: _spec(reader, tensor, effective.tensors[tensor], device) for tensor in ROLES}
    default = RoleSpecs(
        weight=specs["weights"][0], bias=specs["bias"][0], input=specs["activation"][0], output=specs["activation"][0]
    )
    sources = _role_sources(specs)
    sources |= {key.replace("output.", "input."): value for key, value in sources.items() if key.startswith("output.")}
    return QuantConfig(
        target=TARGETS[device],
        default=default,
        default_sources=sources,
        rules=(_input_rule(reader, effective), *_layer_rules(reader, layers, device)),
        optimize=_optimize(effective),
        refine=_refine(reader, effective),
        calibration=_calibration(device),
        dialect=TOOL,
        source=reader.source((), TOOL),
        notes=tuple(reader.notes),
    )  # fmt: skip


def _calibration(device: str) -> Calibration:
    """Returns how the engine feeds the network: quantized by the statistic over the batches so far (3.5).

    Spec 3.6 says the CPU engine uses each batch's own scale; its recorded runs (``net_cpu_maxmin``) say otherwise.
    """
    if device in FIXED_POINT:
        return Calibration(inputs="quantized", batch_qparams="running", modal_ties="larger_scale")
    return Calibration(inputs="quantized", batch_qparams="running", modal_ties="smaller_scale")


def _optimize(effective: Effective) -> tuple[Step, ...]:
    """Returns the graph steps in the tool's order (4): activations, batch norms, equalization."""
    flags = {name: setting.value for name, setting in effective.flags.items()}
    steps = []
    if flags["convert_relu6_to_relu"] or flags["include_cle"]:  # 0.4: CLE replaces ReLU6 whatever the switch says
        steps.append(Step(name="relu6_to_relu", params={"modules_only": True}))
    if flags["convert_silu_to_hswish"]:
        steps.append(Step(name="silu_to_hardswish", params={"modules_only": True}))
    steps.append(Step(name="fold_batchnorm", params={"scope": "vitis"}))
    if flags["include_cle"]:
        steps.append(Step(name="cross_layer_equalization", params={"method": "vitis"}))
    return (*steps, Step(name="dpu_operators", params={"method": "vitis_pytorch"}))  # 4.6: on every target


def _refine(reader: VaiReader, effective: Effective) -> tuple[Step, ...]:
    """Returns the bias correction, which works while calibration runs, and what the tool does to positions (4.4)."""
    steps = []
    if effective.flags["include_bias_corr"].value:
        steps.append(Step(name="bias_correction", params={"method": "vitis"}))
    asked = {ours: True for ours, flag in ALIGNED.items() if effective.flags[flag].value}
    fixed_point = effective.device.value in FIXED_POINT
    if effective.mixed:  # 3.7: positions are not adjusted once a float datatype is used
        for ours in asked:
            flag = ALIGNED[ours]
            reader.drop((flag,), f"'{flag}' does nothing beside a float datatype", "inputs keep their own scales")
    elif fixed_point or asked:
        # 4.4: the CPU engine aligns and has no limits
        off = {} if fixed_point else dict.fromkeys(("shift_cut", "shift_bias", "hard_sigmoid", "hard_swish"), False)
        steps.append(Step(name="position_adjustment", params={"method": "vitis_pytorch", **asked, **off}))
    return tuple(steps)


Specs = Mapping[str, tuple[QuantSpec, dict[str, Source]]]


def _role_sources(specs: Specs) -> dict[str, Source]:
    return {f"{ROLES[tensor]}.{name}": place for tensor, (_, places) in specs.items() for name, place in places.items()}


def _spec(reader: VaiReader, tensor: str, settings: Settings, device: str) -> tuple[QuantSpec, dict[str, Source]]:
    """Returns the complete spec of one tensor type, and the Source of every field."""
    datatype = settings["datatype"].value
    if datatype != "int":  # 3.7: a cast, nothing else is read
        return QuantSpec(format=datatype), {"format": reader.where(settings["datatype"])}
    fields = _fixed(reader, tensor, settings) if device in FIXED_POINT else _free(reader, tensor, settings)
    spec = QuantSpec(**{name: value for name, (value, _) in fields.items()})
    return spec, {name: place for name, (_, place) in fields.items()}


Fields = dict[str, tuple[Any, Source]]


def _fixed(reader: VaiReader, tensor: str, settings: Settings) -> Fields:
    """Returns the fields on the DPU engine, which reads the widths only (0.1, 3.5)."""
    values = {key: setting.value for key, setting in settings.items()}
    if not values["signed"]:
        reader.note("signed", settings["signed"].path, "the DPU engine ignores it: tensors are signed")
    if values["narrow_range"]:
        text = "the DPU computes on the full range [-128, 127], whatever the tool's document asks for"
        reader.note("narrow", settings["narrow_range"].path, text)
    if tensor == "activation" and values["round_mode"] == "std_round":
        text = "the DPU rounds activations half up; that is what is used for activation"
        reader.note("round", settings["round_mode"].path, text)
    if values["method"] == "maxmin":
        reader.note(
            "method", settings["method"].path, "the DPU engine searches five positions (diffs) for maxmin as well"
        )
    engine = Source(kind="dialect", text=f"{TOOL}: the DPU engine")
    return {
        "format": (f"int{values['bit_width']}", reader.where(settings["bit_width"])),
        "granularity": (Granularity(), engine),
        "symmetric": (True, engine),
        "narrow_range": (False, engine),
        "scale": ("power_of_two", engine),
        "rounding": ("half_up" if tensor == "activation" else "half_away", engine),
        "observer": (ObserverSpec(name="diffs", params={"scope": SCOPE}), engine),
        "statistic": ("modal" if tensor == "activation" else "all", engine),
        "min_scale": (min_scale(values["bit_width"]), engine),
    }


def _free(reader: VaiReader, tensor: str, settings: Settings) -> Fields:
    """Returns the fields on the CPU/GPU engine, which reads everything (2.3, 3.3, 3.4, 3.6)."""
    values = {key: setting.value for key, setting in settings.items()}
    where = {key: reader.where(setting) for key, setting in settings.items()}
    signed = values["signed"] and values["symmetry"]  # 2.3: asymmetric or unsigned is [0, 2^b - 1]
    if values["narrow_range"] and not signed:
        text = "no effect: an asymmetric or unsigned grid starts at 0"
        reader.note("narrow", settings["narrow_range"].path, text)
    if values["symmetry"] and not values["signed"]:
        text = f"a symmetric unsigned grid starts at 0: negative values of {tensor} become 0 ({TOOL} stops at them)"
        reader.note(f"unsigned {tensor}", settings["signed"].path, text)
    power = values["scale_type"] == "poweroftwo"
    observed = tensor == "activation"
    default = Source(kind="dialect", text=f"{TOOL} default")
    return {
        "format": (f"{'' if signed else 'u'}int{values['bit_width']}", where["bit_width"]),
        "granularity": (
            Granularity(kind="per_channel" if values["per_channel"] else "per_tensor"),
            where["per_channel"],
        ),
        "symmetric": (values["symmetry"], where["symmetry"]),
        "narrow_range": (bool(values["narrow_range"] and signed), where["narrow_range"]),
        "scale": ("power_of_two" if power else "float", where["scale_type"]),
        "rounding": (ROUNDING[values["round_mode"]], where["round_mode"]),
        "observer": (_observer(values, power), where["method"]),
        "statistic": (values["calib_statistic_method"], where["calib_statistic_method"])
        if observed
        else ("all", default),
        "min_scale": (min_scale(values["bit_width"]) if power else 0.0, default),
    }


def _observer(values: Mapping[str, Any], power: bool) -> ObserverSpec:
    """Returns the observer of a method, with the tool's own algorithm on every batch (3.3, 3.4)."""
    method = values["method"]
    if power:
        return ObserverSpec(name="diffs", params={"scope": SCOPE if method == "diffs" else 1})
    if method == "maxmin":
        return ObserverSpec(name="minmax")
    params: dict[str, Any] = {"histogram": "exact"}
    if method == "percentile":
        params["percentile"] = values["percentage"]
    return ObserverSpec(name=method, params=params)


def _input_rule(reader: VaiReader, effective: Effective) -> Rule:
    """Returns the rule for the inputs of the network: the activation settings (0.3), positions without search (3.4)."""
    spec, sources = _spec(reader, "activation", effective.tensors["activation"], effective.device.value)
    if effective.mixed and spec.is_integer:
        spec, sources = QuantSpec(format="float32"), {}  # 3.7: the mixed strategy skips inputs
        reader.note("mixed", None, "a float datatype is used: inputs of the network stay float, as in the tool")
    elif spec.observer is not None and spec.observer.name == "diffs":
        # 3.4: "input nodes always scope 1"
        spec = spec.model_copy(update={"observer": ObserverSpec(name="diffs", params={"scope": 1})})
    place = Source(kind="dialect", text=INPUT_TEXT)
    places = {f"output.{name}": sources.get(name, place) for name in spec.fields_set()}
    if spec.observer is not None:
        places["output.observer"] = place
    return Rule(
        match=Match(function="input"), output=spec, if_unmatched="warn", source=place, field_sources=places
    )  # fmt: skip


def resolve_layers(reader: VaiReader, effective: Effective) -> list[tuple[Layer, str]]:
    """Returns the layer entries that count, each with its type or module path: types first, then names (2.2).

    The last of several entries for the same type or name counts; a name that cannot be resolved is a problem.
    """
    found: dict[tuple[str, str], Layer] = {}
    for layer in effective.layers:
        key: str | Unresolved = layer.key if layer.by == "type" else resolve(layer.key)
        if isinstance(key, Unresolved):
            reader.add("vai_layer_name", (*layer.path, "layer_name"), key.message, value=layer.key, fix=key.fix)
            continue
        earlier = found.pop((layer.by, key), None)
        if earlier is not None:
            reader.note("duplicate", earlier.path, f"replaced by a later entry for the same {layer.by} '{key}'")
        found[layer.by, key] = layer
    return sorted(((layer, key) for (_, key), layer in found.items()), key=lambda item: item[0].by == "name")


def _layer_rules(reader: VaiReader, layers: list[tuple[Layer, str]], device: str) -> list[Rule]:
    rules = [_layer_rule(reader, layer, key, device) for layer, key in layers]
    return [rule for rule in rules if rule is not None]


def _layer_rule(reader: VaiReader, layer: Layer, key: str, device: str) -> Rule | None:
    tensors = {tensor: settings for tensor, settings in layer.tensors.items() if tensor in ROLES}
    if "input" in layer.tensors:
        place = (*layer.path, "quantizable_data_type")
        reader.note("layer input", place, "'input' is not used for a layer: a value is quantized where it is produced")
    if not tensors:
        return None
    specs = {tensor: _spec(reader, tensor, settings, device) for tensor, settings in tensors.items()}
    source = reader.source(layer.path, f"layer {layer.by} {key}")
    return Rule(
        match=Match(type=key) if layer.by == "type" else Match(name=key),
        if_unmatched="warn" if layer.by == "type" else "error",  # 2.2: a type that is absent is warned about
        source=source,
        field_sources=_role_sources(specs),
        weight=specs["weights"][0] if "weights" in specs else None,
        bias=specs["bias"][0] if "bias" in specs else None,
        output=specs["activation"][0] if "activation" in specs else None,
    )


def _note_model(reader: VaiReader, effective: Effective) -> None:
    """Notes what the tool does silently and a user may not expect."""
    device = effective.device.value
    if device == "FLEXML":
        effect = "the dpu target is used; only positions the tool adjusts at export can differ"
        reader.drop(("target_device",), "FLEXML is not documented", effect)
    flags = effective.flags
    if flags["include_cle"].value and not flags["convert_relu6_to_relu"].value:
        path = flags["convert_relu6_to_relu"].path
        reader.note("relu6", path, "cross-layer equalization is on, so every nn.ReLU6 becomes nn.ReLU, as in the tool")
    given, used = effective.tensors["input"], effective.tensors["activation"]
    ignored = [key for key in given if _differs(given[key], used[key]) and not _same_on_dpu(key, device)]
    if ignored:
        keys = ", ".join(sorted(ignored))
        at = given[ignored[0]].path
        text = f"the tool uses the activation settings for the inputs of the network; those of 'input' differ ({keys})"
        reader.note("input", at, text)
    if given["bit_width"].value != effective.tensors["weights"]["bit_width"].value:
        text = (
            "weights and input have different widths; the tool then narrows the input of the first such layer by "
            "accident, which is not done here"
        )
        reader.note("widths", effective.tensors["weights"]["bit_width"].path, text)


def _differs(one: Setting, other: Setting) -> bool:
    return bool(one.value != other.value)


def _same_on_dpu(key: str, device: str) -> bool:
    """Returns whether a difference in ``key`` is what the DPU rules ask for, or is not read on the DPU."""
    return key == "percentage" or (device in FIXED_POINT and key != "bit_width")
