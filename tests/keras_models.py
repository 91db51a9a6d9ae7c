"""The networks of the recorded vai_q_tensorflow2 runs as torch modules: the same weights (golden file, ``recipe``)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Activation(nn.Module):
    """What Keras makes of ``activation="relu"``: another class of layers than ReLU, which equalization tells apart."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class ModelA(nn.Module):
    """Conv, batch norm, ReLU6, depthwise, addition, max pool, a batch norm behind nothing it folds into, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, eps=1e-3)
        self.r1 = nn.ReLU6()
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.r2 = nn.ReLU6()
        self.pw = nn.Conv2d(8, 8, 1)
        self.pw_relu = Activation()
        self.mp = nn.MaxPool2d(2)
        self.bn2 = nn.BatchNorm2d(8, eps=1e-3)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 10)
        self.sm = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        r1 = self.r1(self.bn1(self.c1(x)))
        pw = self.pw_relu(self.pw(self.r2(self.dw(r1))))
        return self.sm(self.fc(self.gap(self.bn2(self.mp(r1 + pw))).flatten(1)))


class ModelB(nn.Module):
    """Concat, leaky ReLU, sigmoid, swish, average pool, upsampling, transposed convolution, padding, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.ca = nn.Conv2d(3, 6, 3, padding=1)
        self.lr = nn.LeakyReLU(0.1)
        self.cb = nn.Conv2d(3, 6, 1)
        self.cb_sigmoid = nn.Sigmoid()
        self.ap = nn.AvgPool2d(3)
        self.cs = nn.Conv2d(12, 12, 3, padding=1)
        self.cs_swish = nn.SiLU()
        self.up = nn.Upsample(scale_factor=2)
        self.ct = nn.ConvTranspose2d(12, 5, 2, stride=2)
        self.ct_relu = Activation()
        self.zp = nn.ZeroPad2d(1)
        self.ce = nn.Conv2d(5, 4, 3, stride=2)
        self.ce_relu = Activation()
        self.fc = nn.Linear(256, 6)

    def forward(self, x: Tensor) -> Tensor:
        cat = torch.cat([self.lr(self.ca(x)), self.cb_sigmoid(self.cb(x))], 1)
        ap = self.ap(cat)
        add = ap + self.cs_swish(self.cs(ap))
        ct = self.ct_relu(self.ct(self.up(add)))
        return self.fc(self.ce_relu(self.ce(self.zp(ct))).flatten(1))


class ModelC(nn.Module):
    """A chain of convolutions whose channels have very different ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.r1 = nn.ReLU()
        self.d1 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.r2 = nn.ReLU()
        self.c2 = nn.Conv2d(8, 8, 1)
        self.c2_relu = Activation()
        self.c3 = nn.Conv2d(8, 6, 3)
        self.c4 = nn.Conv2d(6, 4, 1)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.r2(self.d1(self.r1(self.c1(x))))
        return self.gap(self.c4(self.c3(self.c2_relu(self.c2(x))))).flatten(1)


MODELS = {"A": ModelA, "B": ModelB, "C": ModelC}
SHAPES = {"A": (16, 16, 3), "B": (12, 12, 3), "C": (10, 10, 3)}


def build(name: str, order: list[str]) -> nn.Module:
    """Returns a network in eval mode with the recorded weights; ``order`` is that of the Keras model's layers."""
    model = MODELS[name]().eval()
    for number, layer in enumerate(order):
        module = getattr(model, layer, None)
        rng = np.random.RandomState(1000 + number)
        if isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            values = (rng.uniform(0.5, 1.5, n), rng.randn(n) * 0.1, rng.randn(n) * 0.1, rng.uniform(0.5, 1.5, n))
            for target, value in zip((module.weight, module.bias, module.running_mean, module.running_var), values):
                target.data.copy_(torch.from_numpy(value.astype(np.float32)))
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            _fill(module, rng, chained=name == "C", flat=name == "B" and layer == "fc")
    return model


def _fill(module: nn.Module, rng: np.random.RandomState, *, chained: bool, flat: bool) -> None:
    """Fills kernel and bias; kernels are drawn in Keras's layout and permuted."""
    shape, axes = _keras(module)
    kernel = rng.randn(*shape) * math.sqrt(2 / math.prod(shape[:-1]))
    if chained and len(shape) == 4:
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        axis = -2 if depthwise else -1
        factors = np.logspace(-1.5, 1, shape[axis])
        kernel = kernel * (factors[:, None] if depthwise else factors)
    if flat:  # the flattened order is HWC in Keras and CHW here
        kernel = kernel.reshape(8, 8, 4, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    module.weight.data.copy_(torch.from_numpy(kernel.transpose(axes).astype(np.float32)))
    if module.bias is not None:
        module.bias.data.copy_(torch.from_numpy((rng.randn(module.bias.numel()) * 0.1).astype(np.float32)))


def _keras(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shape of a kernel in Keras and the permutation to torch's layout."""
    if isinstance(module, nn.Linear):
        return (module.in_features, module.out_features), (1, 0)
    size = tuple(module.kernel_size)
    if isinstance(module, nn.ConvTranspose2d):  # HW, out, in -> in, out, HW
        return (*size, module.out_channels, module.in_channels), (3, 2, 0, 1)
    if module.groups > 1:  # HW, channels, multiplier -> channels, multiplier, HW
        return (*size, module.in_channels, 1), (2, 3, 0, 1)
    return (*size, module.in_channels, module.out_channels), (3, 2, 0, 1)


def batches(name: str) -> list[Tensor]:
    """Returns the three calibration batches."""
    x = np.random.RandomState(7).randn(30, *SHAPES[name]).astype(np.float32)
    return list(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().split(10))
