"""What a QTensorConfig means: one QuantSpec, with the Source of every field (1.3, 1.6 and 2 of the spec)."""

from __future__ import annotations

from typing import Any

from quantwright.config.config import Source
from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.config.spec import FakeQuantSpec, Granularity, ObserverSpec, QuantSpec, Role
from quantwright.dialects._quark_names import (
    BLOCKS,
    CASTS,
    EXPONENTS,
    FLOATS,
    LEARNED,
    MX,
    OBSERVERS,
    PERCENTILE,
    ROUNDS,
    SCALE_FORMATS,
    SCALES,
)
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.dialects._quark_values import Values, read_values

Specs = tuple[QuantSpec, dict[str, Source]]
Fields = dict[str, tuple[Any, Source]]
EPSILON = 2.0**-23  # 2: the smallest scale
SCOPE = 5  # 2: exponents that the PowOf2MinMSE observers try
_INITS = {"_3SD": "3sd", "_KL_J": "kl_j"}
#: 1.3: fields without which the tool refuses an integer, and what holds where nothing says them
_DEFAULTS: dict[str, Any] = {
    "is_dynamic": False, "qscheme": "per_tensor", "symmetric": True, "round_method": "half_even",
    "scale_type": "float", "observer_cls": "PerTensorMinMaxObserver",
}  # fmt: skip


def tensor_spec(
    reader: QuarkReader, value: Any, path: JsonPath, role: Role, *, whole: bool, derived: bool = False
) -> Specs | None:
    """Returns the spec of one tensor of a layer, or None when it is null or has problems.

    Args:
        whole: fill in what null leaves open; otherwise it inherits (the document's promise, 1.4).
        derived: an int32 bias takes input scale times weight scale (1.4: graph mode).
    """
    if value is None:
        return None
    if isinstance(value, list):
        return _stages(reader, value, path, role, whole)
    found = read_values(reader, value, path, role)
    if found is None:
        return None
    if derived and role == "bias" and found.get("dtype") == "int32":
        return _derived(reader, found)
    return _built(_fields(reader, found, role, whole))


def _said(reader: QuarkReader, found: Values, name: str) -> Source:
    """Returns the Source of a field: where it stands, or that the tool's usual value was filled in."""
    if name in found.paths:
        return reader.said(found.at(name))
    return reader.own(found.path, f"nothing says {name}")


def _built(fields: Fields) -> Specs:
    spec = QuantSpec(**{name: value for name, (value, _) in fields.items()})
    return spec, {name: place for name, (_, place) in fields.items()}


def _derived(reader: QuarkReader, found: Values) -> Specs:
    own = reader.own(found.path, "graph mode: the scale of a bias is that of the input times that of the weight")
    reader.note(
        "derived", found.path, "in graph mode its scale is input scale times weight scale; observer_cls is not read"
    )
    return _built(
        {"format": ("int32", _said(reader, found, "dtype")), "symmetric": (True, own), "scale": ("derived", own)}
    )


def _stages(reader: QuarkReader, value: list[Any], path: JsonPath, role: Role, whole: bool) -> Specs | None:
    """Returns the spec of a tensor of several stages (1.7: ProgressiveSpec, ScaleQuantSpec)."""
    if not 1 <= len(value) <= 2 or not all(isinstance(item, dict) for item in value):
        message = f"{kind_of(value)} of {len(value)} entries is not a spec of one or two stages"
        reader.add("quark_stages", path, message, fix="write one spec, or a list of two")
        return None
    specs = [tensor_spec(reader, item, (*path, index), role, whole=whole) for index, item in enumerate(value)]
    if len(specs) == 1 or None in specs:
        return specs[0]
    first, second = specs
    if first is None or second is None:
        return None
    if value[1].get("is_scale_quant") is True:
        return _two_level(reader, first, second, (*path, 1))
    message = f"its values are quantized to {first[0].format} and then again to {second[0].format}"
    reader.drop((*path, 0), message, f"they are quantized once, to {second[0].format}")
    return second


def _two_level(reader: QuarkReader, first: Specs, second: Specs, path: JsonPath) -> Specs:
    """Returns the first stage with its scales in the second stage's format (NVFP4 is fp4 with fp8_e4m3 scales)."""
    scale = {"fp8_e4m3": "e4m3", "fp8_e5m3": "e5m3", "float16": "float16", "bfloat16": "bfloat16"}.get(
        second[0].format or ""
    )
    if scale is None:
        message = f"scales quantized to {second[0].format}"
        reader.drop(path, message, "the scales stay float")
        return first
    spec = first[0].model_copy(update={"scale": scale})
    return spec, {**first[1], "scale": reader.said((*path, "dtype"))}


def _fields(reader: QuarkReader, found: Values, role: Role, whole: bool) -> Fields:
    dtype = found.get("dtype")
    said = _said(reader, found, "dtype")
    if dtype in CASTS:
        return {"format": (dtype, said)}
    if found.block:
        return _block_fields(reader, found, role, said)
    missing = [name for name in _DEFAULTS if found.get(name) is None] if found.integer else []
    if missing:
        what = "the tool's usual value holds" if whole else "it inherits"
        reader.note("missing", found.path, f"the tool refuses {dtype} without {', '.join(missing)}; here {what}")
    if whole:
        filled = {name: item for name, item in _DEFAULTS.items() if found.get(name) is None}
        if "qscheme" in filled:
            filled["qscheme"] = _scheme_of(found)
        found = Values(path=found.path, values={**filled, **found.values}, paths=found.paths)
    _note_values(reader, found)
    fields: Fields = {"format": (_format(found), said)}
    fields |= _granularity(reader, found)
    fields |= _simple(reader, found, role)
    fields |= _scale(reader, found)
    return {**fields, **_observer(reader, found, role)}


def _format(found: Values) -> str:
    """Returns the format; a symmetric unsigned grid is the signed one with its zero point in the middle."""
    dtype = str(found.get("dtype"))
    if found.integer and found.get("symmetric") and dtype.startswith("u"):
        return dtype.removeprefix("u")
    return FLOATS.get(dtype, dtype)


def _scheme_of(found: Values) -> str:
    """Returns the scheme that an observer class is for, where nothing says it and its axis and size are there."""
    observer = found.get("observer_cls")
    scheme = OBSERVERS[observer].schemes[0] if observer in OBSERVERS else "per_tensor"
    needed = {"per_channel": ("ch_axis",), "per_group": ("ch_axis", "group_size")}.get(scheme, ())
    return scheme if all(found.get(name) is not None for name in needed) else "per_tensor"


def _block_fields(reader: QuarkReader, found: Values, role: Role, said: Source) -> Fields:
    """Returns the fields of the formats with shared exponents; no observer chooses those (1.3)."""
    dtype, mode = found.get("dtype"), found.get("scale_calculation_mode")
    name = MX[found.get("mx_element_dtype")] if dtype == "mx" else BLOCKS[dtype]
    size, axis = found.get("group_size"), found.get("ch_axis")
    own = reader.own(found.path, f"{dtype} has a shared exponent for every block")
    fields: Fields = {
        "format": (name, said),
        "granularity": (Granularity(kind="per_group", axis=axis, group_size=size), _said(reader, found, "group_size")),
        "scale": ("e8m0", own),
        "exponent": (EXPONENTS[mode], _said(reader, found, "scale_calculation_mode")) if mode else ("floor", own),
        "observer": (ObserverSpec(name="minmax"), own),
    }
    if role in ("input", "output"):
        fields["dynamic"] = (True, own)
    return fields


def _granularity(reader: QuarkReader, found: Values) -> Fields:
    scheme, axis, size = found.get("qscheme"), found.get("ch_axis"), found.get("group_size")
    if scheme is None:
        return {}
    place = _said(reader, found, "qscheme")
    if scheme == "per_tensor":
        return {"granularity": (Granularity(), place)}
    if scheme == "per_channel":
        return {"granularity": (Granularity(kind="per_channel", axis=axis), place)}
    if size == -1:  # 2: a whole row is one group, which for a matrix is one channel of the other axis
        other = 0 if axis in (-1, 1) else 1
        reader.note("row", found.at("group_size"), f"-1 is the whole row: one scale for every index of axis {other}")
        return {"granularity": (Granularity(kind="per_channel", axis=other), _said(reader, found, "group_size"))}
    if axis == 0:
        reader.note(
            "axis", found.at("ch_axis"), "axis 0 is cut into groups, that of the output channels; -1 cuts each row"
        )
    return {"granularity": (Granularity(kind="per_group", axis=axis, group_size=size), place)}


def _simple(reader: QuarkReader, found: Values, role: Role) -> Fields:
    """Returns the fields that are one word here as there, and the tool's own constants (2)."""
    fields: Fields = {}
    if found.get("symmetric") is not None:
        fields["symmetric"] = (found.get("symmetric"), _said(reader, found, "symmetric"))
    if found.get("round_method") is not None:
        fields["rounding"] = (ROUNDS[found.get("round_method")], _said(reader, found, "round_method"))
    if found.get("is_dynamic") is not None and role in ("input", "output"):
        fields["dynamic"] = (found.get("is_dynamic"), _said(reader, found, "is_dynamic"))
    elif found.get("is_dynamic") and found.integer:
        reader.note("dynamic", found.at("is_dynamic"), f"no effect: a {role} does not change from batch to batch")
    if found.integer:
        about = OBSERVERS.get(found.get("observer_cls") or "")
        power = about is not None and about.power
        text = "powers of two have no smallest scale" if power else "the smallest scale is 2**-23"
        fields["min_scale"] = (0.0 if power else EPSILON, reader.own(found.path, text))
        if found.get("symmetric") is True and _searches(found) != "diffs":
            text = "the larger side lies at half the grid, 127.5 for int8"
            fields["fit"] = ("span", reader.own(found.path, text))
    return fields


def _scale(reader: QuarkReader, found: Values) -> Fields:
    """Returns scale and exponent: of the observer, of ``scale_format``, or of ``scale_type`` (1.6, 2)."""
    observer = found.get("observer_cls")
    if observer is not None and OBSERVERS[observer].power:
        place = _said(reader, found, "observer_cls")
        exponent = "cover" if _searches(found) == "diffs" else OBSERVERS[observer].exponent
        return {"scale": ("power_of_two", place), "exponent": (exponent, place)}
    form = found.get("scale_format")
    if form is not None and not found.integer:
        place = _said(reader, found, "scale_format")
        fields: Fields = {"scale": (SCALE_FORMATS[form], place)}
        mode = found.get("scale_calculation_mode")
        if form == "e8m0" and mode is not None:
            fields["exponent"] = (EXPONENTS[mode], _said(reader, found, "scale_calculation_mode"))
        return fields
    kind = found.get("scale_type")
    if kind is None:
        return {}
    place = _said(reader, found, "scale_type")
    if kind != "pof2":
        return {"scale": (SCALES[kind], place)}
    text = "the tool takes powers of two from the PowOf2 observers only and ignores this; here it is done"
    reader.note("pof2", found.at("scale_type"), text)
    return {"scale": ("power_of_two", place), "exponent": ("nearest", place)}


def _searches(found: Values) -> str | None:
    """Returns what looks for the best power of two: ``diffs``, or ``mse`` for a grid with a zero point."""
    about = OBSERVERS.get(found.get("observer_cls") or "")
    if about is None or not about.power or about.name != "mse":
        return None
    return "diffs" if found.get("symmetric") is True else "mse"


def _observer(reader: QuarkReader, found: Values, role: Role) -> Fields:
    name = found.get("observer_cls")
    if name is None:
        return {}
    about, place = OBSERVERS[name], _said(reader, found, "observer_cls")
    params = dict(about.params)
    chosen = _searches(found) or about.name
    if chosen == "diffs":
        params["scope"] = SCOPE
    if about.name == "percentile" and found.get(PERCENTILE) is not None:
        params["percentile"] = found.get(PERCENTILE)
    method = (found.get("qat_spec") or {}).get("threshold_init_meth")
    if about.name == "tqt_init" and method is not None:
        params["method"] = _INITS[method]
    if about.says and not (about.name == "percentile" and found.get("symmetric") is not False):
        reader.note("observer", found.at("observer_cls"), f"in the tool {about.says}; here it does what its name says")
    counted = about.power and about.name != "tqt_init" and role in ("input", "output") and not found.get("is_dynamic")
    own = reader.own(found.path, "the most frequent scale over the batches") if counted else place
    fields: Fields = {
        "observer": (ObserverSpec(name=chosen, params=params), place),
        "statistic": ("modal" if counted else "all", own),
    }
    if name in LEARNED:
        text = f"training ({LEARNED[name]}) is not available yet: the quantizer keeps what calibration finds"
        reader.note("learned", found.at("observer_cls"), text)
        fields["fake_quant"] = (FakeQuantSpec(name="fixed"), place)
    return fields


def _note_values(reader: QuarkReader, found: Values) -> None:
    """Notes values that the tool reads otherwise than the document promises."""
    if found.get("round_method") in ("round", "floor"):
        text = f"the tool rounds half to even whatever this says; here it is {ROUNDS[found.get('round_method')]}"
        reader.note("round", found.at("round_method"), text)
    if found.get("zero_point_type") == "float32":
        message = "a zero point that is not an integer"
        reader.drop(found.at("zero_point_type"), message, "it is an integer, and 0.0 is exact")
    if found.integer and found.get("symmetric") and found.get("dtype").startswith("u"):
        signed = found.get("dtype").removeprefix("u")
        text = (
            f"a symmetric {found.get('dtype')} has its zero point in the middle: the grid of {signed} (the tool keeps "
        )
        reader.note(
            "unsigned", found.at("symmetric"), f"{text}zero point 0 with most observers and loses negative values)"
        )
