"""Formats: floating point against numpy and bit arithmetic; the family that serves each name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantwright import registry
from quantwright.config.spec import BASE_SPEC, FLOAT_FORMATS, QuantSpec
from quantwright.errors import UnknownNameError
from quantwright.numerics import affine
from quantwright.numerics.formats import Format, format_of


def spec(name: str) -> QuantSpec:
    return BASE_SPEC.model_copy(update={"format": name})


def bits_to_float(bits: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32).copy())


X = torch.from_numpy(np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 100)


def test_float16_equals_numpy() -> None:
    y = affine.fake_quantize(X, None, spec("float16"))
    assert np.array_equal(y.numpy(), X.numpy().astype(np.float16).astype(np.float32))


def test_bfloat16_equals_rounding_the_upper_half_of_the_bits() -> None:
    bits = X.numpy().view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    assert torch.equal(affine.fake_quantize(X, None, spec("bfloat16")), bits_to_float(rounded & 0xFFFF0000))


def test_float32_changes_nothing() -> None:
    assert torch.equal(affine.fake_quantize(X, None, spec("float32")), X)


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_stored_values_come_back_as_the_simulated_ones(name: str) -> None:
    stored = affine.quantize(X, None, spec(name))
    assert stored.dtype == getattr(torch, name)
    assert torch.equal(affine.dequantize(stored, None, spec(name)), affine.fake_quantize(X, None, spec(name)))


def test_beyond_float16_is_infinite() -> None:
    assert affine.fake_quantize(torch.tensor([1e6]), None, spec("float16")).item() == float("inf")


def test_out_and_gradient() -> None:
    x = X.clone()
    expected = affine.fake_quantize(X, None, spec("bfloat16"))
    assert affine.fake_quantize(x, None, spec("bfloat16"), out=x) is x
    assert torch.equal(x, expected)
    leaf = X.clone().requires_grad_(True)
    affine.fake_quantize(leaf, None, spec("bfloat16")).sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(X))


@pytest.mark.parametrize("name", ["int2", "int8", "uint4", "int32", *FLOAT_FORMATS])
def test_exactly_one_family_serves_a_format(name: str) -> None:
    families = [registry.load("formats", family) for family in registry.names("formats")]
    assert all(isinstance(family, Format) for family in families)
    assert [family.serves(name) for family in families].count(True) == 1
    assert format_of(spec(name)).serves(name)


def test_the_integer_family_is_the_affine_map() -> None:
    family = format_of(spec("int8"))
    assert family.fake_quantize is affine.fake_quantize


def test_a_format_nobody_serves() -> None:
    with pytest.raises(UnknownNameError, match="no format family serves 'int99'"):
        format_of(spec("int99"))
