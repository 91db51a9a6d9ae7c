"""What reports draw: errors, histograms, clipping and channel ranges, against torch's and NumPy's own arithmetic."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantwright.api import PreparedModel, prepare
from quantwright.data import Batch
from quantwright.verify import measure as room
from quantwright.verify import places, values
from quantwright.verify.measure import measure

UINT8 = {"format": "uint8", "symmetric": False}
CONFIG: dict[str, Any] = {
    "version": 1,
    "target": "generic",
    "default": {"weight": {"format": "int8", "granularity": "per_channel", "symmetric": True}, "activation": UINT8},
}


def data(seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * spread


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5)).eval()


@pytest.fixture(scope="module")
def prepared() -> PreparedModel:
    return prepare(network(), CONFIG, data(0)).calibrate([data(0)])


def batch(*seeds: int, spread: float = 1.0) -> list[Batch]:
    return [Batch(args=(data(seed, spread),)) for seed in seeds]


def sqnr(reference: Tensor, other: Tensor) -> float:
    signal, noise = reference.double().numpy(), (reference.double() - other.double()).numpy()
    return 10 * math.log10(float((signal**2).sum() / (noise**2).sum()))


def at_input(measured: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in measured["activations"] if one["role"] == "input")
    return found


def test_the_error_of_a_quantizer_alone_is_that_of_torchs_operator(prepared: PreparedModel) -> None:
    x, one = data(7), at_input(measure(prepared, batch(7)))
    qparams = prepared.quantizers[one["point"]].qparams
    assert qparams is not None
    scale, zero = float(qparams.scale[0]), int(qparams.zero_point[0])
    expected = sqnr(x, torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255))
    assert one["alone_db"] == pytest.approx(expected, abs=0.01)
    assert one["sqnr_db"] == pytest.approx(expected, abs=0.01)  # nothing comes before an input
    assert one["grid"]["scale"] == pytest.approx(scale, rel=1e-6) and one["grid"]["zero_point"] == zero
    assert one["grid"]["low"] == pytest.approx(-zero * scale, rel=1e-4)
    assert one["grid"]["high"] == pytest.approx((255 - zero) * scale, rel=1e-4)


def test_the_error_at_the_last_point_is_that_of_the_output() -> None:
    made = prepare(network(), {"version": 1, "target": "dpu"}, data(0)).calibrate([data(0)])  # quantizes its results
    last = measure(made, batch(7))["activations"][-1]
    with torch.no_grad():
        expected = sqnr(network()(data(7)), made(data(7)))
    assert last["sqnr_db"] == pytest.approx(expected, abs=0.02)
    assert last["sqnr_db"] < last["alone_db"] - 1  # the rounding of all before it comes on top


def test_histogram_extremes_and_clipping_are_those_of_numpy(prepared: PreparedModel) -> None:
    x = data(7, spread=1.6).numpy()
    one = at_input(measure(prepared, batch(7, spread=1.6)))
    bins, grid = one["histogram"], one["grid"]
    edges = bins["start"] + bins["width"] * np.arange(len(bins["counts"]) + 1)
    counts, _ = np.histogram(x, edges)
    assert bins["counts"] == counts.tolist() and sum(bins["counts"]) == one["values"] == x.size
    assert 64 <= len(bins["counts"]) <= 256
    assert one["low"] == pytest.approx(float(x.min()), rel=1e-4)
    assert one["high"] == pytest.approx(float(x.max()), rel=1e-4)
    half = grid["scale"] / 2
    below, above = int((x < grid["low"] - half).sum()), int((x > grid["high"] + half).sum())
    assert (one["below"], one["above"]) == (below, above) and min(below, above) > 5


def test_every_activation_of_the_plan_is_measured_once_in_order(prepared: PreparedModel) -> None:
    measured = measure(prepared, batch(1))
    names = [one["point"] for one in measured["activations"]]
    wanted = [d.point.name for d in prepared.plan.quantized() if d.point.role in ("input", "output")]
    assert names == wanted and len(set(names)) == len(names)
    assert [one["point"] for one in measured["parameters"]] == [
        d.point.name for d in prepared.plan.quantized() if d.point.role in ("weight", "bias")
    ]


def test_batches_add_up_whatever_their_size(prepared: PreparedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(prepared, batch(3))
    x = data(3)
    parts = [Batch(args=(part,)) for part in x.split(4)]
    apart = measure(prepared, parts)
    where = places.point_nodes(prepared)
    per_sample = places.sample_bytes(prepared, [where[one["point"]] for one in whole["activations"]])
    assert per_sample >= 4 * (3 * 64 + 6 * 36)  # the input and the first convolution alone
    monkeypatch.setattr(places, "_BUDGET", 3 * per_sample)
    sizes: list[int] = []
    cut = places.portions

    def watched(*args: Any) -> Any:
        for portion in cut(*args):
            sizes.append(portion.size)
            yield portion

    monkeypatch.setattr(values, "portions", watched)
    bounded = measure(prepared, batch(3))
    assert sizes == [3, 3, 3, 3, 3, 1]
    for other in (apart, bounded):
        assert other["samples"] == whole["samples"] == 16
        for a, b in zip(whole["activations"], other["activations"], strict=True):
            same = ("point", "histogram", "values", "below", "above", "low", "high", "grid")
            assert {key: a[key] for key in same} == {key: b[key] for key in same}
            assert a["sqnr_db"] == pytest.approx(b["sqnr_db"], abs=1e-2)


def test_weights_by_channel(prepared: PreparedModel) -> None:
    one = next(p for p in measure(prepared, batch(0))["parameters"] if p["role"] == "weight")
    weight = network()[0].weight.detach()
    qparams = prepared.quantizers[one["point"]].qparams
    assert qparams is not None and one["shape"] == [6, 3, 3, 3] and one["scales"] == 6
    rows = weight.flatten(1).numpy()
    assert one["channels"]["low"] == pytest.approx(rows.min(1).tolist(), rel=1e-3)
    assert one["channels"]["high"] == pytest.approx(rows.max(1).tolist(), rel=1e-3)
    assert one["channels"]["grid_high"] == pytest.approx((qparams.scale * 127).tolist(), rel=1e-3)
    assert one["channels"]["grid_low"] == pytest.approx((qparams.scale * -128).tolist(), rel=1e-3)
    rounded = torch.fake_quantize_per_channel_affine(
        weight, qparams.scale.float(), torch.zeros(6, dtype=torch.int32), 0, -128, 127
    )
    assert one["alone_db"] == pytest.approx(sqnr(weight, rounded), abs=0.01)


def test_too_many_channels_are_pooled_by_the_widest_range_and_the_narrowest_grid(
    prepared: PreparedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = measure(prepared, [])["parameters"][0]["channels"]
    monkeypatch.setattr(room, "CHANNELS", 0)
    monkeypatch.setattr(room, "MOST", 4)
    monkeypatch.setattr(room, "LEAST", 4)
    pooled = measure(prepared, [])["parameters"][0]["channels"]
    assert pooled["pool"] == 2 and pooled["count"] == 6
    pairs = [(0, 1), (2, 3), (4, 5)]
    assert pooled["low"] == [min(full["low"][i] for i in pair) for pair in pairs]
    assert pooled["high"] == [max(full["high"][i] for i in pair) for pair in pairs]
    assert pooled["grid_high"] == [min(full["grid_high"][i] for i in pair) for pair in pairs]
    assert pooled["grid_low"] == [max(full["grid_low"][i] for i in pair) for pair in pairs]


def test_the_size_counts_integers_scales_and_biases(prepared: PreparedModel) -> None:
    size = measure(prepared, [])["size"]
    weights, biases = 6 * 3 * 9 + 54 * 5, 6 + 5
    assert size["float_bytes"] == 4 * (weights + biases)
    assert size["quantized_bytes"] == weights + 4 * biases + 4 * (6 + 5)  # a scale per output channel
    assert size["elements"] == {"int8": weights, "int32": biases}


def test_measuring_changes_nothing_and_repeats(prepared: PreparedModel) -> None:
    modes = [quantizer.mode for quantizer in prepared.quantizers.values()]
    with torch.no_grad():
        before = prepared(data(5))
    first, second = measure(prepared, batch(5)), measure(prepared, batch(5))
    assert first == second
    assert modes == [quantizer.mode for quantizer in prepared.quantizers.values()]
    with torch.no_grad():
        assert torch.equal(before, prepared(data(5)))


def test_values_that_are_not_finite_are_left_out_and_no_data_measures_parameters_only(prepared: PreparedModel) -> None:
    x = data(2)
    x[0, 0, 0, 0] = math.inf
    one = at_input(measure(prepared, [Batch(args=(x,))]))
    assert sum(one["histogram"]["counts"]) == x.numel() - 1 and one["high"] < 10 and one["above"] >= 1
    assert measure(prepared, [])["activations"] == []


class Repeated(nn.Module):
    """A module that is called twice, in a loop that torch.export would unroll and hooks see as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.turn = nn.Linear(8, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for _ in range(2):
            x = torch.relu(self.turn(x))
        return x


def test_the_modules_of_a_user_are_measured_like_a_graph() -> None:
    model, x = network(), data(7)
    measured = [
        measure(prepare(model, CONFIG, data(0), capture=capture).calibrate([data(0)]), batch(7))
        for capture in ("graph", "modules")
    ]
    graph, modules = ({one["point"]: one for one in found["activations"]} for found in measured)
    shared = [name for name in modules if name in graph]
    assert len(shared) >= 2
    for name in shared:
        assert modules[name]["histogram"] == graph[name]["histogram"] and modules[name]["grid"] == graph[name]["grid"]
        assert modules[name]["sqnr_db"] == pytest.approx(graph[name]["sqnr_db"], abs=0.3)
    weights = [{p["point"]: p for p in found["parameters"] if p["role"] == "weight"} for found in measured]
    assert weights[0] == weights[1] and x.shape[0] == measured[1]["samples"]
    assert measured[0]["size"] == measured[1]["size"]


def test_a_module_that_is_called_twice_is_counted_twice() -> None:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    made = prepare(Repeated().eval(), CONFIG, x, capture="modules").calibrate([x])
    measured = measure(made, [Batch(args=(x,))])
    turns = [one for one in measured["activations"] if one["point"].startswith("turn")]
    assert turns and all(one["values"] == sum(one["histogram"]["counts"]) for one in turns)
    assert any(one["values"] == 2 * 16 * 6 for one in turns)
    assert all(one["sqnr_db"] > 20 for one in measured["activations"])
    assert measured == measure(made, [Batch(args=(x,))])


def test_a_float_format_has_no_grid_and_no_clipping() -> None:
    config = {"version": 1, "target": "generic", "default": {"activation": {"format": "float16"}}}
    made = prepare(network(), config, data(0)).calibrate([data(0)])
    measured = measure(made, batch(0))
    assert measured["activations"]
    for one in measured["activations"]:
        assert one["grid"] is None and one["below"] == one["above"] == 0
        assert one["alone_db"] == "inf" or one["alone_db"] > 60  # 11 bits of precision
