"""The average of ranges and the last batch, in calibration and on one tensor; the observers that came with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import quantwright
from quantwright.config.config import Calibration
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.errors import DataError
from quantwright.fakequant.fixed import Quantizer
from quantwright.observers import Observer
from quantwright.plan.plan import Point
from quantwright.watcher import Watcher, make_observer, moved

EMA = {"statistic": "ema", "ema_decay": 0.9}


def watcher(calibration: Calibration | None = None, **fields: Any) -> Watcher:
    spec = QuantSpec.model_validate(fields).over(BASE_SPEC)
    point = Point(name="x:input", role="input", node="x", tensor="x")
    return Watcher(Quantizer(point, spec), calibration or Calibration())


def batches(count: int = 5, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [(1 + index) * torch.randn(3, 4, 5, generator=random) for index in range(count)]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), count=st.integers(1, 6), decay=st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_the_average_is_that_of_the_formula(seed: int, count: int, decay: float) -> None:
    given_batches = batches(count, seed)
    low, high = given_batches[0].min(), given_batches[0].max()
    for batch in given_batches[1:]:
        low, high = low * decay + batch.min() * (1.0 - decay), high * decay + batch.max() * (1.0 - decay)
    spec = QuantSpec(statistic="ema", ema_decay=decay, symmetric=False, format="uint8").over(BASE_SPEC)
    found = quantwright.observe(given_batches, spec)
    want = (high.clamp(min=0).double() - low.clamp(max=0).double()) / 255
    assert float(found.scale) == pytest.approx(float(want), rel=1e-6)


def test_calibration_and_one_tensor_agree() -> None:
    for fields in (EMA, {"statistic": "last"}, {**EMA, "observer": {"name": "quantile"}},
                   {"statistic": "last", "observer": {"name": "clip_std"}}):  # fmt: skip
        spec = QuantSpec.model_validate(fields).over(BASE_SPEC)
        watched = watcher(**fields)
        for batch in batches():
            watched(batch)
        alone = quantwright.observe(batches(), spec)
        assert torch.equal(watched.result().scale, alone.scale), fields


def test_the_order_of_batches_counts_and_the_last_one_is_the_last() -> None:
    forward, back = (quantwright.observe(list(b), {**EMA}) for b in (batches(), reversed(batches())))
    assert float(forward.scale) != float(back.scale)
    last = quantwright.observe(batches(), {"statistic": "last"})
    assert torch.equal(last.scale, quantwright.observe(batches()[-1:], {}).scale)


@pytest.mark.parametrize(
    "fields", [EMA, {"statistic": "last"}, {**EMA, "granularity": {"kind": "per_channel", "axis": 1}}]
)
def test_state_goes_on_where_it_was(fields: dict[str, Any]) -> None:
    whole, first = watcher(**fields), watcher(**fields)
    for batch in batches():
        whole(batch)
    for batch in batches()[:2]:
        first(batch)
    second = watcher(**fields)
    second.load_state({key: value.clone() for key, value in first.state().items()}, 2)
    for batch in batches()[2:]:
        second(batch)
    assert second.batches == 5 and torch.equal(second.result().scale, whole.result().scale)
    assert watcher(**fields).state() == {}


@pytest.mark.parametrize("fields", [EMA, {"statistic": "last"}])
def test_shards_that_took_turns_are_put_in_order(fields: dict[str, Any]) -> None:
    """Ranges are kept batch by batch, so the average of several workers is exactly that of one."""
    whole, shards = watcher(**fields), [watcher(**fields) for _ in range(2)]
    for index, batch in enumerate(batches()):
        whole(batch)
        shards[index % 2](batch)
    merged = watcher(**fields)
    assert merged.mergeable
    merged.merge([shard.state() for shard in shards], 5)
    assert torch.equal(merged.result().scale, whole.result().scale)


def test_quantized_inputs_use_the_average_so_far_or_the_batch_alone() -> None:
    for how in ("running", "batch"):
        watched = watcher(Calibration(inputs="quantized", batch_qparams=how), **EMA)
        first, second = batches(2)
        watched(first)
        y = watched(second)
        scale = float(watched.result().scale if how == "running" else quantwright.observe(second, {}).scale)
        assert torch.allclose(y / scale, torch.round(y / scale), atol=1e-3)


def test_a_point_that_saw_nothing_says_so() -> None:
    with pytest.raises(DataError, match="saw no data"):
        watcher(**EMA).result()


def test_moved_takes_the_first_as_it_is() -> None:
    low, high = torch.tensor([-1.0]), torch.tensor([3.0])
    assert moved(None, (low, high), BASE_SPEC) == (low, high)


def observer(name: str, **fields: Any) -> Observer:
    return make_observer(QuantSpec.model_validate({"observer": name, **fields}).over(BASE_SPEC))


def test_clip_std_only_widens() -> None:
    x = torch.cat([torch.zeros(1, 1000), torch.tensor([[5.0]])], 1)
    watched = observer("clip_std")
    watched.observe(x)
    low, high = watched.range()
    assert float(high) == 5.0 and float(low) == pytest.approx(float(x.mean() - 2.6 * x.std()), rel=1e-6)
    flat = observer("clip_std")
    flat.observe(torch.full((2, 1), 3.0))
    assert flat.range()[0].tolist() == [3.0, 3.0], "one value has no deviation"


def test_quantile_clips_the_rarest_and_nothing_else() -> None:
    x = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([100.0])]).unsqueeze(0)
    watched = observer("quantile", observer={"name": "quantile", "quantile": 0.999, "bins": 4096})
    watched.observe(x)
    low, high = watched.range()
    assert 0.9 < float(high) < 1.1 and float(low) == -float(high)
    everything = observer("quantile", observer={"name": "quantile", "quantile": 1.0})
    everything.observe(x)
    assert float(everything.range()[1]) == pytest.approx(100.0, rel=1e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8), power=st.sampled_from([1.0, 2.0, 2.4]))
def test_a_shrunk_range_is_never_worse_than_the_whole_one(seed: int, bits: int, power: float) -> None:
    x = torch.randn(1, 400, generator=torch.Generator().manual_seed(seed))
    spec = QuantSpec.model_validate(
        {"format": f"int{bits}", "observer": {"name": "mse_shrink", "power": power}, "fit": "span"}
    ).over(BASE_SPEC)
    whole = spec.model_copy(update={"observer": BASE_SPEC.observer})
    errors = []
    for asked in (spec, whole):
        y = quantwright.fake_quantize(x, asked, quantwright.observe(x, asked), arithmetic="reciprocal")
        errors.append(float((y - x).abs().pow(power).mean()))
    assert errors[0] <= errors[1] * (1 + 1e-5)


@pytest.mark.parametrize("name", ["clip_std", "quantile", "mse_shrink"])
def test_ranges_of_several_batches_are_the_widest_and_merge_exactly(name: str) -> None:
    parts, whole = [observer(name), observer(name)], observer(name)
    for index, batch in enumerate(batches()):
        x_GN = batch.reshape(1, -1)
        whole.observe(x_GN)
        parts[index % 2].observe(x_GN)
    parts[0].merge(parts[1])
    assert parts[0].range() == whole.range()
    again = observer(name)
    again.load_state(whole.state())
    assert again.range() == whole.range()
