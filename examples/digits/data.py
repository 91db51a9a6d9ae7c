"""The demo data: scikit-learn's 1,797 handwritten digits, 8x8 pixels scaled up to 24x24, in a fixed split."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

SIZE = 24
TEST, CALIBRATION = 500, 256  # the rest trains


def images(part: str) -> tuple[Tensor, Tensor]:
    """Returns (images, labels) of ``train``, ``calibration`` or ``test``.

    Shapes:
        images: [B, 1, 24, 24], about zero mean and unit spread; labels: [B].
    """
    pixels, labels = load_digits(return_X_y=True)  # 0..16
    order = np.random.default_rng(2024).permutation(len(pixels))
    cut = {"test": (0, TEST), "calibration": (TEST, TEST + CALIBRATION), "train": (TEST + CALIBRATION, len(pixels))}
    chosen = order[slice(*cut[part])]
    x_BCHW = torch.from_numpy(pixels[chosen]).float().reshape(-1, 1, 8, 8)
    x_BCHW = F.interpolate(x_BCHW / 16, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return (x_BCHW - 0.3) / 0.35, torch.from_numpy(labels[chosen]).long()


def batches(part: str, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Returns the (inputs, labels) batches of a part, in the split's order."""
    x_BCHW, labels_B = images(part)
    return list(zip(x_BCHW.split(size), labels_B.split(size), strict=True))


def calibration() -> list[tuple[Tensor, Tensor]]:
    """Returns 256 images that neither trained nor test the network, in batches of 32."""
    return batches("calibration")


def test() -> list[tuple[Tensor, Tensor]]:
    """Returns the 500 test images in batches of 100."""
    return batches("test", 100)
