"""Reads one QTensorConfig (QuantizationSpec): every field checked against its type and against the others (1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.config.spec import Role
from quantwright.dialects._quark_names import (
    ABSTRACT,
    BLOCKS,
    CASTS,
    DTYPES,
    EXPONENTS,
    HISTOGRAM_PRO,
    INTEGERS,
    LEARNED,
    LEGACY,
    MAX_NUMEL,
    MX,
    OBSERVERS,
    PERCENTILE,
    PLACEHOLDER,
    ROUNDS,
    SCALE_FORMATS,
    SCALES,
    SCHEMES,
    TENSOR,
    ZERO_POINTS,
)
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.errors import did_you_mean

_WORDS: Mapping[str, tuple[str, ...]] = {
    "dtype": DTYPES,
    "qscheme": SCHEMES,
    "round_method": tuple(ROUNDS),
    "scale_type": tuple(SCALES),
    "zero_point_type": ZERO_POINTS,
    "scale_format": tuple(SCALE_FORMATS),
    "scale_calculation_mode": tuple(EXPONENTS),
    "mx_element_dtype": tuple(MX),
}
_FLAGS = ("is_dynamic", "symmetric", "is_scale_quant", "enable_buffer_reuse")
_INTS: Mapping[str, tuple[int, int]] = {"ch_axis": (-8, 7), "group_size": (-1, 2**31), "max_input_numel": (1, 2**62)}
_INITS = ("_3SD", "_KL_J")  # 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Returns the fields that one spec sets (null ones are left out), and where each stands."""

    path: JsonPath
    values: Mapping[str, Any]
    paths: Mapping[str, JsonPath] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Returns the value of a field, or None."""
        return self.values.get(name)

    def at(self, name: str) -> JsonPath:
        """Returns where a field stands, or the spec itself."""
        return self.paths.get(name, self.path)

    @property
    def integer(self) -> bool:
        """Returns whether the data type is an integer grid."""
        return self.get("dtype") in INTEGERS

    @property
    def block(self) -> bool:
        """Returns whether the data type has a shared exponent of its own, so that no observer is read."""
        return self.get("dtype") == "mx" or self.get("dtype") in BLOCKS


def read_values(reader: QuarkReader, value: Any, path: JsonPath, role: Role) -> Values | None:
    """Returns the checked fields of one spec; None when anything is wrong with it (problems say what)."""
    count = len(reader.problems.items)
    known = dict(reader.mapping(_modern(reader, value, path), path, TENSOR, f"'{path[-1]}'"))
    if not isinstance(value, dict):
        return None
    paths = {name: (*path, _spelled(value, name)) for name in known}
    if known.get("dtype") is None:
        fix = 'write "dtype": "int8"'
        reader.add("quark_dtype", path, "the spec has no dtype", allowed=DTYPES, fix=fix)
    checked = {name: _field(reader, name, item, paths[name]) for name, item in known.items() if item is not None}
    values = {name: item for name, item in checked.items() if item is not None}
    found = Values(path=path, values=values, paths={name: paths[name] for name in values})
    if len(reader.problems.items) == count:
        _check(reader, found, role)
    return found if len(reader.problems.items) == count else None


def _modern(reader: QuarkReader, value: Any, path: JsonPath) -> Any:
    """Returns the mapping with the keys of older versions renamed (1.5: ``dynamic``, ``axis``)."""
    if not isinstance(value, dict):
        return value
    for old, new in LEGACY.items():
        if old in value and new in value:
            reader.note("legacy", (*path, old), f"not read: '{new}' is there too, which is its newer name")
    renamed = {LEGACY.get(key, key): item for key, item in value.items() if key in LEGACY}
    return {**renamed, **{key: item for key, item in value.items() if key not in LEGACY}}


def _spelled(value: Mapping[str, Any], name: str) -> str:
    return name if name in value else next(old for old, new in LEGACY.items() if new == name)


def _field(reader: QuarkReader, name: str, value: Any, path: JsonPath) -> Any:
    if name in _WORDS:
        return reader.word(value, path, _WORDS[name], name, code="quark_word")
    if name in _FLAGS:
        return reader.flag(value, path, code="quark_flag")
    if name in _INTS:
        low, high = _INTS[name]
        number = reader.number(value, path, integer=True, low=low, high=high, code="quark_number")
        if name == "group_size" and number == 0:
            message = "a group of 0 elements holds nothing (the tool accepts it and fails later)"
            reader.add("quark_number", path, message, value=value, fix="write 128, or -1 for the whole row")
            return None
        return number
    if name == PERCENTILE:
        number = reader.number(value, path, low=0, high=100, code="quark_number")
        return None if number is None else float(number)
    if name == "observer_cls":
        return _observer(reader, value, path)
    return _block_size(reader, value, path) if name == "block_size" else _qat(reader, value, path)


def _observer(reader: QuarkReader, value: Any, path: JsonPath) -> str | None:
    """Returns the name of an observer class, also when it is written with its module."""
    text = value.rpartition(".")[2] if isinstance(value, str) else value
    return reader.word(text, path, (*OBSERVERS, *ABSTRACT), "observer class", code="quark_observer")


def _block_size(reader: QuarkReader, value: Any, path: JsonPath) -> Any:
    numbers = value if isinstance(value, list) else [value]
    good = all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in numbers)
    if good and numbers:
        return value
    reader.add(
        "quark_number", path, f"'block_size' is {kind_of(value)}, not two integers", value=value, fix="write [128, 128]"
    )
    return None


def _qat(reader: QuarkReader, value: Any, path: JsonPath) -> Any:
    known = reader.mapping(value, path, ("threshold_init_meth",), "'qat_spec'")
    method = known.get("threshold_init_meth")
    if method is not None:
        reader.word(method, (*path, "threshold_init_meth"), _INITS, "threshold_init_meth", code="quark_word")
    return dict(known)


def _check(reader: QuarkReader, found: Values, role: Role) -> None:
    """Adds what the fields of one spec contradict in each other (1.3), each refused by the tool too."""
    dtype, observer, scheme = found.get("dtype"), found.get("observer_cls"), found.get("qscheme")
    if dtype in CASTS:
        _check_cast(reader, found)
        return
    if found.block:
        _check_block(reader, found)
        return
    if observer in ABSTRACT:
        message = f"{observer} chooses no range, and {dtype} needs one"
        fix = "write e.g. PerTensorMinMaxObserver"
        reader.add("quark_placeholder", found.at("observer_cls"), message, value=observer, allowed=OBSERVERS, fix=fix)
        return
    if scheme == "per_block":
        message = "per_block cannot be calibrated, by the tool either (its observers are placeholders)"
        reader.add("quark_per_block", found.at("qscheme"), message, value=scheme, fix="use per_group with a group_size")
        return
    if observer is not None and scheme is not None and scheme not in OBSERVERS[observer].schemes:
        fits = [name for name, about in OBSERVERS.items() if scheme in about.schemes]
        near = did_you_mean(observer.replace("PerTensor", "").replace("PerChannel", "").replace("PerGroup", ""), fits)
        message = f"{observer} does not go with {scheme}"
        reader.add(
            "quark_observer_scheme", found.at("observer_cls"), message, value=observer, allowed=fits,
            fix=near or f"write {fits[0]}, or qscheme {OBSERVERS[observer].schemes[0]}",
        )  # fmt: skip
    if scheme in ("per_channel", "per_group"):
        _need(reader, found, ("ch_axis",) if scheme == "per_channel" else ("ch_axis", "group_size"), scheme)
    if scheme == "per_group" and role == "bias":
        message = "a bias is one number for every channel, and cannot be cut into groups"
        reader.add("quark_bias_groups", found.at("qscheme"), message, value=scheme, fix="use per_tensor")
    if scheme == "per_group" and found.get("is_dynamic") is False and role in ("input", "output"):
        message = f"an {role} in groups has to be dynamic: its groups are other values in every batch"
        reader.add("quark_group_static", found.at("qscheme"), message, value=scheme, fix="set is_dynamic to true")
    if observer == "PerTensorHistogramObserverPro" and dtype not in HISTOGRAM_PRO:
        message = f"{observer} does not take {dtype}"
        fix = f"use one of {', '.join(HISTOGRAM_PRO)}, or PerTensorMSEObserver"
        reader.add(
            "quark_observer_dtype", found.at("observer_cls"), message, value=dtype, allowed=HISTOGRAM_PRO, fix=fix
        )
    _check_idle(reader, found)


def _need(reader: QuarkReader, found: Values, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if found.get(name) is None:
            fix = f'add "{name}": ' + ("-1" if name == "ch_axis" else "128")
            reader.add(f"quark_{name}", found.path, f"{what} needs '{name}'", fix=fix)


def _check_cast(reader: QuarkReader, found: Values) -> None:
    dtype, observer = found.get("dtype"), found.get("observer_cls")
    if observer not in (None, PLACEHOLDER):
        message = f"{dtype} is a cast, which needs no {observer}"
        fix = f"write {PLACEHOLDER}, or an integer dtype"
        reader.add(
            "quark_cast_observer", found.at("observer_cls"), message, value=observer, allowed=PLACEHOLDER, fix=fix
        )
    idle = [
        name
        for name, item in found.values.items()
        if name not in ("dtype", "observer_cls") and not _is_default(name, item)
    ]
    if idle:
        reader.note("cast", found.path, f"no effect beside the cast to {dtype}: {', '.join(idle)}")


def _check_block(reader: QuarkReader, found: Values) -> None:
    dtype = found.get("dtype")
    _need(reader, found, ("ch_axis", "group_size"), str(dtype))
    if dtype == "mx" and found.get("mx_element_dtype") is None:
        fix = 'add "mx_element_dtype": "fp4"'
        reader.add("quark_mx_element", found.path, "mx needs 'mx_element_dtype'", allowed=MX, fix=fix)
    size = found.get("group_size")
    if size == -1 or (dtype in ("mx6", "mx9") and size is not None and size % 2):
        message = f"{dtype} needs blocks of a size" + (" that pairs fill" if dtype != "mx" else "")
        reader.add("quark_number", found.at("group_size"), message, value=size, fix="write 16 or 32")
    read = ("dtype", "ch_axis", "group_size", "mx_element_dtype", "scale_calculation_mode", "is_dynamic")
    idle = [name for name, item in found.values.items() if name not in read and not _is_default(name, item)]
    if idle:
        reader.note("block", found.path, f"no effect beside {dtype}, which has its own exponents: {', '.join(idle)}")


def _check_idle(reader: QuarkReader, found: Values) -> None:
    """Notes fields that say something and change nothing."""
    observer, scheme = found.get("observer_cls"), found.get("qscheme")
    idle = {
        "ch_axis": scheme == "per_tensor",
        "group_size": scheme in ("per_tensor", "per_channel"),
        "block_size": scheme is not None,
        "scale_format": found.integer,
        "scale_calculation_mode": found.integer or found.get("scale_format") not in ("e8m0",),
        "mx_element_dtype": True,
        "is_scale_quant": True,
        "qat_spec": observer not in LEARNED,
        PERCENTILE: observer != "PerTensorPercentileObserver",
    }
    names = [name for name, without in idle.items() if without and not _is_default(name, found.get(name))]
    if names:
        reader.note(
            "idle", found.path, f"no effect with {scheme or 'this scheme'} of {found.get('dtype')}: {', '.join(names)}"
        )
    memory = [name for name in ("enable_buffer_reuse", "max_input_numel") if not _is_default(name, found.get(name))]
    if memory:
        reader.note("memory", found.path, f"how the tool saves memory, no effect here: {', '.join(memory)}")


def _is_default(name: str, value: Any) -> bool:
    return (
        value is None
        or value is False
        or (name, value) in (("max_input_numel", MAX_NUMEL), ("zero_point_type", "int32"))
    )
