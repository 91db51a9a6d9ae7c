"""Insertion and modes: quantizers stand where the plan says, and the model can always be float again."""

from __future__ import annotations

import pytest
import torch
import vai_models
from torch import nn

from quantwright.api import PreparedModel, prepare
from quantwright.errors import DataError, QuantwrightError, StateError
from quantwright.prepare import insert

GENERIC = {"version": 1, "target": "generic", "default": {"weight": {"granularity": "per_channel"}}}


@pytest.fixture(scope="module")
def calibrated() -> PreparedModel:
    batches = vai_models.data("Net")
    return prepare(vai_models.build("Net"), GENERIC, batches[0]).calibrate(batches)


def test_every_decided_point_has_one_quantizer_in_execution_order(calibrated: PreparedModel) -> None:
    wanted = [d.point.name for d in calibrated.plan.quantized() if not d.redundant]
    assert list(calibrated.quantizers) == wanted
    nodes = [n.meta["point"] for n in calibrated.graph.module.graph.nodes if n.meta.get("point")]
    assert sorted(nodes) == sorted(wanted)


def test_floating_gives_the_float_network_back_and_restores_the_modes(calibrated: PreparedModel) -> None:
    x = vai_models.data("Net")[0]
    before = calibrated(x)
    with calibrated.floating():
        torch.testing.assert_close(calibrated(x), vai_models.build("Net")(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(calibrated(x), before)


def test_floating_undoes_what_algorithms_did_to_parameters() -> None:
    batches = vai_models.data("Net")
    model = prepare(vai_models.build("Net"), {**GENERIC, "refine": ["bias_correction"]}, batches[0])
    model.calibrate(batches).refine(batches)
    assert set(model.float_parameters) == {"c1.bias", "dw.bias", "c2.bias", "fc.bias"}
    corrected = model.graph.parameter("c1.bias").clone()
    with model.floating():
        torch.testing.assert_close(model(batches[0]), vai_models.build("Net")(batches[0]), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.graph.parameter("c1.bias"), corrected)


def test_shared_and_derived_qparams_follow_their_relations(calibrated: PreparedModel) -> None:
    def scale(point: str) -> torch.Tensor:
        qparams = calibrated.quantizers[point].qparams
        assert qparams is not None
        return qparams.scale

    assert torch.equal(scale("hs:output"), scale("cat:output"))
    assert torch.equal(scale("c1.bias"), scale("x:input").float() * scale("c1.weight").float())
    assert calibrated.root("flatten:output") == "p:output"


def test_a_fixed_weight_is_quantized_once_until_it_changes(calibrated: PreparedModel) -> None:
    quantizer = calibrated.quantizers["c1.weight"]
    weight = calibrated.graph.parameter("c1.weight")
    with torch.no_grad():
        first = quantizer(weight)
        assert quantizer(weight) is first
        weight.mul_(1.0)
        assert quantizer(weight) is not first
        again = quantizer(weight)
        weight.data = weight.data.clone()  # what moving a module to another device or dtype does
        assert quantizer(weight) is not again


def test_the_users_model_is_not_touched() -> None:
    model = vai_models.build("Net").train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = vai_models.data("Net")[0]
    prepare(model, "power_of_two", x).calibrate([x]).refine([x])
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_calls_out_of_order_say_what_to_do_first() -> None:
    x = vai_models.data("Net")[0]
    model = prepare(vai_models.build("Net"), GENERIC, x)
    for call in (lambda: model.export("never.onnx"), lambda: model.refine([x]), lambda: model.save("never")):
        with pytest.raises(StateError, match=r"calibrate\(batches\)"):
            call()


def test_calibration_refuses_bad_data_and_names_the_place() -> None:
    x = vai_models.data("Net")[0]
    model = prepare(vai_models.build("Net"), GENERIC, x)
    with pytest.raises(DataError, match="not one batch"):
        model.calibrate([])
    with pytest.raises(DataError, match="calibration batch 1.*x:input"):
        model.calibrate([x, torch.full_like(x, float("nan"))])
    with pytest.raises(DataError, match="calibration batch 0"):
        model.calibrate([x[:, :2]])
    with pytest.raises(DataError, match="wrap it in a list"):
        model.calibrate(x)
    assert all(quantizer.mode == "float" for quantizer in model.quantizers.values())


def test_a_plan_of_another_model_is_refused(calibrated: PreparedModel) -> None:
    other = prepare(nn.Linear(3, 2), GENERIC, torch.randn(2, 3))
    with pytest.raises(QuantwrightError, match="different captures"):
        insert(other.graph, calibrated.plan, calibrated.target)


def test_an_edge_point_requantizes_for_one_reader_only() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stem(x)
            return self.left(y) + self.right(y)

    config = {**GENERIC, "rules": [{"match": {"name": "right"}, "input": {"format": "uint4"}}]}
    x = torch.randn(8, 4)
    model = prepare(Fork(), config, x).calibrate([x])
    assert model.quantizers["right:input"].spec.format == "uint4"
    reads = {n.meta["point"]: n for n in model.graph.module.graph.nodes if n.meta.get("point")}
    assert reads["right:input"].args[0] is reads["stem:output"]
    assert len(reads["right:input"].users) == 1
