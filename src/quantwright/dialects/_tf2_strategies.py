"""The built-in strategies of vai_q_tensorflow2 as data (spec 2.1 and 2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

#: accepted names -> the strategy they are (0.2: the document's ``tqt`` is a KeyError in the tool)
NAMES = {"pof2s": "pof2s", "pof2s_tqt": "pof2s_tqt", "fs": "fs", "fsx": "fsx", "gpu": "gpu", "bfp": "bfp",
         "8bit": "pof2s", "8bit_tqt": "pof2s_tqt", "tqt": "pof2s_tqt"}  # fmt: skip
STRATEGIES = ("pof2s", "pof2s_tqt", "fs", "fsx", "gpu", "bfp")

_FOLD = {"fold_conv_bn": True, "convert_bn_to_dwconv": True}
_OPTIMIZE = {
    "remove_dropout": True, "separate_conv_act": True, **_FOLD, "convert_relu6_to_relu": False,
    "convert_tf_op_to_keras": True, "include_cle": True, "cle_to_relu6": False, "cle_steps": 10,
    "cle_balance_method": "max", "cle_weight_threshold": 0.1, "train_with_bn": False,
}  # fmt: skip
_OFF = dict.fromkeys(("remove_dropout", "separate_conv_act", *_FOLD, "convert_tf_op_to_keras", "include_cle"), False)
OPTIMIZE: Mapping[str, Values] = {
    "pof2s": {**_OPTIMIZE, "separable_conv": True},
    "pof2s_tqt": _OPTIMIZE,
    "fs": {**_OPTIMIZE, **dict.fromkeys(_FOLD, False)},
    "fsx": _OPTIMIZE,
    "gpu": {**_OPTIMIZE, "include_cle": False},
    "bfp": {**_OPTIMIZE, **_OFF},
}
_DPU = dict.fromkeys(
    ("convert_sigmoid_to_hard_sigmoid", "convert_hard_sigmoid_to_dpu_version",
     "convert_average_pooling2d_to_dpu_version", "convert_leaky_relu_to_dpu_version"), True,
)  # fmt: skip
_NO_QUANT = dict.fromkeys(("no_quant_in_conv_bn_act", "no_quant_in_conv_act", "no_quant_in_add_act"), True)
_FREEZE = {"freeze_bn_delay": -1}
QUANTIZE: Mapping[str, Values] = {
    "pof2s": {"convert_datatype": "", **_DPU, "convert_softmax_to_dpu_version": False,
              "convert_layernorm_to_dpu_version": False, **_FREEZE, "quantize_with_xcompiler": True},
    "pof2s_tqt": {**_DPU, **_NO_QUANT, **_FREEZE},
    "fs": {**_NO_QUANT, **_FREEZE},
    "fsx": {**_NO_QUANT, **_FREEZE},
    "gpu": {**_NO_QUANT, **_FREEZE},
    "bfp": {"convert_datatype": "", **dict.fromkeys(_NO_QUANT, False), **_FREEZE},
}  # fmt: skip
ADJUST = ("adjust_dpu_sigmoid", "adjust_dpu_shift_cut", "adjust_dpu_shift_bias", "adjust_dpu_shift_bias_leakyrelu",
          "adjust_dpu_shift_read", "adjust_dpu_shift_write", "adjust_dpu_shift_swish", "align_concat",
          "align_pool")  # fmt: skip
_FINETUNE = {"include_fast_ft": False, "fast_ft_epochs": 10, "include_bias_corr": False}
REFINE: Mapping[str, Values] = {
    "pof2s": {**dict.fromkeys(ADJUST, True), **_FINETUNE, "convert_to_fs_quantize_strategy": False},
    "pof2s_tqt": {
        **{name: True for name in ADJUST if name != "adjust_dpu_shift_bias_leakyrelu"}, **_FINETUNE,
        "convert_to_pof2s_quantize_strategy": True,
    },
    **dict.fromkeys(("fs", "fsx", "gpu", "bfp"), _FINETUNE),
}  # fmt: skip
FINALIZE: Values = {"output_format": "", "onnx_opset_version": 13, "output_dir": "./quantize_results/"}

GROUPS = ("input", "weight", "bias", "activation")
HANDY = ("bit", "method", "method_percentile", "symmetry", "per_channel", "round_mode", "unsigned", "narrow_range")
LISTS = ("input_layers", "output_layers", "ignore_layers")


def user_keys(strategy: str) -> tuple[str, ...]:
    """Returns the keys of ``user_quantize_config`` that a strategy has (2.2)."""
    keys = ["data_format"]
    for group in GROUPS:
        for handy in HANDY:
            percentile = handy == "method_percentile"
            if percentile and (group not in ("input", "activation") or strategy in ("pof2s", "pof2s_tqt")):
                continue
            if strategy == "bfp" and handy in ("unsigned", "narrow_range"):
                continue
            keys.append(f"{group}_{handy}")
    keys.append("use_framework_quant")
    if strategy != "bfp":
        keys.append("use_fixneuron_quant")
    return (*keys, *LISTS, *(("layer_config",) if strategy == "pof2s" else ()))


ANY_USER_KEY = tuple(dict.fromkeys(key for strategy in STRATEGIES for key in user_keys(strategy)))
SECTIONS = {
    "optimize_pipeline_config": OPTIMIZE,
    "quantize_pipeline_config": QUANTIZE,
    "refine_pipeline_config": REFINE,
    "finalize_pipeline_config": dict.fromkeys(STRATEGIES, FINALIZE),
}
REGISTRY = "quantize_registry_config"
REGISTRY_KEYS = ("user_quantize_config", "custom_layer_type", "input_quantize_config", "layer_quantize_config")

# -- quantizers ---------------------------------------------------------------------------------------------------
Quantizer = tuple[str, Values]
_COMMON = {"bit_width": 8, "method": 0, "round_mode": 1, "symmetry": True, "per_channel": False, "channel_axis": -1,
           "unsigned": False, "narrow_range": False}  # fmt: skip
_KL = {"method": 2, "method_percentile": 99.9999}


def _pof2s(**changed: Any) -> Quantizer:
    return "Pof2SQuantizer", {**_COMMON, "method": 1, **changed}


def _tqt(**changed: Any) -> Quantizer:
    return "TQTQuantizer", {**_COMMON, **changed}


def _fs(**changed: Any) -> Quantizer:
    return "FSQuantizer", {**_COMMON, "use_framework_quant": True, **changed}


def _bfp(data_format: str = "bfp", **changed: Any) -> Quantizer:
    values = {"data_format": data_format, "bit_width": 15, "tile_size": 8, "round_mode": 0, "per_channel": True}
    return "BFPQuantizer", {**values, "channel_axis": -1, **changed}


INPUT: Mapping[str, Quantizer] = {
    "pof2s": _pof2s(method=0),
    "pof2s_tqt": _pof2s(method=0),
    "fs": _fs(**_KL),
    "fsx": _fs(**_KL),
    "gpu": _fs(),
    "bfp": ("BFPQuantizer", {"data_format": "fp32", "bit_width": 15, "tile_size": 8}),
}
Layers = Mapping[str, Mapping[str, tuple[tuple[str, Quantizer], ...]]]
"""class -> target type (input, weight, bias, activation, output) -> (attribute or index, quantizer)"""
_CONVS = ("Conv2D", "Conv2DTranspose", "Dense")
_NORMS = ("BatchNormalization", "LayerNormalization")
_OUTPUTS = ("ReLU", "LeakyReLU", "Add", "Multiply", "Concatenate", "UpSampling2D", "MaxPooling2D", "AveragePooling2D",
            "GlobalAveragePooling2D", "VitisAveragePooling2D", "VitisGlobalAveragePooling2D",
            "VitisSigmoid")  # fmt: skip
_NOTHING = ("ZeroPadding2D", "Reshape", "Permute", "Flatten")


def _fixed_point(make: Any) -> Layers:
    """Returns the registry of pof2s (make: ``_pof2s``) and pof2s_tqt (make: ``_tqt``)."""
    parameter, value = make(round_mode=0), make()
    output, activation = {"output": (("0", value),)}, {"activation": (("activation", value),)}
    found: dict[str, Any] = {}
    for name in (*_CONVS, "VitisConvBN"):
        found[name] = {"weight": (("kernel", parameter),), "bias": (("bias", parameter),), **activation}
    depthwise = make(round_mode=0, channel_axis=2)
    for name in ("DepthwiseConv2D", "VitisDepthwiseConvBN"):
        found[name] = {"weight": (("depthwise_kernel", depthwise),), "bias": (("bias", parameter),), **activation}
    for name in (*_NORMS, "VitisLayernorm"):
        found[name] = {"weight": (("gamma", parameter), ("beta", parameter)), **output}
    found["PReLU"] = {"weight": (("alpha", parameter),), **output}
    found["Activation"] = activation
    found |= dict.fromkeys(_OUTPUTS, output) | {name: {} for name in _NOTHING}
    if make is _pof2s:
        found["VitisSoftmax"] = {"output": (("0", _pof2s(round_mode=3, narrow_range=True)),)}
    return found


def _scaled(bias: Quantizer | None, value: Quantizer | None) -> Layers:
    """Returns the registry of fs (weights only), fsx and gpu."""
    kernel, depthwise = _fs(per_channel=True), _fs(per_channel=True, channel_axis=2)
    more: dict[str, Any] = {} if bias is None else {"bias": (("bias", bias),)}
    more |= {} if value is None else {"activation": (("activation", value),)}
    found: dict[str, Any] = {name: {"weight": (("kernel", kernel),), **more} for name in _CONVS}
    found["DepthwiseConv2D"] = {"weight": (("depthwise_kernel", depthwise),), **more}
    if value is not None:
        output = {"output": (("0", value),)}
        found["Activation"] = {"activation": (("activation", value),)}
        found["PReLU"] = {"weight": (("alpha", kernel),), **output}
        pools = ("MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D")
        found |= dict.fromkeys(("ReLU", "Add", *pools), output)
    return found


def _block_floats() -> Layers:
    whole, half = (("0", _bfp()),), (("0", _bfp("bf16")),)
    found: dict[str, Any] = {name: {"input": whole, "weight": (("kernel", _bfp()),)} for name in _CONVS}
    found["DepthwiseConv2D"] = {"input": whole, "weight": (("depthwise_kernel", _bfp(channel_axis=-2)),)}
    found["LayerNormalization"] = {"input": half, "weight": (("gamma", _bfp("bf16")),)}
    found |= dict.fromkeys(("Activation", "Add", "GlobalAveragePooling2D"), {"input": half})
    found["MultiHeadAttention"] = {"input": whole}
    return found


LAYERS: Mapping[str, Layers] = {
    "pof2s": _fixed_point(_pof2s),
    "pof2s_tqt": _fixed_point(_tqt),
    "fs": _scaled(None, None),
    "fsx": _scaled(_fs(), _fs(**_KL)),
    "gpu": _scaled(_fs(bit_width=32, use_framework_quant=False), _fs()),
    "bfp": _block_floats(),
}
