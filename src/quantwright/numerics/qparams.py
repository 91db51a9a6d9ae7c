"""QParams: what was measured. Scale and zero point of one quantization point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class QParams:
    """Returns scale and zero point per group; a scaled format has zero points 0.

    Shapes:
        scale: [G], float64 or float32. zero_point: [G], int32. super_scale: [] or None (two-level scales).
    Units:
        scale: float per integer step.
    """

    scale: Tensor
    zero_point: Tensor
    super_scale: Tensor | None = None

    @property
    def whole_scale(self) -> Tensor:
        """Returns the scale that counts: ``scale``, times ``super_scale`` where there are two levels.

        Shapes:
            [G].
        """
        return self.scale if self.super_scale is None else self.scale * self.super_scale

    def to_dict(self) -> dict[str, Tensor]:
        """Returns the tensors there are, by field name."""
        parts = {"scale": self.scale, "zero_point": self.zero_point, "super_scale": self.super_scale}
        return {name: value for name, value in parts.items() if value is not None}

    def to(self, device: torch.device | str) -> QParams:
        """Returns the same numbers on another device."""
        return QParams(
            scale=self.scale.to(device),
            zero_point=self.zero_point.to(device),
            super_scale=None if self.super_scale is None else self.super_scale.to(device),
        )
