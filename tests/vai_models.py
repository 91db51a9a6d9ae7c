"""The networks, weights and data of the recorded vai_q_pytorch runs (golden file, ``meta.models/fill/data``)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Conv, batch norm, ReLU6, depthwise, hardswish, add, leaky ReLU, concat, global pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(8)
        self.r1 = nn.ReLU6()
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.r2 = nn.ReLU()
        self.c2 = nn.Conv2d(8, 8, 1)
        self.hs = nn.Hardswish()
        self.lr = nn.LeakyReLU(0.1)
        self.p = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.r1(self.b1(self.c1(x)))
        y = self.hs(self.c2(self.r2(self.dw(x))))
        z = torch.cat([self.lr(x + y), y], 1)
        return self.fc(self.p(z).flatten(1))


class Chain(nn.Sequential):
    """Conv, ReLU, depthwise, ReLU, max pool, 1x1 conv."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("a", nn.Conv2d(3, 6, 3))
        self.add_module("ra", nn.ReLU())
        self.add_module("b", nn.Conv2d(6, 6, 3, groups=6))
        self.add_module("rb", nn.ReLU())
        self.add_module("mp", nn.MaxPool2d(2))
        self.add_module("c", nn.Conv2d(6, 4, 1))


SEEDS = {"Net": 0, "Chain": 1}
SHAPES = {"Net": (3, 14, 14), "Chain": (3, 12, 12)}


def build(name: str) -> nn.Module:
    """Returns the named network, in eval mode, with the recorded weights."""
    model = {"Net": Net, "Chain": Chain}[name]().eval()
    rng = np.random.default_rng(SEEDS[name])
    state = model.state_dict()
    for key in sorted(state):
        if key.endswith("num_batches_tracked"):
            continue
        values = rng.standard_normal(tuple(state[key].shape)).astype(np.float32)
        if key.endswith("running_var"):
            values = np.abs(values) + np.float32(0.5)
        elif key.endswith(".weight") and state[key].ndim > 1:
            values = values * np.float32(0.4)
        state[key].copy_(torch.from_numpy(values))
    return model


def data(name: str, batches: int = 4, size: int = 4) -> list[Tensor]:
    """Returns the calibration batches of the named network."""
    shape = SHAPES[name]
    x = np.random.default_rng(11).standard_normal((batches * size, *shape)).astype(np.float32)
    return list(torch.from_numpy(x).split(size))
