"""``QTensorConfig`` (``QuantizationSpec``) and ``QLayerConfig`` (``QuantizationConfig``), as in the tool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from quantwright.compat.quark.torch.quantization.config import type as words
from quantwright.compat.quark.torch.quantization.config._base import ConfigBase
from quantwright.compat.quark.torch.quantization.observer import observer
from quantwright.dialects._quark_names import LEGACY, MAX_NUMEL

_ENUMS = {
    "dtype": words.Dtype, "mx_element_dtype": words.Dtype, "qscheme": words.QSchemeType,
    "round_method": words.RoundType, "scale_type": words.ScaleType, "zero_point_type": words.ZeroPointType,
}  # fmt: skip


@dataclass
class QATSpec(ConfigBase):
    """Returns the base of how a quantizer is trained."""


@dataclass
class TQTSpec(QATSpec):
    """Returns how the threshold of TQT begins."""

    threshold_init_meth: words.TQTThresholdInitMeth | None = None


@dataclass(eq=True)
class QTensorConfig(ConfigBase):
    """Returns how one tensor is quantized; None defers to a higher level, as the document says.

    Attributes:
        percentile: of ``PerTensorPercentileObserver``; the one field that the original does not have.
    """

    _not_written: ClassVar[tuple[str, ...]] = ("qat_spec", "percentile")

    dtype: words.Dtype
    observer_cls: type[observer.ObserverBase] | None = None
    is_dynamic: bool | None = None
    qscheme: words.QSchemeType | None = None
    ch_axis: int | None = None
    group_size: int | None = None
    block_size: Any = None
    symmetric: bool | None = None
    round_method: words.RoundType | None = None
    scale_type: words.ScaleType | None = None
    scale_format: str | None = None
    scale_calculation_mode: str | None = None
    qat_spec: QATSpec | None = None
    mx_element_dtype: words.Dtype | None = None
    zero_point_type: words.ZeroPointType | None = words.ZeroPointType.int32
    is_scale_quant: bool = False
    enable_buffer_reuse: bool = False
    max_input_numel: int = MAX_NUMEL
    percentile: float | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> Any:
        """Returns the spec of what ``to_dict`` returns, of any version; None of None."""
        if data is None:
            return None
        given = {LEGACY.get(key, key): item for key, item in data.items()}
        for name, kind in _ENUMS.items():
            if given.get(name) is not None:
                given[name] = kind[given[name]]
        if given.get("observer_cls") is not None:
            known = given["observer_cls"] in observer.__all__
            given["observer_cls"] = getattr(observer, given["observer_cls"]) if known else observer.PlaceholderObserver
        return cls(**given)


Tensors = QTensorConfig | list[QTensorConfig] | None


@dataclass(eq=True)
class QLayerConfig(ConfigBase):
    """Returns how the tensors of a layer are quantized; None takes what the layer has without this entry."""

    input_tensors: Tensors = None
    output_tensors: Tensors = None
    weight: Tensors = None
    bias: Tensors = None
    target_device: words.DeviceType | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QLayerConfig:
        """Returns the layer of what ``to_dict`` returns."""

        def tensors(item: Any) -> Any:
            if isinstance(item, list):
                return [QTensorConfig.from_dict(stage) for stage in item]
            return QTensorConfig.from_dict(item)

        device = data.get("target_device")
        return cls(
            **{key: tensors(item) for key, item in data.items() if key != "target_device"},
            target_device=None if device is None else words.DeviceType(device),
        )


QuantizationSpec = QTensorConfig
QuantizationConfig = QLayerConfig
