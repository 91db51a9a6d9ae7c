"""The convenience specs of integers: a granularity and the defaults of the tool (spec quark 1.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quantwright.compat.quark.torch.quantization.config import _specs as base
from quantwright.compat.quark.torch.quantization.config.type import Dtype

__all__ = [
    "Int2PerGroupSpec",
    "Int3PerChannelSpec",
    "Int3PerGroupSpec",
    "Int4PerChannelSpec",
    "Int4PerGroupSpec",
    "Int4PerTensorSpec",
    "Int8PerChannelSpec",
    "Int8PerGroupSpec",
    "Int8PerTensorSpec",
    "Uint4PerChannelSpec",
    "Uint4PerGroupSpec",
    "Uint4PerTensorSpec",
    "Uint8PerChannelSpec",
    "Uint8PerGroupSpec",
    "Uint8PerTensorSpec",
]


@dataclass
class Uint4PerTensorSpec(base._IntPerTensor):
    """Returns uint4, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.uint4
    symmetric: bool | None = False


@dataclass
class Int4PerTensorSpec(base._IntPerTensor):
    """Returns int4, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.int4
    symmetric: bool | None = True


@dataclass
class Uint8PerTensorSpec(base._IntPerTensor):
    """Returns uint8, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.uint8
    symmetric: bool | None = False


@dataclass
class Int8PerTensorSpec(base._IntPerTensor):
    """Returns int8, one scale for a tensor."""

    dtype: ClassVar[Dtype] = Dtype.int8
    symmetric: bool | None = True


@dataclass
class Uint4PerChannelSpec(base._IntPerChannel):
    """Returns uint4, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.uint4
    symmetric: bool | None = False
    is_dynamic: bool | None = None


@dataclass
class Int4PerChannelSpec(base._IntPerChannel):
    """Returns int4, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.int4
    symmetric: bool | None = True


@dataclass
class Uint8PerChannelSpec(base._IntPerChannel):
    """Returns uint8, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.uint8
    symmetric: bool | None = True


@dataclass
class Int8PerChannelSpec(base._IntPerChannel):
    """Returns int8, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.int8
    symmetric: bool | None = False


@dataclass
class Int3PerChannelSpec(base._IntPerChannel):
    """Returns int3, a scale for every channel."""

    dtype: ClassVar[Dtype] = Dtype.int3
    symmetric: bool | None = False


@dataclass
class Uint4PerGroupSpec(base._IntPerGroup):
    """Returns uint4, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.uint4
    symmetric: bool | None = False


@dataclass
class Int4PerGroupSpec(base._IntPerGroup):
    """Returns int4, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.int4
    symmetric: bool | None = True


@dataclass
class Uint8PerGroupSpec(base._IntPerGroup):
    """Returns uint8, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.uint8
    symmetric: bool | None = False


@dataclass
class Int8PerGroupSpec(base._IntPerGroup):
    """Returns int8, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.int8
    symmetric: bool | None = True


@dataclass
class Int3PerGroupSpec(base._IntPerGroup):
    """Returns int3, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.int3
    symmetric: bool | None = True


@dataclass
class Int2PerGroupSpec(base._IntPerGroup):
    """Returns int2, a scale for every group."""

    dtype: ClassVar[Dtype] = Dtype.int2
    symmetric: bool | None = True
