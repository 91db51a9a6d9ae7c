"""Every target covers every kind and allows its own defaults; each restriction refuses what it names."""

from __future__ import annotations

from typing import Any

import pytest
from plan_builder import net

from quantwright import registry
from quantwright.config import kinds
from quantwright.config.config import QuantConfig, RoleSpecs
from quantwright.config.spec import ROLES, QuantSpec
from quantwright.errors import ConfigError
from quantwright.plan.checks import field_of
from quantwright.plan.resolve import resolve
from quantwright.targets import Target

#: devices and runtimes; targets that place quantizers as one tool does have tests of their own
OF_TOOLS = ("mqbench_", "sophgo_", "quark_", "vitis_keras_")
TARGETS = [name for name in registry.names("targets") if not name.startswith(OF_TOOLS)]


def load(name: str) -> Target:
    target: Target = registry.load("targets", name)
    return target


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_named_after_its_file_and_says_only_known_words(name: str) -> None:
    target = load(name)
    assert target.name == name
    assert target.summary
    assert set(target.kinds) <= set(kinds.ALL)
    assert set(target.kinds.values()) <= {"compute", "fuse", "share", "join", "float"}
    assert set(target.parameters) <= set(kinds.WEIGHTED)
    assert all(target.handling(kind) == "compute" for kind in target.parameters)


@pytest.mark.parametrize("name", ["dpu", "generic", "onnxruntime", "vitis_cpu"])
def test_every_kind_is_placed_as_documented(name: str) -> None:
    target = load(name)
    by = {kind: target.handling(kind) for kind in kinds.ALL}
    for kind in (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, "add", "mul", "avg_pool", "adaptive_avg_pool"):
        assert by[kind] == "compute", kind
    assert all(by[kind] == "share" for kind in (*kinds.MOVEMENT, "pad", "resize_nearest"))
    assert all(by[kind] == "join" for kind in kinds.JOIN)
    assert all(by[kind] == "fuse" for kind in kinds.CLAMP)
    assert all(
        by[kind] == "float" for kind in (*kinds.NORM_PART, *kinds.RECURRENT, "other", "input", "output", "sigmoid")
    )


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_allows_its_own_defaults(name: str) -> None:
    target = load(name)
    p = resolve(QuantConfig(), net(), target)
    assert p.target == name
    assert {d.point.role for d in p.quantized()} == set(ROLES)
    assert not p.warnings


@pytest.mark.parametrize("name", TARGETS)
def test_the_passes_a_target_asks_for_exist_with_these_parameters(name: str) -> None:
    for step in load(name).optimize:
        assert set(step.params) <= set(registry.parameters("passes", step.name))


def refused(name: str, **default: Any) -> set[str]:
    """Returns the fields that a target refuses when they are asked for by default."""
    config = QuantConfig(default=RoleSpecs.model_validate(default))
    with pytest.raises(ConfigError) as caught:
        resolve(config, net(), load(name))
    for problem in caught.value.problems:
        assert problem.fix and problem.message.startswith("'")
    return {problem.code for problem in caught.value.problems}


#: the restrictions of the tool's document ("Configuration Restrictions"), for one tensor each
DPU = {
    "scale": {"weight": {"scale": "float", "observer": "minmax"}},
    "symmetric": {"weight": {"symmetric": False, "scale": "float", "observer": "minmax"}},
    "format": {"output": {"format": "uint8"}},
    "granularity": {"weight": {"granularity": "per_channel"}},
    "observer": {"output": {"observer": "entropy"}},
    "rounding": {"bias": {"rounding": "half_up"}},
    "narrow_range": {"output": {"narrow_range": True}},
    "statistic": {"output": {"statistic": "max"}},
}


@pytest.mark.parametrize("field", DPU)
def test_dpu_restrictions(field: str) -> None:
    assert f"target_dpu_{field}" in refused("dpu", **DPU[field])


def test_dpu_rounds_parameters_and_activations_differently() -> None:
    assert refused("dpu", output={"rounding": "half_away"}) == {"target_dpu_rounding"}
    assert refused("dpu", weight={"rounding": "half_even"}) == {"target_dpu_rounding"}


def test_dpu_takes_a_narrow_parameter_and_other_widths() -> None:
    config = QuantConfig(default=RoleSpecs(weight=QuantSpec(narrow_range=True, format="int4")))
    p = resolve(config, net(), load("dpu"))
    assert p["c1.weight"].spec is not None and p["c1.weight"].spec.qmin == -7


ORT = {
    "format": {"output": {"format": "uint4"}},
    "rounding": {"output": {"rounding": "half_up"}},
    "granularity": {"output": {"granularity": "per_channel"}},
    "narrow_range": {"output": {"format": "int8", "symmetric": True, "narrow_range": True}},
    "scale": {"bias": {"format": "int8", "scale": "float"}},
}


@pytest.mark.parametrize("field", ORT)
def test_onnxruntime_restrictions(field: str) -> None:
    assert refused("onnxruntime", **ORT[field]) == {f"target_onnxruntime_{field}"}
    assert resolve(QuantConfig(default=RoleSpecs.model_validate(ORT[field])), net(), load("generic"))


@pytest.mark.parametrize("default", [
    {"weight": {"format": "int4"}}, {"weight": {"format": "uint8", "symmetric": False}},
    {"activation": {"format": "int16", "symmetric": True}}, {"weight": {"rounding": "half_up"}},
    {"activation": {"scale": "power_of_two", "format": "int8", "symmetric": True}},
    {"weight": {"granularity": {"kind": "per_group", "group_size": 8}}}, {"activation": {"format": "float16"}},
])  # fmt: skip
def test_onnxruntime_allows(default: dict[str, Any]) -> None:
    assert resolve(QuantConfig(default=RoleSpecs.model_validate(default)), net(), load("onnxruntime")).quantized()


def test_vitis_cpu_has_several_scales_for_weights_only() -> None:
    assert refused("vitis_cpu", output={"granularity": "per_channel"}) == {"target_vitis_cpu_granularity"}
    p = resolve(
        QuantConfig(default=RoleSpecs.model_validate({"weight": {"granularity": "per_channel"}})),
        net(),
        load("vitis_cpu"),
    )
    assert str(p["c1.weight"].spec.granularity) == "per_channel(axis 0)"  # type: ignore[union-attr]
    assert p["c1.bias"].relation is None  # spec 3.6: a range of its own


def test_a_check_names_the_field_it_is_about() -> None:
    broken = QuantSpec(format="uint4", symmetric=False, narrow_range=True, scale="float", rounding="floor",
                       observer="mse", statistic="all", granularity="per_channel")  # type: ignore[arg-type]  # fmt: skip
    for name in TARGETS:
        for check in load(name).checks:
            for role in ROLES:
                message = check(broken, role, "conv2d")
                assert message is None or (field_of(message) and "; " in message), (name, message)
