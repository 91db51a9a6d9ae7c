"""Every case recorded from Quark: its spec accepted or refused as by the tool, and the numbers it gives.

Section numbers are those of the behavioural spec of amd-quark 0.13. Where we differ on purpose, DELIBERATE says why.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import golden
from quark_documents import config_of, document, layer, refused
from torch import Tensor

from quantwright import fake_quantize, observe
from quantwright.config.spec import QuantSpec

rng = np.random.default_rng
MX_ROWS = ((1, 0.1), (1.75, 0.3), (1.76, 0.3), (3.49, 0.3), (3.5, 0.3), (6, 5), (7, 5), (7.99, 5.1))
RECIPES: dict[str, Any] = {  # "recipe" of the file
    "act": lambda: rng(0).standard_normal((4, 64)) * 3 + 0.5,
    "act2": lambda: rng(10).standard_normal((4, 64)) * 5 - 0.25,
    "relu": lambda: np.maximum(rng(0).standard_normal((4, 64)) * 3 + 0.5, 0),
    "w": lambda: rng(1).standard_normal((8, 128)) * 0.05,
    "heavy": lambda: rng(2).standard_t(3, (64, 128)),
    "conv": lambda: rng(3).standard_normal((4, 3, 3, 3)) * 0.1,
    "ties": lambda: np.array([[-127.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 126.5, 127.5]]),
    "zeros": lambda: np.zeros((2, 64)),
    "neg": lambda: -np.abs(rng(4).standard_normal((2, 64)).astype(np.float32)) - 1,
    "const": lambda: np.full((2, 64), 3.0),
    "small": lambda: rng(5).standard_normal((2, 64)) * 1e-6,
    "blk": lambda: rng(6).standard_normal((2, 64)) * np.exp2(rng(7).integers(-6, 7, (2, 64))),
    "mxamax": lambda: np.array([[a] + [b] * 31 for a, b in MX_ROWS]),
}
#: error of the tool -> our code for it
CODES = {"PerTensorHistogramObserverPro only supports": "quark_observer_dtype"}
#: name of the case -> why it is not what the tool says or does
REFUSED_BY_THE_TOOL = {
    "uint16": "1.6: the tool accepts it in the configuration and crashes later; it is a grid like any other",
    "pg_bad_divisor": "2: the last group is shorter here, nothing has to be divisible",
    "seed_doc_pg_with_channel_observer": "0: the tool's own document says per_group with this observer",
}


def tensor(name: str) -> Tensor:
    """Returns an input by its name in the recipe."""
    return torch.from_numpy(np.asarray(RECIPES[name](), dtype=np.float32))


def spec_of(case: dict[str, Any]) -> QuantSpec:
    """Returns the spec that the dialect reads."""
    config = config_of(as_document(case))
    spec = config.default.weight if _is_weight(case) else config.default.input
    assert spec is not None
    return spec


def as_document(case: dict[str, Any]) -> dict[str, Any]:
    return document(global_quant_config=layer(**{"weight" if _is_weight(case) else "input_tensors": case["spec"]}))


def _is_weight(case: dict[str, Any]) -> bool:
    return case["spec"].get("qscheme") in ("per_channel", "per_group") or "group_size" in case["spec"]


def cases(*, integer: bool = False) -> list[dict[str, Any]]:
    found = golden("quark.json")["cases"]
    return [case for case in found if not integer or "int" in case["spec"]["dtype"]]


def test_every_recorded_spec_is_accepted_or_refused_as_by_the_tool() -> None:
    counts: Counter[str] = Counter()
    seen = set()
    for case in cases():
        problems = refused(as_document(case))
        if case["status"] != "error":
            assert not problems, (case["name"], problems)
            counts["accepted as by the tool"] += 1
            continue
        known = next((name for name in REFUSED_BY_THE_TOOL if name in case["name"]), None)
        if known is not None:
            seen.add(known)
            assert not problems, (case["name"], problems)
            counts["deliberately accepted"] += 1
            continue
        code = next(code for words, code in CODES.items() if words in case["error"])
        assert list(problems.values()) == [code], (case["name"], problems)
        counts["refused for the same reason"] += 1
    assert seen == set(REFUSED_BY_THE_TOOL), "a deliberate difference that no case shows"
    assert counts == {"accepted as by the tool": 192, "deliberately accepted": 7, "refused for the same reason": 3}


def measured(case: dict[str, Any]) -> tuple[Any, Any, Tensor]:
    """Returns scales, zero points and the first fake-quantized values of a case, as we compute them."""
    spec, inputs = spec_of(case), [tensor(name) for name in case["inputs"]]
    qparams = observe(inputs, spec)
    got = fake_quantize(inputs[-1], spec, qparams, arithmetic="reciprocal").reshape(-1)
    return qparams.scale.double().reshape(-1).numpy(), qparams.zero_point.reshape(-1).numpy(), got


#: words of a case's name -> what of "scale", "zero_point", "values" is the tool's, and why the rest is not
DIFFERENT = {
    "zpfloat": ({"scale", "values"}, "1.6: the zero point is an integer"),
    "PowOf2MinMaxObserver_int8_asym_act": ({"scale", "values"}, "2: rounded here, truncated by the tool: one step"),
    "PowOf2MinMaxObserver_int8_asym_heavy": ({"scale", "values"}, "2: rounded here, truncated by the tool: one step"),
    "PowOf2MinMaxObserver_uint8_asym_heavy": ({"scale", "values"}, "2: rounded here, truncated by the tool: one step"),
    "PowOf2MinMSEObserver_uint8_asym_heavy": ({"scale", "values"}, "2: rounded here, truncated by the tool: one step"),
    "PowOf2MinMaxObserver_uint8_sym": ({"scale", "values"}, "the signed grid, whose zero point is 128 lower"),
    "PowOf2MinMSEObserver_uint8_sym": ({"scale", "values"}, "the signed grid, whose zero point is 128 lower"),
    "PerChannelPowOf2MinMSE": ({"values"}, "2: an exponent for every channel, not one shift for all"),
    "PercentileObserver": (set(), "2: the largest value, not the last edge of 4200 bins below it"),
    "pt_fp8_e4m3_zeros": ({"values"}, "2: a tensor of zeros has no scale to speak of"),
}


def test_the_numbers_of_every_case_that_the_tool_does_right() -> None:
    counts: Counter[str] = Counter()
    seen = set()
    for case in cases():
        if case["status"] != "ok" or case["name"] == "bfloat16":
            continue
        if "HistogramObserverPro" in case["name"]:
            assert spec_of(case).observer.name == "histogram_l2"  # type: ignore[union-attr]
            counts["observer known, not available yet"] += 1
            continue
        scale, zero, got = measured(case)
        want = np.array(case["fakequant_first"], dtype=np.float32)
        same = set()
        if "scale" not in case:  # formats with exponents inside have none of their own there
            same |= {"scale", "zero_point"}
        elif np.allclose(scale, case["scale"], rtol=3e-7, atol=0):
            same.add("scale")
        if "scale" in case and np.array_equal(zero, case["zero_point"]):
            same.add("zero_point")
        if np.allclose(got[: len(want)].numpy(), want, rtol=1e-6, atol=1e-9):
            same.add("values")
        known = next((words for words in DIFFERENT if words in case["name"]), None)
        least = DIFFERENT[known][0] if known is not None else {"scale", "zero_point", "values"}
        assert least <= same, (case["name"], same)
        if known is not None:
            seen.add(known)
        counts["deliberately different" if known else "the same scale, zero point and values"] += 1
    assert seen == set(DIFFERENT), "a deliberate difference that no case shows"
    assert counts == {
        "the same scale, zero point and values": 109,
        "deliberately different": 17,
        "observer known, not available yet": 10,
    }


@pytest.mark.parametrize("name", ["act", "heavy"])
def test_a_percentile_is_within_one_of_the_tools_bins(name: str) -> None:
    (case,) = [case for case in cases() if case["name"] == f"PerTensorPercentileObserver_int8_sym_{name}"]
    scale, _, _ = measured(case)
    assert 1.0 <= scale[0] / case["scale"][0] <= 1 + 1.01 / 4199


def test_the_integer_codes() -> None:
    """Codes are values over scale, plus zero point: where both are the tool's, so are the codes."""
    count = 0
    for case in cases(integer=True):
        if case["status"] != "ok" or "codes_first" not in case or any(words in case["name"] for words in DIFFERENT):
            continue
        if "HistogramObserverPro" in case["name"] or len(case["scale"]) != 1:
            continue
        scale, zero, got = measured(case)
        want = np.array(case["codes_first"])
        codes = np.rint(got[: len(want)].double().numpy() / np.float32(scale[0])) + zero[0]
        assert np.array_equal(codes, want), case["name"]
        count += 1
    assert count == 45


def test_where_the_tool_is_wrong_the_error_is_smaller() -> None:
    """Statuses "defect": percentile and MSE of an asymmetric range, MSE's search, symmetric unsigned grids."""
    counts: Counter[str] = Counter()
    for case in cases(integer=True):
        if not case["status"].startswith("defect") or "fakequant_sqerr" not in case:
            continue
        spec = spec_of(case)
        if spec.observer is not None and spec.observer.name == "histogram_l2":
            counts["observer known, not available yet"] += 1
            continue
        if spec.bits > 16:
            counts["wider than an activation can be here"] += 1
            continue
        _, _, got = measured(case)
        error = float((got.double() - tensor(case["inputs"][-1]).reshape(-1).double()).square().sum())
        if "pof2" in case["name"]:
            counts["does what was asked: a power of two"] += 1
            assert float(np.log2(measured(case)[0][0])).is_integer()
            continue
        assert error <= case["fakequant_sqerr"] * 1.02, (case["name"], error, case["fakequant_sqerr"])
        counts["as good or better"] += 1
    assert counts == {
        "as good or better": 34, "observer known, not available yet": 15, "does what was asked: a power of two": 1,
        "wider than an activation can be here": 3,
    }  # fmt: skip


def test_casts() -> None:
    (case,) = [case for case in cases() if case["name"] == "bfloat16"]
    got = fake_quantize(tensor("act"), spec_of(case), None).reshape(-1)
    assert np.array_equal(got[: len(case["fakequant_first"])].numpy(), np.float32(case["fakequant_first"]))


def test_what_the_other_formats_are_called_here() -> None:
    """The right one is named, with the right scale, also where no number tells."""
    found: Counter[str] = Counter()
    for case in cases():
        spec = spec_of(case) if case["status"] != "error" else None
        if spec is None or spec.is_integer:
            continue
        said = case["spec"]
        if said["dtype"] in ("fp8_e4m3", "fp8_e5m2", "fp6_e2m3", "fp6_e3m2"):
            assert spec.format == said["dtype"]
        if said.get("scale_format") == "e8m0" or said["dtype"] == "mx":
            assert spec.scale == "e8m0" and spec.exponent == said["scale_calculation_mode"]
            assert spec.granularity is not None and spec.granularity.group_size == said["group_size"]
        found[spec.format or ""] += 1
    assert found == {
        "fp8_e4m3": 12, "fp8_e5m2": 11, "fp6_e2m3": 5, "fp6_e3m2": 6, "fp4_e2m1": 7, "mx6": 1, "mx9": 1, "bfloat16": 1,
    }  # fmt: skip
