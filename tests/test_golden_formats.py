"""Scaled formats against numbers recorded from the tools: Quark, vai_q_tensorflow2 (block floats) and sophgo-mq.

Deliberate differences, each with its own test: an all-zero tensor has scale 2**-18 here (Quark: 2**-23); codebook
``fp4_e2m1`` of sophgo-mq has 0.0625 where the format has 0.5; its 8-bit floats are those of an emulator that rounds to
float16 first and has no subnormal E4M3, of a CPU build that computes E5M2 in place of E4M3 per channel, and E5M2
overflows there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import golden
from torch import Tensor

from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import ends, group_view
from quantwright.numerics.grids import grid_of
from quantwright.numerics.qparams import QParams

QUARK = {"fp4": "fp4_e2m1", "bfp16": "bfp16"}
SOPHGO = {"fp4": "fp4_bnb"}
TF2_ROUNDING = {0: "half_even", 1: "half_up", 2: "half_away"}  # spec vai_q_tensorflow2 4.2


def spec(**fields: Any) -> QuantSpec:
    return QuantSpec(**fields).over(BASE_SPEC)


def measured(x: Tensor, what: QuantSpec) -> QParams:
    return choose_qparams(*ends(group_view(x, what.granularity or Granularity())), what)


# -- Quark ---------------------------------------------------------------------------------------------------------
def quark_inputs() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng
    pairs = [(1, 0.1), (1.75, 0.3), (1.76, 0.3), (3.49, 0.3), (3.5, 0.3), (6, 5), (7, 5), (7.99, 5.1)]
    return {
        "act": rng(0).standard_normal((4, 64)) * 3 + 0.5,
        "w": rng(1).standard_normal((8, 128)) * 0.05,
        "heavy": rng(2).standard_t(3, (64, 128)),
        "zeros": np.zeros((2, 64)),
        "small": rng(5).standard_normal((2, 64)) * 1e-6,
        "blk": rng(6).standard_normal((2, 64)) * np.exp2(rng(7).integers(-6, 7, (2, 64))),
        "mxamax": np.array([[a] + [b] * 31 for a, b in pairs]),
    }


def quark_cases() -> list[Any]:
    return [
        case
        for case in golden("quark.json")["cases"]
        if str(case["spec"].get("dtype")).startswith(("fp4", "fp6", "fp8", "mx", "bfp")) and case["status"] == "ok"
    ]


def quark_spec(said: dict[str, Any]) -> QuantSpec:
    dtype, element = said["dtype"], said.get("mx_element_dtype") or said["dtype"]
    kind = said.get("qscheme") or "per_group"
    axis = said["ch_axis"] if kind != "per_tensor" else None
    g = Granularity(kind=kind, axis=axis, group_size=said.get("group_size") if kind == "per_group" else None)
    fields: dict[str, Any] = {"format": QUARK.get(element, element), "granularity": g}
    if dtype in ("mx6", "mx9"):  # whatever the mode says: the exponent of the largest value (spec quark 2)
        fields |= {"scale": "e8m0", "exponent": "floor"}
    elif dtype == "mx" or said.get("scale_format") == "e8m0":
        fields |= {"scale": "e8m0", "exponent": said["scale_calculation_mode"]}
    return spec(**fields)


def test_every_quark_case_bit_for_bit() -> None:
    inputs, counts = quark_inputs(), Counter[str]()
    for case in quark_cases():
        said = {key: value for key, value in case["spec"].items() if value is not None}
        x = torch.from_numpy(inputs[case["inputs"][0]].astype(np.float32))
        what = quark_spec(said)
        recorded = np.asarray(case["scale"] if case.get("scale") is not None else [], np.float32).ravel()
        if "Percentile" in str(said.get("observer_cls")):  # the range is its histogram's, 4200 bins; here the grid
            scale_G = torch.tensor(recorded, dtype=torch.float64)
            qparams = QParams(scale=scale_G, zero_point=torch.zeros(1, dtype=torch.int32))
            counts["percentile"] += 1
        else:
            qparams = measured(x, what)
            if case["inputs"] != ["zeros"] and recorded.size:
                assert np.array_equal(qparams.scale.float().numpy(), recorded), case["name"]
                counts["scales"] += 1
        y = affine.fake_quantize(x, qparams, what)
        first = np.asarray(case["fakequant_first"], np.float32).ravel()
        assert np.array_equal(y.numpy().ravel()[: first.size], first), case["name"]
        assert float(y.double().sum()) == pytest.approx(case["fakequant_sum"], rel=1e-12, abs=1e-12), case["name"]
        assert float((y - x).double().square().sum()) == pytest.approx(case["fakequant_sqerr"], rel=1e-9), case["name"]
        counts["values"] += 1
    assert counts == {"values": 41, "scales": 31, "percentile": 2}


def test_an_all_zero_tensor_has_another_scale_and_the_same_values() -> None:
    (case,) = (c for c in quark_cases() if c["name"] == "pt_fp8_e4m3_zeros")
    qparams = measured(torch.zeros(2, 64), spec(format="fp8_e4m3"))
    assert np.ravel(case["scale"])[0] == 2.0**-23
    assert float(qparams.scale) == 2.0**-18  # numerics/scales.py, spec vai_q_pytorch 3.2


@pytest.mark.parametrize("name", ["fp4", "fp6_e2m3", "fp6_e3m2", "fp8_e4m3_cast"])
def test_ties_of_elements(name: str) -> None:
    table = golden("quark.json")["extra"]["element_cast_ties"][name]
    grid = grid_of({"fp4": "fp4_e2m1", "fp8_e4m3_cast": "fp8_e4m3"}.get(name, name))
    assert grid.round_(torch.tensor(table["x"]), "half_even").tolist() == table["y"]


# -- vai_q_tensorflow2 -----------------------------------------------------------------------------------------------
def tf2_spec(case: dict[str, Any]) -> QuantSpec:
    """Section 4.8: msfp has tiles of 12 and rounds ties away, whatever it is told."""
    name, msfp = case["data_format"], case["data_format"] == "msfp"
    if name == "bf16":
        return spec(format="bfloat16")
    tile = Granularity(kind="per_group", axis=case["axis"], group_size=12 if msfp else case["tile_size"])
    return spec(
        format=f"{name}{case['bit_width']}", granularity=tile, scale="e8m0", exponent="floor", min_scale=2.0**-23,
        rounding="half_away" if msfp else TF2_ROUNDING[case["round_mode"]],
    )  # fmt: skip


def test_every_block_float_case_bit_for_bit() -> None:
    cases = golden("vai_q_tensorflow2.json")["bfp"]
    counts = Counter[str]()
    for case in cases:
        assert case["kind"] == "randn3+0.5"
        random = np.random.RandomState(case["seed"]).randn(*case["shape"])
        x = torch.from_numpy((random * 3 + 0.5).astype(np.float32))
        what = tf2_spec(case)
        y = affine.fake_quantize(x, measured(x, what) if what.has_scale else None, what)
        assert np.array_equal(y.numpy().ravel()[:16], np.asarray(case["y_first16"], np.float32)), case
        assert float(y.double().sum()) == pytest.approx(case["y_sum"], abs=1e-9), case
        counts[case["data_format"]] += 1
    assert counts == {"bfp": 21, "msfp": 15, "bf16": 5}


# -- sophgo-mq -------------------------------------------------------------------------------------------------------
def sophgo() -> Any:
    return golden("mqbench_sophgo.json")["sophgo"]


def sophgo_data(said: dict[str, Any]) -> Tensor:
    x = np.random.default_rng(said["seed"]).standard_normal(said["shape"], dtype=np.float32)
    return torch.from_numpy((x * np.float32(said.get("a", 1.0)) + np.float32(said.get("b", 0.0))).astype(np.float32))


def sophgo_spec(case: dict[str, Any]) -> QuantSpec:
    kind, setting = case["fake_quantize"], case["set"]
    word = setting.get("data_type") or case["env"].get("BENCH_DTYPE")
    casts = {"BF16FakeQuantize": "bfloat16", "Fp16FakeQuantize": "float16"}
    g = Granularity(kind="per_channel", axis=0) if setting.get("per_chan") else Granularity()
    if kind == "FPXGROUPFakeQuantize":
        g = Granularity(kind="per_group", axis=-1, group_size=int(case["env"].get("BENCH_GROUPSIZE", 128)))
    scale = "e4m3" if setting.get("double_quant") else "float"
    return spec(format=casts.get(kind) or SOPHGO.get(word, word), granularity=g, scale=scale)


def test_codebooks_and_casts_bit_for_bit() -> None:
    counts = Counter[str]()
    for case in sophgo()["fake_quantizers"]:
        word = case["set"].get("data_type") or case["env"].get("BENCH_DTYPE")
        kind = case["fake_quantize"].removesuffix("FakeQuantize")
        if kind not in ("FP4", "FPXGROUP", "BF16", "Fp16") or word == "fp4_e2m1":
            continue
        what, x = sophgo_spec(case), sophgo_data(sophgo()["fq_inputs"][case["input"]])
        y = affine.fake_quantize(x, measured(x, what) if what.has_scale else None, what).numpy()
        out = np.asarray(case["out"], np.float32)
        if case["set"].get("double_quant"):  # there its scales are multiplied up and divided again: a last bit
            assert np.allclose(y, out, rtol=3e-7, atol=0)
        else:
            assert np.array_equal(y, out), case
        counts[what.format or ""] += 1
    assert counts == {"fp4_bnb": 1, "af4": 1, "fp6_e3m2": 2, "fp6_e2m3": 1, "nf8": 1, "nf4": 2, "int4": 1,
                      "bfloat16": 1, "float16": 1}  # fmt: skip


def test_sizes_of_codebooks_and_the_table_of_nf8() -> None:
    sizes = {SOPHGO.get(name, name): size for name, size in sophgo()["codebook_sizes"].items()}
    for name, size in sizes.items():
        if name != "fp4_e2m1_bnb":
            assert grid_of(name).levels() == size, name
    values = torch.tensor(sophgo()["nf8_table"])
    assert torch.equal(grid_of("nf8").round_(values.clone(), "half_even"), values)


def test_the_tools_e2m1_is_not_the_format() -> None:
    """Spec mqbench_sophgo 7: 0, .0625, 1, 1.5 ...: the smallest element is an eighth of the format's (OCP MX 5.3.3)."""
    every = sophgo()["fake_quantizers"]
    cases = [c for c in every if (c["set"].get("data_type") or c["env"].get("BENCH_DTYPE")) == "fp4_e2m1"]
    assert len(cases) == 2
    for case in cases:
        what, x = sophgo_spec(case), sophgo_data(sophgo()["fq_inputs"][case["input"]])
        qparams = measured(x, what)
        y, out = affine.fake_quantize(x, qparams, what).numpy(), np.asarray(case["out"], np.float32)
        step = affine.dequantize(torch.ones_like(x), qparams, what).numpy()
        differ = y != out
        assert (np.abs(x.numpy() / step)[differ] < 1.0).all()
        assert 0.1 < differ.mean() < 0.3


def test_8_bit_floats_but_for_how_the_emulator_rounds() -> None:
    """Spec mqbench_sophgo 7: y = fp8(x * s) / s with s = 448 / amax, through float16, so a value is rounded twice."""
    seen, twice = 0, 0
    grid = grid_of("fp8_e4m3")
    for case in sophgo()["fake_quantizers"]:
        if case["fake_quantize"] != "E4M3FakeQuantize" or case["set"] or case["scheme"]["per_channel"]:
            continue
        x, out = sophgo_data(sophgo()["fq_inputs"][case["input"]]), np.asarray(case["out"], np.float32)
        qparams = measured(x, spec(format="fp8_e4m3"))
        assert float(qparams.scale) == pytest.approx(1 / case["scale_after_calib"], rel=1e-6)
        y = affine.fake_quantize(x, qparams, spec(format="fp8_e4m3")).numpy()
        again = (grid.round_((x / float(qparams.scale)).half().float(), "half_even") * float(qparams.scale)).numpy()
        small = np.abs(x.numpy()) / float(qparams.scale) < 2.0**-6
        assert np.allclose(again[~small], out[~small], rtol=3e-7, atol=0)
        differ = ~np.isclose(y, out, rtol=3e-7, atol=0) & ~small
        seen, twice = seen + 1, twice + int(differ.sum())
    assert (seen, twice) == (3, 9)


def test_e5m2_without_a_scale() -> None:
    """Spec mqbench_sophgo 7: E5M2 has scale 1; E4M3 per channel computes just that (a defect: no scale, not E4M3)."""
    seen, twice = 0, 0
    one = QParams(scale=torch.ones(1), zero_point=torch.zeros(1, dtype=torch.int32))
    for case in sophgo()["fake_quantizers"]:
        per_channel = case["fake_quantize"] == "E4M3FakeQuantize" and case["scheme"]["per_channel"]
        if "out" not in case or (case["fake_quantize"] != "E5M2FakeQuantize" and not per_channel):
            continue
        x, out = sophgo_data(sophgo()["fq_inputs"][case["input"]]), np.asarray(case["out"], np.float32)
        assert np.array_equal(affine.fake_quantize(x.half().float(), one, spec(format="fp8_e5m2")).numpy(), out)
        twice += int((affine.fake_quantize(x, one, spec(format="fp8_e5m2")).numpy() != out).sum())
        seen += 1
    assert (seen, twice) == (5, 1)


@pytest.mark.parametrize("name", ["E4M3", "E5M2"])
def test_tables_of_the_emulator(name: str) -> None:
    """The paths that are not defective, but for: no subnormal E4M3 there, and E5M2 that becomes infinite."""
    table = sophgo()["fp8_emulator_tables"]["avx512_and_scalar"][f"{name}_RNE"]
    x = torch.tensor([float(v) for v in table["input"]])
    out = torch.tensor([float(v) for v in table["output_scalar_path"]])
    y = grid_of(f"fp8_{name.lower()}").round_(x.clone(), "half_even")
    differ = y != out
    if name == "E4M3":
        small = x.abs() < 2.0**-6
        assert bool((differ <= small).all())
        assert int(differ.sum()) == 18
    else:
        assert bool((differ == out.isinf()).all())
        assert set(y[differ].abs().tolist()) == {57344.0}
        assert int(differ.sum()) == 8
    assert len(x) == 106
