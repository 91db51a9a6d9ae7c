"""Formats, granularities and rounding modes in the file: the same bits as the simulation, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import ACTIVATION, WEIGHT, Branches, Residual, prepared, spec
from torch import nn

from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.data import Batch
from quantwright.errors import ExportError
from quantwright.exporters.onnx import ExportRecord, export
from quantwright.plan.facts import NodeFacts
from quantwright.prepare import PreparedModel
from quantwright.verify.runtime import OrtRunner
from quantwright.verify.verify import Verdict, verify

PER_TENSOR = BASE_SPEC
GROUPS = Granularity(kind="per_group", axis=1, group_size=4)
UNEVEN = Granularity(kind="per_group", axis=1, group_size=5)
#: name -> (weight spec, ONNX type it is stored in)
WEIGHTS: dict[str, tuple[QuantSpec, str]] = {
    "int8": (WEIGHT, "INT8"),
    "int8_narrow": (spec(WEIGHT, narrow_range=True), "INT8"),
    "int8_tensor": (PER_TENSOR, "INT8"),
    "uint8": (spec(PER_TENSOR, format="uint8", symmetric=False), "UINT8"),
    "int2": (spec(WEIGHT, format="int2"), "INT4"),
    "int3": (spec(WEIGHT, format="int3"), "INT4"),
    "int4": (spec(WEIGHT, format="int4"), "INT4"),
    "uint4": (spec(WEIGHT, format="uint4", symmetric=False), "UINT4"),
    "int4_groups": (spec(WEIGHT, format="int4", granularity=GROUPS), "INT4"),
    "uint4_groups": (spec(WEIGHT, format="uint4", symmetric=False, granularity=GROUPS), "UINT4"),
    "int8_uneven": (spec(WEIGHT, granularity=UNEVEN), "INT8"),
    "int5": (spec(WEIGHT, format="int5"), "INT8"),
    "int12": (spec(WEIGHT, format="int12"), "INT16"),
    "int16": (spec(WEIGHT, format="int16"), "INT16"),
    "uint16": (spec(PER_TENSOR, format="uint16", symmetric=False), "UINT16"),
    "int24": (spec(WEIGHT, format="int24"), "INT32"),
    "fp16": (QuantSpec(format="float16", granularity=Granularity()), "FLOAT16"),
    "bf16": (QuantSpec(format="bfloat16", granularity=Granularity()), "BFLOAT16"),
}
CHANNELS = Granularity(kind="per_channel", axis=1)
TOKENS = Granularity(kind="per_token")
ACTIVATIONS: dict[str, QuantSpec] = {
    "uint8": ACTIVATION,
    "int8": spec(ACTIVATION, format="int8"),
    "int8_symmetric": PER_TENSOR,
    "int8_narrow": spec(PER_TENSOR, narrow_range=True),
    "uint8_symmetric": spec(PER_TENSOR, format="uint8"),
    "int16": spec(PER_TENSOR, format="int16"),
    "uint16": spec(ACTIVATION, format="uint16"),
    "int4": spec(PER_TENSOR, format="int4"),
    "uint4": spec(ACTIVATION, format="uint4"),
    "int2": spec(PER_TENSOR, format="int2"),
    "uint6": spec(ACTIVATION, format="uint6"),
    "int12": spec(PER_TENSOR, format="int12"),
    "channels": spec(ACTIVATION, granularity=CHANNELS),
    "channels_narrow": spec(PER_TENSOR, format="int6", granularity=CHANNELS),
    "power_of_two": spec(PER_TENSOR, scale="power_of_two"),
    "tokens": spec(PER_TENSOR, granularity=TOKENS),
    "tokens_asymmetric": spec(ACTIVATION, granularity=TOKENS),
    "tokens_unsigned": spec(PER_TENSOR, format="uint8", granularity=TOKENS),
    "fp16": QuantSpec(format="float16", granularity=Granularity()),
    "bf16": QuantSpec(format="bfloat16", granularity=Granularity()),
}  # fmt: skip


def _branch(node: NodeFacts) -> str:
    """Returns the name of the branch a node belongs to."""
    text = node.weight.name if node.weight else (node.origins[0].module_path or node.name)
    return text.split(".")[1] if "." in text else text.removeprefix("inputs_")


def _spread(specs: dict[str, QuantSpec], example: dict[str, torch.Tensor], **others: Any) -> PreparedModel:
    torch.manual_seed(5)
    choice = {"activation" if "uint8_symmetric" in specs else "weight": lambda node: specs[_branch(node)]}
    make = nn.Identity if "uint8_symmetric" in specs else lambda: nn.Sequential(nn.Linear(12, 7), nn.Linear(7, 6))
    network = Branches({name: nn.Sequential(make(), nn.ReLU6()) for name in specs})
    return prepared(network, Batch(args=(example,)), **choice, **others)


Written = tuple[PreparedModel, ExportRecord, Verdict, onnx.ModelProto, Path]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Two linear layers per weight format."""
    example = {name: torch.randn(6, 12) for name in WEIGHTS}
    made = _spread({name: value for name, (value, _) in WEIGHTS.items()}, example, bias=None)
    return _written(made, tmp_path_factory.mktemp("weights") / "model.onnx", [Batch(args=(example,))])


@pytest.fixture(scope="module")
def activations(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A clamp per activation format, calibrated on small data and run on values beyond the range, ties included."""
    example = {name: torch.randn(4, 5, 6) for name in ACTIVATIONS}
    made = _spread(ACTIVATIONS, example, weight=None, bias=None)
    wild = {name: 3 * torch.randn(50, 5, 6) for name in ACTIVATIONS}
    for name, quantizer in made.quantizers.items():
        if quantizer.scale is not None and quantizer.scale.numel() == 1 and name.startswith("inputs_"):
            steps = torch.arange(-300, 300).reshape(20, 5, 6) + 0.5
            wild[name.removeprefix("inputs_").split(":")[0]][:20] = steps * quantizer.scale.float()
    return _written(made, tmp_path_factory.mktemp("activations") / "model.onnx", [Batch(args=(wild,))])


def _written(made: PreparedModel, path: Path, batches: list[Batch]) -> Written:
    record = export(made, path)
    return made, record, verify(made, path, batches), onnx.load(path), path


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_is_stored_narrow_and_dequantizes_to_the_simulated_value(name: str, weights: Written) -> None:
    made, record, _, model, path = weights
    stored = {value.name: value for value in model.graph.initializer}
    for layer in ("0", "1"):
        point = f"branch.{name}.0.{layer}.weight"
        assert onnx.TensorProto.DataType.Name(stored[point].data_type) == WEIGHTS[name][1]
        quantizer = made.quantizers[point]
        simulated = quantizer.apply_qparams(made.graph.parameter(point).detach()).numpy()
        exported = _values(model, [record.points[point]], path)[0]
        np.testing.assert_array_equal(exported, simulated)


def test_all_weight_formats_compute_the_simulated_outputs(weights: Written) -> None:
    _, record, verdict, model, _ = weights
    assert verdict.ok, verdict.render()
    assert len(verdict.points) == 4 * len(WEIGHTS) - len(WEIGHTS)
    assert record.weights["int4"]["tensors"] == 8
    blocks = [n for n in model.graph.node for a in n.attribute if a.name == "block_size"]
    assert len(blocks) == 2 * 3
    floats = [v for v in model.graph.initializer if v.data_type == onnx.TensorProto.FLOAT and len(v.dims) == 2]
    assert all(v.name.endswith(".scale") for v in floats), "a float copy of a quantized weight is in the file"


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_in_the_file_equals_the_simulation_bit_for_bit(name: str, activations: Written) -> None:
    made, _, verdict, _, _ = activations
    mine = [p for p in verdict.points if p.point.startswith(f"inputs_{name}:")]
    assert len(mine) == 1
    assert mine[0].values == 1500
    assert mine[0].differing == 0, verdict.render()
    assert made.quantizers[mine[0].point].spec == ACTIVATIONS[name]


MODES = ("half_even", "half_up", "half_down", "half_away", "floor", "ceil", "toward_zero")
ROUNDED = {
    f"{mode}_{kind}": fields
    for mode in MODES
    for kind, fields in {
        "symmetric": spec(PER_TENSOR, rounding=mode),
        "narrow": spec(PER_TENSOR, rounding=mode, format="int6", narrow_range=True),
        "asymmetric": spec(ACTIVATION, rounding=mode),
        "power": spec(PER_TENSOR, rounding=mode, scale="power_of_two"),
        "channels": spec(ACTIVATION, rounding=mode, granularity=CHANNELS),
        "tokens": spec(ACTIVATION, rounding=mode, granularity=TOKENS),
    }.items()
}


class Clamps(nn.Module):
    """One input, a clamp per rounding mode and kind of grid."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.ModuleDict({name: nn.ReLU6() for name in ROUNDED})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns the output of every clamp."""
        return {name: clamp(x) for name, clamp in self.branch.items()}


Exact = tuple[PreparedModel, ExportRecord, OrtRunner]


@pytest.fixture(scope="module", params=["divide", "reciprocal"])
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exact:
    """Every rounding mode and kind of grid, written exactly."""
    torch.manual_seed(9)
    pick = lambda node: ROUNDED[_branch(node)] if node.kind == "relu6" else None  # noqa: E731
    example = 6 * torch.rand(2, 5, 4)
    made = prepared(Clamps(), example, weight=None, bias=None, activation=pick, arithmetic=request.param)
    path = tmp_path_factory.mktemp("exact") / "model.onnx"
    record = export(made, path, exact_rounding=True)
    return made, record, OrtRunner(path, fused=False)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-8, 3), ties=st.booleans())
def test_exact_rounding_equals_the_simulation_bit_for_bit(exact: Exact, seed: int, power: int, ties: bool) -> None:
    made, _, runner = exact
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, 4, generator=generator) * 2.0**power
    if ties:  # values halfway between two steps of some point, and their neighbours in float32
        steps = [q.scale.flatten()[0].float() for q in made.quantizers.values() if q.scale is not None]
        step = steps[seed % len(steps)]
        x = (torch.randint(0, 200, (3, 5, 4), generator=generator) + 0.5) * step
        x[0] = torch.nextafter(x[0], torch.tensor(0.0))
        x[1] = torch.nextafter(x[1], torch.tensor(9.0))
    batch = Batch(args=(x,))
    for name, simulated, exported in zip(ROUNDED, made.run(batch).values(), runner.run(batch), strict=True):
        np.testing.assert_array_equal(exported, simulated.numpy(), err_msg=name)


def test_exact_rounding_leaves_standard_points_to_quantize_linear(exact: Exact) -> None:
    made, record, _ = exact
    arithmetic = next(iter(made.quantizers.values())).arithmetic
    standard = 5 if arithmetic == "divide" else 1  # reciprocal: only powers of two
    assert record.nodes["QuantizeLinear"] == standard
    assert record.rounding is None and not record.warnings


def test_standard_rounding_states_the_measured_difference(tmp_path: Path) -> None:
    torch.manual_seed(2)
    halves = torch.arange(-128, 128).reshape(4, 1, 8, 8) / 64 + 2.0**-7
    half_up = spec(PER_TENSOR, scale="power_of_two", rounding="half_up")
    made = prepared(nn.ReLU6(), halves, weight=None, bias=None, activation=half_up)
    step = float(made.quantizers["input_1:output"].scale)
    record = export(made, tmp_path / "model.onnx")
    ratio = halves.double() / step
    expected = int(((ratio - ratio.floor() == 0.5) & (ratio.floor() % 2 == 0) & (ratio < 127)).sum())
    assert record.rounding is not None and record.rounding.points == 2
    assert expected > 0 and record.rounding.differing == expected
    assert record.rounding.max_lsb == 1
    assert len(record.warnings) == 1 and "half_up" in record.warnings[0] and str(expected) in record.warnings[0]


def test_eight_bit_residual_network_runs_in_integer_kernels(tmp_path: Path) -> None:
    """ONNX Runtime's own optimized model shows that fusion happened, and the result is that of the simulation."""
    import onnxruntime

    torch.manual_seed(4)
    made = prepared(Residual(), torch.randn(8, 3, 8, 8))
    export(made, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds.count("QLinearConv") == 3
    assert {"QLinearAdd", "QLinearConcat", "QGemm"} <= set(kinds)
    assert not {"Conv", "Gemm", "Add"} & set(kinds)
    verdict = verify(made, tmp_path / "model.onnx", [Batch(args=(torch.randn(64, 3, 8, 8),))])
    assert verdict.ok and (verdict.outputs[0].max_lsb_fused or 0) <= 1.001
    assert verdict.outputs[0].top1_fused is not None and verdict.outputs[0].top1_fused >= 0.98


@pytest.mark.parametrize(
    ("fields", "exact_rounding", "words"),
    [
        ({"format": "int20"}, False, "2 to 16 bits"),
        ({"granularity": TOKENS, "scale": "power_of_two"}, False, "per-token"),
        ({"rounding": "stochastic"}, True, "stochastic"),
    ],
)
def test_what_a_file_cannot_hold_is_an_error_that_names_the_point(
    fields: dict[str, Any], exact_rounding: bool, words: str, tmp_path: Path
) -> None:
    odd = spec(PER_TENSOR, **fields)
    made = prepared(nn.ReLU6(), torch.randn(2, 3, 4), weight=None, bias=None, activation=odd)
    with pytest.raises(ExportError) as caught:
        export(made, tmp_path / "model.onnx", exact_rounding=exact_rounding)
    assert words in str(caught.value) and "input_1:output" in str(caught.value)
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


def _values(model: onnx.ModelProto, names: list[str], path: Path) -> list[np.ndarray[Any, Any]]:
    """Returns constants of a file as ONNX Runtime computes them: the nodes before them as a model of their own."""
    made_by = {value: node for node in model.graph.node for value in node.output}
    nodes = [made_by[name] for name in names]
    needed = {value for node in nodes for value in node.input}
    graph = onnx.helper.make_graph(
        nodes, "part", [], [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names],
        [value for value in model.graph.initializer if value.name in needed],
    )  # fmt: skip
    part = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return OrtRunner(part.SerializeToString(), fused=False).run(Batch())
