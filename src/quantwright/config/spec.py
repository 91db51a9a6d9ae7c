"""QuantSpec: how one tensor is quantized. The same class says a part (None = inherit) or the whole."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from quantwright.config.formats import (
    FLOAT_FORMATS,
    integer_format,
    is_integer_format,
    is_scaled_format,
    named_formats,
    scaled_formats,
)

Role = Literal["weight", "bias", "input", "output"]
ROLES: tuple[Role, ...] = ("weight", "bias", "input", "output")
ROUNDINGS = ("half_even", "half_up", "half_down", "half_away", "floor", "ceil", "toward_zero", "stochastic")
SCALES = ("float", "power_of_two", "derived", "e8m0", "e4m3", "e5m3", "float16", "bfloat16")
EXPONENTS = ("cover", "nearest", "ceil", "floor", "even")
FITS = ("qmax", "span", "sides")
GRANULARITIES = ("per_tensor", "per_channel", "per_group", "per_token")
STATISTICS = ("all", "modal", "max", "mean", "median", "ema", "last")
__all__ = [
    "BASE_SPEC", "EXPONENTS", "FITS", "FLOAT_FORMATS", "GRANULARITIES", "ROLES", "ROUNDINGS", "SCALES", "STATISTICS",
    "FakeQuantSpec", "Granularity", "ObserverSpec", "QuantSpec", "Role", "integer_format", "is_integer_format",
    "is_scaled_format", "named_formats", "scaled_formats",
]  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Granularity(_Frozen):
    """Returns which elements share a scale.

    Attributes:
        kind: all of them, those of one channel, of one group, or of one token.
        axis: the channel axis (per_channel) or the axis that is cut into groups (per_group); None lets the plan choose:
            the output-channel axis of a weight, axis 1 of an activation, the input-channel axis for groups. Tokens are
            what every axis but the last counts, always.
        group_size: how many neighbours on the axis are a group; per_group only.
    """

    kind: Literal["per_tensor", "per_channel", "per_group", "per_token"] = "per_tensor"
    axis: int | None = None
    group_size: int | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Granularity:
        if (self.kind == "per_group") != (self.group_size is not None):
            raise ValueError("group_size goes with per_group, and per_group needs it")
        if self.axis is not None and self.kind in ("per_tensor", "per_token"):
            raise ValueError(f"axis has no effect with {self.kind}")
        return self

    def __str__(self) -> str:
        inner = [f"axis {self.axis}"] if self.axis is not None else []
        inner += [f"group_size {self.group_size}"] if self.group_size is not None else []
        return f"{self.kind}({', '.join(inner)})" if inner else self.kind


class ObserverSpec(_Frozen):
    """Returns which observer chooses the range, with its parameters (``{name: percentile, percentile: 99.99}``)."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "params" not in value:
            rest = {key: item for key, item in value.items() if key != "name"}
            return {"name": value.get("name"), "params": rest}
        return value

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))
        return f"{self.name}({inner})" if inner else self.name


class FakeQuantSpec(ObserverSpec):
    """Returns which quantizer applies the grid, with its parameters: ``fixed``, or one that training changes."""


class QuantSpec(_Frozen):
    """Returns how one tensor is quantized; a field that is None inherits.

    Attributes:
        format: ``int2``..``int32`` and ``uint2``..``uint32``: integers, a scale and a zero point. ``float32``,
            ``float16``, ``bfloat16``: casts. Scaled formats, a scale and no zero point: minifloats (``fp8_e4m3``,
            ``fp8_e5m2``, ``fp8_e5m3``, ``fp6_e3m2``, ``fp6_e2m3``, ``fp4_e2m1``), codebooks (``nf4``, ``nf8``,
            ``af4``, ``fp4_bnb``), and integers below an exponent that a group shares (``bfp11``..``bfp16``,
            ``msfp11``..``msfp16``, ``mx6``, ``mx9``, ``mxint8``). OCP MX is a minifloat or ``mxint8`` with
            granularity per_group, 32, and scale ``e8m0``; NVFP4 is ``fp4_e2m1`` in groups of 16 with scale ``e4m3``.
        granularity: which elements share a scale.
        symmetric: the zero point is 0, also that of an unsigned grid, which then holds no negative value.
        narrow_range: a signed grid without its lowest value ([-127, 127]).
        scale: ``float``, ``power_of_two``, or ``derived`` (bias only: input scale times weight scale). Or what a scale
            is stored in: ``float16``, ``bfloat16``, ``e8m0`` (a power of two of 8 bits), ``e5m3``, and ``e4m3``, the
            scales of groups below one float scale of the whole tensor.
        exponent: how a power of two is found for a range: the finest that ``cover``s it, half a step beyond its ends;
            or the ``nearest`` (on the logarithm), the next above (``ceil``) or below (``floor``) the float scale. Of a
            scaled format ``floor`` and ``ceil`` are those of the range itself, less the exponent of the largest
            element (OCP MX 6.3); ``even`` is ``floor`` after the range was rounded to the element's mantissa.
        fit: how a range becomes a symmetric scale: its larger side lies at ``qmax``, or at half the ``span``
            (qmax - qmin) / 2, which is 127.5 for int8, or each of the two ``sides`` at its own end of the grid.
        rounding: what happens to values between two steps; see ``numerics/rounding.py``.
        observer: what chooses the range.
        statistic: over calibration batches: one range over ``all`` data, or one per batch and then the ``modal``,
            ``max``, ``mean`` or ``median`` of the resulting scales, those of the ``last`` batch, or the exponential
            moving average of the ranges (``ema``).
        ema_decay: what an average of ranges keeps of the old one at every batch; statistic ``ema`` only.
        min_scale: the smallest scale the hardware can hold (float per integer step); e.g. 2**-12.
        dynamic: QParams are those of every value as it passes, not of calibration data.
        fake_quant: what applies the grid: ``fixed`` QParams, or QParams that training changes.
    """

    format: str | None = None
    granularity: Granularity | None = None
    symmetric: bool | None = None
    narrow_range: bool | None = None
    scale: Literal["float", "power_of_two", "derived", "e8m0", "e4m3", "e5m3", "float16", "bfloat16"] | None = None
    exponent: Literal["cover", "nearest", "ceil", "floor", "even"] | None = None
    fit: Literal["qmax", "span", "sides"] | None = None
    rounding: (
        Literal["half_even", "half_up", "half_down", "half_away", "floor", "ceil", "toward_zero", "stochastic"] | None
    ) = None
    observer: ObserverSpec | None = None
    statistic: Literal["all", "modal", "max", "mean", "median", "ema", "last"] | None = None
    ema_decay: float | None = Field(default=None, ge=0, lt=1)
    min_scale: float | None = Field(default=None, ge=0)
    dynamic: bool | None = None
    fake_quant: FakeQuantSpec | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is None or value in FLOAT_FORMATS or is_integer_format(value):
            return value
        if value not in named_formats():
            names = ", ".join(named_formats())
            raise ValueError(f"'{value}' is not a format: int2..int32, uint2..uint32, {names}")
        return value

    def over(self, base: QuantSpec) -> QuantSpec:
        """Returns ``base`` with every field that is set here replaced."""
        return base.model_copy(update={name: getattr(self, name) for name in self.fields_set()})

    def fields_set(self) -> tuple[str, ...]:
        """Returns the names of the fields that are not None."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def is_integer(self) -> bool:
        """Returns whether the (set) format is an integer grid."""
        return self.format is not None and is_integer_format(self.format)

    @property
    def is_scaled(self) -> bool:
        """Returns whether the (set) format has a scale and no zero point: see ``config.formats``."""
        return self.format is not None and is_scaled_format(self.format)

    @property
    def has_scale(self) -> bool:
        """Returns whether values are put on a grid by a scale: the (set) format is no cast."""
        return self.format is not None and self.format not in FLOAT_FORMATS

    @property
    def element_bits(self) -> int:
        """Returns the width of one stored value of the (set) format; what a group shares is not counted."""
        if self.is_integer:
            return self.bits
        if self.is_scaled:
            return int(scaled_formats()[self.format or ""]["bits"])
        return 32 if self.format == "float32" else 16

    @property
    def bits(self) -> int:
        """Returns the width of the integer format."""
        bits, _ = integer_format(self.format or "")
        return bits

    @property
    def signed(self) -> bool:
        """Returns whether the integer or scaled format has negative values."""
        if self.is_scaled:
            return bool(scaled_formats()[self.format or ""].get("signed", True))
        _, signed = integer_format(self.format or "")
        return signed

    @property
    def qmin(self) -> int:
        """Returns the lowest integer of the grid."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + (1 if self.narrow_range else 0)

    @property
    def qmax(self) -> int:
        """Returns the highest integer of the grid."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def to_json(self) -> dict[str, Any]:
        """Returns the set fields as plain values, in the native spelling."""
        plain: dict[str, Any] = {}
        for name in self.fields_set():
            value = getattr(self, name)
            if isinstance(value, Granularity):
                extra = value.model_dump(exclude_none=True)
                value = value.kind if len(extra) == 1 else extra
            elif isinstance(value, ObserverSpec):
                value = {"name": value.name, **value.params} if value.params else value.name
            plain[name] = value
        return plain


#: Every field filled: the last resort under target, dialect and rules. int8, symmetric, per tensor, float scale.
BASE_SPEC = QuantSpec(
    format="int8", granularity=Granularity(), symmetric=True, narrow_range=False, scale="float", rounding="half_even",
    observer=ObserverSpec(name="minmax"), statistic="all", min_scale=0.0, exponent="cover", fit="qmax",
    dynamic=False, fake_quant=FakeQuantSpec(name="fixed"),
)  # fmt: skip
