"""Bias correction: the means come out right, layer after layer, against values worked out with plain torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import vai_models
from torch import Tensor, nn

from quantwright.algorithms._lockstep import channel_mean, lockstep
from quantwright.algorithms._vitis_bias import Progress
from quantwright.api import PreparedModel, prepare
from quantwright.data import Batch
from quantwright.errors import DataError

COARSE = {
    "version": 1,
    "default": {"weight": {"format": "int4", "granularity": "per_tensor"}},
    "optimize": ["fold_batchnorm"],
    "refine": ["bias_correction"],
}


def prepared(config: dict[str, object], model: nn.Module, batches: list[Tensor]) -> PreparedModel:
    return prepare(model, config, batches[0]).calibrate(batches)


def layer_means(model: PreparedModel, batches: list[Tensor], name: str, axis: int) -> tuple[Tensor, Tensor]:
    """Returns (float mean, quantized mean) per channel of one layer's output."""
    seen: dict[str, list[Tensor]] = {"float": [], "quantized": []}
    for batch in batches:
        with model.floating(), torch.no_grad():
            model.graph.run((batch,), {}, {name: lambda v: seen["float"].append(v)})
        with torch.no_grad():
            model.graph.run((batch,), {}, {name: lambda v: seen["quantized"].append(v)})
    return channel_mean(seen["float"], axis), channel_mean(seen["quantized"], axis)


def test_every_layers_channel_means_match_float_after_correction() -> None:
    batches = vai_models.data("Net")
    model = prepared(COARSE, vai_models.build("Net"), batches)
    layers = {"conv2d": ("c1", 1), "conv2d_1": ("dw", 1), "conv2d_2": ("c2", 1), "linear": ("fc", -1)}
    before = {name: worst(layer_means(model, batches, name, axis)) for name, (_, axis) in layers.items()}
    model.refine(batches)
    for name, (layer, axis) in layers.items():
        qparams = model.quantizers[f"{layer}.bias"].qparams
        assert qparams is not None
        half_step = 0.5 * float(qparams.scale.max())  # the corrected bias is rounded to its grid
        error = worst(layer_means(model, batches, name, axis))
        assert error <= 1.01 * half_step + 1e-6, name
        assert error < before[name], name


def worst(means: tuple[Tensor, Tensor]) -> float:
    """Returns the largest difference of two sets of channel means."""
    return float((means[0] - means[1]).abs().max())


def test_correction_improves_a_network_that_coarse_weights_have_shifted() -> None:
    batches = vai_models.data("Net", batches=8)
    model = prepared(COARSE, vai_models.build("Net"), batches)
    held = vai_models.data("Net", batches=12)[8:]
    real = torch.cat([vai_models.build("Net")(x) for x in held])
    before = torch.cat([model(x) for x in held])
    model.refine(batches)
    after = torch.cat([model(x) for x in held])
    assert (after - real).square().mean() < 0.8 * (before - real).square().mean()


def test_lockstep_computes_both_networks_exactly() -> None:
    batches = vai_models.data("Net")
    model = prepared(COARSE, vai_models.build("Net"), batches)
    seen: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    lockstep(
        model,
        [Batch(args=(x,)) for x in batches],
        {"linear"},
        lambda n, f, q: seen.update({n.name: (list(f), list(q))}),
    )
    floats, quantized = seen["linear"]
    with model.floating():
        for x, value in zip(batches, floats, strict=True):
            assert torch.equal(model.run(Batch(args=(x,))), value)
    with torch.no_grad():
        for x, value in zip(batches, quantized, strict=True):
            assert torch.equal(model.graph(x), value)  # the network's result stays float


def test_layers_without_bias_are_left_alone() -> None:
    x = torch.randn(16, 4)
    model = prepared(COARSE, nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)), [x])
    model.refine([x])
    assert [change.node for change in model.changes if change.by == "bias_correction"] == ["linear_1"]


def test_no_more_batches_are_read_than_are_needed() -> None:
    batches = vai_models.data("Net")
    model = prepared({**COARSE, "refine": [{"bias_correction": {"samples": 8}}]}, vai_models.build("Net"), batches)
    read: list[int] = []

    class Counted:
        def __iter__(self) -> Iterator[Tensor]:
            for index, batch in enumerate(batches):  # four batches of four
                read.append(index)
                yield batch

    model.refine(Counted())
    assert read == [0, 1]
    with pytest.raises(DataError, match="not one batch"):
        model.refine([])


def test_channel_mean_is_torchs_mean() -> None:
    values = [torch.randn(3, 5, 2, 2), torch.randn(1, 5, 2, 2)]
    torch.testing.assert_close(channel_mean(values, 1), torch.cat(values).double().mean((0, 2, 3)))


@pytest.mark.parametrize(("signal", "noise", "step"), [(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (100.0, 1.0, 0.05)])
def test_the_first_step_of_the_tools_schedule(signal: float, noise: float, step: float) -> None:
    # noise 0 ends it; equal signal and noise give efficiency 0, which is the start value: unchanged, which ends it too
    progress = Progress()
    assert progress.update(signal, noise, 0.05) == step
    assert progress.stopped == (step == 0.0)


def test_the_schedule_halves_and_ends_when_the_average_is_high() -> None:
    progress = Progress(average=4.1, deviation=1.0)
    assert progress.update(10.0**3.6, 1.0, 0.05) == 0.025  # efficiency 4.5: the average becomes 4.18
    assert progress.average == pytest.approx(0.8 * 4.1 + 0.2 * 1.25 * math.log10(10**3.6))
    high = Progress(average=4.4, deviation=1.0)
    assert high.update(10.0**3.6, 1.0, 0.05) == 0.0 and high.stopped
