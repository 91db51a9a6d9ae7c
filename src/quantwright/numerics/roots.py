"""Square roots that are the same on every machine: torch's in float32 are off by one in the last place on some CPUs."""

from __future__ import annotations

import torch
from torch import Tensor


def sqrt(x: Tensor) -> Tensor:
    """Returns the square root rounded once to the dtype of ``x``: float64 has digits enough to round a float32 from.

    Shapes:
        x: any floating point tensor; the result has the same shape.
    """
    return torch.sqrt(x.double()).to(x.dtype)
