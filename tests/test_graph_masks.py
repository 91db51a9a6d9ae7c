"""Masks and angles: which values hold them, that they stay float, and what quantizing them would cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantwright.api import prepare
from quantwright.data import Batch
from quantwright.graph.capture import capture
from quantwright.plan.facts import ModelFacts
from quantwright.verify.compare import Power


class Scores(nn.Module):
    """Attention by hand; ``masked`` says how the causal mask gets into the scores."""

    def __init__(self, masked: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qk, self.v, self.masked = nn.Linear(8, 16), nn.Linear(8, 8), masked
        self.register_buffer("table", torch.triu(torch.full((5, 5), -100.0), 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        forbidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
        scores = self.masked(q @ k.transpose(1, 2) / 8**0.5, forbidden)
        return scores.softmax(-1) @ self.v(x)


def lowest(scores: Tensor, forbidden: Tensor) -> Tensor:
    return scores + torch.zeros(5, 5).masked_fill(forbidden, torch.finfo(torch.float32).min)


def product(scores: Tensor, forbidden: Tensor) -> Tensor:
    return scores + forbidden.float().expand(len(scores), -1, -1) * -10000.0


def chosen(scores: Tensor, forbidden: Tensor) -> Tensor:
    return torch.where(forbidden, torch.full((), -1e9), scores)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def kinds_of(model: nn.Module, *args: Any) -> dict[str, str]:
    return {node.name: node.kind for node in capture(model, args).facts().nodes}


def sqnr(model: nn.Module, *args: Any) -> float:
    """Returns float against simulated, in decibel, under the preset int8."""
    batch = Batch(args=args)
    prepared = prepare(model, "int8", batch).calibrate([batch])
    with prepared.floating():
        real = prepared.run(batch)
    power = Power()
    power.add(real, prepared.run(batch))
    return power.db


@pytest.mark.parametrize("masked", [lowest, product, chosen])
def test_what_holds_a_mask_stays_float_up_to_the_softmax(masked: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model = Scores(masked).eval()
    plan = prepare(model, "int8", (data(3, 5, 8),)).plan
    held = [d for d in plan.decisions if "holds a mask" in d.why_float]
    assert held
    quantized = {d.point.node for d in plan.quantized()}
    assert {"linear", "linear_1", "matmul", "matmul_1"} <= quantized, "the products around it are quantized"
    assert sqnr(model, data(3, 5, 8)) > 25


def test_a_table_with_minus_a_hundred_is_a_mask_before_a_softmax_only() -> None:
    model = Scores(lambda scores, _: scores).eval()
    model.masked = lambda scores, _: scores + model.table
    assert "mask" in kinds_of(model, data(3, 5, 8)).values()

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.full((8,), -100.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.table)

    assert kinds_of(Elsewhere(), data(3, 8))["add"] == "add"


def test_bounds_of_a_clamp_are_no_mask() -> None:
    class Clamped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(-60000.0, 60000.0) + x * 20000.0

    assert "mask" not in kinds_of(Clamped(), data(2, 3)).values()


class Biased(nn.Module):
    """torch's attention with a mask that is an input or computed."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def test_the_mask_operand_of_attention_is_not_quantized_whatever_it_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, mask = data(2, 5, 8), torch.zeros(2, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1) > 0, -1e30)
    batch = Batch(args=(x, mask))
    prepared = prepare(Biased().eval(), "int8", batch).calibrate([batch])
    facts: ModelFacts = prepared.graph.facts()
    attention = next(node for node in facts.nodes if node.kind == "attention")
    assert attention.masks == ("mask",) and "mask" in attention.inputs
    assert prepared.plan["mask:input"].spec is None
    assert prepared.plan["x:input"].spec is not None
    prepared.export(tmp_path / "model.onnx")
    assert prepared.verify(tmp_path / "model.onnx", [batch]).ok


class Waves(nn.Module):
    """Random Fourier features of coordinates, and a sine behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 8) * 20)
        self.body, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, xy: Tensor) -> Tensor:
        angle = 2 * math.pi * ((2 * xy - 1) @ self.frequencies)
        return self.head(torch.sin(self.body(torch.cat([angle.sin(), angle.cos()], -1))))


def test_angles_stay_float_and_layers_before_a_sine_do_not() -> None:
    torch.manual_seed(0)
    model = Waves().eval()
    kinds = kinds_of(model, torch.rand(4, 2))
    assert [name for name, kind in kinds.items() if kind == "angle"] == ["mul", "sub", "matmul", "mul_1"]
    plan = prepare(model, "int8", (torch.rand(4, 2),)).plan
    assert {d.point.name for d in plan.quantized()} >= {"body.weight", "body:output", "head.weight"}
    assert plan["xy:input"].spec is None
    assert sqnr(model, torch.rand(32, 2, generator=torch.Generator().manual_seed(2))) > 30


class LinearAttention(nn.Module):
    """Attention without a softmax: what is summed is divided by its weights, kept from zero by a tiny number."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        weights = F.relu(q)
        return (weights @ v) / (weights.sum(-1, keepdim=True) + self.eps)


def test_a_divisor_kept_from_zero_is_not_rounded_to_zero() -> None:
    q, v = data(4, 6, 6), data(4, 6, 3)
    q[0, 0] = -1.0  # nothing is attended to: 0 / 1e-5
    batch = Batch(args=(q, v))
    prepared = prepare(LinearAttention(1e-5).eval(), "int8", batch).calibrate([batch])
    assert [n.kind for n in prepared.graph.facts().nodes if n.name == "add"] == ["divisor"]
    assert prepared.run(batch).isfinite().all()
    assert kinds_of(LinearAttention(0.5), q, v)["add"] == "add"


class HandGELU(nn.Module):
    """The tanh form, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def test_a_hand_written_activation_is_one_float_step_where_the_target_computes_it_in_float() -> None:
    model = nn.Sequential(nn.Linear(4, 8), HandGELU(), nn.Linear(8, 3)).eval()
    plan = prepare(model, "int8", (data(3, 4),)).plan
    inner = [d for d in plan.decisions if d.point.node.startswith(("mul", "add", "pow", "tanh"))]
    assert len(inner) == 8
    assert [d.point.node for d in inner if d.spec is not None] == ["mul_3"], "the last product feeds a linear layer"
    products = [d.why_float for d in inner if d.point.node.startswith("mul") and d.spec is None]
    assert len(products) == 3 and all("activation function written by hand" in why for why in products)
    vitis = prepare(model, {"version": 1}, (data(3, 4),), target="vitis_cpu").plan
    assert sum(d.spec is not None for d in vitis.decisions if d.point.node.startswith(("mul", "add"))) == 6


# -- weights that are no layer's ---------------------------------------------------------------------------------------
class Experts(nn.Module):
    """One tensor of weights for several layers, written as einsum."""

    def __init__(self, equation: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        operands = (x, self.weight) if self.equation.startswith("n") else (self.weight, x)
        return torch.einsum(self.equation, *operands)


@pytest.mark.parametrize(
    ("equation", "shape", "channel", "reduced"),
    [("ntd,edk->ntek", (3, 8, 6), 2, 1), ("n t d, k d -> n t k", (6, 8), 0, 1), ("kd,ntd->ntk", (6, 8), 0, 1),
     ("ntd,nd->nt", (2, 8), 0, 1)],
)  # fmt: skip
def test_the_weight_of_an_einsum_is_quantized_along_its_output_channels(
    equation: str, shape: tuple[int, ...], channel: int, reduced: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    batch = Batch(args=(data(2, 4, 8),))
    prepared = prepare(Experts(equation, shape).eval(), "int8", batch).calibrate([batch])
    node = next(n for n in prepared.graph.facts().nodes if n.kind == "matmul")
    assert node.weight is not None and (node.weight.channel_axis, node.weight.input_axis) == (channel, reduced)
    spec = prepared.plan["weight"].spec
    assert spec is not None and spec.granularity is not None and spec.granularity.axis == channel
    prepared.export(tmp_path / "model.onnx")
    assert prepared.verify(tmp_path / "model.onnx", [batch]).ok


def test_an_einsum_of_two_values_has_no_weight() -> None:
    class Values(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nd,nd->n", x, x)

    assert all(node.weight is None for node in capture(Values(), data(2, 4)).facts().nodes)


def test_every_other_parameter_is_named_as_float_with_its_reason() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.scale = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.ones(8))
            self.rnn, self.norm = nn.GRU(8, 8, batch_first=True), nn.BatchNorm1d(4)
            self.one = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.rnn(x + self.position)[0]) * self.scale * self.one

    plan = prepare(Tables().eval(), "int8", (data(3, 4, 8),)).plan
    left = {d.point.tensor: d.why_float for d in plan.decisions if d.point.role == "weight"}
    assert left["position"] == "a constant that add reads as it is"
    assert left["scale"] == "a constant that mul reads as it is"
    assert left["rnn.weight_ih_l0"].startswith("gru is computed in float")
    assert not {"one", "norm.running_mean"} & set(left), "numbers and running statistics are no tensors to quantize"
