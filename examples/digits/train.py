"""Trains the demo network from scratch and writes digits.safetensors: about half a minute on two cores.

``python examples/digits/train.py``
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from data import images
from model import WEIGHTS, DigitsNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F


def augment(x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images turned by up to 12 degrees, scaled by up to 10 % and moved by up to 2 pixels, at random."""
    count = len(x_BCHW)
    angle, zoom, dx, dy = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, zoom = angle * math.radians(12), 1 + 0.1 * zoom
    cos, sin, shift = zoom * angle.cos(), zoom * angle.sin(), 2 * 2 / x_BCHW.shape[-1]
    theta = torch.stack([torch.stack([cos, -sin, dx * shift], 1), torch.stack([sin, cos, dy * shift], 1)], 1)
    grid = F.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid, padding_mode="border", align_corners=False)


def accuracy(model: nn.Module, part: str) -> float:
    """Returns the fraction of correct answers on a part of the data."""
    x_BCHW, labels_B = images(part)
    with torch.no_grad():
        return float((model.eval()(x_BCHW).argmax(1) == labels_B).double().mean())


def train(epochs: int, seed: int) -> nn.Module:
    """Returns the trained network; the same arguments give the same weights on one machine."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitsNet()
    x_BCHW, labels_B = images("train")
    steps = math.ceil(len(x_BCHW) / 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * steps)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(x_BCHW), generator=generator).split(64):
            loss = F.cross_entropy(model(augment(x_BCHW[chosen], generator)), labels_B[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        if epoch % 10 == 9:
            held_out = accuracy(model, "calibration")
            print(f"epoch {epoch + 1:3d}  loss {total / len(x_BCHW):.4f}  accuracy on held-out images {held_out:.4f}")
    return model.eval()


def main() -> None:
    """Trains, prints the test accuracy and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    model = train(args.epochs, args.seed)
    print(f"test accuracy {accuracy(model, 'test'):.4f}")
    save_file(model.state_dict(), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
