"""The HTML page without a browser: whole, safe, the same for equal runs, small, and made from files alone."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_runs
from report_runs import NASTY, POWER, edited, renamed

from quantwright import cli
from quantwright.errors import ArtifactError
from quantwright.files import sha256
from quantwright.report import page, view, words
from quantwright.report.folder import check_files, read_manifest
from quantwright.report.run import Run, read_checked, read_run
from quantwright.report.terminal import render_run

LIMIT = 3_000_000  # bytes


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(home: Path) -> Path:
    return report_runs.make(home / "first", evaluate=True)


@pytest.fixture(scope="module")
def second(home: Path) -> Path:
    return report_runs.make(home / "second", POWER)


class Page(HTMLParser):
    """Collects the elements of a page, what is inside <script>, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.words.append(data)

    @property
    def data(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.scripts[0])
        return parsed

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- what it says ------------------------------------------------------------------------------------------------
def test_the_page_shows_the_run(first: Path) -> None:
    shown, run = Page((first / "report.html").read_text(encoding="utf-8")), read_checked(first)
    for row in run.record.evaluation:
        assert words.ROW_NAMES[row["name"]] in shown.text and words.percent(row["agreement"]) in shown.text
    size = run.measured["size"]
    for text in (words.size(size["quantized_bytes"]), words.size((first / "model.onnx").stat().st_size), "Verified.",
                 "int8 / uint8", run.record.versions["torch"], sha256(first / "plan.json")):  # fmt: skip
        assert text in shown.text, text
    assert [point["name"] for point in shown.data["points"]] == [d.point.name for d in run.plan.decisions]
    *points, output = shown.data["activations"]
    assert points == run.measured["activations"]
    (verified,) = (run.record.verdict or {})["outputs"]
    assert (output["point"], output["float"], output["sqnr_db"]) == ("6:output", True, verified["sqnr_float_db"])
    assert shown.data["verified"] == json.loads((first / "run.json").read_text())["verdict"]["points"]


def test_the_chains_of_reasons_are_those_of_the_plan(first: Path) -> None:
    data, run = view.data(read_run(first)), read_run(first)
    for point, decision in zip(data["points"], run.plan.decisions, strict=True):
        chain = {
            name: [(value, data["sources"][at]) for value, at in steps]
            for name, steps in data["chains"][point["chain"]]
        }
        assert chain.keys() == decision.reasons.keys()
        for name, steps in chain.items():
            assert [source for _, source in steps] == [str(step.source) for step in decision.reasons[name]]


def test_every_place_settings_came_from_is_listed(second: Path) -> None:
    plan = read_run(second).plan
    rows = {row["text"]: row for row in view.origins(plan)}
    steps = [(step, step is steps[-1]) for d in plan.decisions for steps in d.reasons.values() for step in steps]
    assert sum(row["decided"] for row in rows.values()) == sum(won for _, won in steps)
    assert sum(row["lost"] for row in rows.values()) == sum(not won for _, won in steps)
    rule = rows["rule 1 (name 4)"]
    assert rule["decided"] == rule["tensors"] > 0 and rule["file"].endswith("report_runs.py") and rule["lines"]
    assert rows["built-in default"]["lost"] > 0 and rows["built-in default"]["file"] == ""


def test_an_output_without_a_verdict_has_the_error_of_the_evaluation(first: Path) -> None:
    run = read_run(first)
    rows = ({"name": "float"}, {"name": "simulated", "sqnr_db": 12.5, "samples": 9})
    changed = replace(run, record=run.record.finish(verdict=None, evaluation=rows))
    output = view.data(changed)["activations"][-1]
    assert (output["point"], output["sqnr_db"], output["samples"]) == ("6:output", 12.5, 9)
    silent = replace(run, record=run.record.finish(verdict=None, evaluation=()))
    assert view.data(silent)["activations"] == run.measured["activations"]


def test_coverage_counts_and_names_every_tensor(second: Path) -> None:
    run = read_run(second)
    found = view.coverage(run.plan)
    counts = {part["state"]: part["count"] for part in found["parts"]}
    recorded = run.record.coverage
    assert counts == {state: recorded[state] for state in view.STATES} and sum(counts.values()) == found["total"]
    named = [name for reason in found["reasons"] if reason["state"] == "float" for name in reason["names"]]
    assert len(named) == counts["float"] > 0 and "4.weight" in named
    assert {reason["why"] for reason in found["reasons"] if reason["state"] == "float"} == set(recorded["why float"])


def test_a_run_that_failed_says_so_first(first: Path) -> None:
    run = read_run(first)
    verdict = {**(run.record.verdict or {}), "ok": False, "problems": ["fc differs by 7 LSB"]}
    text = Page(page.render(Run(name="x", record=run.record.finish(verdict=verdict), plan=run.plan))).text
    assert "Not verified." in text and "fc differs by 7 LSB" in text
    assert "Error per layer" not in text  # nothing was measured


def test_what_has_no_graph_is_measured_and_reported_without_a_verdict(home: Path) -> None:
    config = {**POWER, "rules": [], "optimize": []}
    folder = report_runs.make(home / "modules", config, capture="modules", evaluate=True)
    shown = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert "Error per layer" in shown.text and "Nothing was exported" in shown.text
    assert [one["point"] for one in shown.data["activations"]][0].startswith("input")
    assert len([one for one in shown.data["parameters"] if one["role"] == "weight"]) == 3


# -- safe --------------------------------------------------------------------------------------------------------
def test_names_cannot_become_markup(first: Path, tmp_path: Path) -> None:
    folder = edited(first, tmp_path / "copy", renamed)
    for text in (page.render(read_run(folder)), page.render_comparison(read_run(folder), read_run(first))):
        shown = Page(text)
        assert len(shown.scripts) == 2 and not any(tag == "b" and "on" in "".join(a) for tag, a in shown.elements)
        assert "owned" not in shown.scripts[1]
        assert NASTY in json.dumps(shown.data, ensure_ascii=False).replace('\\"', '"')
        assert NASTY in "".join(shown.words)


def test_nothing_is_asked_for_from_outside(first: Path, second: Path) -> None:
    for text in (page.render(read_run(first)), page.render_comparison(read_run(first), read_run(second))):
        for tag, attributes in Page(text).elements:
            for name in ("src", "href", "action", "data", "poster", "srcset"):
                address = attributes.get(name)
                assert address is None or address.startswith(("#", "data:")), (tag, address)
        assert re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", text) == []
        assert set(re.findall(r"https?://[^\"'\s]*", text)) <= {"http://www.w3.org/2000/svg"}
        assert "default-src 'none'" in text


# -- the same, and whole -----------------------------------------------------------------------------------------
def test_equal_runs_give_the_same_page_and_the_manifest_lists_it(first: Path, home: Path) -> None:
    again = report_runs.make(home / "again", evaluate=True)
    assert (again / "report.html").read_bytes() == (first / "report.html").read_bytes()
    assert (again / "measured.json").read_bytes() == (first / "measured.json").read_bytes()
    manifest = read_manifest(first)
    assert {"report.html", "measured.json"} <= manifest["files"].keys()
    check_files(first, manifest)
    assert "Time" not in Page((first / "report.html").read_text(encoding="utf-8")).words


def test_the_command_makes_the_same_page_again(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(first, tmp_path / "copy"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert call("report", folder, capsys=capsys)[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "report.html").write_text("an older page")
    code, out, _ = call("report", folder, "--json", capsys=capsys)
    assert code == 0 and json.loads(out) == {"file": str(folder / "report.html")}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["report.html"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "report.html").unlink()
    assert call("report", folder, capsys=capsys)[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_page_outside_the_folder_also_tells_the_time(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.html"
    code, out, _ = call("report", first, "--out", file, capsys=capsys)
    assert code == 0 and str(file) in out
    seconds = sum(json.loads((first / "timings.json").read_text()).values())
    shown = Page(file.read_text(encoding="utf-8"))
    assert "Time" in shown.words and f"{seconds:.1f} s" in shown.words


def test_two_runs_side_by_side(first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "both.html"
    assert call("report", first, second, "--out", file, capsys=capsys)[0] == 0
    shown, runs = Page(file.read_text(encoding="utf-8")), [read_run(first), read_run(second)]
    assert shown.data["names"] == ["first", "second"]
    for side, run in zip("ab", runs, strict=True):
        found = {row["point"]: row[side] for row in shown.data["errors"] if side in row}
        assert found == {one["point"]: one["sqnr_db"] for one in run.measured["activations"]}
    changed = {(row["point"], row["field"]): (row["before"], row["after"]) for row in shown.data["changes"]}
    assert changed["4.weight", "format"] == ("int8", "float")
    assert "excluded by rule 1" in changed["4.weight", "why_float"][1] and ("4.weight", "scale") not in changed
    entry = next(d.point.name for d in runs[0].plan.decisions if d.point.role == "input")
    assert changed[entry, "scale"] == ("float", "power_of_two")
    same = Page(page.render_comparison(runs[0], runs[0]))
    assert same.data["changes"] == [] and "The two plans are the same." in same.text


def test_no_torch_is_needed(first: Path, second: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from quantwright.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(str([status, sorted({'torch', 'numpy', 'onnx'} & set(sys.modules))]))"
    )
    arguments = ["report", str(first), str(second), "--out", str(tmp_path / "p.html")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().endswith("[0, []]"), done.stderr


# -- refused -----------------------------------------------------------------------------------------------------
def test_what_cannot_be_reported_is_said_at_once(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    code, _, error = call("report", tmp_path / "nowhere", strangers, capsys=capsys)
    assert code == 2 and "no such folder" in error and "has no manifest.json" in error
    altered = Path(shutil.copytree(first, tmp_path / "altered"))
    (altered / "plan.json").write_text("{}")
    code, _, error = call("report", altered, capsys=capsys)
    assert code == 2 and "altered" in error
    saved = edited(first, tmp_path / "saved", lambda name, value: None if name == "run.json" else value)
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["files"]["run.json"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    code, _, error = call("report", saved, capsys=capsys)
    assert code == 2 and "saved without a run" in error


def test_a_page_never_replaces_what_a_manifest_vouches_for(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(first, tmp_path / "copy"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert call("report", folder, "--out", folder / "report.html", capsys=capsys)[0] == 0  # as without --out
    for arguments in ([folder, "--out", folder / "plan.json"], [folder, second, "--out", folder / "report.html"]):
        code, _, error = call("report", *arguments, capsys=capsys)
        assert code == 2 and "is a file of a run" in error
    code, _, error = call("report", folder, "--out", tmp_path, capsys=capsys)
    assert code == 2 and "is a folder" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert call("report", folder, "--out", folder / "mine.html", capsys=capsys)[0] == 0


def test_measurements_of_another_format_are_refused(first: Path, tmp_path: Path) -> None:
    newer = edited(first, tmp_path / "newer", lambda name, v: {**v, "format": 99} if name == "measured.json" else v)
    with pytest.raises(ArtifactError, match="format 99"):
        read_run(newer)


# -- small -------------------------------------------------------------------------------------------------------
def test_a_network_of_the_size_of_resnet50_stays_below_the_limit(first: Path) -> None:
    """161 tensors of parameters and 73 activations with full histograms, all numbers as long as they get."""
    run, numbers = read_run(first), random.Random(0)
    drawn = lambda count: [float(f"{numbers.uniform(-1, 1):.4g}") for _ in range(count)]  # noqa: E731
    one = next(one for one in run.measured["activations"])
    two = next(one for one in run.measured["parameters"] if one["role"] == "weight")
    bins = {"start": -1.2345, "width": 0.0078125, "counts": [numbers.randrange(10**6) for _ in range(256)]}
    channels = {
        "axis": 0,
        "count": 2048,
        "pool": 4,
        **{k: drawn(512) for k in ("low", "high", "grid_low", "grid_high")},
    }
    long = "layer3.5.conv2.some.longer.name"
    measured = {
        **run.measured,
        "activations": [{**one, "point": f"{long}.{i}:output", "histogram": bins} for i in range(73)],
        "parameters": [{**two, "point": f"{long}.{i}.weight", "channels": channels} for i in range(54)],
    }
    text = page.render(Run(name="x", record=run.record, plan=run.plan, measured=measured))
    assert 400_000 < len(text.encode("utf-8")) < LIMIT


# -- terminal ----------------------------------------------------------------------------------------------------
def test_the_terminal_draws_error_bars_of_the_worst_layers(first: Path) -> None:
    run = read_run(first)
    points = [
        {"point": f"layer{i}:output", "sqnr_db": db, "alone_db": 40.0}
        for i, db in enumerate([40.0, 20.0, 26.0206, "inf"])
    ]
    text = render_run(run.record, measured={"activations": points}, width=100)
    lines = [line for line in text.splitlines() if line.startswith("layer")]
    assert [line.split(":")[0] for line in lines] == ["layer1", "layer2", "layer0", "layer3"]
    bars = [sum(line.count(ink) for ink in "█#") for line in lines]
    assert bars == [24, 12, 2, 0]  # an error of 10 %, 5 %, 1 % and none
    assert "10.0 %" in lines[0] and "20.0 dB" in lines[0] and "5.0 %" in lines[1] and "equal" in lines[3]
    many = [{"point": f"p{i}", "sqnr_db": 20.0 + i, "alone_db": 40.0} for i in range(20)]
    assert "12 more layers" in render_run(run.record, measured={"activations": many}, width=100)
    assert "error per layer" not in render_run(run.record, width=100)


def test_words() -> None:
    assert [words.size(n) for n in (999, 1000, 35176, 123456, 25_600_000, 7e9)] == [
        "999 B", "1.0 kB", "35.2 kB", "123 kB", "25.6 MB", "7.00 GB",
    ]  # fmt: skip
    assert [words.share(db) for db in (20, 28.5, 60, 66, "inf")] == ["10.0 %", "3.8 %", "0.1 %", "0.05 %", "0.0 %"]
