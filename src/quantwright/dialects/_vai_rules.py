"""The conflicts vai_q_pytorch refuses (spec 2.4), as a table; all of them are told at once, each with its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from quantwright.config.document import JsonPath
from quantwright.dialects._vai_params import Effective, Setting, Settings, VaiReader

DIFFS = ("diffs", "maxmin")
OBSERVED = ("input", "activation")  # the tensor types whose statistic over batches is read (2.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Returns one rule: it is broken when ``broken(values)`` for one of ``tensors`` and ``when(values)`` holds.

    Attributes:
        key: the setting to point at; the fix names what it must be.
        uses: the other settings it looks at; a rule is skipped when one of them could not be read.
    """

    code: str
    key: str
    message: str
    fix: str
    broken: Callable[[object], bool]
    when: Callable[[Mapping[str, object]], bool]
    uses: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ("input", "weights", "bias", "activation")


def _per_channel(scale: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda v: v["per_channel"] is True and v["scale_type"] == scale


def _per_tensor(scale: str) -> Callable[[Mapping[str, object]], bool]:
    return lambda v: v["per_channel"] is False and v["scale_type"] == scale


_SHAPE = ("per_channel", "scale_type")
CPU_RULES = (
    Conflict(
        code="vai_cpu_per_channel_tensor", key="per_channel", tensors=("input", "bias", "activation"),
        broken=lambda value: value is True, when=lambda v: True,
        message="only weights can be quantized per channel", fix="set per_channel to true under weights only",
    ),
    Conflict(
        code="vai_cpu_per_channel_float_method", key="method", tensors=("weights",), uses=_SHAPE,
        broken=lambda value: value != "maxmin", when=_per_channel("float"),
        message="float scales per channel work with maxmin only", fix="set method to maxmin, or per_channel to false",
    ),
    Conflict(
        code="vai_cpu_per_channel_pow2_method", key="method", tensors=("weights",), uses=_SHAPE,
        broken=lambda value: value not in DIFFS, when=_per_channel("poweroftwo"),
        message="power-of-two scales work with diffs or maxmin only", fix="set method to diffs or maxmin",
    ),
    Conflict(
        code="vai_cpu_per_channel_pow2_asymmetric", key="symmetry", tensors=("weights",), uses=_SHAPE,
        broken=lambda value: value is False, when=_per_channel("poweroftwo"),
        message="power-of-two scales have no zero point", fix="set symmetry to true, or scale_type to float",
    ),
    Conflict(
        code="vai_cpu_per_channel_pow2_unsigned", key="signed", tensors=("weights",), uses=_SHAPE,
        broken=lambda value: value is False, when=_per_channel("poweroftwo"),
        message="power-of-two scales are signed", fix="set signed to true, or scale_type to float",
    ),
    Conflict(
        code="vai_cpu_float_method", key="method", uses=_SHAPE,
        broken=lambda value: value == "diffs", when=_per_tensor("float"),
        message="diffs searches power-of-two scales, and scale_type is float",
        fix="set method to maxmin, percentile, mse or entropy, or scale_type to poweroftwo",
    ),
    Conflict(
        code="vai_cpu_float_statistic", key="calib_statistic_method", tensors=OBSERVED, uses=_SHAPE,
        broken=lambda value: value == "modal", when=_per_tensor("float"),
        message="modal takes the most frequent scale, and float scales hardly ever repeat",
        fix="set calib_statistic_method to max, mean or median",
    ),
    Conflict(
        code="vai_cpu_float_asymmetric_method", key="method", uses=(*_SHAPE, "symmetry"),
        broken=lambda value: value != "maxmin", when=lambda v: _per_tensor("float")(v) and v["symmetry"] is False,
        message="asymmetric quantization works with maxmin only", fix="set method to maxmin, or symmetry to true",
    ),
    Conflict(
        code="vai_cpu_pow2_method", key="method", uses=_SHAPE,
        broken=lambda value: value not in DIFFS, when=_per_tensor("poweroftwo"),
        message="power-of-two scales work with diffs or maxmin only",
        fix="set method to diffs or maxmin, or scale_type to float",
    ),
    Conflict(
        code="vai_cpu_pow2_asymmetric", key="symmetry", uses=_SHAPE,
        broken=lambda value: value is False, when=_per_tensor("poweroftwo"),
        message="power-of-two scales have no zero point", fix="set symmetry to true, or scale_type to float",
    ),
    Conflict(
        code="vai_cpu_pow2_unsigned", key="signed", uses=_SHAPE,
        broken=lambda value: value is False, when=_per_tensor("poweroftwo"),
        message="power-of-two scales are signed", fix="set signed to true, or scale_type to float",
    ),
    Conflict(
        code="vai_cpu_pow2_statistic", key="calib_statistic_method", tensors=OBSERVED, uses=_SHAPE,
        broken=lambda value: value != "modal", when=_per_tensor("poweroftwo"),
        message="power-of-two scales are combined by modal only", fix="set calib_statistic_method to modal",
    ),
)  # fmt: skip
DPU_RULES = (
    Conflict(
        code="vai_dpu_symmetry", key="symmetry", broken=lambda value: value is False, when=lambda v: True,
        message="the DPU has no zero points", fix="set symmetry to true",
    ),
    Conflict(
        code="vai_dpu_method", key="method", broken=lambda value: value not in DIFFS, when=lambda v: True,
        message="the DPU's scales are searched by diffs or maxmin", fix="set method to diffs or maxmin",
    ),
    Conflict(
        code="vai_dpu_per_channel", key="per_channel", broken=lambda value: value is True, when=lambda v: True,
        message="the DPU has one scale per tensor", fix="set per_channel to false",
    ),
    Conflict(
        code="vai_dpu_scale_type", key="scale_type", broken=lambda value: value != "poweroftwo", when=lambda v: True,
        message="the DPU shifts, so scales are powers of two", fix="set scale_type to poweroftwo",
    ),
    Conflict(
        code="vai_dpu_statistic", key="calib_statistic_method", tensors=OBSERVED,
        broken=lambda value: value != "modal", when=lambda v: True,
        message="the DPU's scales are combined by modal", fix="set calib_statistic_method to modal",
    ),
    Conflict(
        code="vai_dpu_round_mode", key="round_mode", tensors=("activation",),
        broken=lambda value: value not in ("half_up", "std_round"), when=lambda v: True,
        message="the DPU rounds activations half up",
        fix='set round_mode to half_up under tensor_quantize_config.activation',
    ),
    Conflict(
        code="vai_dpu_round_mode", key="round_mode", tensors=("input", "weights", "bias"),
        broken=lambda value: value != "std_round", when=lambda v: True,
        message="on the DPU the round mode is std_round for input, weights and bias", fix="set round_mode to std_round",
    ),
)  # fmt: skip
_WIDE = Conflict(
    code="vai_bit_width", key="bit_width", tensors=("weights", "activation"),
    broken=lambda value: isinstance(value, int) and value > 16, when=lambda v: True,
    message="weights and activations have at most 16 bits here",
    fix="set bit_width to 16 or less, or datatype to float32",
)  # fmt: skip
_FLOAT_ON_DPU = Conflict(
    code="vai_dpu_datatype", key="datatype", broken=lambda value: value != "int", when=lambda v: True,
    message="the DPU computes with integers", fix="set datatype to int, or target_device to CPU",
)  # fmt: skip


@dataclass(slots=True)
class _Found:
    conflict: Conflict
    value: object
    tensors: list[str] = field(default_factory=list)


def check(reader: VaiReader, effective: Effective) -> None:
    """Adds a problem for every conflict of the model's and of each layer's settings; one per setting at fault."""
    found: dict[tuple[str, JsonPath], _Found] = {}
    blocks: list[tuple[JsonPath, Mapping[str, Settings]]] = [((), effective.tensors)]
    blocks += [(layer.path, layer.tensors) for layer in effective.layers]
    device = effective.device.value
    for place, tensors in blocks:
        for tensor, settings in tensors.items():
            _check_tensor(found, device, tensor, settings, place)
        if device in ("DPU", "FLEXML"):
            _bias_width(reader, {**effective.tensors, **tensors}, place)
    for (_, path), item in found.items():
        conflict = item.conflict
        names = ", ".join(item.tensors)
        default = "" if path and path[-1] == conflict.key else " (the tool's default)"
        message = f"{conflict.key} is {_json(item.value)}{default} for {names}: {conflict.message}"
        reader.add(conflict.code, path, message, value=item.value, fix=conflict.fix)


def _check_tensor(
    found: dict[tuple[str, JsonPath], _Found], device: object, tensor: str, settings: Settings, place: JsonPath
) -> None:
    values = {key: setting.value for key, setting in settings.items()}
    for rule in _broken(device, tensor, values):
        path = settings[rule.key].path
        entry = found.setdefault((rule.code, place if path is None else path), _Found(rule, values[rule.key]))
        if tensor not in entry.tensors:
            entry.tensors.append(tensor)


def first_broken(device: str, tensor: str, values: Mapping[str, object]) -> str | None:
    """Returns the setting that the first conflict between ``values`` is about, or None when the tool takes them all."""
    return next((rule.key for rule in _broken(device, tensor, values)), None)


def _broken(device: object, tensor: str, values: Mapping[str, object]) -> Iterator[Conflict]:
    """Yields the conflicts between the settings of one tensor; what is not there or could not be read has none."""
    if values.get("datatype") not in ("int", None):  # 2.4 holds for the datatype int
        rules: tuple[Conflict, ...] = (_FLOAT_ON_DPU,) if device in ("DPU", "FLEXML") else ()
    elif device is None:
        rules = (_WIDE,)
    else:
        rules = (*(CPU_RULES if device in ("CPU", "GPU") else DPU_RULES), _WIDE)
    for rule in rules:
        if tensor not in rule.tensors or any(values.get(key) is None for key in (rule.key, *rule.uses)):
            continue
        if rule.when(values) and rule.broken(values[rule.key]):
            yield rule


def _bias_width(reader: VaiReader, tensors: Mapping[str, Settings], place: JsonPath) -> None:
    bias, activation = tensors["bias"]["bit_width"], tensors["activation"]["bit_width"]
    if None in (bias.value, activation.value) or bias.value == activation.value:
        return
    at = _deepest(bias, activation) or place
    if place and at[: len(place)] != place:
        return  # the model's settings are at fault and were told already
    message = f"on the DPU the bias ({bias.value} bits) must be as wide as the activation ({activation.value} bits)"
    reader.add("vai_dpu_bias_bits", at, message, value=bias.value, fix=f"set bit_width of bias to {activation.value}")


def _deepest(*settings: Setting) -> JsonPath | None:
    """Returns the most specific place among settings."""
    paths = [setting.path for setting in settings if setting.path is not None]
    return max(paths, key=len) if paths else None


def _json(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
