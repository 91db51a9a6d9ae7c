"""The kinds of operations: one vocabulary for graphs, targets and rules.

A *kind* says what an operation is for quantization, independent of how it was written (module, function, method).
``graph/ops.py`` maps torch operators to kinds; targets say what happens to each kind.
"""

from __future__ import annotations

INPUT, OUTPUT, CONSTANT, OTHER = "input", "output", "constant", "other"

CONV = ("conv1d", "conv2d", "conv3d", "depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d")
CONV_TRANSPOSE = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
LINEAR = ("linear",)
MATMUL = ("matmul", "attention")
NORM = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
POOL_AVERAGE = ("avg_pool", "adaptive_avg_pool", "mean", "sum")
POOL_MAX = ("max_pool", "adaptive_max_pool", "max", "min")
ELEMENTWISE = ("add", "sub", "mul", "div", "maximum", "minimum")
CLAMP = ("relu", "relu6", "clamp", "hardtanh")  # piecewise linear with slopes 0 and 1
ACTIVATION = ("leaky_relu", "prelu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid",
              "softmax", "log_softmax", "softplus")  # fmt: skip
MOVEMENT = (
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "split",
    "chunk",
    "getitem",
    "contiguous",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "roll",
    "flip",
    "repeat",
    "gather",
    "index_select",
    "unfold",
    "clone",
    "dropout",
    "identity",
)  # fmt: skip  values unchanged
PAD = ("pad",)  # constant padding with zero keeps the grid
RESIZE = ("resize_nearest", "resize")  # nearest keeps the grid, the others interpolate
JOIN = ("cat", "stack")
EMBEDDING = ("embedding",)
RECURRENT = ("lstm", "gru", "rnn")
#: elementwise and reduction steps inside a module whose type name says it is a normalization (a hand-written RMSNorm):
#: kept float by every built-in target because their intermediate squares span an unbounded range
NORM_PART = ("norm_part",)
#: products and sums inside a module whose type name says it is an activation function (a hand-written GELU)
ACTIVATION_PART = ("activation_part",)
#: values near minus infinity that forbid a place in a softmax, angles read by sine and cosine, divisors kept from zero
#: by a tiny number: never quantized where the target leaves them float, whoever reads them
HELD_FLOAT = ("mask", "angle", "divisor")
#: what ``capture="modules"`` cannot put a quantizer behind: a function called in a ``forward``, a module that is more
#: than one operation, a module the example did not reach (graph/modules.py)
UNSEEN = "unseen"

WEIGHTED = (*CONV, *CONV_TRANSPOSE, *LINEAR, *MATMUL, *NORM, *EMBEDDING, "prelu")  # may own a weight parameter
ALL = (INPUT, OUTPUT, CONSTANT, OTHER, *CONV, *CONV_TRANSPOSE, *LINEAR, *MATMUL, *NORM, *POOL_AVERAGE, *POOL_MAX,
       *ELEMENTWISE, *CLAMP, *ACTIVATION, *MOVEMENT, *PAD, *RESIZE, *JOIN, *EMBEDDING,
       *RECURRENT, *NORM_PART, *ACTIVATION_PART, *HELD_FLOAT, UNSEEN)  # fmt: skip
