"""Reads the specs and plug-in steps of the native language: one function per kind of value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantwright import registry
from quantwright.config.config import Source, Step
from quantwright.config.consistency import conflicts
from quantwright.config.document import JsonPath
from quantwright.config.known import known as known_names
from quantwright.config.reader import Reader, kind_of, shown
from quantwright.config.spec import (
    EXPONENTS,
    FITS,
    GRANULARITIES,
    ROLES,
    ROUNDINGS,
    SCALES,
    STATISTICS,
    FakeQuantSpec,
    Granularity,
    ObserverSpec,
    QuantSpec,
    Role,
    is_integer_format,
    named_formats,
)
from quantwright.errors import did_you_mean

NAMED = named_formats()
FORMATS = "int2 ... int32, uint2 ... uint32, " + ", ".join(NAMED)
ALL_FORMATS = (*(f"{sign}int{bits}" for sign in ("", "u") for bits in range(2, 33)), *NAMED)
_WORDS = {"scale": SCALES, "rounding": ROUNDINGS, "statistic": STATISTICS, "exponent": EXPONENTS, "fit": FITS}
_PLUGINS = {"observer": ("observers", ObserverSpec, "minmax"), "fake_quant": ("fakequant", FakeQuantSpec, "fixed")}
FIELDS = tuple(QuantSpec.model_fields)
ROLE_KEYS = (*ROLES, "activation")
_PYTHON_TYPES = {"float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "list": (list,)}


class SpecReader(Reader):
    """Returns a reader that also knows the plug-ins; their names and parameters are looked up once per document."""

    def __init__(self, document: Any) -> None:
        super().__init__(document)
        self._names: dict[str, tuple[str, ...]] = {}
        self._specs: dict[tuple[Role, str], QuantSpec] = {}
        self._parameters: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def plugins(self, kind: str) -> tuple[str, ...]:
        """Returns the names of all plug-ins of a kind, and those that are known and not available yet."""
        if kind not in self._names:
            self._names[kind] = tuple(sorted({*registry.names(kind), *known_names(kind)}))
        return self._names[kind]

    def declared(self, kind: str, name: str) -> dict[str, dict[str, Any]] | None:
        """Returns the declared parameters of a plug-in, None for one that is not available yet: it may have any."""
        if name in known_names(kind):
            return None
        if (kind, name) not in self._parameters:
            self._parameters[kind, name] = registry.parameters(kind, name)
        return self._parameters[kind, name]

    def roles(
        self, value: Mapping[str, Any], path: JsonPath, text: str = ""
    ) -> tuple[dict[Role, QuantSpec], dict[str, Source]]:
        """Returns the specs by role, and the Source of every field (``weight.format``); ``activation`` is two roles.

        Args:
            text: how the sources begin.
        """
        specs: dict[Role, QuantSpec] = {}
        sources: dict[str, Source] = {}
        for key in ("activation", *ROLES):
            if key not in value:
                continue
            roles: tuple[Role, ...] = ("input", "output") if key == "activation" else (key,)  # type: ignore[assignment]
            spec = self.spec(value[key], (*path, key), roles[0])
            names = spec.fields_set() if self.document.sources else ()
            said = {name: self.source((*path, key, name), text) for name in names}
            for role in roles:
                specs[role] = spec.over(specs[role]) if role in specs else spec
                sources.update({f"{role}.{name}": source for name, source in said.items()})
        return specs, sources

    def spec(self, value: Any, path: JsonPath, role: Role) -> QuantSpec:
        """Returns one (partial) spec; equal ones, which large files are full of, are read once."""
        key, count = (role, repr(value)), len(self.problems.items)
        if key not in self._specs:
            spec = self._spec(value, path, role)
            if len(self.problems.items) > count:
                return spec
            self._specs[key] = spec
        return self._specs[key]

    def _spec(self, value: Any, path: JsonPath, role: Role) -> QuantSpec:
        if isinstance(value, str) and (is_integer_format(value.lower()) or value.lower() in NAMED):
            fix = f"write {{format: {value.lower()}}}"
            self.add("type", path, f"'{path[-1]}' is {shown(value)}, not a mapping", value=value, fix=fix)
            return QuantSpec()
        known = self.mapping(value, path, FIELDS, f"'{path[-1]}'")
        if isinstance(value, dict) and not value:
            self.add("no_effect", path, f"'{path[-1]}' is empty", allowed=FIELDS, fix="set a field or remove it")
        fields = {name: self._field(name, item, (*path, name)) for name, item in known.items()}
        spec = QuantSpec(**{name: item for name, item in fields.items() if item is not None})
        for conflict in conflicts(spec, role):
            place = (*path, conflict.field)
            self.add(conflict.code, place, conflict.message, value=known.get(conflict.field), fix=conflict.fix)
        return spec

    def _field(self, name: str, value: Any, path: JsonPath) -> Any:
        if value is None:
            self.add("type", path, f"'{name}' has no value", fix=f"write a value, or remove '{name}' to inherit it")
            return None
        if name in _WORDS:
            return self.word(value, path, _WORDS[name], name)
        if name in ("symmetric", "narrow_range", "dynamic"):
            return self.flag(value, path)
        if name in ("min_scale", "ema_decay"):
            number = self.number(value, path, low=0, high=0.999999 if name == "ema_decay" else None)
            return None if number is None else float(number)
        if name == "format":
            return self._format(value, path)
        return self._granularity(value, path) if name == "granularity" else self._named(name, value, path)

    def _format(self, value: Any, path: JsonPath) -> str | None:
        if isinstance(value, str) and value in ALL_FORMATS:
            return value
        fix = did_you_mean(value, ALL_FORMATS)
        if isinstance(value, str) and value.lower() in ALL_FORMATS:
            fix = f"write {value.lower()}"
        elif isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 32:
            fix = f"write int{value} or uint{value}"
        elif isinstance(value, str) and re.fullmatch(r"u?int\d+", value.strip().lower()):
            fix = "integer formats have 2 to 32 bits"
        message = f"{shown(value)} is not a format"
        self.add("format", path, message, value=value, allowed=FORMATS, fix=fix or "choose one of these")
        return None

    def _granularity(self, value: Any, path: JsonPath) -> Granularity | None:
        known = {"kind": value} if isinstance(value, str) else self.mapping(
            value, path, ("kind", "axis", "group_size"), "'granularity'"
        )  # fmt: skip
        if "kind" not in known:
            if isinstance(value, dict):
                fix = "add kind: per_channel (or another)"
                self.add("missing_key", path, "'granularity' has no 'kind'", allowed=GRANULARITIES, fix=fix)
            return None
        place = path if isinstance(value, str) else (*path, "kind")
        kind = self.word(known["kind"], place, GRANULARITIES, "granularity")
        axis = self.number(known["axis"], (*path, "axis"), integer=True) if "axis" in known else None
        size = (
            self.number(known["group_size"], (*path, "group_size"), integer=True, low=1)
            if "group_size" in known
            else None
        )
        if kind is None:
            return None
        if axis is not None and kind in ("per_tensor", "per_token"):
            fix = "remove 'axis', or use per_channel or per_group"
            self.add("no_effect", (*path, "axis"), f"'axis' has no effect with {kind}", value=axis, fix=fix)
            return None
        if ("group_size" in known) != (kind == "per_group"):
            has = "group_size" in known
            message = f"'group_size' has no effect with {kind}" if has else "per_group needs a 'group_size'"
            fix = "remove 'group_size', or use per_group" if has else "write {kind: per_group, group_size: 128}"
            self.add("no_effect" if has else "missing_key", path, message, value=size, fix=fix)
            return None
        if kind == "per_group" and size is None:
            return None
        return Granularity(kind=kind, axis=axis, group_size=size)  # type: ignore[arg-type]  # checked by word()

    def _named(self, field: str, value: Any, path: JsonPath) -> ObserverSpec | None:
        """Returns an observer or a quantizer: a name, or a mapping with a name and parameters."""
        kind, made, usual = _PLUGINS[field]
        if isinstance(value, dict) and "name" not in value:
            fix = "write {name: percentile, percentile: 99.99}" if field == "observer" else f"write {{name: {usual}}}"
            self.add("missing_key", path, f"'{field}' has no 'name'", allowed=self.plugins(kind), fix=fix)
            return None
        if not isinstance(value, (str, dict)):
            message = f"'{field}' is {kind_of(value)}, not a name or a mapping"
            self.add("type", path, message, value=value, allowed=self.plugins(kind), fix=f"write {field}: {usual}")
            return None
        name = value if isinstance(value, str) else value["name"]
        given = {} if isinstance(value, str) else {key: item for key, item in value.items() if key != "name"}
        inner = path
        if set(given) == {"params"}:
            given, inner = given["params"], (*path, "params")
        place = path if isinstance(value, str) else (*path, "name")
        checked = self.plugin(kind, field.replace("_", " "), name, place, given, inner)
        return None if checked is None else made(name=checked[0], params=checked[1])

    def plugin(
        self, kind: str, what: str, name: Any, place: JsonPath, given: Any, path: JsonPath
    ) -> tuple[str, dict[str, Any]] | None:
        """Returns the name of a plug-in and its checked parameters; None when the name is unknown."""
        word = self.word(name, place, self.plugins(kind), what, code="unknown_name")
        if word is None:
            return None
        declared = self.declared(kind, word)
        if declared is None:
            return word, dict(given) if isinstance(given, dict) else {}
        known = self.mapping(given, path, declared, f"the parameters of '{word}'")
        params = {key: self._parameter(item, (*path, key), declared[key]) for key, item in known.items()}
        return word, {key: item for key, item in params.items() if item is not None}

    def _parameter(self, value: Any, path: JsonPath, declared: Mapping[str, Any]) -> Any:
        kind = declared.get("type", "str")
        if kind in ("float", "int"):
            low, high = declared.get("min"), declared.get("max")
            number = self.number(value, path, integer=kind == "int", low=low, high=high)
            return float(number) if kind == "float" and number is not None else number
        if kind == "bool":
            return self.flag(value, path)
        if "choices" in declared:
            return self.word(value, path, declared["choices"], f"value of '{path[-1]}'")
        if isinstance(value, _PYTHON_TYPES[kind]):
            return value
        wanted = {"str": "text", "list": "a list"}[kind]
        self.add("type", path, f"'{path[-1]}' is {kind_of(value)}, not {wanted}", value=value, fix=f"write {wanted}")
        return None

    def steps(self, value: Any, path: JsonPath, kind: str, other: str) -> tuple[Step, ...]:
        """Returns the steps of ``optimize`` or ``refine``; a name that belongs to the other list gets that fix."""
        found = []
        for index, item in enumerate(self.items(value, path, f"'{path[-1]}'")):
            step = self._step(item, (*path, index), kind, other)
            if step is not None:
                found.append(step)
        return tuple(found)

    def _step(self, item: Any, path: JsonPath, kind: str, other: str) -> Step | None:
        what = {"passes": "pass", "algorithms": "algorithm"}[kind]
        place, inner = path, path
        if isinstance(item, str):
            name, given = item, dict[str, Any]()
        elif isinstance(item, dict) and "name" in item:
            name, given, place, inner = item["name"], item.get("params") or {}, (*path, "name"), (*path, "params")
            self.mapping(item, path, ("name", "params"), "a step")
        elif isinstance(item, dict) and len(item) == 1:
            name, given = next(iter(item.items()))
            given, place, inner = given or {}, (*path, name), (*path, name)
        else:
            fix = f"write the name of the {what}, or {{name: {{parameter: value}}}}"
            self.add("type", path, f"a step is {kind_of(item)} that does not name one {what}", value=item, fix=fix)
            return None
        if isinstance(name, str) and name not in self.plugins(kind) and name in self.plugins(other):
            right = {"passes": "optimize", "algorithms": "refine"}[other]
            fix = f"move it to '{right}'"
            self.add(
                "unknown_name", place, f"'{name}' does not belong here", value=name, allowed=self.plugins(kind), fix=fix
            )
            return None
        checked = self.plugin(kind, what, name, place, given, inner)
        return None if checked is None else Step(name=checked[0], params=checked[1])

    def pattern(self, value: Any, path: JsonPath) -> str | None:
        """Returns a glob, or a ``re:`` pattern that compiles."""
        text = self.text(value, path)
        if text is not None and text.startswith("re:"):
            try:
                re.compile(text[3:])
            except (re.error, RecursionError, OverflowError) as error:
                self.add(
                    "regex", path, f"not a regular expression: {error}", value=value, fix="correct the text after 're:'"
                )
                return None
        return text
