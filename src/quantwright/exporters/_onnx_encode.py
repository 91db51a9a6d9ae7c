"""What a quantization point is in the file: storage type, scale, zero point and integers, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from quantwright.config.spec import Granularity, QuantSpec
from quantwright.errors import ExportError
from quantwright.exporters import _onnx_scaled
from quantwright.numerics import affine
from quantwright.numerics.granularity import broadcast, channel_axis, lay_out
from quantwright.numerics.qparams import QParams

_FLOATS = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16, "float32": ir.DataType.FLOAT}
_WIDTHS = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """Returns one point as the file stores it.

    Attributes:
        point: its name. owner: the point whose scale and zero point it uses.
        parameter: the float values of a weight or bias; None for an activation.
        exact: write the rounding of the spec as arithmetic where QuantizeLinear rounds differently.
        shift: what the file's integers and zero point are larger by than the plan's; with it, a signed 8-bit grid is
            stored unsigned. See ``targets.Kernels``.
        clamp_integers: write a grid narrower than its storage as a clamp of integers.
    """

    point: str
    owner: str
    spec: QuantSpec
    qparams: QParams | None
    arithmetic: str = "divide"
    parameter: Tensor | None = None
    exact: bool = False
    shift: int = 0
    clamp_integers: bool = False

    @property
    def granularity(self) -> Granularity:
        """Returns which elements share a scale."""
        return self.spec.granularity or Granularity()

    @property
    def dynamic(self) -> bool:
        """Returns whether the scale comes from each value as it passes."""
        own = self.granularity.kind == "per_token" or (bool(self.spec.dynamic) and self.spec.has_scale)
        return own and self.parameter is None

    @property
    def standard(self) -> bool:
        """Returns whether QuantizeLinear computes exactly what the spec says: half-even division (ONNX, opset 21)."""
        if not self.spec.is_integer or self.dynamic:
            return True
        if self.spec.rounding != "half_even":
            return False
        return self.arithmetic == "divide" or bool((self.factors()[0].log2() % 1 == 0).all())

    @property
    def native(self) -> bool:
        """Returns whether QuantizeLinear has the scaled format and computes exactly what the spec says."""
        if self.dynamic or self.spec.format not in _onnx_scaled.NATIVE or self.spec.rounding != "half_even":
            return False
        return self.arithmetic == "divide" or bool((self.factors()[0].log2() % 1 == 0).all())

    @property
    def as_pair(self) -> bool:
        """Returns whether QuantizeLinear and DequantizeLinear stand for the point, whatever it reads."""
        return self.native if self.spec.is_scaled else not self.dynamic

    @property
    def quantizes_linear(self) -> bool:
        """Returns whether QuantizeLinear writes the point: an activation on an integer grid, not as arithmetic."""
        arithmetic = self.dynamic or (self.exact and not self.standard)
        return self.parameter is None and self.spec.is_integer and not arithmetic

    def storage(self) -> ir.DataType:
        """Returns the narrowest ONNX type that holds the format, or its unsigned sister of the same width.

        Raises:
            ExportError: ONNX has none.
        """
        if self.spec.is_scaled:
            return _onnx_scaled.storage(self.spec, self.parameter is not None)
        if not self.spec.is_integer:
            return _FLOATS[self.spec.format or ""]
        bits, signed = self.spec.bits, self.spec.signed
        if self.parameter is None and bits < 8:
            bits = 8  # a Clip narrows it; ONNX Runtime 1.31 refuses a 4-bit QuantizeLinear behind Clip or Relu
        width = next((w for w in _WIDTHS if bits <= w), 0)
        if width == 32 and (not signed or self.parameter is None or bool(self._qparams.zero_point.any())):
            raise ExportError(
                f"ONNX cannot hold {self.spec.format} here", where=self.point,
                allowed="2 to 16 bits; up to int32 with zero point 0 for weights and biases",
                fix="choose a narrower format for this point",
            )  # fmt: skip
        return ir.DataType[f"{'INT' if signed and not self.shift else 'UINT'}{width}"]

    @property
    def as_values(self) -> bool:
        """Returns whether a parameter is stored as float32 values on its grid: no ONNX type holds its elements."""
        return self.parameter is not None and self.spec.is_scaled and self.storage() == ir.DataType.FLOAT

    def ends(self) -> tuple[int, int]:
        """Returns the lowest and highest integer of the grid, as the file writes them."""
        return self.spec.qmin + self.shift, self.spec.qmax + self.shift

    def narrower(self) -> bool:
        """Returns whether the format's grid is smaller than its storage type, so saturation must be written."""
        if self.spec.is_scaled:
            return False
        bits = self.storage().bitwidth
        full = -(2 ** (bits - 1)) if self.spec.signed else 0
        return self.spec.bits < bits or self.spec.qmin > full

    def factors(self) -> tuple[Tensor, Tensor]:
        """Returns (what x is divided by or multiplied with, step back), float32.

        Shapes:
            both [G].
        """
        return affine.scales(self._qparams, self.granularity, self.arithmetic)

    def axis(self, rank: int) -> int:
        """Returns the axis of per-channel and grouped scales."""
        return channel_axis((1,) * rank, self.granularity)

    def scale(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Returns the scale as ONNX wants it: rank 0, [C], or the tensor's shape with the axis cut into groups.

        The step *back* is written, so that the dequantized values are those of the simulation; under ``divide`` the
        two steps are one.

        Units:
            float per integer step.
        """
        step_G = self.factors()[1]
        if self.spec.is_scaled:
            step_G = step_G * _onnx_scaled.unit(self.spec, self.parameter is not None)
        return self._laid_out(step_G, shape)

    def zero_point(self, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Returns the zero point in the storage type, shaped like the scale."""
        written_G = self._qparams.zero_point + self.shift
        laid: np.ndarray[Any, Any] = self._laid_out(written_G, shape).astype(self.storage().numpy())
        return laid

    def integers(self) -> np.ndarray[Any, Any]:
        """Returns a parameter's integers (or narrow floats) in the storage type."""
        if self.parameter is None:
            raise ExportError("only parameters are stored", where=self.point)
        if self.as_values:
            value = affine.fake_quantize(self.parameter.detach(), self.qparams, self.spec, arithmetic=self.arithmetic)
            return np.asarray(value.float().cpu().numpy())
        q = affine.quantize(self.parameter.detach(), self.qparams, self.spec, arithmetic=self.arithmetic).cpu()
        if self.spec.is_scaled:
            q = q / _onnx_scaled.unit(self.spec, True)
        plain: np.ndarray[Any, Any] = (q.float() if q.is_floating_point() else q).numpy()
        return plain.astype(self.storage().numpy())

    def aligned(self, per_group: Tensor, rank: int) -> np.ndarray[Any, Any]:
        """Returns one float32 per group, rank 0 or shaped to broadcast against an activation of ``rank``."""
        values = per_group.detach().float().cpu()
        if values.numel() == 1:
            return values.reshape(()).numpy()
        shape = tuple(values.numel() if axis == self.axis(rank) else 1 for axis in range(rank))
        return broadcast(values, shape, self.granularity).numpy()

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Returns (qmin - zero_point, qmax - zero_point).

        Shapes:
            both [G], float32.
        """
        zero_G = self._qparams.zero_point.double()
        return (self.spec.qmin - zero_G).float(), (self.spec.qmax - zero_G).float()

    def as_written(self) -> tuple[QParams, QuantSpec]:
        """Returns the QParams and spec of what QuantizeLinear computes with this scale: half-even division."""
        step_G = self.factors()[1]
        return QParams(scale=step_G, zero_point=self._qparams.zero_point), self.spec.model_copy(
            update={"rounding": "half_even"}
        )

    def _laid_out(self, per_group: Tensor, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        values = per_group.detach().cpu()
        if self.granularity.kind == "per_tensor" and values.numel() > 1:
            return values.numpy()  # a derived bias: one scale per output channel
        if values.numel() == 1 and self.granularity.kind != "per_group":
            return values.reshape(()).numpy()
        return np.ascontiguousarray(lay_out(values, shape, self.granularity).numpy())

    @property
    def _qparams(self) -> QParams:
        if self.qparams is None:
            raise ExportError("the point has no scale yet", where=self.point, fix="call calibrate(batches) first")
        return self.qparams


def measured_rounding(encoding: Encoding, x: Tensor) -> tuple[int, int, int]:
    """Returns (values, differing values, largest difference in steps) between the spec's rounding and the file's.

    Shapes:
        x: any; what arrives at the point.
    """
    qparams, spec = encoding.as_written()
    asked = affine.quantize(x, encoding.qparams, encoding.spec, arithmetic=encoding.arithmetic)
    written = affine.quantize(x, qparams, spec)
    gap = (asked - written).abs_()
    return x.numel(), int(torch.count_nonzero(gap)), int(gap.max()) if gap.numel() else 0
