"""Damaged configurations of every dialect: a plan, or a ConfigError that says where; nothing else, and no hang."""

from __future__ import annotations

import sys
from random import Random
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantwright import registry
from quantwright.config.load import load_config
from quantwright.errors import ConfigError, Problem

sys.path.insert(0, str(ROOT / "bench"))
try:
    import fuzz_configs
    from fuzz_configs import Tally, damage, draw, judge, mutate, samples
finally:
    sys.path.remove(str(ROOT / "bench"))

QUIET = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SLOW = 0.5  # seconds of this process; bench/fuzz_configs.py holds a quiet machine to a tenth of that


@pytest.mark.parametrize("dialect", registry.names("dialects"))
def test_a_damaged_document_gives_a_plan_or_says_where(dialect: str) -> None:
    if not any(sample.dialect == dialect for sample in samples()):
        pytest.skip("no real file of this dialect is here")

    @QUIET
    @given(st.integers(min_value=0, max_value=2**32))
    def check(seed: int) -> None:
        source, asked = draw(Random(seed), dialect)
        outcome, seconds = judge(source, asked, write=seed % 4 == 0)
        assert outcome in ("plan", "refused"), (outcome, source)
        assert seconds < SLOW, source

    check()


def test_the_real_documents_are_read_or_refused_with_a_reason() -> None:
    for sample in samples():
        outcome, _ = judge(sample.value, sample.dialect)
        assert outcome in ("plan", "refused"), (sample.name, outcome)
    assert {sample.dialect for sample in samples()} >= {"native", "vai_q_pytorch"}


@pytest.mark.parametrize("bomb", fuzz_configs.BOMBS)
def test_bombs_are_refused_at_once(bomb: str) -> None:
    outcome, seconds = judge(bomb + "version: 1\n")
    assert outcome == "refused" and seconds < SLOW


@pytest.mark.parametrize("odd", [*fuzz_configs.PLAIN, *fuzz_configs.LIVE], ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("key", ["version", "target", "default", "rules", "optimize", "refine", "calibration"])
def test_every_odd_value_at_every_key(key: str, odd: Any) -> None:
    outcome, _ = judge({"version": 1, key: odd}, "native")
    assert outcome in ("plan", "refused"), outcome
    spec = {
        "version": 1,
        "default": {"weight": {"format": odd, "observer": odd}},
        "rules": [{"match": odd, "weight": odd}],
    }
    assert judge(spec, "native")[0] == "refused"


def test_what_is_no_document_names_the_line_that_gave_it() -> None:
    for odd in (["a"], 3, None, {1: 2}, {"a": float("nan")}, {"a": object()}, {"a": 10**5000}, {"a": "\ud800"}):
        with pytest.raises(ConfigError) as caught:
            load_config(odd)  # type: ignore[arg-type]
        problem = caught.value.problems[0]
        assert problem.file is not None and problem.file.endswith("test_fuzz_configs.py") and problem.line


def test_the_harness_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(error: BaseException) -> Any:
        def read(*_: Any, **__: Any) -> Any:
            raise error

        return read

    for error, word in (
        (KeyError("x"), "failed: KeyError"),
        (ConfigError([Problem(code="c", message="m")]), "failed: a problem without a place"),
        (ConfigError([Problem(code="c", message="", line=1)]), "failed: a message"),
        (fuzz_configs.Hang(), "failed: hangs"),
    ):
        monkeypatch.setattr(fuzz_configs, "read_any", reader(error))
        assert judge({})[0].startswith(word)
    tally = Tally()
    for seconds, outcome in ((0.01, "plan"), (0.2, "refused"), (0.001, "failed: x")):
        tally.take("text", seconds, outcome, outcome)
    assert (tally.slow, len(tally.failures), tally.slowest[0][0]) == (1, 1, 0.2)


def test_changes_change_and_leave_the_original_alone() -> None:
    sample = samples()[0]
    before = repr(sample.value)
    made = {repr(mutate(Random(seed), sample.value, lambda: sample.value, (None, 3))) for seed in range(50)}
    assert len(made) > 20 and repr(sample.value) == before
    assert len({damage(Random(seed), sample.text) for seed in range(50)}) > 40
    assert draw(Random(7)) == draw(Random(7))
