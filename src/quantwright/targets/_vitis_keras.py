"""What the targets of vai_q_tensorflow2 share: which operations its strategies quantize, and where.

Sections are those of the behavioural spec of vai_q_tensorflow2 3.5. A strategy is a registry of layer classes (2.2):
what is not in it is float, and gets a quantizer where a layer of the registry with one input reads it (3.3).
"""

from __future__ import annotations

from quantwright.config import kinds
from quantwright.config.config import Calibration, RoleSpecs, Step
from quantwright.config.spec import Granularity, ObserverSpec, QuantSpec
from quantwright.targets import Handling

#: the four layers with a kernel that every strategy has
KERNELS = ("conv2d", "depthwise_conv2d", "conv_transpose2d", "linear")
POOLS = ("max_pool", "avg_pool", "adaptive_avg_pool", "mean")
#: 3.3: what a convolution or addition is quantized together with
FUSE = (*kinds.CLAMP, "leaky_relu")
#: Dropout is removed, the others are what capture makes of a Reshape or Flatten
SAME = ("dropout", "identity", "contiguous", "clone")

_POSITION = QuantSpec(
    format="int8", granularity=Granularity(), symmetric=True, narrow_range=False, scale="power_of_two",
    exponent="ceil", fit="sides", rounding="half_even", statistic="all", min_scale=2.0**-52,
    observer=ObserverSpec(name="min_mse_position", params={"scope": 5}),
)  # fmt: skip
_VALUE = _POSITION.model_copy(update={"rounding": "half_up", "statistic": "modal"})
_READ = _VALUE.model_copy(update={"observer": ObserverSpec(name="minmax")})
POSITIONS = RoleSpecs(weight=_POSITION, bias=_POSITION, input=_READ, output=_VALUE)

_FLOAT = QuantSpec(format="float32")
_KERNEL = QuantSpec(
    format="int8", granularity=Granularity(kind="per_channel"), symmetric=True, narrow_range=False, scale="float",
    fit="sides", rounding="half_up", observer=ObserverSpec(name="minmax"), statistic="all", min_scale=0.0,
)  # fmt: skip
_PLAIN = _KERNEL.model_copy(update={"granularity": Granularity()})
_CUT = _PLAIN.model_copy(update={"observer": ObserverSpec(name="growing_histogram"), "fit": "span"})
WEIGHTS = RoleSpecs(weight=_KERNEL, bias=_FLOAT, input=_CUT, output=_CUT)
SCALES = RoleSpecs(weight=_KERNEL, bias=_PLAIN, input=_CUT, output=_CUT)

EQUALIZE = Step(name="cross_layer_equalization", params={"method": "vitis_keras"})
FOLD = Step(name="fold_batchnorm", params={"scope": "vitis_keras"})
#: 1.3: every batch is quantized with what was found on it; 4.4: the position that came first of equally frequent ones
BATCH = Calibration(inputs="quantized", batch_qparams="batch", modal_ties="first")
#: 4.5: ranges run on; with KL divergence and percentiles values pass through while they are counted
RUNNING = Calibration(inputs="quantized", batch_qparams="running", modal_ties="first")


def placement(**handled: tuple[str, ...]) -> dict[str, Handling]:
    """Returns kind -> handling for ``compute=(...), consume=(...) ...``; what is moved only shares where it says so."""
    found: dict[str, Handling] = dict.fromkeys(SAME, "share")
    for word, listed in handled.items():
        found |= dict.fromkeys(listed, word)  # type: ignore[arg-type]  # the keywords are handlings
    return found
