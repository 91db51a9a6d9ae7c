"""The words of AMD Quark for PyTorch, 0.6 to 0.13: keys, data types, observers, algorithms, and what they are here.

Section numbers in the ``_quark`` files are those of the behavioural spec of amd-quark 0.13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOOL = "quark"
#: 1.1: keys that the tool writes, of either generation
WRITTEN = (
    "global_quant_config", "layer_type_quant_config", "layer_quant_config", "exclude", "algo_config",
    "pre_quant_opt_config", "kv_cache_quant_config", "kv_cache_post_rope", "softmax_quant_spec", "quant_mode",
    "quant_method", "version", "export",
)  # fmt: skip
#: 1.1: fields of the Python object that its JSON does not hold
PYTHON_ONLY: Mapping[str, Any] = {
    "log_severity_level": 1, "kv_cache_group": [], "min_kv_scale": 0.0, "shared_scale_groups": [],
    "quant_flow": "standard", "gpu_resident_blocks": 0, "sync_moe_expert_input_amax": False,
    "keep_prequantized_layers": True,
}  # fmt: skip
OPT_OUT = "inherit_none"
TOP = (*WRITTEN, *PYTHON_ONLY, OPT_OUT)
MODES = ("eager_mode", "fx_graph_mode")
FLOWS = ("standard", "file2file", "per_block")
TARGETS = {"eager_mode": "quark_eager", "fx_graph_mode": "quark_fx"}
EXPORT = ("kv_cache_group", "min_kv_scale", "pack_method", "weight_format", "weight_merge_groups")

ROLES = {"input_tensors": "input", "output_tensors": "output", "weight": "weight", "bias": "bias"}
LAYER = (*ROLES, "target_device")
DEVICES = ("cpu", "ipu")
#: 1.5: what a type entry can be about; embeddings are quantized only where an entry says so (1.4)
LAYER_TYPES = ("Conv2d", "ConvTranspose2d", "Linear", "Embedding", "EmbeddingBag")
ON_DEMAND = ("Embedding", "EmbeddingBag")

LEGACY = {"dynamic": "is_dynamic", "axis": "ch_axis"}  # 1.5
#: an extension of ours: the tool's percentile cannot be set (2)
PERCENTILE = "percentile"
TENSOR = (
    "dtype", "is_dynamic", "qscheme", "ch_axis", "group_size", "block_size", "symmetric", "round_method", "scale_type",
    "zero_point_type", "scale_format", "scale_calculation_mode", "mx_element_dtype", "observer_cls", "is_scale_quant",
    "enable_buffer_reuse", "max_input_numel", "qat_spec", PERCENTILE,
)  # fmt: skip
MAX_NUMEL = 4194304

INTEGERS = ("int2", "int3", "int4", "int8", "int16", "int32", "uint2", "uint4", "uint8", "uint16", "uint32")
CASTS = ("bfloat16", "float16")
FLOATS = {  # 1.6
    "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2", "fp8_e5m3": "fp8_e5m3", "fp6_e3m2": "fp6_e3m2",
    "fp6_e2m3": "fp6_e2m3", "fp4": "fp4_e2m1",
}  # fmt: skip
MX = {**FLOATS, "int8": "mxint8"}  # elements of dtype mx
BLOCKS = {"mx6": "mx6", "mx9": "mx9", "bfp16": "bfp16"}
DTYPES = (*INTEGERS, *CASTS, *FLOATS, "mx", *BLOCKS)
SCHEMES = ("per_tensor", "per_channel", "per_group", "per_block")
ROUNDS = {"round": "half_away", "floor": "floor", "half_even": "half_even"}
SCALES = {
    "float": "float", "float32": "float", "pof2": "power_of_two", "float16": "float16", "bfloat16": "bfloat16",
    "float8_e5m3": "e5m3", "float8_e8m0fnu": "e8m0",
}  # fmt: skip
SCALE_FORMATS = {"e8m0": "e8m0", "e4m3": "e4m3", "e5m3": "e5m3", "float32": "float"}
EXPONENTS = {"even": "even", "floor": "floor", "ceil": "ceil"}
ZERO_POINTS = ("int32", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Returns what an observer class is here.

    Attributes:
        schemes: the qschemes it goes with (1.3).
        power: it finds power-of-two scales (2), by the exponent that ``exponent`` names.
        says: what the tool does otherwise, for a note.
    """

    name: str
    params: Mapping[str, Any]
    schemes: tuple[str, ...]
    power: bool = False
    exponent: str = "nearest"
    says: str = ""


def _observer(
    name: str, *schemes: str, power: bool = False, exponent: str = "nearest", says: str = "", **params: Any
) -> Observer:
    return Observer(name=name, params=params, schemes=schemes, power=power, exponent=exponent, says=says)


PLACEHOLDER = "PlaceholderObserver"
PERCENT = 99.99999999  # 2: hard-wired
_T, _C, _G = "per_tensor", "per_channel", "per_group"
OBSERVERS: Mapping[str, Observer] = {
    "PerTensorMinMaxObserver": _observer("minmax", _T),
    "PerChannelMinMaxObserver": _observer("minmax", _C, _G),  # 0: with per_group as the document has it
    "PerGroupMinMaxObserver": _observer("minmax", _G),
    "PerBlock2DMinMaxObserver": _observer("minmax", _G, "per_block"),
    "PerBlockMXObserver": _observer("minmax", _G),
    "PerBlockMXBufferReuseObserver": _observer("minmax", _G),
    "PerBlockBFPObserver": _observer("minmax", _G),
    "PerBlockMXDiffsObserver": _observer("mse", _G),
    "PerBlockMXAdaptiveObserver": _observer("mse", _G),
    "PerTensorPercentileObserver": _observer(
        "percentile", _T, says="its asymmetric range collapses to one bin", percentile=PERCENT),
    "PerTensorMSEObserver": _observer("mse", _T, says="its search covers the last three bins only, about the maximum"),
    "PerTensorHistogramObserver": _observer(
        "histogram_l2", _T, says="it never sets a range, so the scale is 1", bins=2048),
    "PerTensorHistogramObserverPro": _observer("histogram_l2", _T, bins=256),
    "PerTensorPowOf2MinMaxObserver": _observer("minmax", _T, power=True),
    "PerChannelPowOf2MinMaxObserver": _observer("minmax", _C, power=True),
    "PerTensorPowOf2MinMSEObserver": _observer(
        "mse", _T, power=True, exponent="ceil", says="it searches five exponents on the last batch only"),
    "PerChannelPowOf2MinMSEObserver": _observer(
        "mse", _C, power=True, exponent="ceil", says="it moves all channels by one common exponent"),
    "LSQObserver": _observer("lsq_init", _T, _C),
    "TQTObserver": _observer("tqt_init", _T, power=True, exponent="ceil"),
}  # fmt: skip
#: base classes, which choose no range themselves
ABSTRACT = ("UniformScalingObserver", "ObserverBase", PLACEHOLDER)
LEARNED = {"LSQObserver": "LSQ", "TQTObserver": "TQT"}
HISTOGRAM_PRO = ("uint4", "int8", "uint8")  # 2: the widths that PerTensorHistogramObserverPro takes

_LAYERS: Mapping[str, type] = {"scaling_layers": list, "model_decoder_layers": str}
_LISTED: Mapping[str, type] = {"inside_layer_modules": list, "model_decoder_layers": str}
_GPTQ = {**_LISTED, "block_size": int, "desc_act": bool, "static_groups": bool}
_ROTATION = {
    "scaling_layers": dict, "model_decoder_layers": str, "r1": bool, "r2": bool, "r3": bool, "r4": bool,
    "rotation_size": int, "random_r1": bool, "random_r2": bool, "online_r1_rotation": bool, "trainable": bool,
    "train_smooth": bool, "smooth_positions": list, "optimized_rotation_path": str, "backbone": str, "v_proj": str,
    "o_proj": str, "self_attn": str, "mlp": str, "random": bool, "random2": bool, "online_had": bool,
    "kv_cache_quant": bool, "act_quant": bool, "online_config": dict,
}  # fmt: skip
#: 3: name in the file -> (name here, its fields; None when we know only some of them)
ALGORITHMS: Mapping[str, tuple[str, Mapping[str, type] | None]] = {
    "rotation": ("rotation", None),
    "quarot": ("rotation", _ROTATION),
    "smooth": ("smoothquant", {**_LAYERS, "alpha": float, "scale_clamp_min": float}),
    "awq": ("awq", _LAYERS),
    "gptq": ("gptq", {**_GPTQ, "damp_percent": float}),
    "gptaq": ("gptaq", {**_GPTQ, "damp_percent": float, "alpha": float}),
    "qronos": ("qronos", {**_GPTQ, "alpha": float, "beta": float}),
    "autosmoothquant": ("auto_smoothquant", {**_LAYERS, "compute_scale_loss": str}),
    "svdquant": ("svdquant", None),
    "twobitscalar": ("two_bit_scalar", None),
    "autoround": ("autoround", None),
}
#: of older versions, dropped by the tool itself
RETIRED = ("num_attention_heads", "num_key_value_heads", "embedding_layers")
