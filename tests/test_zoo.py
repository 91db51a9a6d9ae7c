"""A few of the architectures of bench/zoo.py, the whole job each; the list itself is run with `python bench/zoo.py`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))
zoo = importlib.import_module("zoo")
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None

#: what the small models of graph_models have not: several outputs, control flow, masks, masks of two kinds, a dict
PLAIN = ["pyramid_detector", "shape_control_flow", "encoder_decoder", "two_tower_dict"]
TRANSFORMERS = ["gpt2"]  # weights stored [in, out], a tied head, an activation written by hand


def passes(name: str, group: str) -> Any:
    """Returns the row of an architecture that went the whole way on a dynamic batch."""
    row = zoo.run(name, group, "int8", None)
    assert row.stage == "ok", row.message
    assert row.dynamic and row.bytes > 0 and sum(row.why_float.values()) == row.coverage["float"]
    assert row.sqnr_db is not None and row.sqnr_db > 25
    return row


@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_go_the_whole_way(name: str) -> None:
    passes(name, "plain")


@pytest.mark.skipif(not HAS_TRANSFORMERS, reason='transformers is not installed: pip install "quantwright[zoo]"')
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_networks_of_transformers_go_the_whole_way(name: str) -> None:
    row = passes(name, "transformers")
    assert not any("linear" in why or "matmul" in why or "embedding" in why for why in row.why_float)


def test_the_list_is_long_enough_and_every_name_is_one_thing() -> None:
    plain = importlib.import_module("zoo_plain").ARCHITECTURES
    assert len(plain) >= 35
    if HAS_TRANSFORMERS:
        others = importlib.import_module("zoo_transformers").ARCHITECTURES
        assert len(others) >= 25 and len(plain) + len(others) >= 60
        assert not set(plain) & set(others)


def test_the_exit_status_says_that_one_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    def make(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
        if name == "unmade":
            raise ValueError("no such thing")
        return (Branch() if name == "branch" else nn.Linear(3, 2)), (torch.ones(2, 3),)

    module = types.SimpleNamespace(make=make, ARCHITECTURES=("branch", "unmade", "linear"))
    monkeypatch.setitem(sys.modules, "zoo_plain", module)
    monkeypatch.setattr(zoo, "GROUPS", {"plain": "zoo_plain"})
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--json", str(tmp_path / "rows.json")])
    assert zoo.main() == 1
    said = capsys.readouterr().out
    assert "FAILED in capture" in said and "test_zoo.py:" in said, "the user's line is named"
    assert "FAILED in make: ValueError: no such thing" in said
    assert "1 of 3 architectures" in said
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--only", "linear"])
    assert zoo.main() == 0
    monkeypatch.setattr(sys, "argv", ["zoo.py", "--only", "linaer"])
    with pytest.raises(SystemExit, match="no architecture is called linaer; there are branch, unmade, linear"):
        zoo.main()
