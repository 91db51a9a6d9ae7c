"""The demo network: a small depthwise-separable residual CNN for handwritten digits, with its trained weights.

It has what makes mobile networks awkward to quantize: depthwise convolutions followed by batch normalization (channel
ranges differ widely), ReLU next to ReLU6, a residual sum, a concatenation of two branches, a global average.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("digits.safetensors")


class ConvBlock(nn.Module):
    """Returns convolution, batch normalization and an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, stride: int = 1, act: nn.Module
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns act(bn(conv(x)))."""
        return self.act(self.bn(self.conv(x_BCHW)))


class Separable(nn.Module):
    """Returns a depthwise 3x3 block (ReLU6) followed by a pointwise 1x1 block."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, act: nn.Module) -> None:
        super().__init__()
        self.depthwise = ConvBlock(inputs, inputs, 3, groups=inputs, stride=stride, act=nn.ReLU6())
        self.pointwise = ConvBlock(inputs, outputs, 1, act=act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns pointwise(depthwise(x))."""
        return self.pointwise(self.depthwise(x_BCHW))


class Residual(nn.Module):
    """Returns relu(x + separable(x)); the branch ends without an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = Separable(channels, channels, act=nn.Identity())
        self.relu = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns relu(x + branch(x))."""
        return self.relu(x_BCHW + self.branch(x_BCHW))


class Reduction(nn.Module):
    """Returns half the resolution: a strided separable branch and a max pool of the input, concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = Separable(inputs, outputs - inputs, stride=2, act=nn.ReLU())
        self.pool = nn.MaxPool2d(2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns cat(branch(x), pool(x)) over channels."""
        return torch.cat([self.branch(x_BCHW), self.pool(x_BCHW)], dim=1)


class DigitsNet(nn.Module):
    """Returns ten class scores for 24x24 grey images."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = ConvBlock(1, width, 3, act=nn.ReLU())
        self.reduce1 = Reduction(width, 2 * width)
        self.block1 = Residual(2 * width)
        self.reduce2 = Reduction(2 * width, 4 * width)
        self.block2 = Residual(4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the class scores.

        Shapes:
            images: [B, 1, 24, 24]; result: [B, 10].
        """
        x = self.block1(self.reduce1(self.stem(images)))
        x = self.block2(self.reduce2(x))
        return self.head(self.pool(x).flatten(1))


def digits() -> nn.Module:
    """Returns the trained network in eval mode; train.py wrote the weights."""
    model = DigitsNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
