"""Known, not available yet: read, planned, explained; refused by its name when it would have to run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import quantwright
from quantwright import registry
from quantwright.api import decide
from quantwright.config.availability import missing, not_yet, spec_faults
from quantwright.config.check import check
from quantwright.config.known import KNOWN
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.errors import ConfigError

X = torch.randn(2, 3, 6, 6)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()


CONFIG: dict[str, Any] = {
    "version": 1,
    "rules": [
        {"match": {"type": "Conv2d"}, "weight": {"observer": {"name": "lsq_init", "anything": 1}}},
        {"match": {"type": "Linear"}, "weight": {"fake_quant": "lsq"}},
        {"match": {"type": "ReLU"}, "output": {"fake_quant": {"name": "pact", "alpha": 6.0}}},
    ],
    "optimize": ["fold_batchnorm", "train_with_batchnorm"],
    "refine": [{"brecq": {"max_count": 20000}}],
}
NAMES = ("lsq_init", "'lsq'", "pact", "train_with_batchnorm", "brecq")


def test_the_plan_is_made_and_warns_of_every_name() -> None:
    plan = decide(net(), CONFIG, X).plan
    for name in NAMES:
        assert any(name in text and "not available yet" in text for text in plan.warnings), name
    assert plan["3.weight"].spec is not None


def test_running_it_is_refused_with_all_names_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        quantwright.prepare(net(), CONFIG, X)
    assert {problem.code for problem in caught.value.problems} == {"not_available"}
    assert len(caught.value.problems) == len(NAMES)
    for name in NAMES:
        assert name in str(caught.value)
    assert all(problem.fix and problem.path for problem in caught.value.problems)


def test_capture_modules_refuses_too() -> None:
    config = {key: value for key, value in CONFIG.items() if key not in ("refine", "optimize")}
    with pytest.raises(ConfigError, match="not available yet"):
        quantwright.prepare(net(), config, X, capture="modules")


def test_check_says_it_and_finds_no_problem() -> None:
    result = check(CONFIG)
    assert result.ok
    for name in NAMES:
        assert any(name in text for text in result.warnings), name
    assert any("rules[0].weight" in text for text in result.warnings)


def test_what_no_tensor_uses_is_not_refused() -> None:
    rules = [{"match": {"type": "Conv2d"}, "weight": {"observer": "lsq_init"}},
             {"match": {"type": "Conv2d"}, "weight": {"observer": "mse"}}]  # fmt: skip
    prepared = quantwright.prepare(net(), {"version": 1, "rules": rules}, X)
    assert prepared.plan["0.weight"].spec.observer.name == "mse"  # type: ignore[union-attr]


def test_formats_scales_and_dynamic_ranges() -> None:
    assert spec_faults(QuantSpec(format="nf4").over(BASE_SPEC), "weight") == []
    assert spec_faults(QuantSpec(scale="e8m0").over(BASE_SPEC), "weight") == []
    assert spec_faults(QuantSpec(dynamic=True).over(BASE_SPEC), "output")[0][0] == "dynamic"
    assert spec_faults(QuantSpec(dynamic=True, format="fp8_e4m3").over(BASE_SPEC), "output") == []
    token = QuantSpec(dynamic=True, granularity={"kind": "per_token"}).over(BASE_SPEC)  # type: ignore[arg-type]
    assert spec_faults(token, "output") == []
    assert spec_faults(BASE_SPEC, "weight") == []


def test_no_known_name_hides_a_plug_in() -> None:
    for kind in KNOWN:
        if kind in registry.KINDS and kind != "formats":
            assert missing(kind) == set(KNOWN[kind]) - set(registry.names(kind))


def test_a_name_that_is_not_even_known_stays_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lsq_init'"):
        quantwright.load_config({"version": 1, "default": {"weight": {"observer": "lsq_ini"}}})


def test_an_available_config_says_nothing() -> None:
    assert not_yet(quantwright.load_config("int8")) == ()


@pytest.mark.parametrize("kind", ["observers", "algorithms", "fakequant"])
def test_list_shows_what_is_to_come(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    from quantwright.cli import main

    assert main(["list", kind]) == 0
    said = capsys.readouterr().out
    assert "not available yet" in said
    assert all(name in said for name in missing(kind))
