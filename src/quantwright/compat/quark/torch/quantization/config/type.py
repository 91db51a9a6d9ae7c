"""``quark.torch.quantization.config.type``: the words of a configuration as enumerations (spec quark 1.6)."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "DeviceType", "Dtype", "QSchemeType", "QuantFlow", "QuantizationMode", "RoundType", "ScaleType",
    "TQTThresholdInitMeth", "ZeroPointType",
]  # fmt: skip


class QSchemeType(Enum):
    """Returns which elements share a scale."""

    per_tensor = "per_tensor"
    per_channel = "per_channel"
    per_group = "per_group"
    per_block = "per_block"


class ZeroPointType(Enum):
    """Returns the type of the zero point."""

    int32 = "int32"
    float32 = "float32"


class Dtype(Enum):
    """Returns the data type of a quantized tensor."""

    int8 = "int8"
    uint8 = "uint8"
    int16 = "int16"
    uint16 = "uint16"
    int32 = "int32"
    int4 = "int4"
    uint4 = "uint4"
    int3 = "int3"
    int2 = "int2"
    uint2 = "uint2"
    bfloat16 = "bfloat16"
    float16 = "float16"
    fp8_e5m2 = "fp8_e5m2"
    fp8_e4m3 = "fp8_e4m3"
    fp8_e5m3 = "fp8_e5m3"
    fp6_e3m2 = "fp6_e3m2"
    fp6_e2m3 = "fp6_e2m3"
    fp4 = "fp4"
    mx = "mx"
    mx6 = "mx6"
    mx9 = "mx9"
    bfp16 = "bfp16"


class ScaleType(Enum):
    """Returns the type of the scale."""

    float = "float"
    pof2 = "pof2"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float8_e5m3 = "float8_e5m3"
    float8_e8m0fnu = "float8_e8m0fnu"


class RoundType(Enum):
    """Returns how values between two steps are rounded."""

    round = 2
    floor = 3
    half_even = 8


class DeviceType(Enum):
    """Returns what the model is for."""

    CPU = "cpu"
    IPU = "ipu"
    cpu = "cpu"  # noqa: PIE796  newer versions write it so
    ipu = "ipu"  # noqa: PIE796


class QuantizationMode(Enum):
    """Returns whether modules are replaced or a graph is rewritten."""

    eager_mode = 1
    fx_graph_mode = 2


class QuantFlow(Enum):
    """Returns how much of the model is in memory while it is quantized."""

    standard = "standard"
    file2file = "file2file"
    per_block = "per_block"


class TQTThresholdInitMeth(Enum):
    """Returns how the first threshold of TQT is found."""

    _3SD = "_3SD"
    _KL_J = "_KL_J"
