"""Loading: which dialect, presets, targets, what ``check`` says, the JSON Schema, and that none of it imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import shared

from quantwright import registry
from quantwright.config import check as checking
from quantwright.config.config import QuantConfig
from quantwright.config.load import load_config, presets, read_config, write_config
from quantwright.config.schema import json_schema
from quantwright.dialects import native
from quantwright.errors import ArtifactError, ConfigError, InputError, UnknownNameError

VAI = {"target_device": "DPU"}
NATIVE = {"version": 1, "default": {"weight": {"format": "int8"}}}


def test_the_dialect_is_recognised() -> None:
    assert load_config(VAI).dialect == "vai_q_pytorch"
    assert load_config(NATIVE).dialect == "native"
    assert load_config({}).dialect == "native"
    assert load_config(json.dumps(VAI)).dialect == "vai_q_pytorch"
    assert load_config("target_device: CPU\noverall_quantize_config: {method: maxmin, scale_type: float,\n"
                       " calib_statistic_method: max}\n").dialect == "vai_q_pytorch"  # fmt: skip


def test_two_plausible_dialects_are_both_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({**VAI, **NATIVE})
    (problem,) = caught.value.problems
    assert problem.code == "ambiguous_dialect" and "native" in problem.message and "vai_q_pytorch" in problem.message
    assert load_config(VAI, dialect="vai_q_pytorch").dialect == "vai_q_pytorch"
    with pytest.raises(ConfigError, match="unknown key 'target_device'"):
        load_config(VAI, dialect="native")


def test_no_dialect_names_the_nearest() -> None:
    for document, near in (({"target_devise": "DPU"}, "vai_q_pytorch"), ({"defaults": {}}, "native")):
        with pytest.raises(ConfigError) as caught:
            load_config(document)
        assert caught.value.problems[0].code == "unknown_dialect" and near in (caught.value.problems[0].fix or "")
    with pytest.raises(ConfigError, match="none of its keys"):
        load_config({"zzzzzz": 1})
    with pytest.raises(ConfigError, match="mapping of keys"):
        load_config("- a\n- b\n")


def test_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategies = {"8bit", "8bit_tqt", "bfp", "fs", "fsx", "gpu", "pof2s", "pof2s_tqt", "tqt"}
    assert set(presets()) >= {"dpu", "int8", "power_of_two", "vai_q_pytorch", "vai_q_tensorflow2"} | strategies
    for name in presets():
        config = load_config(name)
        assert isinstance(config, QuantConfig)
        assert checking.check(name).ok
    int8 = load_config("int8")
    assert int8.default.weight and int8.default.weight.granularity and int8.default.bias
    assert (int8.default.weight.format, int8.default.weight.granularity.kind) == ("int8", "per_channel")
    assert int8.default.bias.scale == "derived" and "preset int8" in str(int8.default_sources["weight.format"])
    dpu, tool = load_config("dpu"), load_config("vai_q_pytorch")
    assert dpu.target == tool.target == "dpu"
    for role in ("weight", "bias", "output"):
        ours, theirs = getattr(dpu.default, role), getattr(tool.default, role)
        assert all(getattr(ours, name) == getattr(theirs, name) for name in ours.fields_set())
    assert load_config("vai_q_pytorch").source.text == "vai_q_pytorch without a file"
    monkeypatch.chdir(tmp_path)
    Path("int8").write_text("version: 1\n")
    assert load_config("./int8").default.weight is None, "a path with a separator is a file"


def test_the_packaged_presets_are_installed_with_the_package() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"config/presets/*.yaml"' in text


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'int8'"):
        load_config("int88")
    with pytest.raises(UnknownNameError, match="did you mean 'vai_q_pytorch'"):
        load_config(VAI, dialect="vai_q_pytroch")
    with pytest.raises(UnknownNameError, match="no target"):
        load_config(VAI, target="nowhere")
    with pytest.raises(UnknownNameError, match="no dialect"):
        write_config(QuantConfig(), "nothing")
    with pytest.raises(ArtifactError, match="no such file"):
        load_config("missing.yaml")
    with pytest.raises(ConfigError, match="cannot be a int"):
        load_config(3)  # type: ignore[arg-type]


def test_the_target_can_be_replaced() -> None:
    name = registry.names("targets")[0]
    config, _ = read_config(NATIVE, target=name)
    assert config.target == name and load_config(config) is config
    assert config.default == load_config(NATIVE).default


def test_check_gives_everything_and_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{\n"target_device": "CPU",\n"include_cle": 1,\n"overall_quantize_config": {\n"bit_width": "8"}}')
    result = checking.check(path)
    assert not result.ok and result.dialect == "vai_q_pytorch" and result.config is None
    plain = json.loads(json.dumps(result.to_json()))
    assert [(p["path"], p["line"]) for p in plain["problems"]] == [
        ("include_cle", 3),
        ("overall_quantize_config.bit_width", 5),
    ]
    text = result.render()
    assert (
        f"{path}:5 overall_quantize_config.bit_width" in text
        and "write 8 without quotes" in text
        and "2 problems" in text
    )
    fine = checking.check({"target_device": "DPU", "onnx_opset_version": 14})
    assert fine.ok and fine.to_json()["unmapped"][0]["path"] == "onnx_opset_version"
    assert "fine (vai_q_pytorch: it has 'target_device'; target dpu; 1 rules)" in fine.render()
    assert "note: " in fine.render()
    broken = checking.check("{")
    assert not broken.ok and broken.dialect == "" and broken.to_json()["dialect"] is None


def test_check_imports_no_torch_and_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(VAI))
    code = (
        "import sys; from quantwright.config.check import check; from quantwright.config.schema import json_schema;"
        f"assert check({str(path)!r}).ok; json_schema(); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    best = 9.0
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - start)
    assert done.stdout.strip() == "[]"
    assert best < 1.0, "0.5 s is the goal on a quiet machine"


VALID: list[Any] = [
    {},
    NATIVE,
    {"rules": [{"match": {"type": "Conv2d"}, "weight": {"granularity": {"kind": "per_group", "group_size": 32}}}]},
    {"default": {"activation": {"observer": {"name": "percentile", "percentile": 99.9}, "format": "uint4"}}},
    {
        "optimize": ["fold_batchnorm", {"cross_layer_equalization": {"method": "dfq"}}],
        "refine": [{"bias_correction": {}}],
    },
    {"calibration": {"inputs": "quantized"}},
]
INVALID: list[Any] = [
    {"version": 2},
    {"defualt": {}},
    {"default": {"weight": {"format": "int99"}}},
    {"default": {"weight": {}}},
    {"default": {"weight": {"observer": {"name": "percentile", "percentile": 101}}}},
    {"default": {"weight": {"observer": {"name": "percentile", "percentil": 99}}}},
    {"default": {"weight": {"granularity": "per_group"}}},
    {"rules": [{"weight": {"format": "int8"}}]},
    {"rules": [{"match": {}, "exclude": True}]},
    {"optimize": ["bias_correction"]},
    {"optimize": [{"fold_batchnorm": {"scope": "al"}}]},
    {"calibration": {"inputs": "both"}},
    {"target": "nowhere"},
]


def test_the_schema_is_valid_and_agrees_with_the_reader() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for document in VALID:
        assert validator.is_valid(document) and load_config(document, dialect="native")
    for document in INVALID:
        assert not validator.is_valid(document), document
        with pytest.raises(ConfigError):
            load_config(document, dialect="native")


def test_the_schema_accepts_presets_and_everything_we_write() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for name in presets():
        validator.validate(native.to_plain(load_config(name)))
    for path in sorted(shared("configs", "vai_q_pytorch").glob("*.json")):
        assert validator.is_valid(native.to_plain(load_config(path))), path


def test_the_schema_lists_plug_ins_and_their_parameters() -> None:
    text = json.dumps(json_schema())
    for kind in ("observers", "passes", "algorithms", "targets"):
        for name in registry.names(kind):
            assert f'"{name}"' in text
            if kind != "targets":
                assert all(f'"{key}"' in text for key in registry.parameters(kind, name))


def test_every_error_is_an_input_error() -> None:
    for source in ("{", {"version": 2}, "nothing", "missing.toml", [1]):
        with pytest.raises(InputError):
            load_config(source)  # type: ignore[arg-type]
