"""Loads a configuration: a path, a text, a mapping, a preset name or a QuantConfig, in any dialect."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantwright import registry
from quantwright.config._parsing import collecting_later
from quantwright.config.callsite import call_site
from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document, HasDocument, is_text, read_document
from quantwright.errors import ArtifactError, ConfigError, Problem, UnknownNameError, did_you_mean

Loadable = str | os.PathLike[str] | Mapping[str, Any] | QuantConfig | HasDocument
_LONGEST = 100  # characters of a name that can be that of a preset
_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Returns a configuration with how it was read: the dialect, why that one, and what could not be carried over."""

    config: QuantConfig
    dialect: str
    why: str
    unmapped: tuple[Unmapped, ...] = ()


def load_config(source: Loadable, *, dialect: str = "auto", target: str | None = None) -> QuantConfig:
    """Returns the configuration of a path, text, mapping, preset name or QuantConfig.

    Args:
        dialect: a name of ``quantwright list dialects``; ``auto`` asks every dialect.
        target: replaces the target that the configuration names.

    Raises:
        ConfigError: every problem of the configuration at once.
        ArtifactError: a file that cannot be read.
        UnknownNameError: an unknown dialect or target.
    """
    return read_config(source, dialect=dialect, target=target)[0]


def read_config(
    source: Loadable, *, dialect: str = "auto", target: str | None = None
) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what ``load_config`` returns, and what the dialect could not carry over."""
    reading = read_any(source, dialect=dialect, target=target)
    return reading.config, list(reading.unmapped)


def read_any(source: Loadable, *, dialect: str = "auto", target: str | None = None, sources: bool = True) -> Reading:
    """Returns the Reading of any source; see ``load_config``.

    Args:
        sources: whether the configuration knows where its values came from, which costs time in a large file.
    """
    if target is not None:
        _known("targets", target, "target")
    if dialect != "auto":
        _known("dialects", dialect, "dialect")
    with collecting_later():
        reading = _read(source, dialect, sources)
    if target is not None and target != reading.config.target:
        config = reading.config.model_copy(update={"target": target})
        return Reading(config=config, dialect=reading.dialect, why=reading.why, unmapped=reading.unmapped)
    return reading


def write_config(config: QuantConfig, dialect: str = "native") -> tuple[str, list[Unmapped]]:
    """Returns the text of a configuration in a dialect, and exactly what that dialect cannot express."""
    _known("dialects", dialect, "dialect")
    text, unmapped = registry.load("dialects", dialect).write(config)
    return text, list(unmapped)


def presets() -> tuple[str, ...]:
    """Returns the names that stand for a configuration: the files of ``presets/``, tools that need no file, and what
    the tools themselves have names for (``fs``; ``tool:name`` where several tools use one name).
    """
    tools = [name for name in registry.names("dialects") if registry.load("dialects", name).default is not None]
    theirs = _tool_presets()
    short = {name for name in theirs if theirs[name][1] not in theirs or ":" not in name}
    return tuple(sorted({path.stem for path in _PRESETS.glob("*.yaml")} | {*tools} | short))


def _tool_presets() -> dict[str, tuple[str, str]]:
    """Returns what stands for a configuration that a tool has a name for -> (dialect, its name there)."""
    found: dict[str, tuple[str, str]] = {}
    several: set[str] = set()
    for dialect in registry.names("dialects"):
        for name in registry.load("dialects", dialect).presets:
            if name in found:
                several.add(name)
            found[name] = found[f"{dialect}:{name}"] = (dialect, name)
    return {name: place for name, place in found.items() if name not in several}


def _read(source: Loadable, dialect: str, sources: bool) -> Reading:
    if isinstance(source, QuantConfig):
        check_object(source)
        return Reading(config=source, dialect=source.dialect, why="it is a QuantConfig")
    if isinstance(source, str) and not is_text(source) and not _looks_like_path(source):
        found = _preset(source)
        if found is not None:
            return found
    if not isinstance(source, (str, os.PathLike, Mapping, HasDocument)):
        message = f"a configuration cannot be a {type(source).__name__}"
        fix = "give a path, a mapping, a preset name or a QuantConfig"
        file, line = call_site() or (None, None)
        raise ConfigError([Problem(code="type", message=message, file=file, line=line, fix=fix)])
    site = call_site() if isinstance(source, Mapping) else None
    try:
        document = read_document(source)
    except ConfigError as error:
        if site is None:
            raise
        raise ConfigError([replace(problem, file=site[0], line=site[1]) for problem in error.problems]) from error
    except ArtifactError as error:
        if isinstance(source, str) and not Path(source).exists() and not _looks_like_path(source):
            raise _no_such(source) from error
        raise
    if site is not None:
        document = replace(document, places={(): site})
    if not sources:
        document = replace(document, sources=False)
    name, why = choose_dialect(document, dialect)
    config, unmapped = registry.load("dialects", name).read(document)
    return Reading(config=config, dialect=name, why=why, unmapped=tuple(unmapped))


def check_object(config: QuantConfig) -> None:
    """Raises ConfigError when a QuantConfig made in Python says something that a file could not say."""
    native = registry.load("dialects", "native")
    text, _ = native.write(config)
    native.read(Document(value=read_document(text).value))


def choose_dialect(document: Document, dialect: str = "auto") -> tuple[str, str]:
    """Returns the name of the document's dialect, and why.

    Raises:
        ConfigError: no dialect fits (the nearest is named), or several do (all are named).
    """
    if dialect != "auto":
        return dialect, "it was asked for"
    found = {}
    for name in registry.names("dialects"):
        why = registry.load("dialects", name).detect(document)
        if why is not None:
            found[name] = why
    if len(found) == 1:
        return next(iter(found.items()))
    place = dict(zip(("file", "line"), document.place(()), strict=True))
    if found:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.items())
        fix = "say which with --dialect, and remove the keys of the other"
        message = f"this could be {' or '.join(found)} ({reasons})"
        raise ConfigError([Problem(code="ambiguous_dialect", message=message, fix=fix, **place)])  # type: ignore[arg-type]
    names = ", ".join(registry.names("dialects"))
    raise ConfigError(
        [Problem(code="unknown_dialect", message="no dialect recognises this document", allowed=names,
                 fix=_nearest(document), **place)]  # type: ignore[arg-type]
    )  # fmt: skip


def _nearest(document: Document) -> str:
    """Returns the fix for an unrecognised document: the dialect one of whose keys is most like one of its keys."""
    if not isinstance(document.value, dict):
        return "a configuration is a mapping of keys to values"
    known = {key: name for name in registry.names("dialects") for key in registry.load("dialects", name).keys}
    ratio, key, word = _most_alike([key for key in document.value if len(key) <= _LONGEST], list(known))
    if ratio >= 0.6:
        return f"nearest is {known[word]}: for '{key}', did you mean '{word}'?"
    keys = ", ".join(f"'{key}'" for key in list(document.value)[:5])
    return f"none of its keys ({keys}) belongs to a known tool; see `quantwright list dialects`"


def _most_alike(keys: list[str], words: list[str]) -> tuple[float, str, str]:
    """Returns how alike the most similar key and word are, and both; cheap bounds spare most comparisons."""
    best = (0.0, "", "")
    for key in keys:
        matcher = difflib.SequenceMatcher(None, "", key.lower())
        for word in words:
            matcher.set_seq1(word)
            if matcher.real_quick_ratio() > best[0] and matcher.quick_ratio() > best[0]:
                best = max(best, (matcher.ratio(), key, word))
    return best


def _looks_like_path(source: str) -> bool:
    return os.sep in source or "." in source


def _preset(name: str) -> Reading | None:
    if len(name) > _LONGEST:
        return None
    path = _PRESETS / f"{name}.yaml"
    if path.is_file():
        document = read_document(path)
        document = Document(value=document.value, file=f"preset {name}", lines=document.lines)
        config, _ = registry.load("dialects", "native").read(document)
        return Reading(config=config, dialect="native", why=f"it is the preset '{name}'")
    if name in registry.names("dialects") and registry.load("dialects", name).default is not None:
        why = f"it is what {name} does when it is given no file"
        return Reading(config=registry.load("dialects", name).default(), dialect=name, why=why)
    found = _tool_presets().get(name)
    if found is not None:
        dialect, inner = found
        config = registry.load("dialects", dialect).presets[inner]()
        return Reading(config=config, dialect=dialect, why=f"'{inner}' is a name {dialect} has for it")
    return None


def _no_such(name: str) -> UnknownNameError:
    known = presets()
    fix = did_you_mean(name, known) or "name a file (my_config.yaml) or a preset"
    return UnknownNameError(f"'{name[:80]}' is neither a file nor a preset", allowed=known, fix=fix)


def _known(kind: str, name: str, what: str) -> None:
    names = registry.names(kind)
    if name not in names:
        fix = did_you_mean(name, names) or f"choose one of `quantwright list {kind}`"
        raise UnknownNameError(f"no {what} is called '{name}'", allowed=names, fix=fix)
