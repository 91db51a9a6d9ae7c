"""One tensor without a network: against torch's own fake quantization, and the ways to ask for it wrongly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import quantwright
from quantwright.errors import ConfigError, DataError, InputError, UnknownNameError
from quantwright.single import complete


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Returns the same normal numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("word", "low", "high"), [("int8", -128, 127), ("int4", -8, 7), ("int2", -2, 1)])
def test_symmetric_per_channel_is_torchs(word: str, low: int, high: int) -> None:
    x = rand(6, 40)
    spec = {"format": word, "granularity": "per_channel"}
    qparams = quantwright.observe(x, spec)
    scale = x.abs().amax(1) / high
    torch.testing.assert_close(qparams.scale.float(), scale)
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, qparams.scale.float(), zeros, 0, low, high)
    torch.testing.assert_close(quantwright.fake_quantize(x, spec, qparams), expected)


def test_asymmetric_per_tensor_is_torchs() -> None:
    x = rand(3, 50) + 1
    spec = {"format": "uint8", "symmetric": False}
    qparams = quantwright.observe(x, spec)
    expected = torch.fake_quantize_per_tensor_affine(x, float(qparams.scale), int(qparams.zero_point), 0, 255)
    torch.testing.assert_close(quantwright.fake_quantize(x, spec, qparams), expected)


@pytest.mark.parametrize(("statistic", "factor"), [("max", 4.0), ("mean", 7 / 3), ("median", 2.0), ("all", 4.0)])
def test_batches_are_combined_by_the_statistic(statistic: str, factor: float) -> None:
    x = rand(100)
    one = quantwright.observe(x, {}).scale
    several = quantwright.observe([x, 2 * x, 4 * x], {"statistic": statistic}).scale
    torch.testing.assert_close(several, one * factor, rtol=1e-6, atol=0)


def test_a_group_a_token_and_a_bias_width_are_possible() -> None:
    x = rand(4, 64)
    assert quantwright.observe(x, {"granularity": {"kind": "per_group", "group_size": 16}}).scale.shape == (16,)
    assert quantwright.observe(x, {"granularity": "per_token"}).scale.shape == (4,)
    assert quantwright.observe(x, {"format": "int32"}).scale.shape == (1,)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"formt": "int4"}, "spec.formt"),
        ({"format": "int99"}, "spec.format"),
        ({"observer": "entrpy"}, "did you mean 'entropy'"),
        ({"observer": {"name": "mse", "binz": 1}}, "did you mean 'bins'"),
        ({"scale": "power_of_two", "symmetric": False}, "zero point"),
    ],
)
def test_a_wrong_spec_says_where_and_what(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        quantwright.observe(rand(8), spec)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        complete({"formt": "int4", "rounding": "up", "statistic": "mode"})
    assert len(caught.value.problems) == 3


def test_an_unknown_observer_in_a_spec_object_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no observers plug-in is called 'mses'"):
        complete(quantwright.QuantSpec(observer={"name": "mses"}))


@pytest.mark.parametrize("batches", [[], torch.zeros(0), torch.zeros(3, dtype=torch.int8), [1.0], [[1.0]]])
def test_data_that_cannot_be_observed_is_refused(batches: Any) -> None:
    with pytest.raises(DataError):
        quantwright.observe(batches, {})


def test_a_float_format_has_nothing_to_observe() -> None:
    with pytest.raises(InputError, match="float16 has no scale"):
        quantwright.observe(rand(8), {"format": "float16"})
    assert torch.equal(quantwright.fake_quantize(rand(8), {"format": "float16"}, None), rand(8).half().float())
