"""What the two vai_q_pytorch targets share: which operations are quantized, and together with what.

Sections are those of the behavioural spec of vai_q_pytorch 3.5. The tool reads its operations from a TorchScript trace;
kinds it never meets (``roll``, ``gather`` ...) only move data and pass their grid on.
"""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.config.spec import QuantSpec, Role
from quantwright.targets import Handling

#: 4.3 "quantizable ops": their output has a range of its own; concat is quantized at its output only
COMPUTE = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.NORM, *kinds.POOL_AVERAGE,
           *kinds.POOL_MAX, *kinds.ELEMENTWISE, "resize", "hardswish", "hardsigmoid", "softmax", "prelu", "gelu",
           "mish")  # fmt: skip
#: 4.3 "groups": join the operation before them. Data movement does so on every target
FUSE = ("relu", "relu6", "clamp", "hardtanh", "leaky_relu")
#: 4.4: the position of a pad or nearest resize becomes that of its input, which is what sharing computes
SHARE = (*kinds.MOVEMENT, "pad", "resize_nearest")
#: sigmoid, tanh, silu ... are not quantizable: float, with an output quantizer where a quantizable operation reads them

KINDS: dict[str, Handling] = {
    **dict.fromkeys(COMPUTE, "compute"),
    **dict.fromkeys(FUSE, "fuse"),
    **dict.fromkeys(SHARE, "share"),
    **dict.fromkeys(kinds.JOIN, "join"),
}
#: 4 step 3: of a batch norm that was not folded, gamma and beta are quantized too
PARAMETERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.NORM, "prelu")


def only_weights_per_channel(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong when something else than a weight has several scales (2.4)."""
    if role == "weight" or spec.granularity is None or spec.granularity.kind == "per_tensor":
        return None
    return f"granularity {spec.granularity} is for weights only; use per_tensor"
