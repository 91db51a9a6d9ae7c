"""What a device computes and what falls to the CPU beside it: causes, fixes, the command's table and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantwright import registry
from quantwright.api import decide
from quantwright.cli import main
from quantwright.graph.capture import capture
from quantwright.plan.device import Placed, place, render, summary

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.gate, self.pool = nn.Sigmoid(), nn.AvgPool2d(2)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.leaky, self.last = nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.pool(self.gate(self.first(x)))
        return self.last(self.leaky(self.grouped(x)).transpose(2, 3)).flatten(1)


def make():
    return Net().eval()
"""


def placed(model: nn.Module, x: Any, config: Any = "dpu", **options: Any) -> dict[str, Placed]:
    """Returns label -> where it is computed."""
    decided = decide(model.eval(), config, x, **options)
    return {item.label: item for item in place(decided.graph.facts(), decided.target, decided.plan)}


def network() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(SOURCE, scope)  # noqa: S102  our own text
    made: nn.Module = scope["make"]()
    return made


PLAIN = {"version": 1, "target": "dpu", "optimize": []}
X = torch.randn(1, 3, 8, 8)


def test_every_cause_is_told() -> None:
    found = placed(network(), X, PLAIN)
    assert {label: (item.where, item.cause) for label, item in found.items()} == {
        "x": ("user", ""), "first": ("device", ""), "gate": ("cpu", "kind"), "pool": ("device", ""),
        "grouped": ("cpu", "limit"), "leaky": ("cpu", "limit"), "transpose": ("cpu", "input"),
        "last": ("device", ""), "flatten": ("device", ""),
    }  # fmt: skip
    assert "convert_sigmoid_to_hard_sigmoid" in found["gate"].fix
    assert "groups=2" in found["grouped"].reason and "26/256" in found["leaky"].reason
    assert "leaky" in found["transpose"].reason
    assert summary(tuple(found.values())) == {"device": 4, "cpu": 4, "pieces": 3}


def test_the_pass_brings_operations_to_the_device() -> None:
    step = {"dpu_operators": {"convert_sigmoid_to_hard_sigmoid": True}}
    found = placed(network(), X, {**PLAIN, "optimize": [step]})
    causes = {label: item.cause for label, item in found.items() if item.where == "cpu"}
    assert causes == {"grouped": "limit", "leaky": "input", "transpose": "input"}


def test_what_the_plan_leaves_float_or_wide_is_not_on_the_device() -> None:
    rules = [
        {"match": {"name": "first"}, "exclude": True},
        {"match": {"name": "last"}, "weight": {"format": "int4"}},
        {"match": {"function": "add"}, "exclude": True},
    ]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x)) + x)

    found = placed(Model(), X, {**PLAIN, "rules": rules})
    assert (found["first"].cause, found["last"].cause, found["add"].cause) == ("plan", "plan", "plan")
    assert "first.weight is float: excluded" in found["first"].reason
    assert "last.weight has 4 bits, and the device computes on 8" in found["last"].reason
    assert found["middle"].where == "device"


def test_what_is_fused_or_joined_is_on_the_device() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.relu(self.a(x)), self.b(x)], 1).flatten(1)

    assert {item.where for label, item in placed(Model(), X).items() if label != "x"} == {"device"}


@pytest.mark.parametrize("name", registry.names("targets"))
def test_every_target_places_every_operation(name: str) -> None:
    facts, target = capture(network(), (X,)).facts(), registry.load("targets", name)
    items = place(facts, target)
    assert len(items) == len([node for node in facts.nodes if node.kind != "output"])
    assert all((item.where == "cpu") == bool(item.reason) for item in items)
    assert items[0].where == "user"
    head, rows, text = render(items, target)
    assert len(rows) == len(items) and all(len(row) == len(head) for row in rows)
    assert str(summary(items)["device"]) in text


# -- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return f"{path}:make"


def test_explain_device_is_a_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", model, "--config", "dpu", "--input-shape", "1,3,8,8", "--device"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "dpu" in lines["first"] and "cpu" in lines["gate"] and "hard sigmoid" in lines["gate"]
    assert "groups=2" in lines["grouped"]
    assert "on the CPU; the device's part falls into" in said


def test_explain_device_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", model, "--config", "dpu", "--device", "--input-shape", "1,3,8,8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    by_label = {item["label"]: item for item in document["device"]}
    assert document["target"] == "dpu" and by_label["gate"]["where"] == "cpu" and by_label["gate"]["reason"]
    assert document["summary"]["device"] == sum(item["where"] == "device" for item in document["device"])


def test_device_with_a_name_still_says_where_to_compute(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["explain", model, "--config", "dpu", "--input-shape", "1,3,8,8"]
    assert main([*common, "--device", "cpu", "first"]) == 0
    assert "first.weight" in capsys.readouterr().out
    assert main([*common, "first", "--device"]) == 2
    assert "all operations of a graph" in capsys.readouterr().err
    assert main([*common, "--capture", "modules", "--device"]) == 2
    assert "no graph" in capsys.readouterr().err
