"""``quantwright translate``: the file, what is lost per tensor role, exit codes, and nothing written by halves."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import quantwright
from quantwright import cli, registry
from quantwright.config.config import QuantConfig, Source
from quantwright.config.load import load_config, read_any, write_config
from quantwright.config.translate import origin, role_of, translation
from quantwright.dialects import native
from quantwright.errors import ConfigError, UnknownNameError

DIGITS = ROOT / "examples" / "digits"
FLOATS = "version: 1\ndefault:\n  weight: {format: int8, scale: float, observer: mse}\nrules:\n" \
         "- match: {function: cat}\n  output: {format: int4}\n"  # fmt: skip


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["translate", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_is_carried_whole_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(str(DIGITS / "dpu.json"), "--to", "native", capsys=capsys)
    assert code == 0 and "nothing is lost" in err and "read as vai_q_pytorch (it has 'target_device'" in err
    assert native.to_plain(load_config(out)) == native.to_plain(load_config(DIGITS / "dpu.json"))


def test_losses_are_told_by_role_with_effect_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "my.yaml"
    source.write_text(FLOATS)
    code, out, err = call(str(source), "--to", "vai_q_pytorch", capsys=capsys)
    assert code == 1 and json.loads(out)["target_device"] == "CPU"
    lines = err.splitlines()
    head = next(line for line in lines if line.startswith("tensors"))
    assert head.split() == ["tensors", "setting", "what", "effect", "asked", "for", "at"]
    roles = [line.split()[0] for line in lines[lines.index(head) + 1 :] if line[:1].strip()]
    order = ["weight", "bias", "input", "output", "activation", "network"]
    assert roles == sorted(roles, key=order.index) and {"weight", "network"} <= set(roles)
    assert any(" rules[0] " in line and line.endswith(f"{source}:5") for line in lines)
    code, out, err = call(str(source), "--to", "vai_q_pytorch", "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 1 and err == "" and document["from"] == "native" and document["to"] == "vai_q_pytorch"
    assert not document["lossless"] and "'rules'" in document["why"] and json.loads(document["text"])
    assert {(item["when"], item["role"]) for item in document["unmapped"]} >= {("writing", "network")}
    (rule,) = (item for item in document["unmapped"] if item["path"] == "rules[0]")
    assert (rule["file"], rule["line"]) == (str(source), 5) and rule["effect"]


def test_losses_of_reading_are_reported_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "c.json"
    source.write_text('{\n  "target_device": "DPU",\n  "onnx_opset_version": 14\n}\n')
    code, out, _ = call(str(source), "--to", "native", "--json", capsys=capsys)
    (lost,) = json.loads(out)["unmapped"]
    assert code == 1 and lost["when"] == "reading" and lost["path"] == "onnx_opset_version" and lost["effect"]


@pytest.mark.parametrize("name", ["t.yaml", "t.json"])
def test_a_file_is_written_whole_in_its_own_syntax_and_not_over_another(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    code, text, err = call(str(DIGITS / "dpu.json"), "--to", "native", "--out", str(out), capsys=capsys)
    assert code == 0 and f"written as native to {out}" in text and err == ""
    assert native.to_plain(load_config(out)) == native.to_plain(load_config(DIGITS / "dpu.json"))
    before = out.read_bytes()
    code, _, err = call(str(DIGITS / "int8.yaml"), "--to", "native", "--out", str(out), capsys=capsys)
    assert code == 2 and "--overwrite" in err and out.read_bytes() == before
    code, _, _ = call(str(DIGITS / "int8.yaml"), "--to", "native", "--out", str(out), "--overwrite", capsys=capsys)
    assert code == 0 and load_config(out).target == "onnxruntime"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such.yaml", "--to", "native"], "no such file"),
        ([str(DIGITS / "dpu.json"), "--to", "natif"], "did you mean 'native'"),
        ([str(DIGITS / "dpu.json"), "--to", "native", "--out", str(DIGITS)], "is a folder"),
        ([str(DIGITS / "dpu.json"), "--to", "native", "--out", "x.toml"], "--out x.yaml"),
        ([str(DIGITS / "dpu.json"), "--to", "native", "--overwrite"], "no effect without --out"),
        ([str(DIGITS / "dpu.json")], "--to"),
        ([str(DIGITS / "dpu.json"), "--to", "native", "--dialect", "native"], "unknown key 'target_device'"),
    ],
)
def test_bad_input_ends_with_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(*arguments, capsys=capsys)
    assert code == 2 and out == "" and says in err
    code, out, err = call(*arguments, "--json", capsys=capsys)
    assert code == 2 and json.loads(out)["error"]["exit_code"] == 2


def test_all_that_is_wrong_comes_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nrulez: []\n")
    (tmp_path / "there.yaml").write_text("")
    code, _, err = call(
        str(tmp_path / "bad.yaml"), "--to", "native", "--out", str(tmp_path / "there.yaml"), capsys=capsys
    )
    assert code == 2 and "rulez" in err and "there already" in err


def test_python_gives_text_and_losses() -> None:
    text, lost = quantwright.translate({"target_device": "DPU", "onnx_opset_version": 14}, to="native")
    assert load_config(text).target == "dpu" and [item.path for item in lost] == ["onnx_opset_version"]
    assert quantwright.translate(text, to="native") == ("".join(li for li in text.splitlines(True) if li[0] != "#"), [])
    assert "target: onnxruntime" in quantwright.translate(text, to="native", target="onnxruntime")[0]
    with pytest.raises(UnknownNameError, match="no dialect is called"):
        quantwright.translate("int8", to="mqbenhc")
    with pytest.raises(ConfigError):
        quantwright.translate({"rulez": 1}, to="native", dialect="native")


@pytest.mark.parametrize("to", registry.names("dialects"))
@pytest.mark.parametrize("source", [DIGITS / "cpu.json", DIGITS / "int8.yaml", "int8", "dpu", "power_of_two"])
def test_every_writer_writes_what_its_reader_reads(source: Any, to: str) -> None:
    made = translation(source, to=to)
    again = read_any(made.text, dialect=to)
    assert again.dialect == to
    assert all(loss.message and loss.role and (loss.effect or loss.when == "reading") for loss in made.losses)
    assert write_config(again.config, "native")[0]


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("default.weight.format", "weight"), ("rules[3].bias", "bias"), ("network inputs.input.format", "input"),
        ("tensor_quantize_config.weights.bit_width", "weight"), ("layer[0].output_tensors.dtype", "output"),
        ("a_qscheme.bit", "activation"), ("w_fakequantize", "weight"), ("target", "network"), ("rules[0]", "network"),
        ("quantize_layer.activation", "activation"), ("", "network"),
    ],
)  # fmt: skip
def test_the_role_of_a_path(path: str, role: str) -> None:
    assert role_of(path) == role


def test_where_a_loss_was_asked_for() -> None:
    config = load_config("version: 1\ndefault:\n  weight:\n    format: int4\nrules:\n- match: {name: a}\n  bias:\n"
                         "    format: int8\n")  # fmt: skip
    lines = {path: origin(config, path).line for path in ("default.weight.format", "rules[0].bias.format", "rules[0]")}
    assert lines == {"default.weight.format": 4, "rules[0].bias.format": 8, "rules[0]": 6}
    assert origin(config, "default.bias.scale").text == "default"
    assert origin(config, "rules[9]").line is None
    assert origin(QuantConfig(), "target") == Source()


def spent() -> float:
    """Returns the seconds of processor that children took: those of other processes do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_it_needs_no_torch_and_half_a_second() -> None:
    code = (
        "import sys; from quantwright.cli import main; main(sys.argv[1:]);"
        "sys.exit(str(sorted({'torch', 'numpy', 'onnx'} & set(sys.modules))))"
    )
    arguments = ["translate", str(DIGITS / "int8.yaml"), "--to", "vai_q_pytorch"]
    best = 9.0
    for _ in range(3):
        start = spent()
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        best = min(best, spent() - start)
        assert done.stderr.strip().endswith("[]"), done.stderr
    assert best < 0.5
