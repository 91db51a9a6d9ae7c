"""The networks of MQBench's and sophgo-mq's recorded numbers, and the names their quantizers would have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.graph.capture import capture
from quantwright.plan.facts import ModelFacts
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve

_FUSING = ("conv1d", "conv2d", "conv3d", "depthwise_conv2d", "conv_transpose2d", "linear", "batch_norm")


class BasicBlock(nn.Module):
    """Returns ResNet's basic block with the module names of torchvision."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """Returns ResNet-18 with the module names of torchvision; narrow, for names do not depend on widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [8, 8, 12, 16, 20]
        for index in range(4):
            before, width = widths[index], widths[index + 1]
            blocks = nn.Sequential(BasicBlock(before, width, 1 if index == 0 else 2), BasicBlock(width, width, 1))
            setattr(self, f"layer{index + 1}", blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Ops(nn.Module):
    """Returns the network of the case ``Ops``: an addition, a product with a number, a concat and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.r = nn.ReLU()
        self.c2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.r(self.bn(self.c1(x)))
        z = (y + self.c2(y)) * 0.5
        return self.fc(torch.flatten(self.pool(F.relu(torch.cat([y, z], 1))), 1))


class Shared(nn.Module):
    """Returns the network of the case ``Shared``: one convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.c(x))


class Deconv(nn.Module):
    """Returns the network of the case ``Deconv``: transposed convolutions, the first with batch norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 4, 3, padding=1)
        self.d = nn.ConvTranspose2d(4, 4, 2, 2)
        self.bn = nn.BatchNorm2d(4)
        self.r = nn.ReLU()
        self.d2 = nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.d2(self.r(self.bn(self.d(self.c(x)))))


class LinBn(nn.Module):
    """Returns the network of the case ``LinBn``: a linear layer with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.fc(x))


class Nest(nn.Module):
    """Returns the network of the case ``Nest``: layers inside a container, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer1(x))


class FMod(nn.Module):
    """Returns the network of the case ``FMod``: a convolution written as a function, and an interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.c = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(F.conv2d(x, self.w, padding=1), scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.c(y))


class Dyn(nn.Module):
    """Returns the network of the case ``Dyn``: a flag decides what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, flag: bool = False) -> Tensor:
        return torch.relu(self.c(x)) if flag else self.c(x)


class SmallNet(nn.Module):
    """Returns the network of the whole runs (``end_to_end_smallnet``), with their weights (``recipe``)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.bn1(self.conv1(x)))
        b = self.bn2(self.conv2(a))
        return self.fc(torch.flatten(self.pool(self.relu(a + b)), 1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet18": (ResNet18, (1, 3, 64, 64)),
    "Ops": (Ops, (2, 3, 8, 8)),
    "Shared": (Shared, (2, 3, 8, 8)),
    "Deconv": (Deconv, (2, 3, 8, 8)),
    "LinBn": (LinBn, (2, 6)),
    "Nest": (Nest, (2, 3, 8, 8)),
    "err": (Nest, (2, 3, 8, 8)),
    "FMod": (FMod, (2, 3, 8, 8)),
    "Dyn": (Dyn, (2, 3, 8, 8)),
    "SmallNet": (SmallNet, (4, 3, 8, 8)),
}
_FACTS: dict[tuple[str, str], ModelFacts] = {}


def facts_of(model: str, config: QuantConfig) -> ModelFacts:
    """Returns the facts of a network after the passes of a configuration and its target."""
    target = registry.load("targets", config.target or "generic")
    steps = target.optimize if config.optimize is None else config.optimize
    key = (model, str(steps))
    if key not in _FACTS:
        torch.manual_seed(0)
        make, shape = MODELS[model]
        graph = capture(make().eval(), torch.randn(shape))
        for step in steps:
            registry.load("passes", step.name)(graph, **step.params)
        _FACTS[key] = graph.facts()
    return _FACTS[key]


def planned(model: str, config: QuantConfig) -> tuple[Plan, ModelFacts]:
    """Returns the plan of a network, and its facts."""
    facts = facts_of(model, config)
    return resolve(config, facts, registry.load("targets", config.target or "generic")), facts


def activations(plan: Plan, facts: ModelFacts) -> dict[str, Any]:
    """Returns the activation quantizers a plan inserts, under the names the tools give theirs -> decision.

    A quantizer stands behind the node it is named after; of a layer fused with batch norm and ReLU that is the layer.
    One on a single edge is called after the operation that reads it.
    """
    inside = {d.point.tensor for d in plan.decisions if d.why_float.startswith("computed together")}
    found = {}
    for decision in plan.decisions:
        point = decision.point
        if decision.spec is None or decision.redundant or point.role in ("weight", "bias"):
            continue
        if point.consumers:
            found[f"{_fx(facts, point.consumers[0])}_input_act_fake_quantizer"] = decision
            continue
        node = facts.node(point.tensor)
        if node.kind == "relu" and node.inputs[0] in inside and facts.node(node.inputs[0]).kind in _FUSING:
            node = facts.node(node.inputs[0])
        found[f"{_fx(facts, node.name)}_post_act_fake_quantizer"] = decision
    return found


def weights(plan: Plan) -> dict[str, Any]:
    """Returns the weight quantizers of a plan: module path -> decision."""
    quantized = [d for d in plan.decisions if d.spec is not None and d.point.role == "weight"]
    return {d.point.tensor.removesuffix(".weight"): d for d in quantized if d.spec.format != "float32"}


def _fx(facts: ModelFacts, name: str) -> str:
    node = facts.node(name)
    return (node.origins[0].fx_name if node.origins else "") or node.name


def recorded_input(recipe: dict[str, Any]) -> Tensor:
    """Returns the tensor of an ``input_recipe``."""
    import numpy as np

    x = np.random.default_rng(recipe["seed"]).standard_normal(recipe["shape"], dtype=np.float32)
    x = (x * np.float32(recipe.get("a", 1)) + np.float32(recipe.get("b", 0))).astype(np.float32)
    return torch.from_numpy(np.maximum(x, 0) if recipe.get("f") == "relu" else x)
