"""The convenience specs of ``quark.torch.quantization.config.config``: few fields, usual values (spec quark 1.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from quantwright.compat.quark.torch.quantization.config._base import ConfigBase
from quantwright.compat.quark.torch.quantization.config._tensor import QTensorConfig
from quantwright.compat.quark.torch.quantization.config.type import (
    Dtype,
    QSchemeType,
    RoundType,
    ScaleType,
    ZeroPointType,
)
from quantwright.compat.quark.torch.quantization.observer import observer as seen
from quantwright.errors import InputError, did_you_mean

METHODS = {
    "min_max": seen.PerTensorMinMaxObserver,
    "histogram": seen.PerTensorHistogramObserver,
    "histogrampro": seen.PerTensorHistogramObserverPro,
    "MSE": seen.PerTensorMSEObserver,
    "percentile": seen.PerTensorPercentileObserver,
}


class DataTypeSpec(ConfigBase):
    """Returns the base of the convenience specs."""

    def to_quantization_spec(self) -> Any:
        """Returns the QTensorConfig it stands for."""
        raise InputError(f"{type(self).__name__} is a base and stands for no spec", fix="use one of its subclasses")

    def _made(self, **fields: Any) -> QTensorConfig:
        """Returns a spec that says it was made where this object was."""
        spec = QTensorConfig(**fields)
        spec._site = self._site
        return spec


def _word(kind: Any, value: Any) -> Any:
    """Returns a member of an enumeration, of its name, or of another member."""
    if value is None or isinstance(value, kind):
        return value
    names = [item.name for item in kind]
    if value not in names:
        fix = did_you_mean(value, names) or "choose one of these"
        raise InputError(f"{value!r} is not a {kind.__name__}", allowed=names, fix=fix)
    return kind[value]


@dataclass
class _IntPerTensor(DataTypeSpec):
    dtype: ClassVar[Dtype]
    observer_method: str | None = "min_max"
    symmetric: bool | None = True
    scale_type: str | None = "float"
    round_method: str | None = "half_even"
    is_dynamic: bool | None = False

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        if self.observer_method not in METHODS:
            fix = did_you_mean(self.observer_method, METHODS) or "choose one of these"
            raise InputError(f"no observer_method {self.observer_method!r}", allowed=METHODS, fix=fix)
        return self._made(
            dtype=self.dtype, observer_cls=METHODS[self.observer_method], symmetric=self.symmetric,
            scale_type=_word(ScaleType, self.scale_type), round_method=_word(RoundType, self.round_method),
            qscheme=QSchemeType.per_tensor, is_dynamic=self.is_dynamic,
        )  # fmt: skip


@dataclass
class _IntPerChannel(DataTypeSpec):
    dtype: ClassVar[Dtype]
    ch_axis: int | None
    symmetric: bool | None = True
    scale_type: str | None = "float"
    round_method: str | None = "half_even"
    is_dynamic: bool | None = False
    zero_point_type: Any = ZeroPointType.int32

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=seen.PerChannelMinMaxObserver, symmetric=self.symmetric,
            scale_type=_word(ScaleType, self.scale_type), round_method=_word(RoundType, self.round_method),
            qscheme=QSchemeType.per_channel, ch_axis=self.ch_axis, is_dynamic=self.is_dynamic,
            zero_point_type=_word(ZeroPointType, self.zero_point_type),
        )  # fmt: skip


@dataclass
class _IntPerGroup(DataTypeSpec):
    dtype: ClassVar[Dtype]
    ch_axis: int | None
    group_size: int | None
    symmetric: bool | None = True
    scale_type: str | None = "float"
    round_method: str | None = "half_even"
    is_dynamic: bool | None = False

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=seen.PerGroupMinMaxObserver, symmetric=self.symmetric,
            scale_type=_word(ScaleType, self.scale_type), round_method=_word(RoundType, self.round_method),
            qscheme=QSchemeType.per_group, ch_axis=self.ch_axis, is_dynamic=self.is_dynamic, group_size=self.group_size,
        )  # fmt: skip


@dataclass
class _FloatPerTensor(DataTypeSpec):
    dtype: ClassVar[Dtype]
    observer_method: str | None = "min_max"
    scale_type: str | None = None
    is_dynamic: bool | None = False

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=METHODS.get(self.observer_method or "min_max"),
            scale_type=_word(ScaleType, self.scale_type), qscheme=QSchemeType.per_tensor, is_dynamic=self.is_dynamic,
        )  # fmt: skip


@dataclass
class _FloatPerChannel(DataTypeSpec):
    dtype: ClassVar[Dtype]
    ch_axis: int | None
    scale_type: str | None = None
    is_dynamic: bool | None = False

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=seen.PerChannelMinMaxObserver, scale_type=_word(ScaleType, self.scale_type),
            qscheme=QSchemeType.per_channel, ch_axis=self.ch_axis, is_dynamic=self.is_dynamic,
        )  # fmt: skip


@dataclass
class _FloatPerGroup(DataTypeSpec):
    dtype: ClassVar[Dtype]
    marker: ClassVar[type[seen.ObserverBase]] = seen.PerBlockMXObserver
    ch_axis: int | None
    group_size: int | None
    scale_format: str | None = "float32"
    scale_calculation_mode: str | None = None
    is_dynamic: bool | None = True
    scale_type: str | None = "float"

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=self.marker, scale_type=_word(ScaleType, self.scale_type),
            scale_format=self.scale_format, scale_calculation_mode=self.scale_calculation_mode,
            qscheme=QSchemeType.per_group, ch_axis=self.ch_axis, group_size=self.group_size, is_dynamic=self.is_dynamic,
        )  # fmt: skip


@dataclass
class _OcpMx(DataTypeSpec):
    dtype: ClassVar[Dtype]
    marker: ClassVar[type[seen.ObserverBase]] = seen.PerBlockMXObserver
    ch_axis: int | None
    is_dynamic: bool | None = True
    scale_calculation_mode: str | None = "even"

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=self.marker, scale_type=ScaleType.float, scale_format="e8m0",
            scale_calculation_mode=self.scale_calculation_mode, qscheme=QSchemeType.per_group, ch_axis=self.ch_axis,
            group_size=32, is_dynamic=self.is_dynamic,
        )  # fmt: skip


@dataclass
class _Block(DataTypeSpec):
    dtype: ClassVar[Dtype]
    ch_axis: int | None
    block_size: int | None
    scale_calculation_mode: str | None = "even"

    def to_quantization_spec(self) -> QTensorConfig:
        """Returns the QTensorConfig it stands for."""
        return self._made(
            dtype=self.dtype, observer_cls=seen.PlaceholderObserver, ch_axis=self.ch_axis, group_size=self.block_size,
            scale_calculation_mode=self.scale_calculation_mode,
        )  # fmt: skip
