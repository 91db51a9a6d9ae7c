"""Scaled formats from the configuration to a file that ONNX Runtime runs: the same numbers, fused and unfused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import quantwright
from quantwright.api import decide
from quantwright.data import Batch
from quantwright.errors import ConfigError, ExportError
from quantwright.verify.measure import measure
from quantwright.verify.runtime import OrtRunner

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MORE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 1),
        nn.Conv2d(8, 10, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(90, 10),
    ).eval()  # fmt: skip


def groups(size: int, axis: int | None = None) -> dict[str, Any]:
    return {"kind": "per_group", "group_size": size, **({} if axis is None else {"axis": axis})}


def shared(name: str, size: int, exponent: str = "floor") -> dict[str, Any]:
    return {"format": name, "granularity": groups(size), "scale": "e8m0", "exponent": exponent}


#: what -> (weight, the type it is stored in)
WEIGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "fp8_e4m3 per channel": ({"format": "fp8_e4m3", "granularity": "per_channel"}, "float8e4m3fn"),
    "fp8_e5m2": ({"format": "fp8_e5m2", "granularity": "per_tensor"}, "float8e5m2"),
    "fp8_e4m3 half up": ({"format": "fp8_e4m3", "rounding": "half_up"}, "float8e4m3fn"),
    "mxfp4": (shared("fp4_e2m1", 32, "even"), "float8e4m3fn"),
    "mxfp6": (shared("fp6_e3m2", 32, "even"), "float8e4m3fn"),
    "mxfp8": (shared("fp8_e5m2", 32, "floor"), "float8e5m2"),
    "mxint8": (shared("mxint8", 32), "int8"),
    "nvfp4": ({"format": "fp4_e2m1", "granularity": groups(16), "scale": "e4m3"}, "float8e4m3fn"),
    "amdfp4": ({"format": "fp4_e2m1", "granularity": groups(16), "scale": "e5m3"}, "float8e4m3fn"),
    "fp6_e2m3": ({"format": "fp6_e2m3"}, "float8e4m3fn"),
    "bfp16": (shared("bfp16", 8), "int8"),
    "bfp11": (shared("bfp11", 8), "int8"),
    "mx9": (shared("mx9", 16), "int16"),
    "mx6": (shared("mx6", 16), "int8"),
    "msfp16": (shared("msfp16", 12), "int16"),
    "nf4": ({"format": "nf4", "granularity": groups(8)}, "float"),
    "af4": ({"format": "af4", "granularity": "per_channel"}, "float"),
    "fp8_e5m3": ({"format": "fp8_e5m3"}, "float"),
    "int8 in groups, e8m0": ({"format": "int8", "granularity": groups(8), "scale": "e8m0", "exponent": "ceil"}, "int8"),
    "int4 in groups, e4m3": ({"format": "int4", "granularity": groups(8), "scale": "e4m3"}, "int4"),
}
DYNAMIC = {"dynamic": True}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "fp8_e4m3": {"format": "fp8_e4m3"},
    "fp8_e5m2": {"format": "fp8_e5m2"},
    "fp8_e4m3 half away": {"format": "fp8_e4m3", "rounding": "half_away"},
    "fp8_e4m3 per channel": {"format": "fp8_e4m3", "granularity": "per_channel"},
    "fp8_e4m3 dynamic": {"format": "fp8_e4m3", **DYNAMIC},
    "fp8_e4m3 per token": {"format": "fp8_e4m3", "granularity": "per_token"},
    "fp8_e5m2 per channel, dynamic": {"format": "fp8_e5m2", "granularity": "per_channel", **DYNAMIC},
    "fp4_e2m1": {"format": "fp4_e2m1"},
    "fp6_e3m2": {"format": "fp6_e3m2"},
    "fp8_e5m3": {"format": "fp8_e5m3"},
    "af4": {"format": "af4"},
    "nf8": {"format": "nf8"},
    "mxfp4": {**shared("fp4_e2m1", 4, "even"), **DYNAMIC},
    "mxfp8": {**shared("fp8_e4m3", 4, "ceil"), **DYNAMIC},
    "mxint8": {**shared("mxint8", 4, "cover"), **DYNAMIC},
    "bfp16": {**shared("bfp16", 8), "min_scale": 2.0**-23, **DYNAMIC},
    "bfp13 half up": {**shared("bfp13", 8), "rounding": "half_up", **DYNAMIC},
    "mx9": {**shared("mx9", 4), **DYNAMIC},
    "msfp16": {**shared("msfp16", 12), "rounding": "half_away", **DYNAMIC},
    "nvfp4": {"format": "fp4_e2m1", "granularity": groups(4), "scale": "e4m3", **DYNAMIC},
    "amdfp4": {"format": "fp4_e2m1", "granularity": groups(4), "scale": "e5m3", **DYNAMIC},
    "nf4 in groups": {"format": "nf4", "granularity": groups(4), **DYNAMIC},
}


def ready(default: dict[str, Any], **more: Any) -> Any:
    config = {"version": 1, "default": default, **more}
    prepared = quantwright.prepare(net(), config, X, dialect="native")
    prepared.calibrate([X, MORE])
    return prepared


def proved(prepared: Any, path: Path) -> Any:
    """Returns the record of an export whose points are, one by one, the simulation's."""
    record = prepared.export(path / "m.onnx")
    assert max(record.output_gap.values()) < 1e-6
    verdict = prepared.verify(path / "m.onnx", [Batch(args=(MORE,))])
    assert verdict.ok, verdict
    return record


def threes(names: Any) -> list[tuple[str, ...]]:
    """Returns the names three by three: an export takes seconds, and a network has room for three formats."""
    listed = list(names)
    return [tuple(listed[i : i + 3]) for i in range(0, len(listed), 3)]


def again(prepared: Any, folder: Path) -> None:
    """Saves, loads and compares outputs and QParams, bit for bit."""
    prepared.save(folder)
    loaded = quantwright.load(folder)
    assert torch.equal(loaded(MORE), prepared(MORE))
    for point, quantizer in prepared.quantizers.items():
        mine, theirs = quantizer.qparams, loaded.quantizers[point].qparams
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert all(torch.equal(theirs.to_dict()[key], part) for key, part in mine.to_dict().items())


@pytest.mark.parametrize("names", threes(WEIGHTS), ids=", ".join)
def test_weights(names: tuple[str, ...], tmp_path: Path) -> None:
    layers = dict(zip(("0", "3", "6"), names))
    rules = [{"match": {"name": layer}, "weight": WEIGHTS[name][0]} for layer, name in layers.items()]
    prepared = ready({"activation": {"format": "float32"}}, rules=rules)
    record = proved(prepared, tmp_path)
    types = {WEIGHTS[name][1] for name in names}
    assert types <= set(record.weights) <= {*types, "int8"}
    stored = onnx.load(str(tmp_path / "m.onnx")).graph.initializer
    for layer, name in layers.items():
        (tensor,) = (t for t in stored if t.name == f"{layer}.weight")
        assert onnx.TensorProto.DataType.Name(tensor.data_type).lower() == WEIGHTS[name][1]
    said = [text for text in record.warnings if "stored as float32 values on the grid" in text]
    assert len(said) == sum(WEIGHTS[name][1] == "float" for name in names)
    again(prepared, tmp_path / "out")


NATIVE = ("fp8_e4m3", "fp8_e5m2", "fp8_e4m3 per channel")


@pytest.mark.parametrize("names", threes(ACTIVATIONS), ids=", ".join)
def test_activations(names: tuple[str, ...], tmp_path: Path) -> None:
    places = (("0", "input"), ("0", "output"), ("3", "output"))
    rules = [{"match": {"name": layer}, role: ACTIVATIONS[name]} for (layer, role), name in zip(places, names)]
    default = {"weight": {"format": "fp8_e4m3", "granularity": "per_channel"}, "output": {"format": "float32"}}
    prepared = ready(default, rules=rules)
    asked = {ACTIVATIONS[name]["format"] for name in names}
    assert asked <= {q.spec.format for q in prepared.quantizers.values() if q.point.role != "weight"}
    record = proved(prepared, tmp_path)
    assert ("QuantizeLinear" in record.nodes) == any(name in NATIVE for name in names)
    model = onnx.load(str(tmp_path / "m.onnx"))
    zeros = {t.data_type for t in model.graph.initializer if t.name.endswith("zero_point")}
    assert zeros <= {onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E5M2}
    again(prepared, tmp_path / "out")


def test_another_batch_size_and_tiny_values(tmp_path: Path) -> None:
    prepared = ready(
        {"weight": shared("fp4_e2m1", 32, "even"), "activation": {**shared("fp6_e2m3", 4, "even"), **DYNAMIC}}
    )
    prepared.export(tmp_path / "m.onnx")
    for x in (torch.zeros(1, 3, 8, 8), MORE[:2] * 1e-30, MORE[:3] * 1e30, torch.cat([MORE, X])):
        with torch.no_grad():
            want = prepared(x).numpy()
        for fused in (False, True):
            got = OrtRunner(tmp_path / "m.onnx", fused=fused).run(Batch(args=(x,)))[0]
            assert np.allclose(got, want, rtol=1e-5, atol=1e-6 * float(np.abs(want).max()))


def test_integers_beside_8_bit_floats_and_a_softmax(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.Softmax(-1)
    ).eval()
    rules = [{"match": {"type": "Linear"}, "weight": {"format": "fp8_e4m3"}, "output": {"format": "fp8_e4m3"}}]
    prepared = quantwright.prepare(model, {"version": 1, "rules": rules}, X, dialect="native")
    prepared.calibrate([X])
    proved(prepared, tmp_path)


def test_first_and_last_layer_in_16_bits(tmp_path: Path) -> None:
    """Mixed widths: float16 and bfloat16 ends, or int16 ones, around int8, through ``quantize`` to a file that runs."""
    for ends in ({"weight": {"format": "bfloat16"}, "activation": {"format": "bfloat16"}},
                 {"weight": {"format": "float16"}, "output": {"format": "float16"}},
                 {"weight": {"format": "int16"}, "activation": {"format": "int16"}}):  # fmt: skip
        rules = [{"match": {"name": name}, **ends} for name in ("0", "6")]
        out = tmp_path / str(ends["weight"]["format"])
        done = quantwright.quantize(net(), {"version": 1, "rules": rules}, [X, MORE], out=out, dialect="native")
        assert done.record.verdict["ok"], done.record.verdict
        formats = {done.plan[f"{name}.weight"].spec.format for name in ("0", "3", "6")}
        assert formats == {ends["weight"]["format"], "int8"}
        got = OrtRunner(out / "model.onnx", fused=True).run(Batch(args=(MORE,)))[0]
        assert np.allclose(got, done(MORE).detach().numpy(), atol=0.05)
        assert torch.equal(quantwright.load(out)(MORE), done(MORE))


def test_the_plan_says_what_a_scaled_format_is() -> None:
    config = {"version": 1, "default": {"weight": {"format": "fp8_e4m3"}, "activation": {"format": "fp8_e5m2"}}}
    plan = decide(net(), config, X, dialect="native").plan
    (said,) = quantwright.plan.explain.explain(plan, "0.weight")
    assert "fp8_e4m3" in said.summary and "no zero point" in said.summary
    bias = plan["0.bias"]
    assert bias.spec is None and "the input is fp8_e5m2" in str(bias.why_float)


@pytest.mark.parametrize(("target", "fix"), [("onnxruntime", "target generic"), ("dpu", "use int8")])
def test_targets_that_multiply_integers_refuse(target: str, fix: str) -> None:
    config = {"version": 1, "target": target, "default": {"weight": {"format": "fp8_e4m3"}}}
    with pytest.raises(ConfigError, match=r"fp8_e4m3") as caught:
        quantwright.prepare(net(), config, X, dialect="native")
    assert any(fix in str(problem.fix) for problem in caught.value.problems)


def test_what_does_not_fit_together_is_refused_before_any_work() -> None:
    for weight, word in (
        ({"format": "bfp16"}, "share an exponent"),
        ({"format": "mx9", "scale": "e8m0"}, "neighbours of a group"),
        ({"format": "fp4_e2m1", "observer": "mse"}, "equal steps"),
    ):
        with pytest.raises(ConfigError, match=word):
            quantwright.prepare(net(), {"version": 1, "default": {"weight": weight}}, X, dialect="native")


def test_integers_per_group_of_every_value_are_simulated_and_not_written(tmp_path: Path) -> None:
    prepared = ready({"activation": {"format": "int8", "symmetric": True, "granularity": groups(4), **DYNAMIC}})
    assert torch.isfinite(prepared(X)).all()
    with pytest.raises(ExportError, match="per_token"):
        prepared.export(tmp_path / "m.onnx")


def test_the_report_knows_the_grid() -> None:
    prepared = ready({"weight": shared("fp4_e2m1", 32, "even"), "activation": {"format": "fp8_e4m3"}})
    said = measure(prepared, [Batch(args=(X,))])
    point = said["activations"][0]
    assert point["grid"]["steps"] == 252 and point["grid"]["zero_point"] is None
    assert point["grid"]["high"] == pytest.approx(-point["grid"]["low"])
    assert point["grid"]["high"] == pytest.approx(448 * point["grid"]["scale"], rel=1e-3)
    assert point["below"] == point["above"] == 0
    assert said["size"]["elements"]["fp4_e2m1"] == sum(
        p.numel() for n, p in net().named_parameters() if n.endswith("weight")
    )
    assert said["size"]["quantized_bytes"] < said["size"]["float_bytes"] / 4


def test_capture_modules(tmp_path: Path) -> None:
    config = {
        "version": 1,
        "default": {"weight": {"format": "fp8_e4m3"}, "activation": {**shared("bfp16", 8), **DYNAMIC}},
    }
    prepared = quantwright.prepare(net(), config, X, capture="modules", dialect="native")
    prepared.calibrate([X])
    y = prepared(X)
    assert 0 < float((y - net()(X)).abs().max()) < 0.2
