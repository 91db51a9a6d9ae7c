"""Which passes and algorithms the pipelines of vai_q_tensorflow2 are here (spec 2.1, 5).

What a built-in strategy does by default and nothing here does yet is a note; asked for by a document, it is a step that
is known and refused by name when it is run.
"""

from __future__ import annotations

from quantwright.config.availability import missing
from quantwright.config.config import Step
from quantwright.dialects._tf2_params import Tf2Reader
from quantwright.dialects._tf2_read import Strategy
from quantwright.dialects._tf2_strategies import ADJUST

METHOD = "vitis_tensorflow2"  # of the pass and the algorithm that several tools have
#: keys of the pass ``dpu_operators`` -> what the pass does when nothing is said
DPU = {
    "convert_sigmoid_to_hard_sigmoid": False, "convert_hard_sigmoid_to_dpu_version": True,
    "convert_average_pooling2d_to_dpu_version": True, "convert_leaky_relu_to_dpu_version": True,
    "convert_softmax_to_dpu_version": False, "convert_layernorm_to_dpu_version": False,
}  # fmt: skip
#: 5.3 -> switches of the algorithm ``position_adjustment``
SWITCHES = {
    "adjust_dpu_sigmoid": "hard_sigmoid", "adjust_dpu_shift_cut": "shift_cut", "adjust_dpu_shift_bias": "shift_bias",
    "adjust_dpu_shift_bias_leakyrelu": "leaky_relu_bias", "adjust_dpu_shift_read": "shift_read",
    "adjust_dpu_shift_write": "shift_write", "adjust_dpu_shift_swish": "hard_swish", "align_concat": "concat",
    "align_pool": "pool",
}  # fmt: skip
#: what a captured graph is in any case -> what to say about a document that does not want it
_ALWAYS = {
    "remove_dropout": "dropout does nothing outside of training, and is looked through",
    "separate_conv_act": "a layer and its activation are two operations, quantized once behind the activation",
    "convert_tf_op_to_keras": "operations are told by what they compute, however they were written",
    "separable_conv": "the two convolutions of a separable one are two operations",
}
_CLE = {"cle_steps": "steps", "cle_balance_method": "balance", "cle_weight_threshold": "threshold"}
_QUANTIZED = {
    "no_quant_in_conv_bn_act": "a convolution and what is fused behind it are quantized once, behind it",
    "no_quant_in_conv_act": "a convolution and its activation are quantized once, behind it",
    "no_quant_in_add_act": "an addition and its activation are quantized once, behind it",
}


def optimize_steps(reader: Tf2Reader, strategy: Strategy) -> tuple[Step, ...]:
    """Returns the passes, in the tool's order (5.1)."""
    steps = []
    for key, text in (_ALWAYS | _QUANTIZED).items():
        if strategy.asked(key) and not strategy.value(key):
            reader.note("always", strategy.settings[key].path, f"no effect: {text}")
    if strategy.value("convert_relu6_to_relu"):
        steps.append(Step(name="relu6_to_relu"))
    if strategy.value("train_with_bn"):
        delay = strategy.value("freeze_bn_delay")
        steps.append(Step(name="train_with_batchnorm", params={"freeze_after": delay} if delay >= 0 else {}))
    elif strategy.changed("freeze_bn_delay"):
        reader.note("freeze", strategy.settings["freeze_bn_delay"].path, "no effect: train_with_bn is off")
    steps += _batch_norms(reader, strategy)
    steps += _equalization(reader, strategy)
    steps += _dpu_operators(reader, strategy)
    return tuple(steps)


def _batch_norms(reader: Tf2Reader, strategy: Strategy) -> list[Step]:
    fold, convert = strategy.value("fold_conv_bn"), strategy.value("convert_bn_to_dwconv")
    if fold and convert:
        return [Step(name="fold_batchnorm", params={"scope": "vitis_keras"})]
    if convert:
        return [Step(name="batchnorm_to_depthwise")]
    return [Step(name="fold_batchnorm")] if fold else []


def _equalization(reader: Tf2Reader, strategy: Strategy) -> list[Step]:
    if not strategy.value("include_cle"):
        for key in (*_CLE, "cle_to_relu6"):
            if strategy.changed(key):
                reader.note("cle", strategy.settings[key].path, "no effect: include_cle is off")
        return []
    params = {ours: strategy.value(key) for key, ours in _CLE.items() if strategy.changed(key)}
    if strategy.value("cle_to_relu6"):
        params["through_relu6"] = True
    return [Step(name="cross_layer_equalization", params={"method": "vitis_keras", **params})]


def _dpu_operators(reader: Tf2Reader, strategy: Strategy) -> list[Step]:
    """Returns the step that computes operators as the DPU does: by default where this version has it."""
    wanted = [key for key in DPU if strategy.value(key)]
    if not wanted:
        return []
    if "dpu_operators" in missing("passes") and not any(strategy.asked(key) for key in wanted):
        text = (
            f"pooling, sigmoid and leaky ReLU are computed as usual: the DPU's versions ({', '.join(wanted)}) are not"
        )
        reader.note("dpu", None, f"{text} available yet")
        return []
    switches = {key: key in wanted for key, default in DPU.items() if (key in wanted) != default}
    return [Step(name="dpu_operators", params={"method": METHOD, **switches})]


def refine_steps(reader: Tf2Reader, strategy: Strategy) -> tuple[Step, ...]:
    """Returns the algorithms, in the tool's order (5.3)."""
    steps = []
    wanted = [key for key in ADJUST if strategy.value(key)]
    if "position_adjustment" in missing("algorithms") and wanted and not any(strategy.asked(key) for key in wanted):
        text = (
            "positions stay as they were found: adjusting them to what the DPU can shift (adjust_dpu_*, align_*) is not"
        )
        reader.note("adjust", None, f"{text} available yet")
    elif wanted:
        off = {SWITCHES[key]: False for key in ADJUST if key not in wanted}
        steps.append(Step(name="position_adjustment", params={"method": METHOD, **off}))
    if strategy.value("include_fast_ft"):
        steps.append(Step(name="fast_finetune", params={"epochs": strategy.value("fast_ft_epochs")}))
    elif strategy.changed("fast_ft_epochs"):
        reader.note("epochs", strategy.settings["fast_ft_epochs"].path, "no effect: include_fast_ft is off")
    if strategy.value("include_bias_corr"):  # 0.5
        text = "biases are corrected, as the tool's document says; the tool itself accepts the key and does nothing"
        reader.note("bias", strategy.settings["include_bias_corr"].path, text)
        steps.append(Step(name="bias_correction"))
    _note_rest(reader, strategy)
    return tuple(steps)


def _note_rest(reader: Tf2Reader, strategy: Strategy) -> None:
    """Notes what is about the form of the result, not about its values."""
    if strategy.asked("convert_to_fs_quantize_strategy") and strategy.value("convert_to_fs_quantize_strategy"):
        path = strategy.settings["convert_to_fs_quantize_strategy"].path or ()
        reader.drop(path, "a power of two is written as a float scale when a file is exported", "the same values")
    for key, plain in (("output_format", ""), ("onnx_opset_version", 13), ("output_dir", "./quantize_results/")):
        setting = strategy.settings.get(key)
        if setting is not None and setting.path is not None and setting.value != plain:
            reader.drop(setting.path, f"'{key}' is an option of the export", "give it to the exporter")
