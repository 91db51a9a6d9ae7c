"""The record of a run and how a terminal shows it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantwright.errors import ArtifactError
from quantwright.report.record import RunRecord, dumps, plain, versions
from quantwright.report.terminal import progress_bar, render_run
from quantwright.verify.evaluate import EvaluationRow

ROWS = [
    EvaluationRow(name="float", samples=500, top1=0.984, top5=1.0, agreement=1.0, sqnr_db=None),
    EvaluationRow(name="simulated", samples=500, top1=0.982, top5=1.0, agreement=0.998, sqnr_db=31.25),
    EvaluationRow(name="exported", samples=500, top1=0.982, top5=1.0, agreement=0.998, sqnr_db=math.inf),
]
DESCRIBED: dict[str, Any] = {
    "model": "Net",
    "target": "dpu",
    "dialect": "vai_q_pytorch",
    "warnings": ("rule 3 matched nothing",),
    "command": {
        "unmapped": [{"path": "a.b", "message": "has no counterpart", "effect": "ignored", "line": 4}],
        "data_notes": ["x.npz: float64 is converted to float32"],
    },
    "coverage": {"quantized": 12, "float": 2, "reasons": {"softmax is computed in float": 2}},
    "changes": ({"by": "fold_batchnorm", "node": "conv1", "text": "folded bn1", "data": {}},),
}


def record() -> RunRecord:
    verdict = {"ok": True, "points": [{"differing": 0, "local_max_lsb": 0.0}, {"differing": 3, "local_max_lsb": 1.0}]}
    start = RunRecord.start(DESCRIBED, seed=7, device="cpu")
    return start.finish(evaluation=ROWS, verdict=verdict, timings={"calibrate": 1.5}, files={"model.onnx": "ab" * 32})


def test_a_record_survives_json() -> None:
    first = record()
    again = RunRecord.from_json(json.loads(dumps(first.to_json())))
    assert again == first and again.seed == 7 and again.evaluation[1]["sqnr_db"] == 31.25
    assert first.evaluation[2]["sqnr_db"] == "inf"
    assert first.versions == versions() and first.versions["torch"] == torch.__version__


def test_what_is_no_record_is_refused() -> None:
    for value in (None, [], {}, {"format": "1"}, {"format": 99}, {"format": 1, "colour": "red"}):
        with pytest.raises(ArtifactError):
            RunRecord.from_json(value)
    with pytest.raises(TypeError, match="colour"):
        RunRecord.start({"colour": "red"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True, allow_infinity=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(json_values)
def test_anything_becomes_strict_json_and_stays_the_same(value: Any) -> None:
    text = dumps(value)
    parsed = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert plain(parsed) == parsed == plain(plain(value)) and dumps(parsed) == text


def test_tensors_and_objects_become_values() -> None:
    assert plain({"t": torch.tensor([1, 2]), "row": ROWS[2], "set": {2, 1}, 3: None}) == {
        "t": [1, 2], "row": {**ROWS[2].to_json(), "sqnr_db": "inf"}, "set": [1, 2], "3": None,
    }  # fmt: skip


def test_the_terminal_shows_the_table_the_warnings_and_the_files() -> None:
    text = render_run(record(), out="out/net[1]", width=100)
    lines = text.splitlines()
    assert lines[0].startswith("Net for target dpu") and "\x1b" not in text
    for words in (["float", "98.40 %", "100.00 %", "-", "500"], ["simulated", "98.20 %", "99.80 %", "31.2 dB"],
                  ["ONNX Runtime", "98.20 %", "equal"]):  # fmt: skip
        assert any(all(word in line for word in words) for line in lines), words
    for words in ("rule 3 matched nothing", "line 4 a.b: has no counterpart (ignored)", "quantized 12",
                  "2 x softmax is", "fold_batchnorm 1", "float64 is converted", "verified:",
                  "1 of 2 points are equal", "out/net[1]",
                  "abababababababab"):  # fmt: skip
        assert words in text, words


def test_the_terminal_shows_what_failed() -> None:
    failed = record().finish(verdict={"ok": False, "problems": ["fc:output[0] differs by 7 LSB"]}, evaluation=[])
    text = render_run(failed, width=100)
    assert "NOT verified" in text and "fc:output[0] differs by 7 LSB" in text and "top-1" not in text


def test_unlabelled_data_shows_no_accuracy() -> None:
    rows = [EvaluationRow(name="float", samples=3, top1=None, top5=None, agreement=1.0, sqnr_db=None)]
    text = render_run(record().finish(evaluation=rows), width=100)
    assert "agreement" in text and "top-1" not in text


def test_progress_draws_only_where_somebody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        assert progress is None  # pytest's stderr is no terminal
    with progress_bar(True) as progress:
        assert progress is not None
        for done in range(3):
            progress("calibrate", done + 1, None)
        progress("evaluate", 1, 2)
    captured = capfd.readouterr()
    assert captured.out == "" and "calibrate" in captured.err
