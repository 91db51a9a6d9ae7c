"""The mistakes of ``docs/errors.md``: title, smallest file, command. ``docs/make_errors.py`` makes the page of them."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "examples/digits/model.py:digits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Returns one mistake.

    Attributes:
        command: what is run; ``FILE`` stands for the file's name.
    """

    title: str
    file: str = "my.yaml"
    text: str = ""
    command: str = ""
    code: int = 2
    note: str = ""


def case(title: str, text: str = "", *, file: str = "my.yaml", command: str = "check FILE", code: int = 2,
         note: str = "") -> Case:  # fmt: skip
    """Returns a mistake whose command is a check of its file."""
    return Case(title=title, file=file, text=text, command=command.replace("FILE", file), code=code, note=note)


def on_model(title: str, text: str, *, options: str = "", note: str = "") -> Case:
    """Returns a mistake that only a model can show."""
    command = f"explain {MODEL} --config FILE --input-shape 1,1,24,24{options}"
    return case(title, text, command=command, note=note)


def vai(title: str, text: str, note: str = "") -> Case:
    """Returns a mistake in a JSON of vai_q_pytorch."""
    return case(title, text, file="vai.json", note=note)


WORDS = (
    case("A key with a typo", "version: 1\ndefalt:\n  weight: {format: int8}\n"),
    case("A value with a typo", "version: 1\ndefault:\n  weight:\n    observer: minmx\n"),
    case("The wrong case", "version: 1\ndefault:\n  weight:\n    format: INT8\n    granularity: Per_Channel\n"),
    case("Text where a number belongs",
         "version: 1\ndefault:\n  weight:\n    observer: {name: percentile, percentile: '99.9'}\n"),
    case("A number where a format belongs", "version: 1\ndefault:\n  weight: {format: 8}\n"),
    case("A word where true or false belongs", "version: 1\ndefault:\n  weight:\n    symmetric: 'yes'\n"),
    case("A format where a mapping belongs", "version: 1\ndefault:\n  weight: int8\n"),
    case("A mapping where a list belongs", "version: 1\nrules:\n  match: {type: Conv2d}\n  exclude: true\n"),
    case("A format that does not exist", "version: 1\ndefault:\n  weight: {format: int99}\n"),
    case("A number out of range", "version: 1\ndefault:\n  weight:\n    min_scale: -1\n"),
    case("A parameter the observer does not have",
         "version: 1\ndefault:\n  weight:\n    observer: {name: minmax, percentile: 99.9}\n"),
    case("A version that is not known", "version: 2\n"),
    case("A target that does not exist", "version: 1\ntarget: onnx_runtime\n"),
    case("A pass among the algorithms", "version: 1\nrefine: [cross_layer_equalization]\n"),
    case("An algorithm that does not exist", "version: 1\nrefine: [bias_corection]\n"),
    case("Several mistakes at once",
         "version: 1\ntarget: dpuu\ndefault:\n  weight: {format: int4, symetric: true}\n"
         "rules:\n  - weight: {format: int4}\n"),
)  # fmt: skip

MEANING = (
    case("A combination that cannot be",
         "version: 1\ndefault:\n  activation: {scale: power_of_two, symmetric: false}\n"),
    case("A setting without effect",
         "version: 1\ndefault:\n  activation: {format: uint8, symmetric: true, narrow_range: true}\n"),
    case("More bits than the tensor can have", "version: 1\ndefault:\n  weight: {format: int32}\n"),
    case("Groups without a size", "version: 1\ndefault:\n  weight: {granularity: per_group}\n"),
    case("A statistic for weights", "version: 1\ndefault:\n  weight: {statistic: max}\n"),
    case("A rule without a match", "version: 1\nrules:\n  - weight: {format: int4}\n"),
    case("A rule that changes nothing", "version: 1\nrules:\n  - match: {type: Conv2d}\n"),
    case("A rule that excludes and quantizes",
         "version: 1\nrules:\n  - match: {type: Conv2d}\n    exclude: true\n    weight: {format: int4}\n"),
    case("A regular expression that is none",
         "version: 1\nrules:\n  - match: {name: 're:layer[0-'}\n    exclude: true\n"),
    case("A place that the pattern does not have",
         "version: 1\nrules:\n  - match: {pattern: {function: relu, inputs: [{function: add}]}, at: '1'}\n"
         "    exclude: true\n"),
)  # fmt: skip

ON_MODEL = (
    on_model("A rule whose layer is spelled wrong",
             "version: 1\nrules:\n  - match: {name: steam.conv}\n    exclude: true\n"),
    on_model("A rule whose type has the wrong case",
             "version: 1\nrules:\n  - match: {type: conv2d}\n    weight: {format: int4}\n"),
    on_model("Conditions that no layer fulfils at once",
             "version: 1\nrules:\n  - match: {type: Linear, name: 'stem.*'}\n    exclude: true\n"),
    on_model("A rule that sets what its layers do not have",
             "version: 1\nrules:\n  - match: {function: relu}\n    weight: {format: int4}\n"),
    on_model("A type is excluded, a layer of it is configured",
             "version: 1\nrules:\n  - match: {type: Conv2d}\n    exclude: true\n"
             "  - match: {name: stem.conv}\n    weight: {format: int4}\n"),
    on_model("What the target cannot do", "version: 1\ndefault:\n  weight: {granularity: per_channel}\n",
             options=" --target dpu"),
    on_model("An axis the tensor does not have",
             "version: 1\ndefault:\n  weight: {granularity: {kind: per_channel, axis: 5}}\n"),
    case("A name that is known and cannot run yet",
         "version: 1\ndefault:\n  weight: {observer: lsq_init}\nrefine: [adaround]\n",
         command=f"quantize {MODEL} --config FILE --data examples/digits/data.py:calibration --out never",
         note="Such a file can be checked, explained and translated. Nothing is replaced silently."),
)  # fmt: skip

FILES = (
    case("YAML with a wrong indentation", "version: 1\ndefault:\n  weight: {format: int8}\n target: dpu\n"),
    case("A tab", "version: 1\ndefault:\n\tweight: {format: int8}\n"),
    case("A bracket that is not closed", "version: 1\ndefault:\n  weight: {format: int8\n"),
    case("A key twice", "version: 1\ntarget: dpu\ndefault:\n  weight: {format: int8}\ntarget: generic\n"),
    case("A tag that would run code", "version: 1\ntarget: !!python/object/apply:os.system ['ls']\n"),
    case("An alias that unfolds to millions of values",
         "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
         "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
         "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n"),
    case("Not a number", "version: 1\ndefault:\n  weight: {min_scale: .nan}\n"),
    case("Two documents in one file", "version: 1\n---\nversion: 1\n"),
    case("JSON with a comma at the end", '{\n  "version": 1,\n  "target": "dpu",\n}\n', file="my.json"),
    case("JSON written as Python", "{\n  'version': 1,\n  'target': None\n}\n", file="my.json"),
    case("JSON that ends too early", '{\n  "version": 1,\n  "rules": [\n    {"match": {"type": "Conv2d"\n',
         file="my.json"),
    case("TOML without quotes", "version = 1\ntarget = dpu\n", file="my.toml"),
    case("An empty file", "\n"),
    case("A file that is not there", command="check exmaples/int8.yaml"),
    case("A preset that does not exist", command="check int9"),
    case("A dialect that does not exist", "version: 1\n", command="check FILE --dialect nativ"),
    case("A file of no tool", "quantisation: int8\nlayers: all\n"),
    case("A file of two tools", '{\n  "version": 1,\n  "target_device": "DPU"\n}\n', file="my.json"),
)  # fmt: skip

VAI = (
    vai("Text where a number belongs, in a JSON",
        '{\n  "target_device": "DPU",\n  "overall_quantize_config": {"bit_width": "8"}\n}\n'),
    vai("A method with a typo", '{\n  "target_device": "DPU",\n  "overall_quantize_config": {"method": "diff"}\n}\n'),
    vai("The device is missing", '{\n  "overall_quantize_config": {"bit_width": 8}\n}\n'),
    vai("What the DPU cannot do",
        '{\n  "target_device": "DPU",\n  "overall_quantize_config": {"symmetry": false, "scale_type": "float"}\n}\n'),
    vai("Settings that refuse each other",
        '{\n  "target_device": "CPU",\n  "overall_quantize_config":\n    {"scale_type": "float", "method": "mse",\n'
        '     "per_channel": true, "calib_statistic_method": "max"}\n}\n'),
    vai("A percentage without a decimal point",
        '{\n  "target_device": "DPU",\n  "overall_quantize_config": {"method": "maxmin", "percentage": 99}\n}\n'),
    vai("A layer without tensor types",
        '{\n  "target_device": "DPU",\n  "layer_quantize_config": [{"layer_type": "torch.nn.Conv2d"}]\n}\n'),
)  # fmt: skip

TF2 = (
    case("A pipeline key with a typo", '{\n  "quantize_pipeline_config": {"quantise_with_xcompiler": true}\n}\n',
         file="tf2.json"),
    case("A quantizer that does not exist",
         '{\n  "quantize_registry_config": {\n    "user_quantize_config": {},\n    "layer_quantize_config": [\n'
         '      {"layer_type": "tensorflow.keras.layers.Dense", "quantizable_weights": ["kernel"],\n'
         '       "weight_quantizers": [{"quantizer_type": "Pof2SQuantiser",\n'
         '                              "quantizer_params": {"bit_width": 8}}]}\n    ]\n  }\n}\n', file="tf2.json"),
    case("Fewer quantizers than weights",
         '{\n  "quantize_registry_config": {\n    "layer_quantize_config": [\n'
         '      {"layer_type": "tensorflow.keras.layers.Dense", "quantizable_weights": ["kernel", "bias"],\n'
         '       "weight_quantizers": [{"quantizer_type": "Pof2SQuantizer",\n'
         '                              "quantizer_params": {"bit_width": "8"}}]}\n    ]\n  }\n}\n', file="tf2.json"),
)  # fmt: skip

QUARK = (
    case("A data type with a typo",
         '{\n  "global_quant_config": {\n    "weight": {"dtype": "int_8", "qscheme": "per_tensor",\n'
         '               "observer_cls": "PerTensorMinMaxObserver", "symmetric": true, "round_method": "half_even",\n'
         '               "scale_type": "float"}\n  }\n}\n', file="quark.json"),
    case("Groups without a size, in Quark",
         '{\n  "global_quant_config": {\n    "weight": {"dtype": "int4", "qscheme": "per_group", "ch_axis": 1,\n'
         '               "observer_cls": "PerGroupMinMaxObserver", "symmetric": true, "round_method": "half_even",\n'
         '               "scale_type": "float", "is_dynamic": false}\n  }\n}\n', file="quark.json"),
    case("An observer for another scheme",
         '{\n  "global_quant_config": {\n    "weight": {"dtype": "int8", "qscheme": "per_channel", "ch_axis": 0,\n'
         '               "observer_cls": "PerTensorMinMaxObserver", "symmetric": true, "round_method": "half_even",\n'
         '               "scale_type": "float", "is_dynamic": false}\n  }\n}\n', file="quark.json"),
)  # fmt: skip

MQBENCH = (
    case("A bit width in quotes",
         "backend: Academic\nextra_qconfig_dict:\n  w_observer: MinMaxObserver\n  a_observer: EMAMinMaxObserver\n"
         "  w_fakequantize: FixedFakeQuantize\n  a_fakequantize: FixedFakeQuantize\n"
         "  w_qscheme: {bit: '8', symmetry: true, per_channel: true, pot_scale: false}\n"
         "  a_qscheme: {bit: 8, symmetry: true, per_channel: false, pot_scale: false}\n", file="mqbench.yaml", code=0,
         note="The tool takes it, so it is read, and said."),
    case("An observer that MQBench does not have",
         "backend: Academic\nextra_qconfig_dict:\n  w_observer: MinMaxObservr\n  a_observer: EMAMinMaxObserver\n"
         "  w_fakequantize: FixedFakeQuantize\n  a_fakequantize: FixedFakeQuantize\n"
         "  w_qscheme: {bit: 8, symmetry: true, per_channel: true, pot_scale: false}\n"
         "  a_qscheme: {bit: 8, symmetry: true, per_channel: false, pot_scale: false}\n", file="mqbench.yaml"),
    case("A backend that does not exist", "backend: TensorRt\nextra_qconfig_dict: {}\n", file="mqbench.yaml"),
)  # fmt: skip

SOPHGO = (
    case("A chip that does not exist", "quant_dict: {chip: BM1685, quantmode: weight_activation, strategy: CNN}\n",
         file="sophgo.yaml"),
    case("A mode with a typo", "quant_dict: {chip: BM1690, quantmode: weight_activations, strategy: CNN}\n",
         file="sophgo.yaml"),
)  # fmt: skip

SECTIONS: tuple[tuple[str, str, str, tuple[Case, ...]], ...] = (
    ("Words", "", "", WORDS),
    ("Meaning", "", "", MEANING),
    ("On a model", "Found when the rules meet the model's layers.", "", ON_MODEL),
    ("Files", "", "", FILES),
    ("vai_q_pytorch", "", "vai_q_pytorch", VAI),
    ("vai_q_tensorflow2", "", "vai_q_tensorflow2", TF2),
    ("Quark", "", "quark", QUARK),
    ("MQBench", "", "mqbench", MQBENCH),
    ("Sophgo-MQ", "", "sophgo", SOPHGO),
)
