"""The algorithms of a Quark document: ``algo_config`` and the older ``pre_quant_opt_config`` become steps (1.5, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config.config import Step
from quantwright.config.document import JsonPath
from quantwright.config.reader import kind_of
from quantwright.dialects._quark_names import ALGORITHMS, RETIRED
from quantwright.dialects._quark_reader import QuarkReader
from quantwright.errors import did_you_mean

_KINDS = {int: "a number", float: "a number", bool: "true/false", str: "text", list: "a list", dict: "a mapping"}


def steps(reader: QuarkReader, value: Any, path: JsonPath) -> tuple[Step, ...]:
    """Returns the steps of one algorithm (0.6) or a list of them, in order; null is none."""
    if value is None:
        return ()
    single = isinstance(value, dict)
    items = [value] if single else reader.items(value, path, f"'{path[-1]}'")
    found = [_step(reader, item, path if single else (*path, index)) for index, item in enumerate(items)]
    return tuple(step for step in found if step is not None)


def _step(reader: QuarkReader, item: Any, path: JsonPath) -> Step | None:
    if not isinstance(item, dict):
        reader.add(
            "type", path, f"an algorithm is {kind_of(item)}, not a mapping", value=item, fix='write {"name": "gptq"}'
        )
        return None
    if "name" not in item:
        reader.add("missing_key", path, "the algorithm has no 'name'", allowed=ALGORITHMS, fix='add "name": "gptq"')
        return None
    word = reader.word(item["name"], (*path, "name"), ALGORITHMS, "algorithm", code="quark_algorithm")
    if word is None:
        return None
    name, fields = ALGORITHMS[word]
    for key in RETIRED:
        if key in item:
            reader.note("retired", (*path, key), "not read any more, by the tool either")
    given = {key: value for key, value in item.items() if key != "name" and key not in RETIRED}
    if fields is not None:
        _check(reader, word, given, fields, path)
    if (
        word in ("gptq", "gptaq", "qronos")
        and given.get("desc_act", True) is True
        and given.get("static_groups") is False
    ):
        message = "'desc_act' sorts the columns, which needs groups that were fixed before"
        fix = "set static_groups to true, or desc_act to false"
        reader.add("quark_gptq_groups", (*path, "static_groups"), message, value=False, fix=fix)
    if word == "quarot":
        given = _rotation(given)
    return Step(name=name, params=given)


def _check(
    reader: QuarkReader, word: str, given: Mapping[str, Any], fields: Mapping[str, type], path: JsonPath
) -> None:
    for key, value in given.items():
        if key not in fields:
            fix = did_you_mean(key, fields) or "remove it"
            message = f"unknown key '{key}' of the algorithm {word}"
            reader.add("unknown_key", (*path, key), message, value=key, allowed=fields, fix=fix)
            continue
        kind = fields[key]
        types: tuple[type, ...] = (int, float) if kind is float else (kind,)
        wrong = not isinstance(value, types) or (isinstance(value, bool) and kind is not bool)
        if value is not None and wrong:
            message = f"'{key}' is {kind_of(value)}, not {_KINDS[kind]}"
            reader.add("type", (*path, key), message, value=value, fix=f"write {_KINDS[kind]}")


def _rotation(given: dict[str, Any]) -> dict[str, Any]:
    """Returns QuaRot as the rotation that it became (0): r1 to r4, ``random`` for two of them."""
    random = given.pop("random", None)
    given.pop("random2", None)
    kept = {"r1": True, "r2": True, "r3": True, "r4": True, **given}
    return {**kept, "random_r1": True, "random_r2": True} if random is True else kept
