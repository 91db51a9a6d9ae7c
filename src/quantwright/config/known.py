"""Known, not available yet: what the configurations of other tools name and this version cannot run.

Such a name is read, planned, explained and translated; running it is refused by that name, before any long work, and
never replaced by something else. A name leaves this page when its plug-in arrives.
"""

from __future__ import annotations

from collections.abc import Mapping

#: kind of plug-in (or field of a spec) -> name -> what it is
KNOWN: Mapping[str, Mapping[str, str]] = {
    "observers": {
        "lsq_init": "initial step size of LSQ: twice the mean of |x| over the root of qmax",
        "tqt_init": "initial threshold of TQT: three standard deviations, or KL divergence",
        "histogram_l2": "histogram whose range has the least squared error, as torch.ao's HistogramObserver",
    },
    "fakequant": {
        "lsq": "learned step size (arXiv 1902.08153), trained",
        "tqt": "trained log2 thresholds (arXiv 1903.08066)",
        "pact": "trained clipping (arXiv 1805.06085)",
        "dorefa": "weights through tanh (arXiv 1606.06160)",
        "dsq": "differentiable soft quantization (arXiv 1908.05033)",
        "adaround": "learned rounding (arXiv 2004.10568)",
        "qdrop": "randomly dropped quantization (arXiv 2203.05740)",
        "nnie": "logarithmic grid of HiSilicon's NNIE",
        "groupwise_fp": "codebook formats in groups",
        "gptq": "weights rounded column by column with error compensation (arXiv 2210.17323)",
    },
    "algorithms": {
        "adaround": "learned rounding of weights, layer by layer (arXiv 2004.10568)",
        "brecq": "block reconstruction (arXiv 2102.05426)",
        "qdrop": "block reconstruction with dropped quantization (arXiv 2203.05740)",
        "fast_finetune": "per-layer finetuning of weights and biases (AdaQuant, arXiv 2006.10518)",
        "gptq": "column by column with error compensation (arXiv 2210.17323)",
        "gptaq": "GPTQ with asymmetric calibration (arXiv 2504.02692)",
        "qronos": "GPTQ that corrects the past (arXiv 2505.11695)",
        "awq": "activation-aware scaling of weights (arXiv 2306.00978)",
        "smoothquant": "scales moved from activations to weights (arXiv 2211.10438)",
        "auto_smoothquant": "SmoothQuant with a searched strength",
        "rotation": "Hadamard rotations (QuaRot arXiv 2404.00456, SpinQuant arXiv 2405.16406)",
        "svdquant": "low-rank branch in float (arXiv 2411.05007)",
        "autoround": "rounding by signed gradients (arXiv 2309.05516)",
        "two_bit_scalar": "two-bit weights of a scalar codebook",
        "qat": "quantization-aware training",
    },
    "passes": {
        "separate_activation": "activations taken out of layers",
        "convert_tf_op": "TensorFlow operations turned into Keras layers",
        "batchnorm_to_depthwise": "a batch norm that cannot be folded becomes a 1x1 depthwise convolution",
        "train_with_batchnorm": "batch norms folded while training",
    },
    "formats": {},
    "scale": {},
}  # fmt: skip


def known(kind: str) -> Mapping[str, str]:
    """Returns the names of a kind that are known and not available, with what they are."""
    return KNOWN.get(kind, {})
