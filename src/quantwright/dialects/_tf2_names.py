"""The words of vai_q_tensorflow2: methods, roundings, old spellings, and which operations a Keras class is.

Section numbers are those of the behavioural spec of vai_q_tensorflow2 3.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantwright.config import kinds

TOOL = "vai_q_tensorflow2"

METHODS = {"No_OF": 0, "Min_MSE": 1, "Min_KL": 2, "Percentile": 3}  # the document's words and the code's numbers
METHOD_WORDS = {number: word for word, number in METHODS.items()}
ROUND_MODES = {"HALF_TO_EVEN": 0, "HALF_UP": 1, "HALF_AWAY_FROM_ZERO": 2, "HALF_TO_ZERO": 2, "FLOOR": 3}  # 0.6
ROUNDING = {0: "half_even", 1: "half_up", 2: "half_away", 3: "floor"}  # 4.2

QUANTIZERS = ("Pof2SQuantizer", "FSQuantizer", "MAFSQuantizer", "TQTQuantizer", "BFPQuantizer")
POWER_OF_TWO = ("Pof2SQuantizer", "TQTQuantizer")

#: 1.2: spellings of earlier versions
ALIASES = {
    "fold_bn": "convert_bn_to_dwconv",
    "replace_relu6": "convert_relu6_to_relu",
    "convert_tf_op": "convert_tf_op_to_keras",
    "forced_cle": "cle_to_relu6",
    "balance_method": "cle_balance_method",
    "weight_threshold": "cle_weight_threshold",
    "replace_sigmoid": "convert_sigmoid_to_hard_sigmoid",
    "replace_hard_sigmoid": "convert_hard_sigmoid_to_dpu_version",
    "replace_average_pooling2d": "convert_average_pooling2d_to_dpu_version",
    "replace_leaky_relu": "convert_leaky_relu_to_dpu_version",
}
#: arguments of ``VitisQuantizer`` and its calls that are no settings of quantization
CALL_KEYS = ("model_format", "target_type", "calib_batch_size", "calib_steps", "verbose", "add_shape_info",
             "input_shape", "init_quant")  # fmt: skip
#: 1.2: types of ``layer_config`` and ``convert_datatype``
INTEGERS = {"int8": "int8", "int16": "int16", "int32": "int32"}
FLOATS = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32", "float64": "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasClass:
    """Returns what a Keras layer class is in a captured graph.

    Attributes:
        kinds: the kinds of operations it becomes.
        weight: the attribute that is its weight; "" when it has none.
        bias: the attribute that is its bias, or what it adds.
        axes: axis of the weight in Keras -> axis of the weight in the graph.
        channels: the axis of the graph's weight that counts output channels.
    """

    kinds: tuple[str, ...]
    weight: str = ""
    bias: str = ""
    axes: tuple[int, ...] = (0,)
    channels: int = 0


MULTIPLIER = -1  # the axis of a depthwise kernel that counts outputs of one channel: one, as a rule
_CONV2D, _CONV1D, _CONV3D = (2, 3, 1, 0), (2, 1, 0), (2, 3, 4, 1, 0)  # HWIO -> OIHW ...
_LAYERS = ("prelu", "leaky_relu", "softmax", "log_softmax")  # layers of their own
_ACTIVATIONS = (*kinds.CLAMP, *(kind for kind in kinds.ACTIVATION if kind not in _LAYERS))
RELUS = ("relu", "relu6", "clamp", "hardtanh")  # 2.3: "relu-like"


def _conv(kind: str, axes: tuple[int, ...], channels: int = 0, weight: str = "kernel") -> KerasClass:
    return KerasClass(kinds=(kind,), weight=weight, bias="bias", axes=axes, channels=channels)


def _norm(kind: str) -> KerasClass:
    return KerasClass(kinds=(kind,), weight="gamma", bias="beta")


#: in the order in which rules are written: what may be fused behind another operation comes after it
CLASSES: Mapping[str, KerasClass] = {
    "Conv1D": _conv("conv1d", _CONV1D),
    "Conv2D": _conv("conv2d", _CONV2D),
    "Conv3D": _conv("conv3d", _CONV3D),
    "VitisConvBN": _conv("conv2d", _CONV2D),
    "DepthwiseConv1D": _conv("depthwise_conv1d", (2, 0, MULTIPLIER), weight="depthwise_kernel"),
    "DepthwiseConv2D": _conv("depthwise_conv2d", (2, 3, 0, MULTIPLIER), weight="depthwise_kernel"),
    "VitisDepthwiseConvBN": _conv("depthwise_conv2d", (2, 3, 0, MULTIPLIER), weight="depthwise_kernel"),
    "Conv1DTranspose": _conv("conv_transpose1d", _CONV1D, channels=1),
    "Conv2DTranspose": _conv("conv_transpose2d", _CONV2D, channels=1),
    "Conv3DTranspose": _conv("conv_transpose3d", _CONV3D, channels=1),
    "Dense": _conv("linear", (1, 0)),
    "EinsumDense": KerasClass(kinds=("linear", "matmul"), weight="kernel", bias="bias", axes=(1, 0)),
    "Embedding": KerasClass(kinds=("embedding",), weight="embeddings", axes=(0, 1)),
    "BatchNormalization": _norm("batch_norm"),
    "LayerNormalization": _norm("layer_norm"),
    "VitisLayernorm": _norm("layer_norm"),
    "GroupNormalization": _norm("group_norm"),
    "MultiHeadAttention": KerasClass(kinds=("attention",)),
    "LSTM": KerasClass(kinds=("lstm",), weight="kernel", bias="bias"),
    "GRU": KerasClass(kinds=("gru",), weight="kernel", bias="bias"),
    "SimpleRNN": KerasClass(kinds=("rnn",), weight="kernel", bias="bias"),
    "Add": KerasClass(kinds=("add",)),
    "Subtract": KerasClass(kinds=("sub",)),
    "Multiply": KerasClass(kinds=("mul",)),
    "Maximum": KerasClass(kinds=("maximum",)),
    "Minimum": KerasClass(kinds=("minimum",)),
    "Dot": KerasClass(kinds=("matmul",)),
    "Concatenate": KerasClass(kinds=("cat",)),
    "MaxPooling1D": KerasClass(kinds=("max_pool",)),
    "MaxPooling2D": KerasClass(kinds=("max_pool",)),
    "MaxPooling3D": KerasClass(kinds=("max_pool",)),
    "GlobalMaxPooling2D": KerasClass(kinds=("adaptive_max_pool", "max")),
    "AveragePooling1D": KerasClass(kinds=("avg_pool",)),
    "AveragePooling2D": KerasClass(kinds=("avg_pool",)),
    "AveragePooling3D": KerasClass(kinds=("avg_pool",)),
    "VitisAveragePooling2D": KerasClass(kinds=("avg_pool",)),
    "GlobalAveragePooling2D": KerasClass(kinds=("adaptive_avg_pool", "mean")),
    "VitisGlobalAveragePooling2D": KerasClass(kinds=("adaptive_avg_pool", "mean")),
    "UpSampling2D": KerasClass(kinds=("resize_nearest", "resize")),
    "Resizing": KerasClass(kinds=("resize_nearest", "resize")),
    "ZeroPadding2D": KerasClass(kinds=("pad",)),
    "Reshape": KerasClass(kinds=("reshape",)),
    "Permute": KerasClass(kinds=("permute", "transpose")),
    "Flatten": KerasClass(kinds=("flatten",)),
    "Dropout": KerasClass(kinds=("dropout",)),
    "InputLayer": KerasClass(kinds=("input",)),
    "Activation": KerasClass(kinds=_ACTIVATIONS),
    "VitisSigmoid": KerasClass(kinds=("sigmoid", "hardsigmoid")),
    "VitisSoftmax": KerasClass(kinds=("softmax",)),
    "Softmax": KerasClass(kinds=("softmax",)),
    "ELU": KerasClass(kinds=("elu",)),
    "LeakyReLU": KerasClass(kinds=("leaky_relu",)),
    "PReLU": KerasClass(kinds=("prelu",), weight="alpha"),
    "ReLU": KerasClass(kinds=RELUS),
}
_OTHER_NAMES = {
    "Convolution2D": "Conv2D", "Convolution2DTranspose": "Conv2DTranspose", "MaxPool2D": "MaxPooling2D",
    "AvgPool2D": "AveragePooling2D", "GlobalAvgPool2D": "GlobalAveragePooling2D", "GlobalMaxPool2D":
    "GlobalMaxPooling2D",
}  # fmt: skip
#: where Keras keeps its layers; a path elsewhere is a class of the user's own
_KERAS_HOMES = ("keras", "tensorflow", "tf", "tensorflow_model_optimization", "vitis_quantize", "layers")
WEIGHT_NAMES = ("kernel", "depthwise_kernel", "pointwise_kernel", "gamma", "alpha", "embeddings", "weight", "w")
BIAS_NAMES = ("bias", "beta", "b")


def class_name(layer_type: str) -> str:
    """Returns what a layer type is known by: the class name of a Keras layer, the path of any other class."""
    head, _, last = layer_type.strip().rpartition(".")
    last = _OTHER_NAMES.get(last, last)
    return last if last in CLASSES and (not head or head.split(".")[0] in _KERAS_HOMES) else layer_type.strip()


_EXACT = ("conv1d", "conv2d", "conv3d", "batch_norm", "layer_norm", "group_norm")


def functions_of(kinds_of: tuple[str, ...]) -> str:
    """Returns the ``function`` of a match for kinds.

    A depthwise convolution is no Conv2D, as in Keras, and a convolution that took a batch norm in is no batch norm.
    """
    return "|".join(f"kind:{kind}" if kind in _EXACT else kind for kind in kinds_of)
