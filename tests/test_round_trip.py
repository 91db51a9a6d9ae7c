"""Writing and reading: through native nothing changes; through another tool's language only what it lists as lost."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_builder import Build, chain, net, shift

from quantwright import registry
from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document, read_document
from quantwright.config.load import load_config, presets, write_config
from quantwright.config.spec import FLOAT_FORMATS
from quantwright.errors import ConfigError
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Plan
from quantwright.plan.plan_json import Difference, diff
from quantwright.plan.resolve import resolve

DIALECTS = registry.names("dialects")
FOREIGN = tuple(name for name in DIALECTS if name != "native")


def residual() -> ModelFacts:
    """Returns a network with a residual addition, a linear layer and a softmax."""
    b = Build("Residual")
    y = b.op("relu", b.layer("conv2d", b.input(), "a"), at="r")
    w = b.op("relu", b.op("add", y, b.layer("conv2d", y, "b")), at="r2")
    out = b.layer("linear", b.op("flatten", b.op("max_pool", w, at="p")), "fc", shape=(-1, 8))
    return b.facts(b.op("softmax", out, at="sm", shape=(-1, 8)))


MODELS = {"net": net, "chain": chain, "shift": shift, "residual": residual}


def changes(before: Plan, after: Plan) -> list[Difference]:
    """Returns what differs but for the words of a reason: they name the place, which is another one."""
    return [difference for difference in diff(before, after) if difference.field != "why_float"]


def plan_of(config: QuantConfig, facts: ModelFacts) -> Plan | str:
    """Returns the plan, or the codes of the problems: what is refused must be refused on the other side too."""
    softened = config.model_copy(
        update={"rules": tuple(rule.model_copy(update={"if_unmatched": "warn"}) for rule in config.rules)}
    )
    try:
        return resolve(softened, facts, registry.load("targets", config.target or "generic"))
    except ConfigError as error:
        return ", ".join(sorted({problem.code for problem in error.problems}))


@cache
def sources() -> dict[str, Any]:
    """Returns every configuration at hand: presets, examples, and the files of the reference folder."""
    found: dict[str, Any] = {f"preset {name}": name for name in presets()}
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in (".json", ".yaml"):
            found[f"example {path.stem}"] = path
    if SHARED.exists():
        for path in sorted((SHARED / "configs").rglob("*")):
            if path.suffix in (".json", ".yaml"):
                found[f"shared {path.parent.name} {path.stem}"] = path
    return found


def cases() -> Iterator[Any]:
    """Yields (config, dialect) pairs."""
    for name in sources():
        for dialect in DIALECTS:
            yield pytest.param(name, dialect, id=f"{name} to {dialect}".replace(" ", "-"))


def covered(difference: Difference, lost: list[Unmapped], plans: tuple[Plan, Plan]) -> bool:
    """Returns whether a loss says that this tensor can differ: by its role, by a rule, or because all of it can."""
    roles = {plan.by_name[difference.point].point.role for plan in plans if difference.point in plan.by_name}
    wide = ("target", "rules", "optimize", "network inputs")
    for loss in lost:
        where = loss.path
        if where.startswith(wide) or any(role in where for role in roles):
            return True
        if "activation" in where and roles & {"input", "output"}:
            return True
    return False


def check_round_trip(config: QuantConfig, dialect: str) -> None:
    """Asserts the law: plan(read(write(c))) == plan(c), up to what ``write`` and ``read`` list."""
    text, lost = write_config(config, dialect)
    try:
        again, unread = registry.load("dialects", dialect).read(read_document(text))
    except ConfigError:
        assert lost, f"{dialect} refuses what was written, and nothing is listed:\n{text}"
        return
    everything = [*lost, *unread]
    for name, build in MODELS.items():
        before, after = plan_of(config, build()), plan_of(again, build())
        if isinstance(before, str) or isinstance(after, str):
            assert before == after or everything, f"{name}: {before!s:.200} became {after!s:.200}"
            continue
        for difference in changes(before, after):
            said = "\n".join(f"  {loss.path}: {loss.message}" for loss in everything) or "  nothing"
            assert covered(difference, everything, (before, after)), (
                f"{name}: {difference}, and the losses do not say so:\n{said}\n{text}"
            )


@pytest.mark.parametrize(("name", "dialect"), cases())
def test_a_configuration_that_is_at_hand(name: str, dialect: str) -> None:
    try:
        config = load_config(sources()[name])
    except ConfigError as error:
        assert "my_quantize_strategy" in name, error  # quantizer types that do not exist: the tool refuses them too
        return
    if dialect == "native":
        text, lost = write_config(config)
        assert not lost
        again = load_config(text)
        for build in MODELS.values():
            before, after = plan_of(config, build()), plan_of(again, build())
            assert before == after if isinstance(before, str) else not changes(before, after)  # type: ignore[arg-type]
        return
    check_round_trip(config, dialect)


# -- configurations nobody wrote ------------------------------------------------------------------------------------
FORMATS = ("int4", "int8", "uint8", "int16", "float32", "bfloat16")


@st.composite
def specs(draw: st.DrawFn, role: str) -> dict[str, Any]:
    """Returns a partial spec without contradictions."""
    fmt = draw(st.sampled_from(FORMATS))
    if fmt in FLOAT_FORMATS:
        return {"format": fmt}
    symmetric = draw(st.booleans())
    scale = draw(st.sampled_from(["float", "power_of_two"])) if symmetric else "float"
    spec: dict[str, Any] = {"format": fmt, "symmetric": symmetric, "scale": scale}
    spec["rounding"] = draw(st.sampled_from(["half_even", "half_up", "half_away", "floor"]))
    spec["observer"] = draw(st.sampled_from(["minmax", {"name": "percentile", "percentile": 99.5}, "mse"]))
    if role == "weight":
        spec["granularity"] = draw(st.sampled_from(["per_tensor", "per_channel"]))
    return spec


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Returns a native configuration for the models above."""
    roles = ["weight", "input", "output"]
    default = {role: draw(specs(role)) for role in roles if draw(st.booleans())}
    rules = []
    matches: list[dict[str, Any]] = [
        {"type": "Conv2d"}, {"type": "Linear|ReLU"}, {"name": "a"}, {"name": "c*"}, {"function": "add"},
        {"function": "input"}, {"pattern": {"type": "ReLU", "inputs": [{"type": "Conv2d"}]}, "at": "0"},
    ]  # fmt: skip
    for _ in range(draw(st.integers(0, 3))):
        rule: dict[str, Any] = {"match": draw(st.sampled_from(matches)), "if_unmatched": "warn"}
        kind = draw(st.sampled_from(["exclude", "include", "spec", "spec", "spec"]))
        if kind == "spec":
            role = draw(st.sampled_from(roles))
            rule[role] = draw(specs(role))
        else:
            rule[kind] = True
        rules.append(rule)
    made: dict[str, Any] = {"version": 1, "default": default, "rules": rules}
    if draw(st.booleans()):
        made["target"] = draw(st.sampled_from(["generic", "vitis_cpu"]))
    return {key: value for key, value in made.items() if value}


@given(config=configs())
@settings(max_examples=60, deadline=None)
def test_native_is_the_identity(config: dict[str, Any]) -> None:
    read = load_config(config, dialect="native")
    text, lost = write_config(read)
    assert not lost
    again = load_config(text, dialect="native")
    for build in MODELS.values():
        before, after = plan_of(read, build()), plan_of(again, build())
        assert before == after if isinstance(before, str) else not changes(before, after)  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", FOREIGN)
@given(config=configs())
@settings(max_examples=25, deadline=None)
def test_another_language_loses_only_what_it_lists(dialect: str, config: dict[str, Any]) -> None:
    check_round_trip(load_config(config, dialect="native"), dialect)


@pytest.mark.parametrize("dialect", FOREIGN)
def test_what_a_dialect_writes_it_recognises(dialect: str) -> None:
    text, _ = write_config(load_config("int8"), dialect)
    assert isinstance(read_document(text), Document)
    assert load_config(text).dialect == dialect


def test_the_folder_of_configurations_is_complete() -> None:
    if not SHARED.exists():
        pytest.skip("needs the reference folder")
    assert len([name for name in sources() if name.startswith("shared")]) == len(
        [p for p in Path(SHARED / "configs").rglob("*") if p.suffix in (".json", ".yaml")]
    )
