"""Quark in graph mode: batch norms folded, quantizers between operators, biases on the accumulator's grid.

Spec quark 4. Concatenation, pooling and data movement share the scale of what they read. The tool's rewrites for its
NPU (sigmoid to hardsigmoid, silu to hardswish, pooling constants) change the function and are not done.
"""

from __future__ import annotations

from quantwright.config.config import Step
from quantwright.targets import Arithmetic, Target
from quantwright.targets._qdq import KINDS, PARAMETERS
from quantwright.targets._quark import DEFAULTS

plugin = Target(
    name="quark_fx",
    summary="Quark's graph mode: every operator of a CNN on integers, without the tool's rewrites",
    defaults=DEFAULTS,
    kinds=KINDS,
    parameters=PARAMETERS,
    optimize=(Step(name="fold_batchnorm"),),
    arithmetic=Arithmetic(quantize="reciprocal"),
)
