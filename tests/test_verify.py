"""The verdict: it finds what was changed in a file, says where it begins, and counts as numpy counts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import ACTIVATION, Residual, prepared, spec
from torch import nn

from quantwright.config.spec import BASE_SPEC, Granularity
from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, VerificationError
from quantwright.exporters.onnx import export
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics.qparams import QParams
from quantwright.plan.plan import Point
from quantwright.prepare import PreparedModel
from quantwright.verify import places
from quantwright.verify.compare import Power, Tally, difference, finite_or_text, first_difference, step_of
from quantwright.verify.runtime import OrtRunner
from quantwright.verify.verify import Verdict, verify

Case = tuple[PreparedModel, Path, list[Batch]]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The residual network, its file, and fresh batches."""
    torch.manual_seed(21)
    made = prepared(Residual(), torch.randn(4, 3, 8, 8))
    path = tmp_path_factory.mktemp("verify") / "model.onnx"
    export(made, path)
    return made, path, [Batch(args=(torch.randn(n, 3, 8, 8),)) for n in (16, 5)]


def _changed(path: Path, folder: Path, change: Callable[[dict[str, onnx.TensorProto]], None]) -> Path:
    """Returns a copy of a file whose constants were changed."""
    model = onnx.load(path)
    change({value.name: value for value in model.graph.initializer})
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def _set(value: onnx.TensorProto, array: np.ndarray[Any, Any]) -> None:
    value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))


def test_a_faithful_file_is_ok(case: Case) -> None:
    made, path, batches = case
    verdict = verify(made, path, batches)
    assert verdict.ok and not verdict.problems
    assert verdict.samples == 21
    assert [p.point for p in verdict.points] == [
        "x:output", "relu:output", "relu_1:output", "conv2d_2:output", "add:output", "max_pool2d:output", "cat:output",
        "mean:output", "linear:output",
    ]  # fmt: skip
    assert verdict.outputs[0].point == "linear:output"
    assert verdict.outputs[0].top1_unfused is not None and verdict.outputs[0].top1_unfused >= 0.95
    assert all(q.mode == "quantize" for q in made.quantizers.values())


def test_float_against_simulated_is_what_numpy_says(case: Case) -> None:
    made, path, batches = case
    verdict = verify(made, path, batches)
    quantized = torch.cat([made.run(b) for b in batches]).double().numpy()
    with made.floating():
        real = torch.cat([made.run(b) for b in batches]).double().numpy()
    expected = 10 * math.log10((real**2).sum() / ((real - quantized) ** 2).sum())
    assert verdict.outputs[0].sqnr_float_db == pytest.approx(expected, abs=1e-3)
    assert verdict.points[-1].sqnr_db == pytest.approx(expected, abs=1e-3)
    assert verdict.outputs[0].top1_float == (real.argmax(1) == quantized.argmax(1)).mean()


def test_a_changed_weight_is_found_where_it_acts(case: Case, tmp_path: Path) -> None:
    """Only the depthwise weight differs, so its output differs on its own and later points only through it."""
    made, path, batches = case

    def change(values: dict[str, onnx.TensorProto]) -> None:
        weight = onnx.numpy_helper.to_array(values["depthwise.weight"]).copy()
        weight[3] = -weight[3]
        _set(values["depthwise.weight"], weight)

    verdict = verify(made, _changed(path, tmp_path, change), batches)
    assert not verdict.ok
    assert verdict.first is not None and verdict.first.point == "relu_1:output"
    assert verdict.first.index[1] == 3
    wrong = {p.point for p in verdict.points if p.local_max_lsb > 1.001}
    assert wrong == {"relu_1:output"}
    assert {p.point for p in verdict.points if p.differing} > {"relu_1:output", "conv2d_2:output"}
    assert verdict.problems[0].startswith("relu_1:output differs by up to")
    text = "\n".join(verdict.render())
    assert text.startswith("NOT OK") and "first difference: relu_1:output [" in text


def test_first_difference_gives_both_numbers(case: Case, tmp_path: Path) -> None:
    made, path, batches = case

    def change(values: dict[str, onnx.TensorProto]) -> None:
        zero = onnx.numpy_helper.to_array(values["add:output.zero_point"])
        _set(values["add:output.zero_point"], (zero + 3).astype(np.uint8))

    changed = _changed(path, tmp_path, change)
    found = verify(made, changed, batches[:1]).first
    assert found is not None and found.point == "add:output"
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        taps = {n.name: seen.append for n in made.graph.module.graph.nodes if n.meta.get("point") == "add:output"}
        made.graph.run(batches[0].args, {}, taps)
    assert found.simulated == float(seen[0][found.index])
    step = float(made.quantizers["add:output"].scale)  # type: ignore[arg-type]
    assert found.lsb == pytest.approx(abs(found.simulated - found.exported) / step, rel=1e-5)


def test_a_fused_result_worse_than_the_quantization_noise_is_a_problem(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on processors whose 8-bit kernels saturate: unfused is right, fused is not."""
    made, path, batches = case
    run = OrtRunner.run

    def noisy(self: OrtRunner, batch: Batch, names: Any = None) -> list[Any]:
        results = run(self, batch, names)
        return results if names is not None else [results[0] * np.float32(1.5)]

    monkeypatch.setattr(OrtRunner, "run", noisy)
    verdict = verify(made, path, batches)
    assert not verdict.ok
    assert verdict.problems == tuple(p for p in verdict.problems if "(fused)" in p) and len(verdict.problems) == 1


def test_nan_in_the_file_is_a_problem(case: Case, tmp_path: Path) -> None:
    made, path, batches = case
    changed = _changed(path, tmp_path, lambda v: _set(v["linear:output.scale"], np.array(np.nan, np.float32)))
    verdict = verify(made, changed, batches)
    assert not verdict.ok and any("NaN" in text for text in verdict.problems)
    json.dumps(verdict.to_json(), allow_nan=False)


def test_without_points_only_outputs_are_compared(case: Case, tmp_path: Path) -> None:
    made, path, batches = case
    lean = verify(made, path, batches, points=False)
    assert lean.ok and lean.points == () and lean.first is None
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    bare = verify(made, tmp_path / "bare.onnx", batches)
    assert bare.points == () and "does not say where its points are" in bare.notes[0]
    mapped = verify(made, tmp_path / "bare.onnx", batches, mapping={"add:output": "add:output"})
    assert [p.point for p in mapped.points] == ["add:output"]


def test_verdict_is_plain_json_and_says_ok(case: Case) -> None:
    made, path, batches = case
    verdict = verify(made, path, batches)
    plain = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert plain["ok"] is True and plain["samples"] == 21
    assert plain["points"][0]["point"] == "x:output"
    assert verdict.render()[0] == "ok: model.onnx against the simulation, 21 samples"


def test_batches_are_cut_to_fit_into_memory(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path, batches = case
    whole = verify(made, path, batches)
    monkeypatch.setattr(places, "_BUDGET", 3 * 4 * (3 + 5 * 8) * 64)
    sizes: list[int] = []
    take = places.portions(made, batches, 4 * (3 + 5 * 8) * 64)
    sizes = [batch.size for batch in take]
    assert sizes == [3, 3, 3, 3, 3, 1, 3, 2]
    cut = verify(made, path, batches)
    assert cut.samples == 21
    assert [p.values for p in cut.points] == [p.values for p in whole.points]
    assert cut.outputs[0].sqnr_float_db == pytest.approx(whole.outputs[0].sqnr_float_db, abs=1e-6)


def test_parameters_an_algorithm_changed_count_as_quantization(tmp_path: Path) -> None:
    """Float means the user's weights: a corrected bias shows as difference to float, not as divergence of the file."""
    torch.manual_seed(2)
    made = prepared(nn.Linear(6, 5), torch.randn(32, 6))
    before = verify(made, _exported(made, tmp_path), [made.example]).outputs[0].sqnr_float_db
    made.change_parameter("bias", made.graph.parameter("bias") + 0.5)
    after = verify(made, _exported(made, tmp_path), [made.example])
    assert after.ok and after.outputs[0].sqnr_float_db < before - 10


def _exported(made: PreparedModel, folder: Path) -> Path:
    export(made, folder / "model.onnx")
    return folder / "model.onnx"


def test_missing_damaged_and_empty_are_errors(case: Case, tmp_path: Path) -> None:
    made, path, batches = case
    with pytest.raises(ArtifactError, match="no such ONNX file"):
        verify(made, tmp_path / "absent.onnx", batches)
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        verify(made, tmp_path / "broken.onnx", batches)
    with pytest.raises(DataError, match="not one batch"):
        verify(made, path, [])


# -- the arithmetic of comparing -------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=8), st.lists(st.floats(width=32), min_size=8, max_size=8))
def test_difference_is_zero_exactly_for_equal_values(left: list[float], right: list[float]) -> None:
    a, b = torch.tensor(left), torch.tensor(right[: len(left)])
    gap = difference(a, b)
    for x, y, found in zip(a.tolist(), b.tolist(), gap.tolist(), strict=True):
        if x == y or (math.isnan(x) and math.isnan(y)):
            assert found == 0
        elif math.isfinite(x) and math.isfinite(y):
            assert found == np.abs(np.float32(x) - np.float32(y))
        else:
            assert found == math.inf


def test_tally_counts_as_numpy_does() -> None:
    generator = torch.Generator().manual_seed(3)
    simulated = torch.randint(-9, 9, (6, 4), generator=generator) * 0.25
    exported = simulated + torch.randint(0, 3, (6, 4), generator=generator) * 0.25
    tally = Tally()
    tally.add(simulated[:2], exported[:2], torch.tensor(0.25))
    assert tally.add(simulated[:2], simulated[:2], torch.tensor(0.25)) is None
    tally.add(simulated[2:], exported[2:], torch.full((4, 1), 0.25))
    steps = ((exported - simulated) / 0.25).numpy()
    assert (tally.values, tally.differing, tally.max_lsb) == (32, (steps != 0).sum(), steps.max())
    assert tally.mean_lsb == pytest.approx(steps.sum() / 32)
    assert tally.max_abs == 0.5
    assert Tally().mean_lsb == 0


def test_power_is_infinite_for_equal_tensors_and_leaves_out_infinities() -> None:
    power = Power()
    power.add(torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.inf]))
    assert power.db == math.inf
    power.add(torch.tensor([3.0]), torch.tensor([4.0]))
    assert power.db == pytest.approx(10 * math.log10(10 / 1))


def _quantizer(qparams: QParams | None, **fields: Any) -> Quantizer:
    point = Point(name="p", role="output", node="n", tensor="t")
    quantizer = Quantizer(point, spec(ACTIVATION if "format" not in fields else BASE_SPEC, **fields))
    quantizer.qparams = qparams
    return quantizer


def test_step_of_every_kind_of_point() -> None:
    value = torch.tensor([[1.0, -2.0, 0.5], [4.0, 0.0, -3.0]])
    scales = QParams(scale=torch.tensor([0.1, 0.2, 0.4]), zero_point=torch.zeros(3, dtype=torch.int32))
    per_channel = _quantizer(scales, granularity=Granularity(kind="per_channel", axis=1))
    np.testing.assert_allclose(step_of(per_channel, value).numpy(), [[0.1, 0.2, 0.4]], rtol=1e-6)
    tokens = _quantizer(None, format="int8", granularity=Granularity(kind="per_token"))
    np.testing.assert_allclose(step_of(tokens, value).numpy(), [[2 / 127], [4 / 127]], rtol=1e-6)
    half = _quantizer(None, format="float16")
    spacing = np.spacing(value.abs().clamp(min=4 / 1024).numpy().astype(np.float16)).astype(np.float64)
    np.testing.assert_array_equal(step_of(half, value).numpy(), spacing)


def test_first_difference_names_the_place() -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.5, 5.0]])
    found = first_difference("conv:output", 7, difference(a, b), torch.tensor(0.5), a, b)
    assert (found.index, found.batch, found.lsb) == ((1, 0), 7, 1.0)
    assert str(found) == "conv:output [1, 0] of batch 7: simulated 3, exported 3.5 (1 LSB)"
    channels = first_difference("conv:output", 7, difference(a, b), torch.tensor([[0.25], [0.125]]), a, b)
    assert channels.lsb == 4.0


def test_json_has_no_infinities() -> None:
    assert finite_or_text({"a": [math.inf, -math.inf, 1.5], "b": (math.nan, "x")}) == {
        "a": ["inf", "-inf", 1.5], "b": ["nan", "x"],
    }  # fmt: skip


def test_an_empty_verdict_is_ok() -> None:
    verdict = Verdict(file="f", samples=1, tolerance=1.0, points=(), outputs=())
    assert verdict.ok and verdict.render()[1].startswith("  points: 0 of 0")


def test_require_gives_the_verdict_or_raises_with_every_problem() -> None:
    good = Verdict(file="f", samples=1, tolerance=1.0, points=(), outputs=())
    assert good.require() is good
    bad = Verdict(file="m.onnx", samples=1, tolerance=1.0, points=(), outputs=(), problems=("one is off", "two is off"))
    with pytest.raises(VerificationError, match=r"m\.onnx.*one is off; two is off") as caught:
        bad.require()
    assert caught.value.exit_code == 1


def test_a_step_of_a_dynamic_grid_is_that_of_the_values_own_extremes() -> None:
    spec = BASE_SPEC.model_copy(
        update={"format": "uint8", "symmetric": False, "granularity": Granularity(kind="per_token")}
    )
    quantizer = Quantizer(Point(name="x", role="output", node="x", tensor="x"), spec)
    value = torch.tensor([[-1.0, 0.5, 4.1], [0.0, 0.0, 0.0], [-3.0, -2.0, 0.0]])
    step = step_of(quantizer, value).expand(value.shape)
    assert step[0, 0].item() == pytest.approx(5.1 / 255) and step[2, 0].item() == pytest.approx(3 / 255)
    assert bool((step > 0).all())
