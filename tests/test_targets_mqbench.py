"""MQBench's and sophgo-mq's targets: the activation quantizers they insert are those recorded, by number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mq_models
import pytest
from plan_builder import Build

from quantwright import registry
from quantwright.config import kinds
from quantwright.config.config import Match, QuantConfig, RoleSpecs, Rule
from quantwright.config.consistency import conflicts
from quantwright.config.spec import BASE_SPEC, ROLES, QuantSpec
from quantwright.plan.resolve import resolve
from quantwright.targets import Target

#: spec 2: activation quantizers on ResNet-18
COUNTS = {
    "tensorrt": 31, "qdq": 31, "nnie": 31, "snpe": 32, "pplw8a16": 32, "pplcuda": 32, "stpu": 32, "openvino": 30,
    "onnx_qnn": 31, "tengine_u8": 40, "vitis": 38, "academic": 18, "tensorrt_nlp": 17, "academic_nlp": 1,
}  # fmt: skip


@pytest.mark.parametrize("backend", COUNTS)
def test_number_of_activation_quantizers_on_resnet18(backend: str) -> None:
    plan, facts = mq_models.planned("ResNet18", QuantConfig(target=f"mqbench_{backend}"))
    found = mq_models.activations(plan, facts)
    assert len(found) == COUNTS[backend], sorted(found)


TOOL_TARGETS = [name for name in registry.names("targets") if name.startswith(("mqbench_", "sophgo_"))]


@pytest.mark.parametrize("name", TOOL_TARGETS)
def test_a_target_of_a_tool_is_whole(name: str) -> None:
    target: Target = registry.load("targets", name)
    assert target.name == name and target.summary
    assert set(target.kinds) <= set(kinds.ALL) and set(target.parameters) <= set(kinds.WEIGHTED)
    place = target.placement
    named = {*place.layers_only, *place.fuse_behind, *place.alone, *place.hosts, *place.tensors_only}
    named |= {kind for pair in place.unread for kind in pair} | set(place.passed_over)
    assert named <= set(kinds.ALL), "a kind nobody knows"
    assert all(target.handling(kind) == "fuse" for kind in (*place.alone, *place.hosts, *place.fuse_behind))
    for role in ROLES:
        spec = (target.defaults.get(role) or QuantSpec()).over(BASE_SPEC)
        assert [check(spec, role, "conv2d") for check in target.checks if check(spec, role, "conv2d")] == []
        assert [c for c in conflicts(spec, role) if c.code != "no_effect"] == []


@pytest.mark.parametrize("name", TOOL_TARGETS)
def test_a_target_of_a_tool_plans_a_network_on_its_own_defaults(name: str) -> None:
    plan, facts = mq_models.planned("Ops", QuantConfig(target=name))
    assert mq_models.activations(plan, facts) and mq_models.weights(plan)
    biases = {d.spec.format for d in plan.decisions if d.point.role == "bias" and d.spec is not None}
    assert biases == ({"int32"} if name.startswith("sophgo_") and name != "sophgo_academic" else set())


def transformer_block() -> Any:
    """Returns facts of scores with a mask, and of sums of embeddings."""
    b = Build("Block")
    x = b.input(shape=(-1, 4, 8))
    tokens, places = b.layer("embedding", x, "tokens"), b.layer("embedding", x, "places")
    together = b.op("add", tokens, places)
    q, k = b.layer("linear", together, "q"), b.layer("linear", together, "k")
    scores = b.op("div", b.op("matmul", q, k))
    masked = b.op("add", scores, b.input("mask", shape=(-1, 1, 1, 4)))
    residual = b.op("add", b.op("softmax", masked), together)
    return b.facts(b.layer("linear", b.op("add", residual), "out"))


def wanted(name: str, facts: Any) -> set[str]:
    plan = resolve(QuantConfig(target=name), facts, registry.load("targets", name))
    return {d.point.tensor for d in plan.decisions if d.spec is not None and d.point.role in ("input", "output")}


def test_tensorrt_nlp_skips_masks_sums_of_embeddings_and_numbers() -> None:
    """2: "skips add fed by Embedding and add fed by truediv (mask add) or mul"; x + number asks for nothing."""
    found = wanted("mqbench_tensorrt_nlp", transformer_block())
    assert not found & {"embedding", "embedding_1", "div", "mask"}
    assert found >= {"add", "linear", "linear_1", "softmax", "add_3"}, found
    assert "add_2" not in found, "an addition of a number"


def test_a_product_that_feeds_an_addition_is_not_asked_for() -> None:
    """2: "no quantizer on a mul that feeds an add", on Tensorrt; Tengine merges nothing."""
    b = Build()
    x = b.input()
    y = b.op("add", b.op("mul", x, x), b.layer("conv2d", x, "c"))
    facts = b.facts(b.layer("conv2d", y, "d"))
    assert "mul" not in wanted("mqbench_tensorrt", facts) and "mul" in wanted("mqbench_tengine_u8", facts)


def test_a_layer_written_as_a_function_is_float_and_its_weight_too() -> None:
    """2: "NOT: F.conv2d/F.linear"; 5: a subclass of the user's is traced through."""
    for made_by in ("", "my.Conv"):
        b = Build()
        c = b.layer("conv2d", b.input(), "c", type=made_by or None)
        facts = b.facts(b.layer("conv2d", c, "d"))
        if not made_by:
            origin = replace(facts.node("conv2d").origins[0], module_path="", module_type="")
            nodes = [replace(n, origins=(origin,)) if n.name == "conv2d" else n for n in facts.nodes]
            facts = replace(facts, nodes=tuple(nodes))
        found = wanted("mqbench_tensorrt", facts)
        assert found == {"conv2d"}, "only what the second one reads"
        plan = resolve(QuantConfig(), facts, registry.load("targets", "mqbench_tensorrt"))
        assert plan["c.weight"].spec is None and plan["d.weight"].spec is not None


def test_tengine_quantizes_results_and_openvino_never_does() -> None:
    b = Build()
    facts = b.facts(b.op("softmax", b.layer("linear", b.input(shape=(-1, 16)), "fc", shape=(-1, 5))))
    assert "softmax" in wanted("mqbench_tengine_u8", facts)
    assert wanted("mqbench_openvino", facts) == {"x"}


def test_sophgo_quantizes_an_input_that_nothing_listed_reads() -> None:
    b = Build()
    x = b.input()
    facts = b.facts(b.layer("conv2d", b.op("other", x), "c"), x)
    assert "x" in wanted("sophgo_bm1690", facts) and "x" not in wanted("mqbench_snpe", facts)


def test_first_and_last_layers_keep_eight_bits_and_rules_still_win() -> None:
    four = RoleSpecs.model_validate(
        {"weight": {"format": "int4"}, "activation": {"format": "uint4", "symmetric": False}}
    )
    config = QuantConfig(target="mqbench_academic", default=four)
    plan, facts = mq_models.planned("Nest", config)
    formats = {d.point.name: d.spec.format for d in plan.decisions if d.spec is not None}
    assert formats["layer1.0.weight"] == formats["head.weight"] == "int8" and formats["layer1.2.weight"] == "int4"
    acts = mq_models.activations(plan, facts)
    widths = {name.removesuffix("_post_act_fake_quantizer"): d.spec.format for name, d in acts.items()}
    assert widths == {"x": "uint8", "layer1_1": "uint4", "layer1_2": "uint8"}
    assert any("ends of the network" in str(r.source) for r in plan["head.weight"].reasons["format"])
    rule = Rule(match=Match(name="head"), weight=QuantSpec(format="int2"))
    plan, _ = mq_models.planned("Nest", config.model_copy(update={"rules": (rule,)}))
    assert plan["head.weight"].spec is not None and plan["head.weight"].spec.format == "int2"


def test_input_float32_takes_back_what_an_operation_asks_for_and_nothing_else() -> None:
    rule = Rule(match=Match(name="fx:layer1_2"), input=QuantSpec(format="float32"))
    plan, facts = mq_models.planned("Nest", QuantConfig(target="mqbench_tensorrt", rules=(rule,)))
    names = {name.removesuffix("_post_act_fake_quantizer") for name in mq_models.activations(plan, facts)}
    assert names == {"x", "layer1_2"} and set(mq_models.weights(plan)) == {"layer1.0", "layer1.2", "head"}
    assert not plan.warnings
