"""minmax, moving_average, diffs, and what every observer promises: parameters, errors, NaN/Inf, dtypes, merging."""

from __future__ import annotations

from typing import Any

import numerics_helpers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numerics_helpers import noise, one_thread, spec  # noqa: F401
from torch import Tensor

from quantwright import registry
from quantwright.config.spec import Granularity, QuantSpec
from quantwright.errors import DataError, InputError, StateError
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import group_view
from quantwright.numerics.rounding import round_to_integer
from quantwright.observers import Observer

NAMES = registry.names("observers")
POWER = {"scale": "power_of_two"}


def spec_for(name: str, **fields: Any) -> QuantSpec:
    """Returns a spec that the observer accepts: some search powers of two."""
    return spec(**(POWER if name in ("diffs", "min_mse_position") else {}), **fields)


def make(name: str, what: QuantSpec | None = None, **params: Any) -> Observer:
    return numerics_helpers.make(name, what or spec_for(name), **params)


# -- every observer --------------------------------------------------------------------------------------------------


def test_the_folder_has_the_observers_the_config_names() -> None:
    assert {"minmax", "moving_average", "percentile", "entropy", "mse", "diffs"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_range_lies_within_the_data_and_the_scale_is_usable(name: str, groups: int) -> None:
    observer = make(name)
    batches = [noise(seed, groups, 500) * torch.arange(1.0, groups + 1).unsqueeze(1) for seed in range(3)]
    for batch in batches:
        before = batch.clone()
        observer.observe(batch)
        assert torch.equal(batch, before)
    low_G, high_G = observer.range()
    seen = torch.cat(batches, 1).double()
    assert low_G.shape == high_G.shape == (groups,)
    assert low_G.dtype == high_G.dtype == torch.float64
    assert (low_G < high_G).all()
    if name not in ("clip_std", "growing_histogram"):  # one only widens, the other is as wide on both sides
        assert (low_G >= seen.amin(1)).all()
        assert (high_G <= seen.amax(1)).all()
    assert (observer.qparams().scale > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_groups_do_not_influence_each_other(name: str) -> None:
    x_GN = noise(4, 3, 400) * torch.tensor([[0.01], [1.0], [30.0]])
    together = make(name)
    together.observe(x_GN)
    for index, row in enumerate(x_GN):
        alone = make(name)
        alone.observe(row.unsqueeze(0))
        assert together.qparams().scale[index].item() == pytest.approx(alone.qparams().scale.item(), rel=1e-6)


@pytest.mark.parametrize("name,symmetric", [(n, s) for n in NAMES for s in (True, False) if s or n != "diffs"])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_constants_are_represented(name: str, symmetric: bool, value: float) -> None:
    what = spec_for(name, symmetric=symmetric)
    observer = make(name, what)
    x = torch.full((1, 8), value)
    observer.observe(x)
    qparams = observer.qparams()
    assert torch.isfinite(qparams.scale).all()
    # a bin of a histogram is 1/2048 of the largest value at most
    assert affine.fake_quantize(x, qparams, what)[0, 0].item() == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_are_refused_wherever_they_are(name: str, bad: float) -> None:
    x = noise(5, 2, 100)
    x[1, 37] = bad
    with pytest.raises(DataError, match="NaN/Inf"):
        make(name).observe(x)
    with pytest.raises(DataError, match="NaN/Inf"):
        make(name).observe(x.reshape(1, -1))


@pytest.mark.parametrize("name", NAMES)
def test_empty_and_integer_tensors_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="empty"):
        make(name).observe(torch.zeros(1, 0))
    with pytest.raises(DataError, match=r"torch\.int64"):
        make(name).observe(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_number_of_groups_is_refused(name: str) -> None:
    observer = make(name)
    observer.observe(noise(6, 3, 10))
    with pytest.raises(DataError, match="from 3 to 4"):
        observer.observe(noise(6, 4, 10))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_observed_is_an_error_and_has_no_state(name: str) -> None:
    observer = make(name)
    assert observer.state() == {}
    with pytest.raises(StateError, match=f"'{name}' has observed nothing"):
        observer.qparams()
    observer.observe(noise(7, 1, 10))
    assert observer.state()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_dtypes_and_layouts(name: str, dtype: torch.dtype) -> None:
    x = noise(8, 60, 4).to(dtype)
    strided, plain = make(name), make(name)
    strided.observe(x.T)
    plain.observe(x.T.to(torch.float32).contiguous())
    assert torch.equal(strided.qparams().scale, plain.qparams().scale)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_and_wrong_parameters_are_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(InputError, match="no parameter 'speed'"):
        make(name, speed=3)
    for parameter, about in registry.parameters("observers", name).items():
        assert make(name).params[parameter] == about["default"]
        with pytest.raises(InputError, match=f"{parameter} is"):
            make(name, **{parameter: object()})
        if "max" in about:
            with pytest.raises(InputError, match=str(about["max"])):
                make(name, **{parameter: about["max"] + 1})
        if "choices" in about:
            with pytest.raises(InputError, match=about["choices"][0]):
                make(name, **{parameter: "other"})


def test_a_misspelt_parameter_gets_a_hint() -> None:
    with pytest.raises(InputError, match="did you mean 'percentile'"):
        make("percentile", percentil=99.0)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("moving_average", "growing_histogram")])
@given(cuts=st.lists(st.integers(1, 5), min_size=2, max_size=4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_merging_shards_is_exact_in_any_order(name: str, cuts: list[int], seed: int) -> None:
    batches = [noise(seed + i, 2, 40) * 3.0 ** (i % 4) for i in range(sum(cuts))]
    whole = make(name)
    for batch in batches:
        whole.observe(batch)
    shards = []
    position = 0
    for size in cuts:
        shard = make(name)
        for batch in batches[position : position + size]:
            shard.observe(batch)
        shards.append(shard)
        position += size
    merged = make(name)
    for shard in reversed(shards):
        merged.merge(shard)
    merged.merge(make(name))  # one that saw nothing
    assert torch.equal(merged.qparams().scale, whole.qparams().scale)
    assert {k: v.tolist() for k, v in merged.state().items()} == {k: v.tolist() for k, v in whole.state().items()}


# -- minmax and moving_average ---------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), batches=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_minmax_is_the_extremes(seed: int, batches: int) -> None:
    x = noise(seed, batches, 2, 30)
    observer = make("minmax")
    for batch in x:
        observer.observe(batch)
    low_G, high_G = observer.range()
    assert low_G.tolist() == x.amin((0, 2)).tolist()
    assert high_G.tolist() == x.amax((0, 2)).tolist()


def test_minmax_include_zero_is_for_asymmetric_ranges_away_from_zero() -> None:
    x, what = torch.tensor([[1.0, 3.0]]), spec(format="uint8", symmetric=False)
    scales = []
    for include_zero in (True, False):
        observer = make("minmax", what, include_zero=include_zero)
        observer.observe(x)
        scales.append(observer.qparams().scale.item())
    assert scales == [pytest.approx(3 / 255), pytest.approx(2 / 255)]


def test_moving_average_by_hand() -> None:
    observer = make("moving_average", constant=0.25)
    for low, high in ((-1.0, 2.0), (-3.0, 6.0), (-1.0, 2.0)):
        observer.observe(torch.tensor([[low, high]]))
    low_G, high_G = observer.range()
    # 2 -> 2 + (6 - 2) / 4 = 3 -> 3 + (2 - 3) / 4
    assert (low_G.item(), high_G.item()) == (-1.375, 2.75)


def test_moving_average_cannot_be_merged() -> None:
    with pytest.raises(StateError, match="order of the batches"):
        make("moving_average").merge(make("moving_average"))


# -- diffs -----------------------------------------------------------------------------------------------------------


def brute_force(x_N: Tensor, what: QuantSpec, scope: int) -> int:
    """Returns the best position by quantizing with every candidate, one at a time, in float64."""
    x_N = x_N.double()
    lowest = -(2 ** (what.bits - 1)) if what.signed else 0
    first = 40
    while not (float(x_N.max()) * 2.0**first <= what.qmax + 0.5 and float(x_N.min()) * 2.0**first >= lowest - 0.5):
        first -= 1  # the finest position that holds everything
    errors = []
    for position in range(first, first + scope):
        q = round_to_integer(x_N * 2.0**position, what.rounding or "").clamp(lowest, what.qmax)
        errors.append(float((q * 2.0**-position - x_N).square().sum()))
    return first + errors.index(min(errors))


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(["int8", "int4", "int2", "int16", "uint8"]),
    rounding=st.sampled_from(["half_even", "half_up", "half_away"]),
    scope=st.integers(1, 6),
    heavy=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_diffs_equals_brute_force(seed: int, name: str, rounding: str, scope: int, heavy: bool) -> None:
    what = spec(format=name, rounding=rounding, statistic="max", **POWER)
    x = noise(seed, 1, 200) ** (3 if heavy else 1)
    x = x if what.signed else x.abs()
    observer = make("diffs", what, scope=scope)
    observer.observe(x)
    assert observer.qparams().scale.item() == 2.0 ** -brute_force(x[0], what, scope)


@pytest.mark.parametrize("rows,columns", [(1, 300_000), (3, 100_000), (70, 5_000), (700, 300), (2000, 9)])
def test_diffs_equals_brute_force_in_every_row_of_a_large_tensor(rows: int, columns: int) -> None:
    """Errors are measured in pieces, and candidates given up before the last one: no row may lose its best so."""
    what = spec(statistic="max", **POWER)
    x = noise(5, rows, columns) * torch.logspace(-3, 3, rows).unsqueeze(1)
    x[::2, columns // 2 :] *= 0.01  # where most of the error is at the beginning ...
    x[-1, -1] *= 40  # ... and where an outlier comes last
    observer = make("diffs", what)
    observer.observe(x)
    assert observer.qparams().scale.tolist() == [2.0 ** -brute_force(row, what, 5) for row in x]


def test_diffs_of_all_batches_is_independent_of_how_values_were_divided() -> None:
    x = noise(4, 2, 6000) ** 3
    positions = []
    for parts in (1, 2, 7):
        observer = make("diffs", spec(statistic="all", **POWER))
        for part in x.chunk(parts, 1):
            observer.observe(part)
        positions.append((observer.qparams().scale.tolist(), *(part.tolist() for part in observer.range())))
    assert positions[0] == positions[1] == positions[2]
    assert positions[0][0] == [2.0 ** -brute_force(row, spec_for("diffs"), 5) for row in x]


def test_diffs_clips_outliers_where_minmax_does_not() -> None:
    x = noise(1, 1, 10_000)
    x[0, 0] = 9.0
    scales = {}
    for scope in (1, 5):
        observer = make("diffs", scope=scope)
        observer.observe(x)
        scales[scope] = observer.qparams().scale.item()
    # 2**-4 holds up to 7.94: (9 - 7.94)**2 = 1.1 is less than what halving the step saves, 10_000 * 9.8e-4
    assert scales == {1: 2.0**-3, 5: 2.0**-4}


def test_diffs_over_several_batches_is_independent_of_order_and_near_the_exact_search() -> None:
    batches = [noise(i, 1, 4000) * scale for i, scale in enumerate([0.1, 3.0, 1.0])]
    orders = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        observer = make("diffs")
        for index in order:
            observer.observe(batches[index])
        orders.append(observer.qparams().scale.item())
    assert len(set(orders)) == 1
    assert orders[0] == 2.0 ** -brute_force(torch.cat(batches, 1)[0], spec_for("diffs"), 5)


def test_diffs_measures_batches_alone_unless_told_to_see_all() -> None:
    observer = make("diffs", spec(statistic="modal", **POWER))
    observer.observe(noise(0, 1, 100))
    with pytest.raises(StateError, match="takes one batch"):
        observer.observe(noise(1, 1, 100))
    with pytest.raises(StateError, match="cannot be merged"):
        other = make("diffs", spec(statistic="modal", **POWER))
        other.observe(noise(2, 1, 100))
        observer.merge(other)


def test_diffs_caps_by_min_scale_after_the_search() -> None:
    x = noise(3, 1, 100) * 1e-5
    observer = make("diffs", spec(min_scale=2.0**-12, **POWER))
    observer.observe(x)
    assert observer.qparams().scale.item() == 2.0**-12


@pytest.mark.parametrize("fields", [{}, {"scale": "power_of_two", "symmetric": False}])
def test_diffs_refuses_what_it_cannot_search(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="diffs searches a power of two for a symmetric grid"):
        make("diffs", spec(**fields))


def test_a_whole_weight_per_channel() -> None:
    weight, g = noise(9, 6, 4, 3, 3), Granularity(kind="per_channel", axis=0)
    observer = make("minmax", spec(granularity=g))
    observer.observe(group_view(weight, g))
    expected = choose_qparams(weight.amin((1, 2, 3)), weight.amax((1, 2, 3)), spec(granularity=g))
    assert torch.equal(observer.qparams().scale, expected.scale)
