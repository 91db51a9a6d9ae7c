"""Targets: what a device or runtime can do, as data. No torch.

To add one: write ``targets/<name>.py`` with a docstring whose first line describes it and ``plugin = Target(...)``.
Nothing else is edited; ``quantwright list targets`` shows it and the contract test runs over it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quantwright.config.config import Calibration, RoleSpecs, Step
from quantwright.config.spec import QuantSpec, Role

Handling = Literal["compute", "consume", "fuse", "share", "join", "float"]
"""What happens to the output of a kind of operation:
``compute``  inputs, parameters and output are quantized, the output with a range of its own;
``consume``  inputs and parameters are quantized; the output only where something reads it so;
``fuse``     joins the operation before it when that one has no other reader: the pair is quantized once, at its end;
             standing alone it behaves as ``share`` when it keeps the grid and as ``float`` when it does not;
``share``    the output uses the QParams of the first input (data movement, max pool);
``join``     all inputs and the output share one set of QParams (concat), or only the output is quantized
             (see ``Target.join``);
``float``    computed in float; its output is quantized only where a ``compute`` operation reads it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Returns how the device computes, as far as simulation and proof need it.

    Attributes:
        quantize: ``divide`` (x / scale, as ONNX says) or ``reciprocal`` (x * float32(1 / scale), as vai_q_pytorch).
        accumulator_bits: width of the integer accumulator.
        requantize: how an integer accumulator becomes an output: ``none`` (computed in float and rounded after),
            ``multiplier`` (accumulator times float32(scale(x) * scale(w) / scale(y))), or ``shift`` (power of two).
        rounding: rounding of the requantization.
    """

    quantize: Literal["divide", "reciprocal"] = "divide"
    accumulator_bits: int = 32
    requantize: Literal["none", "multiplier", "shift"] = "none"
    rounding: str = "half_even"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Returns what the runtime's integer kernels want in a file: other words for the same numbers.

    Attributes:
        unsigned: signed 8-bit activations are written unsigned, with a zero point 128 higher.
        clamp_integers: a clamp that saturation does not do anyway stands behind the rounding, on the integers, where it
            does not keep the operation before it from running on integers.
    """

    unsigned: bool = False
    clamp_integers: bool = False

    def shift(self, spec: QuantSpec) -> int:
        """Returns what the stored integers and zero point of an activation are larger by than the plan's: 0 or 128."""
        return 128 if self.unsigned and spec.is_integer and spec.signed and spec.bits <= 8 else 0


Check = Callable[[QuantSpec, Role, str], "str | None"]
"""(complete spec, role, kind) -> None when the device can do it, else what is wrong and what it can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Returns where a tool puts quantizers, as far as the handling of a kind does not say it.

    Attributes:
        layers_only: kinds that count only where one of torch's own layers computes them; as a function they are float.
        layer_types: the classes that ``layers_only`` means, without ``torch.nn.``; () is every layer of torch's.
        fuse_behind: a kind handled ``fuse`` -> the kinds it joins; a kind that is not listed joins any.
        alone: a kind handled ``fuse`` -> its handling where it has joined nothing.
        hosts: kinds of data movement handled ``fuse`` behind which their group is quantized (else: before them).
        unread: (kind, kind of a reader): the reader does not ask for such an operand to be quantized.
        passed_over: a kind of reader -> kinds; one that reads any of these asks for none of its operands.
        tensors_only: kinds that ask for nothing when they read one tensor and a number (``x * 0.5``).
        inputs: inputs of the network are quantized where something ``read``s them so, or always (``quantized``).
        results: what the network returns is quantized like any value (``computed``), always, or never (``float``).
        own_inputs: an operation quantizes what it reads by its own input spec, also where the producer left that float
            or quantized it otherwise; the same spec is not applied twice.
        float_operands: an operation that reads several values takes those that were computed in float as they are; only
            one that reads a single value has it quantized.
        float_readers: a value computed in float is quantized for those that ask for it; all others read it as it is.
        end_bits: width of the weights of layers that read an input of the network or compute its result, and of what
            those layers read, where no rule says otherwise; 0: as everywhere.
    """

    layers_only: tuple[str, ...] = ()
    layer_types: tuple[str, ...] = ()
    fuse_behind: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alone: Mapping[str, Handling] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tensors_only: tuple[str, ...] = ()
    inputs: Literal["read", "quantized"] = "read"
    results: Literal["computed", "quantized", "float"] = "computed"
    own_inputs: bool = False
    float_operands: bool = False
    float_readers: bool = False
    end_bits: int = 0


Limit = Callable[[str, Mapping[str, Any]], "str | None"]
"""(kind, the operation's arguments by name) -> None when the device can compute it, else why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Returns what a device beside a CPU computes itself; the rest falls to the CPU.

    Attributes:
        host: kinds that are quantized and computed on the CPU all the same.
        limits: what the device cannot do with a kind it knows.
        bits: the widths it computes on.
        advice: kind -> what brings such operations onto the device.
    """

    host: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    bits: tuple[int, ...] = ()
    advice: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Returns everything the plan needs to know about a device.

    Attributes:
        defaults: (partial) specs by role, over the built-in base.
        kinds: kind -> handling; what is not listed is ``float``.
        parameters: kinds whose weight and bias are quantized.
        join: ``shared`` scales at a concat, or ``output`` only (inputs that nobody else reads stay unquantized).
        quantize_before_compute: an output that is not ``compute`` itself is quantized when a ``compute`` op reads it.
        checks: legality; each names one restriction.
        optimize: the passes that run when the config does not say.
        calibration: how calibration feeds the network when the config does not say.
        kernels: how exported integers are written.
        float_results: kinds whose output is left float where it is a result of the network and nothing computes on
            integers with it: the kernel gives its sums as they are.
        sign: ``fixed``, or ``by_range``: where a config asks for a symmetric activation and leaves its format open, a
            value that cannot be negative is unsigned and every other one signed.
        placement: where quantizers go, beyond the handling of kinds.
        device: which operations the device computes itself, where there is a CPU beside it; None: all it quantizes.
    """

    name: str
    summary: str
    defaults: RoleSpecs
    kinds: Mapping[str, Handling]
    parameters: tuple[str, ...]
    join: Literal["shared", "output"] = "shared"
    quantize_before_compute: bool = True
    checks: tuple[Check, ...] = ()
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    optimize: tuple[Step, ...] = ()
    calibration: Calibration = field(default_factory=Calibration)
    kernels: Kernels = field(default_factory=Kernels)
    float_results: tuple[str, ...] = ()
    sign: Literal["fixed", "by_range"] = "fixed"
    placement: Placement = field(default_factory=Placement)
    device: Device | None = None

    def handling(self, kind: str) -> Handling:
        """Returns what happens to ``kind``."""
        return self.kinds.get(kind, "float")

    @property
    def included(self) -> Handling:
        """Returns what happens to an operation that is quantized only because a rule includes it."""
        return "consume" if "consume" in self.kinds.values() else "compute"
