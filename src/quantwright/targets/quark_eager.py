"""Quark in eager mode: convolutions and linear layers with quantizers of their own in front and behind.

Spec quark 4: Conv2d, ConvTranspose2d and Linear (Embedding where an entry asks for it), each with an input and an
output quantizer; batch norms stay, nothing is fused. Additions, pooling, concatenations and activations are float.
"""

from __future__ import annotations

from quantwright.targets import Arithmetic, Placement, Target
from quantwright.targets._quark import COMPUTE, DEFAULTS, KINDS_EAGER, LAYERS

plugin = Target(
    name="quark_eager",
    summary="Quark's eager mode: Conv2d, ConvTranspose2d and Linear, quantized before and behind",
    defaults=DEFAULTS,
    kinds=KINDS_EAGER,
    parameters=COMPUTE,
    placement=Placement(layers_only=COMPUTE, layer_types=LAYERS, own_inputs=True),
    arithmetic=Arithmetic(quantize="reciprocal"),
)
