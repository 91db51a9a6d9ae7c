"""Any runtime that reads ONNX QDQ: int8 weights per channel, uint8 activations, int32 biases."""

from __future__ import annotations

from quantwright.config.config import Step
from quantwright.targets import Arithmetic, Target
from quantwright.targets._qdq import DEFAULTS, FLOAT_RESULTS, KERNELS, KINDS, PARAMETERS

plugin = Target(
    name="generic",
    summary="any runtime that reads ONNX QDQ; nothing is forbidden",
    defaults=DEFAULTS,
    kinds=KINDS,
    parameters=PARAMETERS,
    optimize=(Step(name="fold_batchnorm"),),
    arithmetic=Arithmetic(requantize="multiplier"),
    kernels=KERNELS,
    float_results=FLOAT_RESULTS,
    sign="by_range",
)
