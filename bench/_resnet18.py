"""ResNet-18 (He et al., 1512.03385) with random weights whose activations look like those of a trained network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Returns a basic block: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet18(nn.Module):
    """Returns the network for 224 x 224 images and 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        widths, blocks = [64, 64, 128, 256, 512], []
        for before, width in zip(widths, widths[1:], strict=False):
            blocks += [Block(before, width, 1 if before == width else 2), Block(width, width, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def resnet18(seed: int = 0) -> ResNet18:
    """Returns the network in eval mode: He's initial weights, random gains, statistics of one pass over ``images``."""
    torch.manual_seed(seed)
    model = ResNet18()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.2)
            nn.init.normal_(module.bias, -0.1, 0.3)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images(1, 8, seed)[0])
    return model.eval()


def images(batches: int, size: int, seed: int = 1) -> list[Tensor]:
    """Returns batches of smooth random images with the mean and spread that image networks are fed with."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(batches):
        coarse = torch.randn(size, 3, 14, 14, generator=random)
        smooth = nn.functional.interpolate(coarse, size=224, mode="bilinear", align_corners=False)
        made.append((smooth + 0.2 * torch.randn(size, 3, 224, 224, generator=random)).clamp_(-2.1, 2.6))
    return made
