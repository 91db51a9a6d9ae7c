"""The networks of the recorded adjustments of vai_q_tensorflow2, and models whose positions a test chooses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.config.spec import Role
from quantwright.data import Batch
from quantwright.graph.capture import capture
from quantwright.numerics.qparams import QParams
from quantwright.plan.resolve import resolve
from quantwright.prepare import PreparedModel
from quantwright.targets import Target


class Add(nn.Module):
    """x + y, with a name of its own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Multiply(nn.Module):
    """x * y, with a name of its own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class Concatenate(nn.Module):
    """x and y side by side, with a name of its own."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


class A(nn.Module):
    """Residual, depthwise, max pool, a batch norm turned depthwise, global pool, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.r1 = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()
        self.dw, self.r2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6()
        self.pw, self.pw_relu = nn.Conv2d(8, 8, 1), nn.ReLU()
        self.add, self.mp = Add(), nn.MaxPool2d(2)
        self.bn2 = nn.Conv2d(8, 8, 1, groups=8)
        self.gap, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
        self.sm = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.r1(self.c1(x))
        z = self.pw_relu(self.pw(self.r2(self.dw(y))))
        pooled = self.gap(self.bn2(self.mp(self.add(y, z))))
        return self.sm(self.fc(pooled.flatten(1)))


class B(nn.Module):
    """Leaky ReLU, hard sigmoid, concat, average pool, swish, upsampling, transposed convolution, padding."""

    def __init__(self) -> None:
        super().__init__()
        self.ca, self.lr = nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.1)
        self.cb, self.cb_sigmoid = nn.Conv2d(3, 6, 1), nn.Hardsigmoid()
        self.cat, self.ap = Concatenate(), nn.AvgPool2d(3)
        self.cs, self.cs_swish, self.cs_swish_mul = nn.Conv2d(12, 12, 3, padding=1), nn.Hardsigmoid(), Multiply()
        self.add, self.up = Add(), nn.Upsample(scale_factor=2)
        self.ct, self.ct_relu = nn.ConvTranspose2d(12, 5, 2, stride=2), nn.ReLU()
        self.zp, self.ce, self.ce_relu = nn.ZeroPad2d(1), nn.Conv2d(5, 4, 3, stride=2), nn.ReLU()
        self.fc = nn.Linear(256, 6)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.ap(self.cat(self.lr(self.ca(x)), self.cb_sigmoid(self.cb(x))))
        y = self.cs(pooled)
        y = self.up(self.add(pooled, self.cs_swish_mul(y, self.cs_swish(y))))
        y = self.ce_relu(self.ce(self.zp(self.ct_relu(self.ct(y)))))
        return self.fc(y.flatten(1))


SHAPES = {"A": (2, 3, 16, 16), "B": (2, 3, 12, 12)}


def prepared_of(
    model: nn.Module, x: Tensor, positions: Mapping[str, int] | None = None, *, target: Target | str = "dpu",
    bits: Mapping[Role, int] | None = None,
) -> PreparedModel:  # fmt: skip
    """Returns the model with quantizers; points that ``positions`` does not name are at 5."""
    chosen: Target = registry.load("targets", target) if isinstance(target, str) else target
    graph = capture(model.eval(), (x,))
    widths = {role: {"format": f"int{width}"} for role, width in (bits or {}).items()}
    config = QuantConfig.model_validate({"default": widths})
    plan = resolve(config, graph.facts(), chosen)
    prepared = PreparedModel(graph, plan, config, chosen, Batch(args=(x,)), [])
    put(prepared, positions or {})
    return prepared


def put(prepared: PreparedModel, positions: Mapping[str, int]) -> None:
    """Gives every point a position, 5 where none is named."""
    for name, quantizer in prepared.quantizers.items():
        scale = torch.tensor([2.0 ** -positions.get(name, 5)], dtype=torch.float64)
        quantizer.qparams = QParams(scale=scale, zero_point=torch.zeros(1, dtype=torch.int32))
    prepared.link()
    prepared.set_mode("quantize")


def positions_of(prepared: PreparedModel) -> dict[str, int]:
    """Returns the position of every point."""
    found = {}
    for name, quantizer in prepared.quantizers.items():
        assert quantizer.qparams is not None
        found[name] = round(-float(torch.log2(quantizer.qparams.scale)))
    return found


def point_of(recorded: str) -> str:
    """Returns our point for a recorded quantizer: ``dw|dw/depthwise_kernel:0`` -> ``dw.weight``."""
    layer, _, what = recorded.partition("|")
    if what == "input":
        return "x:input"
    if what.endswith("kernel:0"):
        return f"{layer}.weight"
    return f"{layer}.bias" if what.endswith("bias:0") else f"{layer}:output"
