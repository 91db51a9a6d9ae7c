"""Applies fixed QParams in forward; a fixed weight is fake-quantized once, not on every forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from quantwright.config.spec import QuantSpec
from quantwright.errors import StateError
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import ends, group_view
from quantwright.numerics.qparams import QParams
from quantwright.plan.plan import Point

Mode = Literal["float", "observe", "quantize"]


class Quantizer(nn.Module):
    """Returns the module at one quantization point.

    Attributes:
        point: which point of the plan.
        spec: its complete spec.
        mode: ``float`` passes values through, ``observe`` hands them to ``watch`` and passes on what that returns,
            ``quantize`` applies the QParams.
        watch: what calibration wants done with a value while it observes.
        arithmetic: ``divide`` or ``reciprocal``; see ``targets.Arithmetic``.
    """

    scale: Tensor | None
    zero_point: Tensor | None
    super_scale: Tensor | None

    def __init__(self, point: Point, spec: QuantSpec, arithmetic: Literal["divide", "reciprocal"] = "divide") -> None:
        super().__init__()
        self.point = point
        self.spec = spec
        self.arithmetic = arithmetic
        self.mode: Mode = "float"
        self.watch: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)
        self.register_buffer("super_scale", None)
        self._fixed = point.role in ("weight", "bias")
        self._cached: tuple[Tensor, tuple[int, int], Tensor] | None = None

    @property
    def dynamic(self) -> bool:
        """Returns whether the range is taken from each value as it passes: per token, or where the spec says so."""
        if self._fixed:
            return False
        g = self.spec.granularity
        return (g is not None and g.kind == "per_token") or (bool(self.spec.dynamic) and self.spec.has_scale)

    @property
    def ready(self) -> bool:
        """Returns whether the quantizer can quantize: it has QParams or needs none."""
        return self.scale is not None or self.dynamic or not self.spec.has_scale

    @property
    def qparams(self) -> QParams | None:
        """Returns the QParams, or None before calibration."""
        if self.scale is None or self.zero_point is None:
            return None
        return QParams(scale=self.scale, zero_point=self.zero_point, super_scale=self.super_scale)

    @qparams.setter
    def qparams(self, value: QParams | None) -> None:
        self.scale = None if value is None else value.scale
        self.zero_point = None if value is None else value.zero_point
        self.super_scale = None if value is None else value.super_scale
        self._cached = None

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` passed through, watched, or fake-quantized, by ``mode``.

        Shapes:
            x: any; the result has the same shape and dtype.
        """
        if self.mode == "float":
            return x
        if self.mode == "observe":
            return self.watch(x) if self.watch is not None else x
        if not self._fixed or (torch.is_grad_enabled() and x.requires_grad):
            return self.apply_qparams(x)
        now = (x._version, x.data_ptr())  # changed in place, or moved to another device or dtype
        if self._cached is None or self._cached[0] is not x or self._cached[1] != now:
            self._cached = (x, now, self.apply_qparams(x))
        return self._cached[2]

    def apply_qparams(self, x: Tensor) -> Tensor:
        """Returns ``x`` rounded to the grid of the current QParams."""
        if not self.ready:
            raise StateError(
                f"point '{self.point.name}' has no QParams yet",
                fix="call calibrate(batches) before quantized inference",
            )
        qparams = self.qparams
        if self.dynamic:
            qparams = own_qparams(x, self.spec)
        return affine.fake_quantize(x, qparams, self.spec, arithmetic=self.arithmetic)

    def extra_repr(self) -> str:
        """Returns the point, format and mode."""
        return f"{self.point.name}, {self.spec.format}, {self.mode}"


def own_qparams(x: Tensor, spec: QuantSpec) -> QParams:
    """Returns the QParams of each token or group of ``x``: of its own smallest and largest value.

    Shapes:
        x: any; one group per position of the leading axes (per_token), or what the granularity says.
    """
    assert spec.granularity is not None  # specs of a plan are complete
    x_GN = group_view(x.detach(), spec.granularity)
    low_G, high_G = ends(x_GN)
    return choose_qparams(low_G.double(), high_G.double(), spec)


plugin = Quantizer
