"""The plan on facts of really captured networks: the recorded placement, and networks of every sort."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.graph.capture import capture
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve
from quantwright.plan.values import FUSED

#: targets that place quantizers as another tool does, which leaves out what that tool leaves out
OF_TOOLS = ("mqbench_", "sophgo_", "quark_", "vitis_keras_")
TARGETS = registry.names("targets")


class Net(nn.Module):
    """``Net`` of vai_q_pytorch.json, ``meta.models``."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b1, self.r1 = nn.BatchNorm2d(8), nn.ReLU6()
        self.dw, self.r2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
        self.c2, self.hs = nn.Conv2d(8, 8, 1), nn.Hardswish()
        self.lr, self.p, self.fc = nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.r1(self.b1(self.c1(x)))
        y = self.hs(self.c2(self.r2(self.dw(x))))
        z = torch.cat([self.lr(x + y), y], 1)
        return self.fc(self.p(z).flatten(1))


def facts_of(model: nn.Module, x: Any, *passes: str) -> ModelFacts:
    graph = capture(model, x)
    for name in passes:
        registry.load("passes", name)(graph)
    return graph.facts()


def own(p: Plan) -> list[str]:
    found = (d for d in p.quantized() if d.point.role in ("input", "output") and d.relation is None)
    return [re.sub(r":\w+$", "", d.point.name) for d in found]


def test_net_is_placed_as_recorded(vai: Any) -> None:
    facts = facts_of(Net(), torch.randn(2, 3, 14, 14), "fold_batchnorm")
    p = resolve(QuantConfig(), facts, registry.load("targets", "dpu"))
    recorded = vai["e2e"]["net_default_nocle_nobc"]["quant_info"]
    assert own(p) == ["x", "r1", "r2", "c2", "hs", "cat", "p", "fc"]
    assert len(own(p)) == len(recorded["output"])
    params = {d.point.name for d in p.quantized() if d.point.role in ("weight", "bias")}
    assert params == {name.partition("::")[2] for name in recorded["param"]}


def test_a_folded_batch_norm_still_answers_to_its_rules() -> None:
    facts = facts_of(Net(), torch.randn(2, 3, 14, 14), "fold_batchnorm")
    config = {"rules": [{"match": {"type": "torch.nn.BatchNorm2d"}, "weight": {"format": "int4"}}]}
    p = resolve(QuantConfig.model_validate(config), facts, registry.load("targets", "generic"))
    assert {d.point.name for d in p.quantized() if d.spec is not None and d.spec.format == "int4"} == {"c1.weight"}


class Several(nn.Module):
    """Chunks, reused and tied modules, a functional clamp, two inputs and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Linear(8, 8), nn.ReLU()
        self.tied = self.a
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        one, two = self.act(self.a(x)).chunk(2, dim=-1)
        z = self.act(self.tied(torch.cat([one, two], -1))).clamp(max=1)
        return z, self.up(nn.functional.pad(y, (1, 1)))


MODELS = {
    "several": lambda: (Several(), (torch.randn(2, 8), torch.randn(2, 4, 4, 4))),
    "transformer": lambda: (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.randn(2, 5, 16)),
    "lstm": lambda: (nn.LSTM(4, 8, batch_first=True), torch.randn(2, 3, 4)),
    "norms": lambda: (
        nn.Sequential(nn.Conv1d(4, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv1d(4, 2, 1), nn.Softmax(1)),
        torch.randn(2, 4, 9),
    ),
    "three": lambda: (
        nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(2), nn.Upsample(scale_factor=2)),
        torch.randn(2, 1, 6, 6, 6),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_float_tensor_of_a_captured_network_is_decided(name: str, target: str) -> None:
    model, x = MODELS[name]()
    graph = capture(model, x)
    facts, device = graph.facts(), registry.load("targets", target)
    p = resolve(QuantConfig(), facts, device)
    decided = {d.point.tensor: d for d in p.decisions}
    own = {parameter.name for n in facts.nodes for parameter in (n.weight, n.bias) if parameter is not None}
    parameters = own | {constant.name for n in facts.nodes for constant in n.constants}
    assert {n.name for n in facts.nodes if n.is_float and n.kind != "output"} | parameters == set(decided)
    assert all((d.spec is None) == bool(d.why_float) for d in p.decisions)
    assert all(d.point.role in ("weight", "bias") or graph.node(d.point.tensor) is not None for d in p.decisions)
    for node in facts.nodes:
        if device.handling(node.kind) == "compute" and not target.startswith(OF_TOOLS):
            assert all(decided[source].spec is not None for source in node.inputs), node.name
            if node.weight is not None and node.kind in device.parameters:
                assert decided[node.weight.name].spec is not None, node.name


def test_tied_modules_are_excluded_under_either_name() -> None:
    facts = facts_of(*MODELS["several"]())
    for name in ("a", "tied"):
        config = QuantConfig.model_validate({"rules": [{"match": {"name": name}, "exclude": True}]})
        p = resolve(config, facts, registry.load("targets", "generic"))
        assert p["a.weight"].spec is None and "excluded by rule 1" in p["a.weight"].why_float


def test_reused_modules_have_points_of_their_own() -> None:
    p = resolve(QuantConfig(), facts_of(*MODELS["several"]()), registry.load("targets", "generic"))
    names = [d.point.name for d in p.decisions]
    assert len(names) == len(set(names))
    assert {"act/relu:output", "act/relu_1:output"} <= set(names)
    assert "up.bias" in names and p["up.bias"].spec is None  # grouped transposed: fewer scales than channels


REAL = {
    "resnet20": (2, 3, 32, 32),
    "resnet8": (2, 3, 32, 32),
    "squeezenet": (2, 3, 64, 64),
}


@pytest.mark.parametrize("name", REAL)
def test_trained_networks_are_quantized_from_end_to_end(name: str, dev_models: Any) -> None:
    facts = facts_of(getattr(dev_models, name)(), torch.randn(*REAL[name]), "fold_batchnorm")
    for target in (name for name in TARGETS if not name.startswith(OF_TOOLS)):
        p = resolve(QuantConfig(), facts, registry.load("targets", target))
        assert all(d.spec is not None for d in p.decisions if d.point.role in ("weight", "bias")), target
        left = {d.point.name: d.why_float for d in p.decisions if not (d.spec or d.why_float.startswith(FUSED))}
        assert all(why.startswith("a result of the network") for why in left.values()), (target, left)
        assert len(left) <= 1, (target, left)


def test_a_language_model_says_why_each_part_is_float(dev_models: Any) -> None:
    facts = facts_of(dev_models.gpt(), torch.randint(0, 256, (2, 16)))
    p = resolve(QuantConfig(), facts, registry.load("targets", "generic"))
    weights = {n.weight.name for n in facts.nodes if n.kind in ("linear", "embedding") and n.weight is not None}
    assert weights and all(p[name].spec is not None for name in weights)
    reasons = {d.why_float for d in p.decisions if d.spec is None}
    assert any("normalization written by hand" in why or "rms_norm is computed in float" in why for why in reasons)
