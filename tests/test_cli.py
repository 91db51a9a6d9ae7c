"""The command line: what needs no torch needs none, output forms, exit codes, all cheap errors at once."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import ROOT

from quantwright import cli, registry
from quantwright.commands import Outcome
from quantwright.config.spec import ROUNDINGS
from quantwright.errors import DataError, InputError, VerificationError

DIGITS = ROOT / "examples" / "digits"
QUANTIZE = ["quantize", "m.py:f", "--config", "c", "--data", "d", "--out", "o"]
MODEL = "from torch import nn\ndef factory():\n    return nn.Linear(4, 2)\n"


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def stop_with(monkeypatch: pytest.MonkeyPatch, error: BaseException | Any) -> None:
    def run(_: Any) -> Outcome:
        if isinstance(error, BaseException):
            raise error
        return error  # type: ignore[no-any-return]

    monkeypatch.setattr(cli, "_run", run)


# -- light ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["quantize", "--help"], ["list", "targets"], ["list", "rounding", "--json"], ["schema"],
     ["check", str(DIGITS / "dpu.json")], ["check", "no-such-file.yaml"],
     ["quantize", "nofile.py:f", "--config", str(DIGITS / "dpu.json"), "--data", "no.npz", "--out", "never-made"]],
)  # fmt: skip
def test_light_commands_import_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys; from quantwright.cli import main; main(sys.argv[1:]);"
        "sys.exit(str(sorted({'torch', 'numpy', 'onnx', 'rich'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "quantwright", "list", "rounding"], capture_output=True, text=True)
    assert done.returncode == 0 and "half_even" in done.stdout
    version = subprocess.run([sys.executable, "-m", "quantwright", "--version"], capture_output=True, text=True)
    assert version.stdout.startswith("quantwright 0.")


# -- list, schema, check ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", cli.LISTABLE)
def test_list_shows_every_file_of_the_folder(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("list", kind, "--json", capsys=capsys)
    document = json.loads(out)
    found = {item["name"]: item for item in document["plugins"]}
    assert code == 0 and document["kind"] == kind
    if kind == "rounding":
        assert tuple(found) == ROUNDINGS
    else:
        folder = ROOT / "src" / "quantwright" / registry.KINDS[kind]
        assert set(found) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    for item in found.values():
        path = ROOT / "src" / item["file"]
        assert path.is_file()
        if kind != "rounding":
            first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
            assert item["summary"] == first != ""
    _, text, _ = call("list", kind, capsys=capsys)
    assert all(name in text for name in found)


def test_every_rounding_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call("list", "rounding", "--json", capsys=capsys)
    assert all(item["summary"] for item in json.loads(out)["plugins"])


def test_schema_is_one_and_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("schema", capsys=capsys)
    jsonschema.Draft202012Validator.check_schema(json.loads(out))
    assert code == 0
    code, _, _ = call("schema", "--out", str(tmp_path / "s.json"), capsys=capsys)
    assert code == 0 and json.loads((tmp_path / "s.json").read_text()) == json.loads(out)
    assert call("schema", "--out", str(tmp_path / "s.json" / "x"), capsys=capsys)[0] == 2


def test_check_says_fine_or_everything_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call("check", str(DIGITS / "cpu.json"), capsys=capsys)
    assert code == 0 and "vai_q_pytorch" in out
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nrulez: []\ndefault: {weight: {format: int99, roundin: floor}}\n")
    code, out, _ = call("check", str(bad), capsys=capsys)
    assert code == 2 and all(word in out for word in ("rulez", "int99", "roundin", "bad.yaml:2", "bad.yaml:3"))
    code, out, _ = call("check", str(bad), "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 2 and document["ok"] is False and len(document["problems"]) == 3
    code, out, err = call("check", str(tmp_path / "none.yaml"), "--json", capsys=capsys)
    assert code == 2 and "none.yaml" in json.loads(out)["error"]["where"] and err == ""


# -- exit codes and forms ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad", where="w", allowed="a", fix="f"), 2),
        (DataError("bad"), 2),
        (VerificationError("differs"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division\nby zero"), 70),
        (Outcome(document={"ok": False}, text=lambda: "no", code=1), 1),
        (Outcome(document={"x": float("nan")}, text=lambda: "yes"), 0),
    ],
)
def test_every_end_has_its_code_and_one_json_document(
    error: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_with(monkeypatch, error)
    got, out, err = call("list", "rounding", capsys=capsys)
    assert got == code
    if isinstance(error, Outcome):
        assert out.strip() in ("no", "yes")
    else:
        assert out == "" and "Traceback" not in err
        assert len(err.strip().splitlines()) == (3 if isinstance(error, InputError) and error.fix else 1)
    got, out, err = call("list", "rounding", "--json", capsys=capsys)
    document = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert got == code and err == ""
    if not isinstance(error, Outcome):
        assert document["error"]["exit_code"] == code and document["error"]["type"] == type(error).__name__


def test_a_fault_of_ours_says_so_and_shows_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_with(monkeypatch, ZeroDivisionError("x"))
    _, _, err = call("list", "rounding", capsys=capsys)
    assert "a fault in quantwright" in err and "--traceback" in err
    _, _, err = call("list", "rounding", "--traceback", capsys=capsys)
    assert "Traceback" in err and "ZeroDivisionError" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required"),
        (["quantise"], "invalid choice"),
        (["list", "observer"], "invalid choice"),
        (["quantize", "m.py:f"], "--config, --data, --out"),
        ([*QUANTIZE, "--batch-size", "0"], "0 is not positive"),
        ([*QUANTIZE, "--mean", "a,b"], "list of numbers"),
        (["explain", "m.py:f", "--config", "c", "--input-shape", "1,x,3"], "not a shape"),
        (["explain", "m.py:f", "--config", "c", "--input-shape", "1,3", "--data", "d"], "not allowed with"),
    ],
)
def test_usage_errors_are_bad_input(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(*arguments, capsys=capsys)
    assert code == 2 and out == "" and says in err and "--help" in err
    code, out, err = call(*arguments, "--json", capsys=capsys)
    assert code == 2 and says in json.loads(out)["error"]["message"] and err == ""


def test_stray_prints_do_not_spoil_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import quantwright.commands.plugins as plugins

    def chatty(_: Any) -> Outcome:
        print("hello from user code")  # noqa: T201
        return Outcome(document=[1], text=str)

    monkeypatch.setattr(plugins, "run", chatty)
    code, out, err = call("list", "rounding", "--json", capsys=capsys)
    assert code == 0 and json.loads(out) == [1] and "hello" in err


def test_a_closed_pipe_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} -m quantwright schema | head -c 10; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "fault" not in done.stderr


# -- everything wrong at once -----------------------------------------------------------------------------------
def test_all_cheap_errors_come_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "bad.yaml").write_text("version: 1\nrulez: []\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    arguments = [
        "quantize", f"{tmp_path}/model.py:factori", "--config", f"{tmp_path}/bad.yaml",
        "--data", f"{tmp_path}/none.npz", "--out", f"{tmp_path}/out",
        "--eval-data", f"{tmp_path}/none2.npz", "--exporter", "onx", "--std", "0",
    ]  # fmt: skip
    code, out, err = call(*arguments, capsys=capsys)
    says = ["unknown key 'rulez'", "no 'factori'", "did you mean 'factory'", "none.npz: no such file", "none2.npz",
            "thesis.tex", "--eval-data has no effect without --eval", "did you mean 'onnx'",
            "--std has no effect"]  # fmt: skip
    assert code == 2 and out == "" and [word for word in says if word not in err] == []
    code, out, _ = call(*arguments, "--json", capsys=capsys)
    document = json.loads(out)["error"]
    assert code == 2 and document["type"] == "SeveralErrors" and len(document["problems"]) == 8
    assert {problem.get("code") or problem.get("type") for problem in document["problems"]} >= {
        "unknown_key", "ModelError", "DataError", "ArtifactError", "UnknownNameError", "InputError",
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resize", "8"], "--resize has no effect: the data is not a folder of images"),
        (["--mean", "1,2"], "2 numbers for 3 channels"),
        (["--resize", "8", "--crop", "9"], "larger than the resized image"),
        (["--device", "warp"], "device 'warp' cannot be used"),
        (["--target", "dpuu"], "did you mean 'dpu'"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(
    tmp_path: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "images").mkdir()
    data = f"{tmp_path}/model.py:factory" if "no effect" in says else f"{tmp_path}/images"
    code, _, err = call(
        "quantize", f"{tmp_path}/model.py:factory", "--config", str(DIGITS / "dpu.json"), "--data", data,
        "--out", f"{tmp_path}/out", *flags, capsys=capsys,
    )  # fmt: skip
    assert code == 2 and says in err and not (tmp_path / "out").exists()


# -- explain ----------------------------------------------------------------------------------------------------
EXPLAIN = ["explain", f"{DIGITS}/model.py:digits", "--config", f"{DIGITS}/int8.yaml", "--input-shape", "1,1,24,24"]


def test_explain_shows_where_every_field_came_from(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(*EXPLAIN, "stem*", capsys=capsys)
    assert code == 0 and out.startswith("stem.conv.weight (weight): int8")
    line = next(line for line in out.splitlines() if line.strip().startswith("observer"))
    steps = [step.strip() for step in line.replace("won over", " over ").split(" over ")]
    assert "mse" in steps[0] and "int8.yaml:16" in steps[0] and "int8.yaml:9" in steps[1]
    assert "target onnxruntime" in steps[2] and "built-in" in steps[3]
    assert "stays float: " in out and "head.weight" not in out
    code, out, _ = call(EXPLAIN[0], EXPLAIN[1], "stem.conv.weight", *EXPLAIN[2:], "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 0 and document["target"] == "onnxruntime"
    assert document["dialect"] == "native" and "'rules'" in document["why"]
    assert [step["won"] for step in document["points"][0]["fields"]["observer"]] == [False, False, False, True]
    assert [point["point"] for point in document["points"]] == ["stem.conv.weight"]
    assert document["points"][0]["fields"]["observer"][-1]["line"] == 16


def test_explain_takes_its_example_from_data_and_another_target(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*EXPLAIN[:4], "--data", f"{DIGITS}/data.py:calibration", "--target", "generic", "head.weight"]
    code, out, _ = call(*arguments, capsys=capsys)
    assert code == 0 and "target generic" in out and "target onnxruntime" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([*EXPLAIN, "stem.conv.wieght"], 2, "did you mean 'stem.conv.weight'"),
        ([*EXPLAIN, "a", "b"], 2, "unrecognized arguments: a b"),
        (EXPLAIN[:4], 2, "--input-shape 1,3,224,224"),
        ([*EXPLAIN[:4], "--input-shape", "1,3,24,24"], 2, "error:"),
    ],
)
def test_explain_says_what_is_missing(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = call(*arguments, capsys=capsys)
    assert got == code and out == "" and says in err and "Traceback" not in err
