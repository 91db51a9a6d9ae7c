"""capture="modules" end to end: the same numbers as the graph, the user's own class, control flow, training, files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import graph_models
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from quantwright import load, prepare, quantize
from quantwright.api_modules import PreparedModules
from quantwright.cli import main
from quantwright.errors import ArtifactError, CaptureError, ConfigError, ExportError, InputError
from quantwright.plan.coverage import coverage

GENERIC: dict[str, Any] = {"version": 1, "target": "generic"}


class Plain(nn.Module):
    """Convolutions without batch norms; the activation functions are modules.

    One-dimensional: the graph of images may be run channels last, which sums in another order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.r1, self.pool = nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)
        self.dw, self.r2 = nn.Conv1d(8, 8, 3, groups=8, bias=False), nn.ReLU6(inplace=True)
        self.up, self.act = nn.ConvTranspose1d(8, 6, 2, stride=2), nn.SiLU()
        self.gap, self.drop, self.fc = nn.AdaptiveAvgPool1d(1), nn.Dropout(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.r2(self.dw(self.pool(self.r1(self.c1(x)))))
        return self.fc(self.drop(torch.flatten(self.gap(self.act(self.up(x))), 1)))


def made(factory: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return factory().eval()


SIGNALS = [graph_models.rand(4, 3, 24) * scale for scale in (1.0, 2.0, 0.5)]


@pytest.mark.parametrize(
    "config",
    [
        GENERIC,
        {"version": 1, "target": "dpu", "optimize": []},
        {"version": 1, "target": "onnxruntime", "default": {"activation": {"observer": "moving_average"}}},
        {"version": 1, "default": {"activation": {"symmetric": True}},
         "rules": [{"match": {"name": "up"}, "input": {"format": "uint4"}},
                   {"match": {"name": "dw"}, "exclude": True}]},
    ],
    ids=["generic", "dpu", "moving average", "an edge and an exclude"],
)  # fmt: skip
def test_plan_qparams_and_outputs_are_those_of_the_graph(config: dict[str, Any]) -> None:
    model = made(Plain)
    by_graph = prepare(model, config, SIGNALS[0]).calibrate(SIGNALS)
    by_modules = prepare(model, config, SIGNALS[0], capture="modules").calibrate(SIGNALS)
    assert list(by_modules.quantizers) == list(by_graph.quantizers)
    for name, quantizer in by_graph.quantizers.items():
        mine, theirs = by_modules.quantizers[name].qparams, quantizer.qparams
        assert mine is not None
        assert theirs is not None
        assert torch.equal(mine.scale, theirs.scale), name
        assert torch.equal(mine.zero_point, theirs.zero_point), name
    for x in SIGNALS:
        assert torch.equal(by_modules(x), by_graph(x))
        with by_modules.floating():
            assert torch.equal(by_modules(x), model(x))


def test_layers_compute_what_torchs_own_operators_compute() -> None:
    model, x = made(lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))), graph_models.rand(5, 6)
    prepared = prepare(model, GENERIC, x, capture="modules").calibrate([x])
    seen: list[Tensor] = []
    prepared.network[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    prepared(x)

    def of(point: str) -> Any:
        return prepared.quantizers[point].qparams

    def tensorwise(value: Tensor, point: str) -> Tensor:
        scale, zero_point = float(of(point).scale), int(of(point).zero_point)
        return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, 0, 255)

    w, b = of("0.weight"), of("0.bias")
    weight = torch.fake_quantize_per_channel_affine(model[0].weight, w.scale.float(), w.zero_point, 0, -128, 127)
    bias = torch.round(model[0].bias / b.scale) * b.scale
    want = tensorwise(nn.functional.linear(tensorwise(x, "input_1:input"), weight, bias.float()), "0:output")
    torch.testing.assert_close(seen[0], want, rtol=0, atol=1e-6)


class Branches(nn.Module):
    """What torch.export refuses: the path depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Linear(6, 6), nn.ReLU()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.stem(x))
        if x.sum() > 0:
            y = self.one(y)
        for _ in range(int(x[0, 0].abs() * 3)):
            y = self.two(y)
        return self.head(y)

    def ask(self, x: Tensor) -> str:
        return "positive" if self(x).sum() > 0 else "negative"


def test_control_flow_on_values_is_refused_by_the_graph_and_served_by_modules() -> None:
    model, x = made(Branches), torch.ones(4, 6)
    with pytest.raises(CaptureError, match="capture='modules'"):
        prepare(model, GENERIC, x)
    data = [x, -x, x * 0.3, graph_models.rand(4, 6)]
    prepared = prepare(model, GENERIC, x, capture="modules").calibrate(data)
    assert isinstance(prepared.network, Branches)
    assert prepared.ask(x) in ("positive", "negative")
    assert "'two' is called 3 times" in " ".join(prepared.capture_notes)
    for batch in data:
        error = prepared(batch) - model(batch)
        assert 0 < float(error.detach().norm() / model(batch).detach().norm()) < 0.05


def test_a_module_on_another_path_than_in_the_example_still_computes_on_its_grid() -> None:
    model, x = made(Branches), torch.ones(4, 6)
    prepared = prepare(model, GENERIC, x, capture="modules").calibrate([x, -x])
    seen: list[Tensor] = []
    prepared.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    prepared(-x * 0.1)  # neither branch: the head reads the activation directly
    q: Any = prepared.quantizers["two:output"].qparams
    steps = seen[0] / q.scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_a_path_the_example_does_not_take_stays_float_and_is_told() -> None:
    prepared = prepare(made(Branches), GENERIC, -torch.ones(4, 6), capture="modules")
    assert "did not reach one" in " ".join(prepared.capture_notes)
    assert prepared.plan["one.weight"].spec is None
    assert "does not reach" in prepared.plan["one.weight"].why_float


class Functions(nn.Module):
    """Three layers read one sum; what is between modules is functions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = x + x.roll(1, 1)
        scores = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1)
        return self.out(scores @ self.v(y)) + x


def test_what_functions_return_is_quantized_once_where_modules_read_it() -> None:
    x = graph_models.rand(2, 3, 8)
    prepared = prepare(made(Functions), GENERIC, x, capture="modules")
    assert [d.point.name for d in prepared.plan.quantized() if d.point.role == "input"] == ["q:input", "out:input"]
    counted = []
    quantizer = prepared.quantizers["q:input"]
    quantizer.register_forward_hook(lambda *_: counted.append(1))
    prepared.calibrate([x])
    prepared(x)
    assert len(counted) == 2, "once in calibration, once after, though three modules read it"
    why = coverage(prepared.plan)["why float"]
    assert any("matmul is not seen by capture='modules'" in text for text in why)
    assert any("does not apply" in note and "fold_batchnorm" in note for note in prepared.plan.notes)


def test_a_tied_weight_is_one_point_and_an_exclude_binds_the_identity() -> None:
    model, args = graph_models.build("tied")
    prepared = prepare(model, GENERIC, args[0], capture="modules").calibrate(args)
    assert [d.point.name for d in prepared.plan.quantized() if d.point.role == "weight"] == [
        "embed.weight",
        "body.weight",
    ]
    own: Any = prepared.network
    assert own.embed.weight is own.head.weight
    rule = {"rules": [{"match": {"name": "head"}, "exclude": True}]}
    assert prepare(model, {**GENERIC, **rule}, args[0], capture="modules").plan["embed.weight"].spec is None


def test_rules_about_what_is_not_seen_are_refused_with_the_reason() -> None:
    config = {**GENERIC, "rules": [{"match": {"function": "softmax"}, "output": {"format": "int4"}}]}
    with pytest.raises(ConfigError, match="unseen has no output"):
        prepare(made(Functions), config, graph_models.rand(2, 3, 8), capture="modules")


def test_training_goes_on_through_the_quantizers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    x = graph_models.rand(64, 6)
    y = x[:, :1] * 0.2 - x[:, 1:2] * 0.1  # inside the range that calibration finds for the output
    config = {**GENERIC, "default": {"weight": {"format": "int4"}}}
    prepared = prepare(model, config, x, capture="modules").calibrate([x])
    optimizer = torch.optim.Adam(prepared.parameters(), 0.02)
    assert {id(p) for p in prepared.parameters()} == {id(p) for p in prepared.network.parameters()}
    first = nn.functional.mse_loss(prepared(x), y)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(prepared.train()(x), y)
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in prepared.parameters())
        optimizer.step()
    prepared.eval()
    trained = nn.functional.mse_loss(prepared(x), y)
    assert float(trained) < 0.5 * float(first)
    scale = prepared.quantizers["0.weight"].scale
    assert scale is not None
    seen: list[Tensor] = []
    handle = prepared.network[0].register_forward_pre_hook(lambda module, args: seen.append(module.weight))
    prepared(x)
    handle.remove()
    steps = seen[0].detach() / scale[:, None]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)  # the trained weight, on its grid
    assert not torch.equal(model[0].weight, prepared.network[0].weight)


def test_a_failing_forward_leaves_every_module_its_own_parameters() -> None:
    x = graph_models.rand(2, 6)
    prepared = prepare(made(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))), GENERIC, x, capture="modules")
    prepared.calibrate([x])
    with pytest.raises(RuntimeError):
        prepared(graph_models.rand(2, 5))
    assert all("weight" not in vars(module) for module in prepared.network.modules())
    assert prepared(x).shape == (2, 2)


def test_calibration_runs_in_eval_mode_and_inference_mode_computes_the_same() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.9), nn.Linear(6, 2)).train()
    x = graph_models.rand(8, 6)
    prepared = prepare(model, GENERIC, x, capture="modules")
    prepared.train().calibrate([x])
    assert prepared.network.training
    again = prepare(model, GENERIC, x, capture="modules").calibrate([x])
    want = again.eval()(x)
    assert torch.equal(prepared.eval()(x), want)
    with torch.inference_mode():
        assert torch.equal(prepared(x), want)
    twin = copy.deepcopy(prepared)
    twin.quantizers["0:output"].qparams = None
    assert prepared.quantizers["0:output"].ready
    assert torch.equal(prepared(x), want)


def test_what_needs_a_graph_is_refused_before_any_work(tmp_path: Path) -> None:
    model, x = made(Plain), SIGNALS[0]
    with pytest.raises(InputError, match=r"bias_correction works on a graph"):
        prepare(model, {**GENERIC, "refine": ["bias_correction"]}, x, capture="modules")
    with pytest.raises(InputError, match="did you mean 'modules'"):
        prepare(model, GENERIC, x, capture="module")  # type: ignore[call-overload]
    with pytest.raises(InputError, match="exact_rounding has no effect"):
        quantize(model, GENERIC, [x], capture="modules", export_options={"exact_rounding": True})
    prepared = prepare(model, GENERIC, x, capture="modules").calibrate([x])
    for call in (prepared.export, prepared.verify):
        with pytest.raises(ExportError, match="capture='modules'"):
            call(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_saved_folder_and_the_users_model_give_bit_equal_outputs(tmp_path: Path) -> None:
    x = torch.ones(4, 6)
    data = [x, graph_models.rand(4, 6)]
    prepared, _ = (  # on one line: the plan says where the configuration was given
        quantize(made(Branches), GENERIC, data, out=tmp_path / name, capture="modules", evaluate=True)
        for name in ("out", "two")
    )
    assert prepared.record is not None
    assert [row["name"] for row in prepared.record.evaluation] == ["float", "simulated"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"run.json", "plan.json", "report.html"} <= names
    assert not names & {"model.onnx", "graph.json"}
    for name in names - {"timings.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    again = load(tmp_path / "out", model=made(Branches, seed=5))
    assert isinstance(again, PreparedModules)
    assert all(torch.equal(again(batch), prepared(batch)) for batch in data)
    with pytest.raises(ArtifactError, match=r"load\(folder, model="):
        load(tmp_path / "out")
    with pytest.raises(ArtifactError, match="made from another model"):
        load(tmp_path / "out", model=made(Plain))


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_language_model_still_generates(family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra zoo")
    sizes = {"GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32},
             "Llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "num_key_value_heads": 2}}[family]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50, pad_token_id=0, bos_token_id=None, eos_token_id=None, **sizes
    )
    kind = transformers.GPT2LMHeadModel if family == "GPT2" else transformers.LlamaForCausalLM
    model = made(lambda: kind(config))
    ids = [torch.randint(2, 50, (2, 9), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    prepared = prepare(model, GENERIC, {"input_ids": ids[0]}, capture="modules")
    prepared.calibrate([{"input_ids": batch} for batch in ids])
    assert prepared.config is prepared.network.config
    with torch.no_grad():
        float_logits, logits = model(ids[0]).logits, prepared(ids[0]).logits
    sqnr = 10 * torch.log10(float_logits.pow(2).sum() / (float_logits - logits).pow(2).sum())
    assert 25 < float(sqnr) < 60
    tokens = prepared.generate(ids[0], max_new_tokens=4, do_sample=False)
    stepwise = ids[0]
    for _ in range(4):  # the same tokens without a cache of keys and values
        with torch.no_grad():
            stepwise = torch.cat([stepwise, prepared(stepwise).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(tokens[:, : stepwise.shape[1]], stepwise[:, : tokens.shape[1]])


MODEL = """
import torch
from torch import nn

class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.a(x)
        return self.b(y if y.sum() > 0 else -y)

def made():
    return Branch()

def batches():
    torch.manual_seed(1)
    return [torch.randn(4, 6) for _ in range(3)]
"""


def test_the_command_line_serves_what_it_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "c.yaml").write_text("version: 1\ntarget: generic\n")
    model = [f"{tmp_path}/net.py:made", "--config", f"{tmp_path}/c.yaml", "--data", f"{tmp_path}/net.py:batches"]
    job = ["quantize", *model, "--out", f"{tmp_path}/out", "--eval"]

    def call(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    code, text = call(*job)
    assert code == 2
    assert "--capture modules" in text
    code, text = call(*job, "--capture", "modules", "--exact-rounding")
    assert code == 2
    assert "exact_rounding has no effect" in text
    assert not (tmp_path / "out").exists()
    code, text = call(*job, "--capture", "modules")
    assert code == 0
    assert "nothing can be exported" in text
    assert "simulated" in text
    assert (tmp_path / "out" / "report.html").exists()
    code, text = call("report", f"{tmp_path}/out")
    assert code == 0
    code, text = call("verify", f"{tmp_path}/out")
    assert code == 2
    assert "made with --capture modules, which exports nothing" in text
    code, text = call("explain", *model, "b.weight", "--capture", "modules")
    assert code == 0
    assert text.startswith("b.weight (weight): int8")


EVERY_SORT = ["conv3d", "linear", "transformer", "lstm", "gru", "pools", "activations", "dict", "reused", "in_place",
              "slice_write", "standardized", "weight_norm", "no_grad", "counter", "rms"]  # fmt: skip


@pytest.mark.parametrize("name", EVERY_SORT)
def test_every_sort_of_module_computes_the_users_numbers_when_off_and_others_when_on(name: str) -> None:
    model, args = graph_models.build(name)
    # some change their input in place
    prepared = prepare(model, GENERIC, args, capture="modules")
    with torch.no_grad():
        want = tree_leaves(model(*copy.deepcopy(args)))
        with prepared.floating():
            assert all(
                torch.equal(a, b) for a, b in zip(tree_leaves(prepared(*copy.deepcopy(args))), want, strict=True)
            )
        prepared.calibrate([copy.deepcopy(args)])
        got = tree_leaves(prepared(*copy.deepcopy(args)))
    assert all(bool(value.isfinite().all()) for value in got)
    differs = any(not torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert differs == bool(prepared.quantizers)
    assert bool(prepared.quantizers) == (name not in ("activations", "standardized", "weight_norm", "rms"))
    assert not any(once._last for once in prepared._once), "no value outlives the run it belongs to"
