"""The convenience specs of float and block formats, casts and two stages (spec quark 1.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantwright.compat.quark.torch.quantization.config import _specs as base
from quantwright.compat.quark.torch.quantization.config._tensor import QTensorConfig
from quantwright.compat.quark.torch.quantization.config.type import Dtype
from quantwright.compat.quark.torch.quantization.observer import observer as seen

__all__ = [
    "AmdFP4Spec",
    "BFP16Spec",
    "Bfloat16Spec",
    "FP4PerGroupSpec",
    "FP6E2M3PerGroupSpec",
    "FP6E3M2PerGroupSpec",
    "FP8E4M3PerChannelSpec",
    "FP8E4M3PerGroupSpec",
    "FP8E4M3PerTensorSpec",
    "FP8E5M2PerChannelSpec",
    "FP8E5M2PerGroupSpec",
    "FP8E5M2PerTensorSpec",
    "FP8E5M3PerTensorSpec",
    "Float16Spec",
    "MX6Spec",
    "MX9Spec",
    "MXSpec",
    "OCP_MXFP4DiffsSpec",
    "OCP_MXFP4Spec",
    "OCP_MXFP6E2M3Spec",
    "OCP_MXFP6E3M2Spec",
    "OCP_MXFP8E4M3Spec",
    "OCP_MXFP8E5M2Spec",
    "OCP_MXINT8Spec",
    "ProgressiveSpec",
    "ScaleQuantSpec",
]


@dataclass
class FP8E4M3PerTensorSpec(base._FloatPerTensor):
    """Returns fp8_e4m3, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e4m3


@dataclass
class FP8E5M2PerTensorSpec(base._FloatPerTensor):
    """Returns fp8_e5m2, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e5m2


@dataclass
class FP8E5M3PerTensorSpec(base._FloatPerTensor):
    """Returns fp8_e5m3, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e5m3


@dataclass
class FP8E4M3PerChannelSpec(base._FloatPerChannel):
    """Returns fp8_e4m3, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e4m3


@dataclass
class FP8E5M2PerChannelSpec(base._FloatPerChannel):
    """Returns fp8_e5m2, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e5m2


@dataclass
class FP8E4M3PerGroupSpec(base._FloatPerGroup):
    """Returns fp8_e4m3, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e4m3


@dataclass
class FP8E5M2PerGroupSpec(base._FloatPerGroup):
    """Returns fp8_e5m2, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e5m2


@dataclass
class FP6E3M2PerGroupSpec(base._FloatPerGroup):
    """Returns fp6_e3m2, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.fp6_e3m2


@dataclass
class FP6E2M3PerGroupSpec(base._FloatPerGroup):
    """Returns fp6_e2m3, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.fp6_e2m3


@dataclass
class FP4PerGroupSpec(base._FloatPerGroup):
    """Returns fp4, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.fp4


@dataclass
class OCP_MXFP8E4M3Spec(base._OcpMx):
    """Returns fp8_e4m3 in blocks of 32 with a shared exponent (OCP MX)."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e4m3


@dataclass
class OCP_MXFP8E5M2Spec(base._OcpMx):
    """Returns fp8_e5m2 in blocks of 32 with a shared exponent (OCP MX)."""

    dtype: ClassVar[Dtype] = Dtype.fp8_e5m2


@dataclass
class OCP_MXFP6E3M2Spec(base._OcpMx):
    """Returns fp6_e3m2 in blocks of 32 with a shared exponent (OCP MX)."""

    dtype: ClassVar[Dtype] = Dtype.fp6_e3m2


@dataclass
class OCP_MXFP6E2M3Spec(base._OcpMx):
    """Returns fp6_e2m3 in blocks of 32 with a shared exponent (OCP MX)."""

    dtype: ClassVar[Dtype] = Dtype.fp6_e2m3


@dataclass
class OCP_MXFP4Spec(base._OcpMx):
    """Returns fp4 in blocks of 32 with a shared exponent (OCP MX)."""

    dtype: ClassVar[Dtype] = Dtype.fp4


@dataclass
class OCP_MXFP4DiffsSpec(base._OcpMx):
    """Returns fp4 in blocks of 32, the better of two exponents."""

    dtype: ClassVar[Dtype] = Dtype.fp4
    marker: ClassVar[type[seen.ObserverBase]] = seen.PerBlockMXDiffsObserver
    is_dynamic: bool | None = False


@dataclass
class MX6Spec(base._Block):
    """Returns mx6: blocks with a shared exponent and shifts inside."""

    dtype: ClassVar[Dtype] = Dtype.mx6


@dataclass
class MX9Spec(base._Block):
    """Returns mx9: blocks with a shared exponent and shifts inside."""

    dtype: ClassVar[Dtype] = Dtype.mx9


@dataclass
class BFP16Spec(base._Block):
    """Returns bfp16: blocks of 8 with a shared exponent."""

    dtype: ClassVar[Dtype] = Dtype.bfp16
    block_size: int | None = 8


@dataclass
class AmdFP4Spec(base.DataTypeSpec):
    """Returns fp4 in groups of 16 or 32 with unsigned 8-bit float scales."""

    ch_axis: int | None = -1
    group_size: int | None = 16
    is_dynamic: bool | None = True

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        group = FP4PerGroupSpec(self.ch_axis, self.group_size, scale_format="e5m3", is_dynamic=self.is_dynamic)
        group._site = self._site
        return group.to_quantization_spec()


@dataclass
class OCP_MXINT8Spec(base.DataTypeSpec):  # noqa: N801  the original's name
    """Returns 8-bit integers in blocks of 32 with a shared exponent (OCP MX)."""

    ch_axis: int | None
    scale_calculation_mode: str | None = "even"

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        mx = MXSpec(self.ch_axis, 32, Dtype.int8, self.scale_calculation_mode)
        mx._site = self._site
        return mx.to_quantization_spec()


@dataclass
class MXSpec(base.DataTypeSpec):
    """Returns elements of a type in blocks with a shared exponent (to 0.8)."""

    ch_axis: int | None
    block_size: int | None
    mx_element_dtype: Dtype | str
    scale_calculation_mode: str | None = "even"

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=Dtype.mx, observer_cls=seen.PlaceholderObserver, ch_axis=self.ch_axis, group_size=self.block_size,
            mx_element_dtype=base._word(Dtype, self.mx_element_dtype),
            scale_calculation_mode=self.scale_calculation_mode,
        )  # fmt: skip


@dataclass
class Float16Spec(base.DataTypeSpec):
    """Returns a cast to float16."""

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(dtype=Dtype.float16, observer_cls=seen.PlaceholderObserver)


@dataclass
class Bfloat16Spec(base.DataTypeSpec):
    """Returns a cast to bfloat16."""

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(dtype=Dtype.bfloat16, observer_cls=seen.PlaceholderObserver)


@dataclass
class ProgressiveSpec(base.DataTypeSpec):
    """Returns two stages: values are quantized, and then again."""

    first_stage: base.DataTypeSpec
    second_stage: base.DataTypeSpec

    def to_quantization_spec(self) -> list[QTensorConfig]:
        """Returns the QTensorConfigs it stands for."""
        return [self.first_stage.to_quantization_spec(), self.second_stage.to_quantization_spec()]


@dataclass
class ScaleQuantSpec(base.DataTypeSpec):
    """Returns two stages: the second quantizes the scales of the first."""

    first_stage: base.DataTypeSpec
    second_stage: base.DataTypeSpec

    def to_quantization_spec(self) -> list[QTensorConfig]:
        """Returns the QTensorConfigs it stands for."""
        first, second = self.first_stage.to_quantization_spec(), self.second_stage.to_quantization_spec()
        second.is_scale_quant = True
        return [first, second]
