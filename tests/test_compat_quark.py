"""The face of Quark: the samples of its document run, and every value knows the line of the script it was made at."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared
from torch import nn

import quantwright
from quantwright.compat import redirect
from quantwright.compat.quark.torch import ModelQuantizer
from quantwright.compat.quark.torch.quantization.config import config as face
from quantwright.compat.quark.torch.quantization.config.config import (
    Config,
    GPTQConfig,
    Int8PerTensorSpec,
    QConfig,
    QLayerConfig,
    QTensorConfig,
    QuantizationConfig,
    QuantizationSpec,
    ScaleQuantSpec,
    SmoothQuantConfig,
    TQTSpec,
    Uint4PerGroupSpec,
    load_quant_algo_config_from_file,
)
from quantwright.compat.quark.torch.quantization.config.type import (
    DeviceType,
    Dtype,
    QSchemeType,
    QuantizationMode,
    RoundType,
    ScaleType,
    TQTThresholdInitMeth,
)
from quantwright.compat.quark.torch.quantization.observer import observer as observers
from quantwright.config.check import check
from quantwright.config.load import load_config, read_any
from quantwright.config.spec import Granularity
from quantwright.dialects import native
from quantwright.dialects._quark_names import ABSTRACT, DTYPES, OBSERVERS, TENSOR, TOP
from quantwright.errors import ConfigError, InputError

HERE = Path(__file__).name
_IMPORT = "from quark.torch.quantization.observer.observer import PerTensorMinMaxObserver, PerChannelMinMaxObserver\n"


def line() -> int:
    """Returns the line it is called from."""
    return sys._getframe(1).f_lineno


def int8() -> QTensorConfig:
    """Returns the per tensor spec of the document."""
    return QuantizationSpec(
        dtype=Dtype.int8,
        qscheme=QSchemeType.per_tensor,
        observer_cls=observers.PerTensorMinMaxObserver,
        symmetric=True,
        scale_type=ScaleType.float,
        round_method=RoundType.half_even,
        is_dynamic=False,
    )


# -- the document ---------------------------------------------------------------------------------------------------
def samples() -> list[str]:
    """Returns the code blocks of the document."""
    (path,) = shared("seeds").glob("002*.txt")
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


def test_every_sample_of_the_document_runs_when_its_imports_are_changed() -> None:
    ran, specs = 0, []
    for block in samples():
        try:
            ast.parse(block)
        except SyntaxError:
            block = runnable(block)
        code = _IMPORT + block  # the document names the observers without importing them
        code = code.replace("from quark.", "from quantwright.compat.quark.")
        scope: dict[str, Any] = {}
        tree = ast.parse(code)
        for statement in tree.body:  # keep what stands there without a name
            if isinstance(statement, ast.Expr):
                source = ast.unparse(statement.value)
                specs.append(eval(source, scope))  # noqa: S307  the document's own lines
            else:
                exec(compile(ast.Module([statement], []), "sample", "exec"), scope)  # noqa: S102
        ran += 1
    assert ran == 4 and len(specs) == 5
    layers, tensors = specs[0], [spec for spec in specs[1:] if isinstance(spec, QTensorConfig)]
    assert isinstance(layers, QLayerConfig) and len(tensors) == 4
    for spec in tensors:  # each of them can be a weight
        weight = load_config(Config(global_quant_config=QuantizationConfig(weight=spec))).default.weight
        assert weight is not None and weight.observer is not None and weight.observer.name == "minmax"
    group = load_config(Config(global_quant_config=QuantizationConfig(weight=tensors[2]))).default.weight
    assert group and group.granularity == Granularity(kind="per_group", axis=0, group_size=128), "spec 0: accepted"


def runnable(block: str) -> str:
    """Returns a sample that is no Python: ``...`` after keywords stands for more of them."""
    if block.startswith("QuantizationSpec("):
        block = re.sub(r"\(\.\.\.,\n", "(dtype=Dtype.int8, qscheme=QSchemeType.per_channel, ch_axis=0,\n", block)
        block = (
            "from quark.torch.quantization.config.config import QuantizationSpec\n"
            "from quark.torch.quantization.config.type import Dtype, QSchemeType\n" + block
        )
    return re.sub(r",\s*\.\.\.\)", ")", block)


def test_a_script_runs_unchanged_where_the_face_stands_for_the_original() -> None:
    scope: dict[str, Any] = {}
    with redirect("quark"):
        exec(samples()[2].replace("# Per Tensor", f"{_IMPORT}# Per Tensor"), scope)  # noqa: S102
    assert scope["QuantizationSpec"] is not None


# -- names ----------------------------------------------------------------------------------------------------------
def test_names_fields_and_words_are_those_of_the_dialect() -> None:
    markers = {name for name in observers.__all__ if name not in ABSTRACT}
    assert markers == set(OBSERVERS)
    assert {item.name for item in Dtype} == set(DTYPES) - {"uint32"}, "1.6: uint32 has no member"
    assert {item.name for item in fields(QTensorConfig)} == set(TENSOR)
    assert {item.name for item in fields(QConfig)} <= set(TOP)
    assert Config is QConfig and QuantizationSpec is QTensorConfig and QuantizationConfig is QLayerConfig
    assert all(getattr(face, name) is not None for name in face.__all__)


def test_every_convenience_spec_can_be_read() -> None:
    """1.7: those without required fields, and the others with an axis and a size."""
    read = 0
    for name in face.__all__:
        kind = getattr(face, name)
        if not name.endswith("Spec") or name in ("DataTypeSpec", "QATSpec", "TQTSpec", "QuantizationSpec"):
            continue
        if name in ("ProgressiveSpec", "ScaleQuantSpec"):
            made = kind(face.FP4PerGroupSpec(-1, 16), face.FP8E4M3PerTensorSpec())
        elif name == "MXSpec":
            made = kind(-1, 32, "fp4")
        else:
            needed = {"ch_axis": -1, "group_size": 32, "block_size": 16}
            has = {item.name for item in fields(kind)}
            made = kind(**{key: value for key, value in needed.items() if key in has})
        config, lost = load_config(Config(QLayerConfig(weight=made.to_quantization_spec()))), []
        assert config.default.weight is not None and config.default.weight.format != "float32", name
        assert lost == []
        read += 1
    assert read == 41


def test_defaults_of_the_convenience_specs() -> None:
    """1.7: the defaults of ``symmetric`` are not what one would guess."""
    said = {"Uint8PerChannelSpec": True, "Int8PerChannelSpec": False, "Uint8PerTensorSpec": False}
    for name, symmetric in said.items():
        axis = {"ch_axis": 0} if "Channel" in name else {}
        assert getattr(face, name)(**axis).to_quantization_spec().symmetric is symmetric, name
    assert face.Uint4PerChannelSpec(0).to_quantization_spec().is_dynamic is None
    assert face.OCP_MXFP4Spec(-1).to_quantization_spec().scale_format == "e8m0"
    nvfp4 = ScaleQuantSpec(face.FP4PerGroupSpec(-1, 16), face.FP8E4M3PerTensorSpec()).to_quantization_spec()
    config = load_config(Config(QLayerConfig(weight=nvfp4)))
    assert config.default.weight and config.default.weight.scale == "e4m3"


@pytest.mark.parametrize("wrong", [{"scale_type": "flot"}, {"observer_method": "minmax"}])
def test_wrong_words_of_a_convenience_spec(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="did you mean"):
        Int8PerTensorSpec(**wrong).to_quantization_spec()


def test_an_observer_is_a_marker() -> None:
    with pytest.raises(InputError, match="observes nothing itself"):
        observers.PerTensorMinMaxObserver(int8())


def test_unknown_fields_are_a_type_error_as_in_the_tool() -> None:
    with pytest.raises(TypeError):
        QuantizationConfig(weights=int8())  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        GPTQConfig.from_dict({"name": "gptq", "blocksize": 1})


# -- where a value came from ----------------------------------------------------------------------------------------
def test_every_value_carries_the_line_of_its_constructor() -> None:
    start = line()
    spec = QuantizationSpec(Dtype.int8, symmetric=True)
    group = Uint4PerGroupSpec(ch_axis=-1, group_size=32).to_quantization_spec()
    layers = {nn.Linear: QuantizationConfig(weight=group)}
    config = Config(
        global_quant_config=QuantizationConfig(weight=spec),
        layer_type_quant_config=layers,
        exclude=["fc"],
    )
    read = load_config(config)
    assert read.source.file is not None and Path(read.source.file).name == HERE and read.source.kind == "python"
    assert read.source.line == start + 4
    assert read.default_sources["weight.format"].line == start + 1
    linear, fc = read.rules
    assert linear.source.line == start + 3 and linear.field_sources["weight.granularity"].line == start + 2
    assert fc.source.line == start + 4
    assert str(read.default_sources["weight.format"]).endswith(f"{HERE}:{start + 1})")


def test_problems_point_at_the_line_of_the_script() -> None:
    start = line()
    bad = QuantizationSpec(dtype=Dtype.int8, qscheme=QSchemeType.per_channel)
    odd = QuantizationSpec(dtype="int8", ch_axis=int)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        load_config(Config(QuantizationConfig(weight=bad, bias=odd)))
    (problem,) = [found for found in caught.value.problems if found.code == "quark_ch_axis"]
    assert problem.line == start + 1 and Path(problem.file or "").name == HERE
    (other,) = [found for found in caught.value.problems if found.code == "quark_number"]
    assert other.line == start + 2 and other.path == "global_quant_config.bias.ch_axis"


def test_what_is_no_plain_value_is_refused() -> None:
    for wrong in (..., object(), float("nan")):
        with pytest.raises(ConfigError):
            load_config(Config(global_quant_config=wrong))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="deeper"):
        load_config(Config(QuantizationConfig(), exclude=endless))


def test_check_takes_the_object() -> None:
    result = check(Config(QuantizationConfig(weight=int8())))
    assert result.ok and result.dialect == "quark" and result.file == "<QConfig>"
    result = check(Config(QuantizationConfig(weight=QuantizationSpec(Dtype.int8, ch_axis=0.5))))  # type: ignore[arg-type]
    assert not result.ok and result.dialect == "quark"


def test_reading_an_object_needs_no_torch() -> None:
    code = """
import sys
from quantwright.compat.quark.torch.quantization.config.config import Config, Int8PerTensorSpec, QuantizationConfig
from quantwright.config.load import load_config
load_config(Config(QuantizationConfig(weight=Int8PerTensorSpec().to_quantization_spec())))
print(sorted({"torch", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr or done.stdout


# -- objects and documents ------------------------------------------------------------------------------------------
def whole() -> Config:
    """Returns a configuration that uses most fields."""
    return Config(
        global_quant_config=QuantizationConfig(input_tensors=int8(), weight=int8(), target_device=DeviceType.CPU),
        layer_type_quant_config={
            nn.Linear: QuantizationConfig(weight=face.Int4PerGroupSpec(-1, 32).to_quantization_spec())
        },
        layer_quant_config={"body.*": QuantizationConfig(output_tensors=int8())},
        exclude=["head"],
        algo_config=[GPTQConfig(inside_layer_modules=["q"], model_decoder_layers="layers"), SmoothQuantConfig()],
        quant_mode=QuantizationMode.eager_mode,
    )


def test_an_object_reads_as_its_own_json_does() -> None:
    config = whole()
    written = json.loads(json.dumps(config.to_dict()))
    assert written["quant_method"] == "quark" and "log_severity_level" not in written
    assert native.to_plain(load_config(written)) == native.to_plain(load_config(config))
    again = QConfig.from_dict(written)
    assert again.to_dict() == written
    assert native.to_plain(load_config(again)) == native.to_plain(load_config(config))


@pytest.mark.parametrize("name", ["quark_config_sample.json", "quark_hf_config_sample.json"])
def test_the_files_of_the_tool_through_the_objects(name: str) -> None:
    value = json.loads(shared("configs", "quark", name).read_text())
    value = value.get("quantization_config", value)
    value.pop("export", None)
    config = QConfig.from_dict(value)
    assert config.to_dict() == value
    assert native.to_plain(load_config(config)) == native.to_plain(load_config(value))


def test_older_fields_and_qat() -> None:
    spec = QuantizationSpec(
        Dtype.int8, observer_cls=observers.TQTObserver, qat_spec=TQTSpec(TQTThresholdInitMeth._KL_J), symmetric=True
    )
    config = load_config(
        Config(QuantizationConfig(weight=spec), pre_quant_opt_config=[SmoothQuantConfig(alpha=0.5)], inherit_none=False)
    )
    assert [step.name for step in config.refine] == ["smoothquant"]
    assert config.default.weight and config.default.weight.observer
    assert config.default.weight.observer.params == {"method": "kl_j"}


def test_an_algorithm_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gptq.json"
    path.write_text(json.dumps({"name": "gptq", "block_size": 64, "num_attention_heads": 8}))
    found = load_quant_algo_config_from_file(str(path))
    assert isinstance(found, GPTQConfig) and found.block_size == 64
    path.write_text(json.dumps({"name": "gptp"}))
    with pytest.raises(InputError, match="did you mean"):
        load_quant_algo_config_from_file(str(path))


# -- a job ----------------------------------------------------------------------------------------------------------
def net() -> nn.Module:
    """Returns a small network."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def test_the_quantizer_prepares_and_calibrates() -> None:
    config = Config(QuantizationConfig(input_tensors=int8(), output_tensors=int8(), weight=int8()), exclude=["5"])
    batches = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    quantizer = ModelQuantizer(config)
    model = quantizer.freeze(quantizer.quantize_model(net(), batches))
    names = {decision.point.name for decision in model.plan.decisions if decision.spec is not None}
    assert names == {"input_1:input", "0.weight", "0:output", "1:output", "2.weight", "2:output"}
    assert model(batches[0]).shape == (2, 2)
    one = quantizer.quantize_model(net(), iter(batches))
    assert torch.equal(one(batches[0]), model(batches[0])), "a loader that can be read once"


def test_the_quantizer_says_what_it_needs() -> None:
    quantizer = ModelQuantizer(Config(QuantizationConfig(weight=int8())))
    with pytest.raises(InputError, match=re.escape("quantwright.prepare")):
        quantizer.quantize_model(net())
    with pytest.raises(InputError):
        ModelQuantizer(Config(QuantizationConfig()), "cuda")


def test_the_object_wherever_a_configuration_is_taken() -> None:
    config = Config(QuantizationConfig(weight=int8()))
    prepared = quantwright.prepare(net(), config, torch.randn(1, 3, 8, 8))
    assert {d.point.role for d in prepared.plan.quantized()} == {"weight"}
    done = quantwright.quantize(net(), config, [torch.randn(1, 3, 8, 8)])
    assert done.plan.decisions == prepared.plan.decisions
    assert read_any(config).why.startswith("it has 'global_quant_config'")
