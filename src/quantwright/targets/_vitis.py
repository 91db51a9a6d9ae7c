"""What the two vai_q_pytorch targets share: which operations are quantized, and together with what.

Sections are those of the behavioural spec of vai_q_pytorch 3.5. The tool reads its operations from a TorchScript trace;
kinds it never meets (``roll``, ``gather`` ...) only move data and pass their grid on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantwright.config import kinds
from quantwright.config.spec import QuantSpec, Role
from quantwright.targets import Device, Handling

#: 4.3 "quantizable ops": their output has a range of its own; concat is quantized at its output only
COMPUTE = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR, *kinds.MATMUL, *kinds.NORM, *kinds.POOL_AVERAGE,
           *kinds.POOL_MAX, *kinds.ELEMENTWISE, "resize", "hardswish", "hardsigmoid", "softmax", "prelu", "gelu",
           "mish", *kinds.ACTIVATION_PART)  # fmt: skip
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

#: quantized by the tool, and still computed on the CPU beside a DPU (UG1414, "Operators supported by PyTorch"): its
#: ``Inspector`` says so, simulation does not care
HOST = ("softmax", "gelu", "mish", "attention", "layer_norm", "group_norm", "instance_norm", "rms_norm", "div", "sum",
        "minimum", "maximum", "min", "slice")  # fmt: skip
#: the DPU architectures vai_q_pytorch 3.5 knows by name (its ``Inspector`` and ``target``); what they can compute
#: beyond kinds of operations (sizes, channels) is its compiler's, so they are all the target ``dpu``
ARCHITECTURES = (
    "AMD_AIE2_1x4_Overlay", "AMD_AIE2_4x4_Overlay", "AMD_AIE2_4x5_Overlay", "AMD_AIE2_Nx4_Overlay", "DPUCADF8H_ISA0",
    "DPUCAHX8H_ISA2", "DPUCAHX8H_ISA2_DWC", "DPUCAHX8H_ISA2_ELP2", "DPUCAHX8L_ISA0", "DPUCAHX8L_ISA0_SP",
    "DPUCV2DX8G_ISA0_C16M4B1", "DPUCV2DX8G_ISA1_C20B1", "DPUCVDX8G_ISA3_C32B1", "DPUCVDX8G_ISA3_C32B3",
    "DPUCVDX8G_ISA3_C32B3_PSMNET", "DPUCVDX8G_ISA3_C32B6", "DPUCVDX8G_ISA3_C64B1", "DPUCVDX8G_ISA3_C64B3",
    "DPUCVDX8G_ISA3_C64B5", "DPUCVDX8H_ISA1_F2W2_8PE", "DPUCVDX8H_ISA1_F2W4_4PE", "DPUCVDX8H_ISA1_F2W4_6PE_aieDWC",
    "DPUCVDX8H_ISA1_F2W4_6PE_aieMISC", "DPUCZDI4G_ISA0_B4096_DEMO_SSD", "DPUCZDI4G_ISA0_B8192D8_DEMO_SSD",
    "DPUCZDX8G_ISA1_B1024", "DPUCZDX8G_ISA1_B1152", "DPUCZDX8G_ISA1_B1600", "DPUCZDX8G_ISA1_B2304",
    "DPUCZDX8G_ISA1_B3136", "DPUCZDX8G_ISA1_B4096", "DPUCZDX8G_ISA1_B512", "DPUCZDX8G_ISA1_B800", "V70_2x3_Overlay",
)  # fmt: skip


def only_weights_per_channel(spec: QuantSpec, role: Role, kind: str) -> str | None:
    """Returns what is wrong when something else than a weight has several scales (2.4)."""
    if role == "weight" or spec.granularity is None or spec.granularity.kind == "per_tensor":
        return None
    return f"granularity {spec.granularity} is for weights only; use per_tensor"


def _groups(kind: str, params: Mapping[str, Any]) -> str | None:
    """Returns why a grouped convolution is not computed: it is neither plain nor depthwise."""
    groups = params.get("groups", 1)
    if kind not in kinds.CONV or kind.startswith("depthwise") or groups == 1:
        return None
    return f"groups={groups} is neither 1 nor the number of input channels."


def _slope(kind: str, params: Mapping[str, Any]) -> str | None:
    """Returns why a leaky ReLU is not computed: there is one slope (4.6)."""
    slope = params.get("negative_slope", LEAKY)
    if kind != "leaky_relu" or slope == LEAKY:
        return None
    return f"negative_slope={slope:g} is not 26/256={LEAKY}; the pass dpu_operators makes it so."


LEAKY = 26 / 256
#: what a DPU computes itself (UG1414; 4.6): limits on sizes are its compiler's and are not checked
DPU = Device(
    host=HOST,
    limits=(_groups, _slope),
    bits=(8,),
    advice={
        "sigmoid": "the pass dpu_operators turns it into a hard sigmoid (convert_sigmoid_to_hard_sigmoid)",
        "silu": "the pass silu_to_hardswish turns it into a hard swish",
    },
)
