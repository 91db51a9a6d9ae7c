"""Scales, zero points and quantized values recorded from vai_q_pytorch, against ours.

Every case is counted. Where the tool's own result is a bug by the spec, ours differs on purpose; the test then also
reproduces the tool's number with the bug put in, so that the bug is all that differs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numerics_helpers import one_thread  # noqa: F401
from torch import Tensor

from quantwright import registry
from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.numerics import affine
from quantwright.numerics.granularity import group_view
from quantwright.numerics.qparams import QParams
from quantwright.observers import Observer

ROUNDINGS = {"half_even": "half_even", "half_up": "half_up", "half_down": "half_down", "std_round": "half_away"}
OBSERVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "maxmin": ("minmax", {"include_zero": False}),
    "percentile": ("percentile", {"histogram": "exact"}),
    "entropy": ("entropy", {"histogram": "exact"}),
    "mse": ("mse", {"histogram": "exact"}),
    "diffs": ("diffs", {"scope": 5}),
}


def tensors() -> dict[str, Tensor]:
    """Returns the tensors of the recipes in the file's ``meta``."""
    rng, f4 = np.random.default_rng, np.float32
    factors = np.array([0.01, 0.1, 0.5, 1, 2, 4, 8, 0.25]).reshape(8, 1, 1, 1)
    arrays = {
        "w_normal": rng(0).standard_normal((8, 4, 3, 3)).astype(f4),
        "w_laplace": (rng(1).laplace(size=(8, 4, 3, 3)) * factors).astype(f4),
        "a_half_normal": abs(rng(2).standard_normal((4, 16, 14, 14))).astype(f4),
        "a_gamma": rng(3).gamma(2.0, 1.0, (4, 16, 14, 14)).astype(f4) - f4(0.7),
        "zeros": np.zeros((2, 3), f4),
        "const_1": np.ones((2, 3), f4),
        "tiny": (rng(5).standard_normal(64) * 1e-4).astype(f4),
        "big": (rng(6).standard_normal(64) * 300).astype(f4),
        "edge_127_5": np.array([127.4, -128.4, 0.5], f4) / f4(64),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


TENSORS = tensors()


def spec_of(cfg: dict[str, Any]) -> QuantSpec:
    """Returns our spec for one tensor's settings of the tool; asymmetric or unsigned is [0, 2**b - 1] (spec 2.3)."""
    bits, power = cfg["bit_width"], cfg["scale_type"] == "poweroftwo"
    signed = cfg["signed"] and cfg["symmetry"]
    return BASE_SPEC.model_copy(
        update={
            "format": f"{'' if signed else 'u'}int{bits}",
            "granularity": Granularity(kind="per_channel", axis=0) if cfg["per_channel"] else Granularity(),
            "symmetric": cfg["symmetry"],
            "narrow_range": cfg["narrow_range"],
            "scale": "power_of_two" if power else "float",
            "statistic": "modal" if power else "max",  # the tool measures each batch exactly
            "rounding": ROUNDINGS[cfg["round_mode"]],
            "min_scale": (2.0**-12 if bits <= 8 else 2.0**-15) if power else 0.0,
        }
    )


def observer_of(method: str, spec: QuantSpec, **more: Any) -> Observer:
    """Returns our observer for a method of the tool; power-of-two maxmin is diffs with one candidate (spec 3.4)."""
    name, params = OBSERVERS[method]
    if method == "maxmin" and spec.scale == "power_of_two":
        name, params = "diffs", {"scope": 1}
    kind: type[Observer] = registry.load("observers", name)
    return kind(spec, **params, **more)


def measure(x: Tensor, method: str, spec: QuantSpec, **more: Any) -> QParams:
    observer = observer_of(method, spec, **more)
    observer.observe(group_view(x, spec.granularity or Granularity()))
    return observer.qparams()


def same_values(x: Tensor, qparams: QParams, spec: QuantSpec, recorded: dict[str, Any]) -> bool:
    """Returns whether the fake-quantized tensor has the recorded bytes."""
    y = affine.fake_quantize(x, qparams, spec, arithmetic="reciprocal")
    return hashlib.sha1(y.numpy().tobytes()).hexdigest() == recorded["sha1"]


def wrapped(qparams: QParams) -> QParams:
    """Returns the QParams with the zero point cast to int8, the tool's per-channel bug (spec 3.2)."""
    return QParams(scale=qparams.scale, zero_point=qparams.zero_point.to(torch.int8).to(torch.int32))


def outcome(case: dict[str, Any]) -> str:
    """Returns how our result for one case of ``weights_grid`` compares with the recorded one."""
    x, cfg, spec = TENSORS[case["tensor"]], case["cfg"], spec_of(case["cfg"])
    qparams = measure(x, cfg["method"], spec)
    if "raises" in case:
        return case["raises"]
    if cfg["per_channel"] and cfg["symmetry"] and not cfg["signed"]:
        # spec 3.3: with any negative value the tool silently takes the signed range; we cut what is below zero
        theirs = spec_of({**cfg, "signed": True})
        reproduced = same_values(x, measure(x, cfg["method"], theirs), theirs, case["q"])
        return "unsigned became signed" if reproduced else "wrong"
    scale_G, zero_G = np.atleast_1d(case["scale"]), np.atleast_1d(case["zero_point"])
    if not np.allclose(qparams.scale.numpy(), scale_G, rtol=1e-6, atol=0):
        return "wrong"
    if not np.array_equal(qparams.zero_point.numpy(), zero_G):
        return "wrong"
    if same_values(x, qparams, spec, case["q"]):
        return "equal"
    if cfg["per_channel"] and zero_G.max() > 127 and same_values(x, wrapped(qparams), spec, case["q"]):
        return "zero point wrapped"  # spec 3.2 and 0.6: int8 cast, "do not imitate"
    return "wrong"


def test_weights_grid(vai: dict[str, Any]) -> None:
    counts = Counter(outcome(case) for case in vai["weights_grid"])
    assert counts == {
        "equal": 499,  # scale, zero point and every byte of the fake-quantized tensor
        "zero point wrapped": 20,  # scale and zero point equal; the values differ by the tool's int8 cast alone
        "unsigned became signed": 29,
        # the tool crashes, we give a result (tested below)
        "TypeError/E_UNSIGNED_NEGATIVE_DATA": 31,
        "TypeError/E_INTERNAL_raise": 59,
    }
    assert sum(counts.values()) == len(vai["weights_grid"]) == 638


def test_power_of_two_cases_have_the_recorded_position(vai: dict[str, Any]) -> None:
    cases = [case for case in vai["weights_grid"] if "fix_pos" in case]
    for case in cases:
        qparams = measure(TENSORS[case["tensor"]], case["cfg"]["method"], spec_of(case["cfg"]))
        assert (-torch.log2(qparams.scale)).tolist() == np.atleast_1d(case["fix_pos"]).tolist()
    assert len(cases) == 126


def test_where_the_tool_crashes_on_unsigned_negative_data_we_cut_below_zero(vai: dict[str, Any]) -> None:
    cases = [c for c in vai["weights_grid"] if "UNSIGNED_NEGATIVE" in c.get("raises", "")]  # spec 3.3 maxmin
    for case in cases:
        x, spec = TENSORS[case["tensor"]], spec_of(case["cfg"])
        qparams = measure(x, "maxmin", spec)
        assert float(qparams.scale) == float(x.max()) / spec.qmax
        y = affine.fake_quantize(x, qparams, spec, arithmetic="reciprocal")
        assert (y[x < 0] == 0).all()
        assert ((y - x).abs()[x > 0] <= float(qparams.scale) / 2 * 1.0001).all()
    assert len(cases) == 31


def test_where_the_tool_crashes_on_mse_with_another_rounding_the_range_is_that_of_half_even(
    vai: dict[str, Any],
) -> None:
    """Spec 0.6: mse only works with half_even there. The range does not depend on how ties are rounded."""
    cases = [c for c in vai["weights_grid"] if "INTERNAL" in c.get("raises", "")]
    for case in cases:
        x, spec = TENSORS[case["tensor"]], spec_of(case["cfg"])
        even = spec.model_copy(update={"rounding": "half_even"})
        assert spec.rounding != "half_even"
        assert torch.equal(measure(x, "mse", spec).scale, measure(x, "mse", even).scale)
    assert len(cases) == 59


def test_asymmetric_default_differs_only_in_holding_zero(vai: dict[str, Any]) -> None:
    """Spec 3.3: the tool does not let the range include 0. By default ours does; with data around 0 nothing changes."""
    same, wider = 0, 0
    for case in vai["weights_grid"]:
        if case["cfg"]["symmetry"] or case["cfg"]["per_channel"]:
            continue
        x, spec = TENSORS[case["tensor"]], spec_of(case["cfg"])
        kind: type[Observer] = registry.load("observers", "minmax")
        observer = kind(spec)
        observer.observe(group_view(x, Granularity()))
        if float(x.min()) <= 0:
            same += same_values(x, observer.qparams(), spec, case["q"])
        else:
            assert float(observer.qparams().scale) > case["scale"]
            wider += 1
    assert (same, wider) == (59, 20)


def test_dpu_positions(vai: dict[str, Any]) -> None:
    """Spec 3.4 and 3.5: position before and after the cap, and every byte of the result."""
    equal = 0
    for case in vai["dpu_fix_pos"]:
        x, bits = TENSORS[case["tensor"]], case["bit_width"]
        free = BASE_SPEC.model_copy(
            update={
                "format": f"int{bits}",
                "scale": "power_of_two",
                "statistic": "modal",  # the tool measures each batch exactly
                "rounding": {2: "half_up", 3: "half_away"}[case["round_code"]],
            }
        )
        capped = free.model_copy(update={"min_scale": 2.0**-12 if bits <= 8 else 2.0**-15})
        positions = []
        for spec in (free, capped):
            observer = registry.load("observers", "diffs")(spec, scope=case["scope"])
            observer.observe(group_view(x, Granularity()))
            positions.append(-float(torch.log2(observer.qparams().scale)))
        assert positions == [case["fix_pos_raw"], case["fix_pos"]], case
        equal += same_values(x, observer.qparams(), capped, case["q"])
    assert equal == len(vai["dpu_fix_pos"]) == 75


SETTINGS = {
    "bit_width": 8, "signed": True, "symmetry": True, "narrow_range": False, "per_channel": False,
    "round_mode": "half_even",
}  # fmt: skip


def test_scales_per_batch(vai: dict[str, Any]) -> None:
    """Spec 3.6: each batch on its own; the statistic over them is calibration's."""
    batches = [
        torch.from_numpy((np.random.default_rng(100 + i).standard_normal((2, 8, 7, 7)) * factor).astype(np.float32))
        for i, factor in enumerate([1, 2, 1.5, 3, 0.5])
    ]
    matching = 0
    for case in vai["statistics"]:
        if "error" in case:
            continue  # combinations the config refuses, before any number
        spec = spec_of({**SETTINGS, "scale_type": case["scale_type"]})
        scales = [float(measure(batch, case["method"], spec).scale) for batch in batches]
        matching += scales == case["per_batch_scale"]
    assert matching == 9


def test_percentages(vai: dict[str, Any]) -> None:
    spec = spec_of({**SETTINGS, "scale_type": "float"})
    matching = 0
    for case in vai["percentile"]:
        for name, scale in case.get("scale", {}).items():
            found = measure(TENSORS[name], "percentile", spec, percentile=case["effective"])
            matching += float(found.scale) == scale
    assert matching == 12


@pytest.mark.parametrize("name", ["w_normal", "a_gamma"])
def test_recorded_summaries_agree_with_the_recorded_hash(vai: dict[str, Any], name: str) -> None:
    """Guards the helper: first values, sum and hash of one recorded case all describe the tensor we compute."""
    case = next(c for c in vai["weights_grid"] if c["tensor"] == name and "q" in c and outcome(c) == "equal")
    x, spec = TENSORS[name], spec_of(case["cfg"])
    y = affine.fake_quantize(x, measure(x, case["cfg"]["method"], spec), spec, arithmetic="reciprocal")
    assert y.flatten()[:12].tolist() == case["q"]["first"]
    assert float(y.double().sum()) == pytest.approx(case["q"]["sum"], rel=1e-12)
