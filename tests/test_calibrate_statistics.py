"""The statistic over batches against the recorded one, and its properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.numerics.qparams import QParams
from quantwright.watcher import combine


def qparams(scales: list[float], zeros: list[int] | None = None) -> list[QParams]:
    zeros = zeros or [0] * len(scales)
    return [
        QParams(scale=torch.tensor([s], dtype=torch.float64), zero_point=torch.tensor([z], dtype=torch.int32))
        for s, z in zip(scales, zeros, strict=True)
    ]


def test_every_recorded_statistic(vai: Any) -> None:
    compared = 0
    for case in vai["statistics"]:
        if "error" in case:
            continue  # refused combinations are the dialect's business
        history = qparams(case["per_batch_scale"])
        for length, running in enumerate(case.get("running", []), 1):
            got = combine(history[:length], case["stat"], "smaller_scale").scale
            assert float(got) == pytest.approx(running, rel=1e-12), (case["stat"], length)
            compared += 1
        assert float(combine(history, case["stat"], "smaller_scale").scale) == pytest.approx(case["final"], rel=1e-12)
        compared += 1
    assert compared >= 25


def test_ties_of_the_mode_go_where_they_are_told() -> None:
    history = qparams([0.5, 0.25, 0.25, 0.5, 1.0])
    assert float(combine(history, "modal", "larger_scale").scale) == 0.5
    assert float(combine(history, "modal", "smaller_scale").scale) == 0.25


def test_zero_points_take_the_mode() -> None:
    assert int(combine(qparams([1.0, 2.0, 4.0], [3, 7, 7]), "max").zero_point) == 7


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9))
def test_statistics_are_numpys(scales: list[float]) -> None:
    history = qparams(scales)
    assert float(combine(history, "max").scale) == max(scales)
    assert float(combine(history, "mean").scale) == pytest.approx(np.mean(scales), rel=1e-12)
    assert float(combine(history, "median").scale) == pytest.approx(np.median(scales), rel=1e-12)


def test_channels_are_independent() -> None:
    history = [
        QParams(scale=torch.tensor(s), zero_point=torch.zeros(2, dtype=torch.int32)) for s in ([1.0, 8.0], [2.0, 4.0])
    ]
    assert combine(history, "max").scale.tolist() == [2.0, 8.0]
