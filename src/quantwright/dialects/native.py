"""Quantwright's own configuration language: YAML, JSON or TOML. docs/dialects.md describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from quantwright.config import _yaml
from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Source, Step, Unmapped
from quantwright.config.document import Document, JsonPath
from quantwright.config.spec import ROLES, QuantSpec, Role
from quantwright.dialects import Dialect
from quantwright.dialects._native_pattern import plain_pattern, read_at, read_pattern
from quantwright.dialects._native_spec import ROLE_KEYS, SpecReader

TOP = ("version", "target", "default", "rules", "optimize", "refine", "calibration")
RULE = ("match", "exclude", "include", "share", "if_unmatched", *ROLE_KEYS)
_EFFECTS = (*ROLE_KEYS, "exclude", "include", "share")
_WORDS = ("type", "name", "function")
_LONGEST = 160  # characters of a match in messages
CALIBRATION = {
    "inputs": ("float", "quantized"),
    "batch_qparams": ("running", "batch"),
    "modal_ties": ("larger_scale", "smaller_scale", "first"),
}


def detect(document: Document) -> str | None:
    """Returns why a document is native, or None."""
    if not isinstance(document.value, dict):
        return None
    if not document.value:
        return "an empty mapping"
    found = [key for key in TOP if key in document.value]
    if found == ["version"] and len(document.value) > 1 and document.value["version"] != 1:
        return None  # other tools number their files too
    return "it has " + ", ".join(f"'{key}'" for key in found) if found else None


def read(document: Document) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns the configuration of a native document; nothing is ever unmapped.

    Raises:
        ConfigError: every problem of the document at once.
    """
    reader = SpecReader(document)
    top = reader.mapping(document.value, (), TOP, "the configuration")
    fields: dict[str, Any] = {"source": reader.source((), "configuration")}
    sources = {key: reader.source((key,), key) for key in ("target", "optimize", "refine", "calibration") if key in top}
    if "version" in top and (top["version"] != 1 or isinstance(top["version"], bool)):
        message = f"version {top['version']!r:.40} is not known"
        reader.add("version", ("version",), message, value=top["version"], allowed="1", fix="write version: 1")
    if "target" in top:
        known = reader.plugins("targets")
        fields["target"] = reader.word(top["target"], ("target",), known, "target", code="unknown_name")
    if "default" in top:
        roles = reader.mapping(top["default"], ("default",), ROLE_KEYS, "'default'")
        specs, of_fields = reader.roles(roles, ("default",))
        sources |= of_fields
        fields["default"] = RoleSpecs(**specs)
    if "rules" in top:
        listed = enumerate(reader.items(top["rules"], ("rules",), "'rules'"))
        rules = [_rule(reader, item, ("rules", index), index + 1) for index, item in listed]
        fields["rules"] = tuple(rule for rule in rules if rule is not None)
    if top.get("optimize") is not None:
        fields["optimize"] = reader.steps(top["optimize"], ("optimize",), "passes", "algorithms")
    if "refine" in top:
        fields["refine"] = reader.steps(top["refine"], ("refine",), "algorithms", "passes")
    if "calibration" in top:
        fields["calibration"] = _calibration(reader, top["calibration"])
    steps = [(key, index) for key in ("optimize", "refine") for index in range(len(fields.get(key) or ()))]
    sources |= {f"{key}[{index}]": reader.source((key, index), key) for key, index in steps}
    reader.raise_if_any()
    return _build(reader, {**fields, "default_sources": sources}), []


def _build(reader: SpecReader, fields: Mapping[str, Any]) -> QuantConfig:
    """Returns the config; what only the model class can refuse becomes problems too."""
    try:
        return QuantConfig(**fields)
    except ValidationError as error:
        for item in error.errors():
            path = tuple(part for part in item["loc"] if isinstance(part, (str, int)))
            reader.add("value", path, str(item["msg"]), value=item.get("input"), fix="correct this value")
        reader.raise_if_any()
        raise


def _rule(reader: SpecReader, item: Any, path: JsonPath, number: int) -> Rule | None:
    count = len(reader.problems.items)
    known = reader.mapping(item, path, RULE, f"rule {number}")
    match = _match(reader, known["match"], (*path, "match")) if "match" in known else None
    if "match" not in known and isinstance(item, dict):
        fix = "add match: {type: ...} or {name: ...} or {function: ...}"
        reader.add("missing_key", path, f"rule {number} has no 'match'", fix=fix)
    exclude = reader.flag(known["exclude"], (*path, "exclude")) if "exclude" in known else False
    include = reader.flag(known["include"], (*path, "include")) if "include" in known else False
    share = _share(reader, known["share"], (*path, "share"), match) if "share" in known else None
    words = ("error", "warn", "ignore")
    soft = reader.word(known["if_unmatched"], (*path, "if_unmatched"), words, "value of 'if_unmatched'") \
        if "if_unmatched" in known else "error"  # fmt: skip
    said = str(match) if len(str(match)) <= _LONGEST else f"{str(match)[:_LONGEST]} ..."
    source = reader.source(path, f"rule {number} ({said})")
    specs, sources = reader.roles(known, path, source.text)
    if exclude and specs:
        reader.add(
            "no_effect",
            path,
            f"rule {number} excludes layers and also says how to quantize them",
            fix="keep one of them",
        )
    elif exclude and (include or share is not None):
        word = "include" if include else "share"
        reader.add("no_effect", (*path, word), f"rule {number} says 'exclude' and '{word}'", fix="keep one of them")
    elif isinstance(item, dict) and exclude is False and not any(key in known for key in _EFFECTS):
        message = f"rule {number} changes nothing"
        reader.add("no_effect", path, message, allowed=_EFFECTS, fix="say what it changes, or remove it")
    if match is None or len(reader.problems.items) > count:
        return None
    how: dict[str, Any] = {"exclude": bool(exclude), "include": bool(include), "share": share, "if_unmatched": soft}
    return Rule(match=match, source=source, field_sources=sources, **how, **specs)


def _match(reader: SpecReader, value: Any, path: JsonPath) -> Match | None:
    known = reader.mapping(value, path, tuple(Match.model_fields), "'match'")
    if isinstance(value, dict) and not value:
        fix = "write type, name, function or pattern"
        reader.add("missing_key", path, "'match' is empty", allowed=tuple(Match.model_fields), fix=fix)
    words = {key: reader.pattern(known[key], (*path, key)) for key in _WORDS if key in known}
    place = read_pattern(reader, known["pattern"], (*path, "pattern")) if "pattern" in known else None
    if "at" in known and "pattern" not in known:
        fix = "add a pattern, or remove 'at'"
        reader.add("no_effect", (*path, "at"), "'at' has no effect without a pattern", value=known["at"], fix=fix)
        return None
    at = read_at(reader, known["at"], (*path, "at"), place) if "at" in known and place is not None else None
    if not any(words.values()) and place is None:
        return None
    return Match(**words, pattern=place, at=at)


def _share(reader: SpecReader, value: Any, path: JsonPath, match: Match | None) -> str | None:
    """Returns the place in the match's pattern whose grid the output uses."""
    place = match.pattern if match is not None else None
    if match is not None and place is None:
        fix = "add match: {pattern: ...}; 'share' says a place in it"
        reader.add("no_effect", path, "'share' has no effect without a pattern", value=value, fix=fix)
        return None
    found = read_at(reader, value, path, place) if place is not None else None
    if found is not None and match is not None and found == (match.at or ""):
        reader.add("no_effect", path, "the output would share its own grid", value=value, fix="name another place")
        return None
    return found


def _calibration(reader: SpecReader, value: Any) -> Calibration:
    known = reader.mapping(value, ("calibration",), CALIBRATION, "'calibration'")
    words = {
        key: reader.word(item, ("calibration", key), CALIBRATION[key], f"value of '{key}'")
        for key, item in known.items()
    }
    if words.get("inputs", "float") == "float" and words.get("batch_qparams"):
        message = "'batch_qparams' has no effect with float inputs"
        fix = "add inputs: quantized, or remove 'batch_qparams'"
        reader.add("no_effect", ("calibration", "batch_qparams"), message, value=words["batch_qparams"], fix=fix)
    return Calibration(**{key: word for key, word in words.items() if word is not None})  # type: ignore[arg-type]


def write(config: QuantConfig) -> tuple[str, list[Unmapped]]:
    """Returns the YAML text of a config; everything can be expressed. Notes become comments."""
    import yaml

    plain = to_plain(config)
    flow = None if any(isinstance(item, (dict, list)) for item in plain.values()) else False
    notes = "".join(f"# {line}\n" for note in config.notes for line in note.splitlines())
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": flow, "width": 160, "allow_unicode": True}
    text = str(yaml.dump(plain, Dumper=_dumper(), **style))
    return notes + text, []


def to_plain(config: QuantConfig) -> dict[str, Any]:
    """Returns a config as the plain values that ``read`` takes, without sources and notes."""
    plain: dict[str, Any] = {"version": 1}
    if config.target is not None:
        plain["target"] = config.target
    default = _plain_roles({role: config.default.get(role) for role in ROLES})
    if default:
        plain["default"] = default
    if config.rules:
        plain["rules"] = [_plain_rule(rule) for rule in config.rules]
    if config.optimize is not None:
        plain["optimize"] = [_plain_step(step) for step in config.optimize]
    if config.refine:
        plain["refine"] = [_plain_step(step) for step in config.refine]
    if config.calibration is not None:
        kept = config.calibration.model_dump()
        if config.calibration.inputs == "float":
            kept.pop("batch_qparams")
        plain["calibration"] = kept
    return plain


def _plain_rule(rule: Rule) -> dict[str, Any]:
    plain: dict[str, Any] = {"match": rule.match.model_dump(exclude_none=True, exclude={"pattern"})}
    if rule.match.pattern is not None:
        plain["match"]["pattern"] = plain_pattern(rule.match.pattern)
    for word in ("exclude", "include"):
        if getattr(rule, word):
            plain[word] = True
    if rule.share is not None:
        plain["share"] = rule.share
    if rule.if_unmatched != "error":
        plain["if_unmatched"] = rule.if_unmatched
    return {**plain, **_plain_roles({role: rule.get(role) for role in ROLES})}


def _plain_roles(specs: Mapping[Role, QuantSpec | None]) -> dict[str, Any]:
    plain = {str(role): spec.to_json() for role, spec in specs.items() if spec is not None and spec.fields_set()}
    if "input" in plain and plain["input"] == plain.get("output"):
        plain["activation"] = plain.pop("input")
        del plain["output"]
    return plain


def _plain_step(step: Step) -> Any:
    return {step.name: dict(step.params)} if step.params else step.name


def _dumper() -> Any:
    """Returns a dumper that quotes every text our reader would take for a number (YAML 1.2 reads 1e3 as one)."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    numbers = re.compile(f"(?:{_yaml.FLOAT.pattern})|(?:{_yaml.INT.pattern})")
    Dumper.add_implicit_resolver("tag:quantwright:number", numbers, list("-+.0123456789"))
    return Dumper


__all__ = ["Source", "detect", "plugin", "read", "to_plain", "write"]

plugin = Dialect(name="native", tool="Quantwright", detect=detect, read=read, write=write, keys=TOP)
