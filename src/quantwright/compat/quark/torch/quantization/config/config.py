"""``quark.torch.quantization.config.config``: what a script configures, under the names of 0.6 to 0.13.

``Config`` is ``QConfig``, ``QuantizationConfig`` is ``QLayerConfig``, ``QuantizationSpec`` is ``QTensorConfig``. Give a
``Config`` to ``quantwright.prepare``, ``quantize`` or ``load_config``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from quantwright.compat.quark.torch.quantization.config import _spec_floats, _spec_ints
from quantwright.compat.quark.torch.quantization.config._algorithms import (
    AlgoConfig,
    AlgoConfigBase,
    AutoSmoothQuantConfig,
    AWQConfig,
    GPTAQConfig,
    GPTQConfig,
    PreQuantOptConfig,
    QronosConfig,
    QuaRotConfig,
    RotationConfig,
    SmoothQuantConfig,
    SVDQuantConfig,
    algorithm,
    load_pre_optimization_config_from_file,
    load_quant_algo_config_from_file,
)
from quantwright.compat.quark.torch.quantization.config._base import ConfigBase, document_of
from quantwright.compat.quark.torch.quantization.config._specs import DataTypeSpec
from quantwright.compat.quark.torch.quantization.config._tensor import (
    QATSpec,
    QLayerConfig,
    QTensorConfig,
    QuantizationConfig,
    QuantizationSpec,
    TQTSpec,
)
from quantwright.compat.quark.torch.quantization.config.type import QuantFlow, QuantizationMode
from quantwright.config.document import Document
from quantwright.dialects._quark_names import PYTHON_ONLY

PreProcessConfig = PreQuantOptConfig


@dataclass
class QConfig(ConfigBase):
    """Returns how a model is quantized.

    Attributes:
        pre_quant_opt_config: of the versions to 0.8; algorithms that come first.
        inherit_none: what a None in a layer means: what the layer has without this entry, as the document promises; or
            False: not quantized, as the tool does. The original does not have this field.
    """

    _not_written: ClassVar[tuple[str, ...]] = (*PYTHON_ONLY, "pre_quant_opt_config", "inherit_none")

    global_quant_config: QLayerConfig
    exclude: list[str] = field(default_factory=list)
    algo_config: Any = None
    log_severity_level: int | None = 1
    version: str = "0.13"
    layer_type_quant_config: dict[Any, QLayerConfig] = field(default_factory=dict)
    layer_quant_config: dict[str, QLayerConfig] = field(default_factory=dict)
    kv_cache_quant_config: dict[str, QLayerConfig] = field(default_factory=dict)
    kv_cache_group: list[str] = field(default_factory=list)
    min_kv_scale: float = 0.0
    kv_cache_post_rope: bool = False
    shared_scale_groups: list[list[str]] = field(default_factory=list)
    softmax_quant_spec: QTensorConfig | None = None
    quant_mode: QuantizationMode = QuantizationMode.eager_mode
    quant_flow: QuantFlow = QuantFlow.standard
    gpu_resident_blocks: int = 0
    sync_moe_expert_input_amax: bool = False
    keep_prequantized_layers: bool = True
    pre_quant_opt_config: Any = None
    inherit_none: bool = True

    def to_document(self) -> Document:
        """Returns the configuration as a document whose values know the lines they were made at."""
        return document_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns what the tool writes as JSON."""
        written = super().to_dict()
        layers = {str(key).rpartition(".")[2]: item for key, item in written["layer_type_quant_config"].items()}
        return {**written, "layer_type_quant_config": layers, "quant_method": "quark"}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QConfig:
        """Returns the configuration of what ``to_dict`` returns; layer types stay text."""

        def layers(key: str) -> dict[str, QLayerConfig]:
            return {name: QLayerConfig.from_dict(item) for name, item in (data.get(key) or {}).items()}

        steps = data.get("algo_config")
        steps = [steps] if isinstance(steps, dict) else steps
        return cls(
            global_quant_config=QLayerConfig.from_dict(data["global_quant_config"]),
            exclude=list(data.get("exclude") or []),
            algo_config=None if steps is None else [algorithm(step) for step in steps],
            layer_type_quant_config=layers("layer_type_quant_config"),
            layer_quant_config=layers("layer_quant_config"),
            kv_cache_quant_config=layers("kv_cache_quant_config"),
            kv_cache_post_rope=data.get("kv_cache_post_rope", False),
            softmax_quant_spec=QTensorConfig.from_dict(data.get("softmax_quant_spec")),
            quant_mode=QuantizationMode[data.get("quant_mode", "eager_mode")],
            version=data.get("version", "0.13"),
        )


Config = QConfig

__all__ = [
    "AlgoConfig", "AlgoConfigBase", "AutoSmoothQuantConfig", "AWQConfig", "Config", "ConfigBase", "DataTypeSpec",
    "GPTAQConfig", "GPTQConfig", "PreProcessConfig", "PreQuantOptConfig", "QATSpec", "QConfig", "QLayerConfig",
    "QronosConfig", "QTensorConfig", "QuantizationConfig", "QuantizationSpec", "QuaRotConfig", "RotationConfig",
    "SmoothQuantConfig", "SVDQuantConfig", "TQTSpec", "load_pre_optimization_config_from_file",
    "load_quant_algo_config_from_file", *_spec_ints.__all__, *_spec_floats.__all__,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Returns a convenience spec."""
    for module in (_spec_ints, _spec_floats):
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
