"""ATen operator name -> kind, for the operators whose kind does not depend on their arguments."""

from __future__ import annotations

_BY_KIND: dict[str, str] = {
    "matmul": "matmul mm bmm mv dot einsum addmm baddbmm addbmm linalg_matmul linalg_multi_dot",
    "attention": "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu"
    " _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention",
    "linear": "linear",
    "batch_norm": "batch_norm _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm",
    "layer_norm": "layer_norm native_layer_norm dpu_layer_norm",
    "group_norm": "group_norm native_group_norm",
    "instance_norm": "instance_norm",
    "rms_norm": "rms_norm _fused_rms_norm",
    "avg_pool": "avg_pool1d avg_pool2d avg_pool3d dpu_avg_pool2d",
    "adaptive_avg_pool": "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d"
    " _adaptive_avg_pool3d dpu_adaptive_avg_pool2d",
    "mean": "mean dpu_mean",
    "sum": "sum",
    "max_pool": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices"
    " max_pool1d_with_indices",
    "adaptive_max_pool": "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    "max": "max amax",
    "min": "min amin",
    "add": "add",
    "sub": "sub rsub subtract",
    "mul": "mul multiply",
    "div": "div divide true_divide",
    "maximum": "maximum",
    "minimum": "minimum",
    "relu": "relu",
    "relu6": "relu6",
    "leaky_relu": "leaky_relu",
    "prelu": "prelu _prelu_kernel",
    "elu": "elu selu celu",
    "gelu": "gelu",
    "silu": "silu",
    "mish": "mish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hardswish": "hardswish dpu_hardswish",
    "hardsigmoid": "hardsigmoid dpu_hardsigmoid",
    "softmax": "softmax _softmax special_softmax _safe_softmax dpu_softmax",
    "log_softmax": "log_softmax _log_softmax special_log_softmax",
    "softplus": "softplus",
    "reshape": "reshape view _unsafe_view view_as reshape_as unflatten ravel _reshape_alias",
    "flatten": "flatten",
    "squeeze": "squeeze",
    "unsqueeze": "unsqueeze",
    "transpose": "transpose t swapaxes swapdims mT numpy_T matrix_H",
    "permute": "permute movedim moveaxis",
    "expand": "expand expand_as broadcast_to",
    "slice": "slice narrow",
    "select": "select",
    "split": "split split_with_sizes tensor_split unbind unsafe_split unsafe_split_with_sizes hsplit vsplit dsplit",
    "chunk": "chunk unsafe_chunk",
    "contiguous": "contiguous",
    "pixel_shuffle": "pixel_shuffle",
    "pixel_unshuffle": "pixel_unshuffle",
    "channel_shuffle": "channel_shuffle native_channel_shuffle",
    "roll": "roll",
    "flip": "flip fliplr flipud rot90",
    "repeat": "repeat tile repeat_interleave",
    "gather": "gather take take_along_dim index",
    "index_select": "index_select",
    "unfold": "unfold im2col",
    "clone": "clone lift_fresh_copy",
    "dropout": "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout",
    "identity": "alias detach lift_fresh lift",
    "resize_nearest": "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d"
    " _upsample_nearest_exact2d _upsample_nearest_exact3d",
    "resize": "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d"
    " _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d",
    "cat": "cat concat concatenate hstack",
    "stack": "stack vstack dstack column_stack",
    "embedding": "embedding embedding_bag",
    "lstm": "lstm",
    "gru": "gru",
    "rnn": "rnn_tanh rnn_relu",
    "pad": "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
}

KIND_OF: dict[str, str] = {name: kind for kind, names in _BY_KIND.items() for name in names.split()}

#: elementwise steps without a kind of their own that belong to a hand-written normalization
NORM_STEPS = frozenset(
    ("pow", "rsqrt", "sqrt", "square", "reciprocal", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
     "abs", "exp", "neg", "addcmul", "addcdiv", "float_power")
)  # fmt: skip

#: (weight, bias) argument names of the operators that own parameters
PARAMETERS: dict[str, tuple[str, str | None]] = {
    "linear": ("weight", "bias"),
    "addmm": ("mat2", "self"),
    "batch_norm": ("weight", "bias"),
    "_native_batch_norm_legit_no_training": ("weight", "bias"),
    "layer_norm": ("weight", "bias"),
    "native_layer_norm": ("weight", "bias"),
    "dpu_layer_norm": ("weight", "bias"),
    "group_norm": ("weight", "bias"),
    "native_group_norm": ("weight", "bias"),
    "instance_norm": ("weight", "bias"),
    "rms_norm": ("weight", None),
    "_fused_rms_norm": ("weight", None),
    "embedding": ("weight", None),
    "embedding_bag": ("weight", None),
    "prelu": ("weight", None),
    "_prelu_kernel": ("weight", None),
}
