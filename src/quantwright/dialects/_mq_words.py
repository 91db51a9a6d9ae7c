"""The names of MQBench and sophgo-mq, and what they are here: backends, chips, observers, fake quantizers.

Section numbers are those of the behavioural spec of MQBench and sophgo-mq.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: 2: BackendType -> target
BACKENDS = {
    name: f"mqbench_{name.lower()}"
    for name in ("Academic", "Academic_NLP", "Tensorrt", "Tensorrt_NLP", "QDQ", "OPENVINO", "SNPE", "PPLW8A16",
                 "PPLCUDA", "STPU", "ONNX_QNN", "Tengine_u8", "Vitis", "NNIE")
}  # fmt: skip
NEEDING_ALL = ("Academic", "Academic_NLP")  # 2: no preset


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownObserver:
    """Returns what an observer of the tools is here.

    Attributes:
        observer: our observer.
        statistic: over the batches of an activation.
        params: parameters it has whatever the document says.
        arguments: name in the document -> (ours, its default); ``ema_ratio`` is the statistic's.
        power_of_two: it gives powers of two, whatever the scheme says.
    """

    observer: str
    statistic: Literal["all", "ema", "last", "modal"] = "all"
    params: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    power_of_two: bool = False

    @property
    def accepted(self) -> tuple[str, ...]:
        """Returns the arguments a document may give."""
        return (*self.arguments, "ema_ratio") if self.statistic == "ema" else tuple(self.arguments)


_FIVE = {"scope": 5}  # 4: five exponents are tried, one for inputs of the network
_QUANTILE = {"threshold": ("quantile", 0.99999), "bins": ("bins", 2048)}
OBSERVERS: dict[str, KnownObserver] = {  # 4
    "MinMaxObserver": KnownObserver(observer="minmax"),
    "EMAMinMaxObserver": KnownObserver(observer="minmax", statistic="ema"),
    "MinMaxFloorObserver": KnownObserver(
        observer="min_mse_position", statistic="last", params=_FIVE, power_of_two=True
    ),
    "PoTModeObserver": KnownObserver(observer="min_mse_position", statistic="modal", params=_FIVE, power_of_two=True),
    "EMAQuantileObserver": KnownObserver(observer="quantile", statistic="ema", arguments=_QUANTILE),
    "ClipStdObserver": KnownObserver(
        observer="clip_std", statistic="last", arguments={"std_scale": ("deviations", 2.6)}
    ),
    "LSQObserver": KnownObserver(observer="lsq_init", statistic="last"),
    "MSEObserver": KnownObserver(observer="mse_shrink", arguments={"p": ("power", 2.0)}),
    "EMAMSEObserver": KnownObserver(observer="mse_shrink", statistic="ema", arguments={"p": ("power", 2.0)}),
}
#: 3: the document names an observer that is registered under another name since
ALIASES = {"EMAMinMaxFloorObserver": "PoTModeObserver"}
SOPHGO_OBSERVERS = {**OBSERVERS, "KLDObserver": KnownObserver(observer="histogram_l2")}  # 7: least L2 error, not KL


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFakeQuant:
    """Returns what a fake quantizer of the tools is here.

    Attributes:
        name: our fake quantizer.
        arguments: what a document may hand its constructor.
        learns: training changes its scales, which is not available yet; untrained it computes what ``fixed`` does.
        format: the format it has whatever the scheme's width, for those that are no integers.
        dynamic: its scale is that of every value as it passes.
    """

    name: str = "fixed"
    arguments: tuple[str, ...] = ()
    learns: bool = False
    format: str | None = None
    dynamic: bool = False


FAKE_QUANTS: dict[str, KnownFakeQuant] = {  # 4
    "FixedFakeQuantize": KnownFakeQuant(),
    "FakeQuantize": KnownFakeQuant(),
    "LearnableFakeQuantize": KnownFakeQuant(arguments=("scale", "zero_point", "use_grad_scaling"), learns=True),
    "TqtFakeQuantize": KnownFakeQuant(),
    "NNIEFakeQuantize": KnownFakeQuant(name="nnie"),
    "DoReFaFakeQuantize": KnownFakeQuant(name="dorefa"),
    "DSQFakeQuantize": KnownFakeQuant(name="dsq", arguments=("alpha",)),
    "PACTFakeQuantize": KnownFakeQuant(name="pact", arguments=("alpha",)),
    "AdaRoundFakeQuantize": KnownFakeQuant(name="adaround"),
    "QDropFakeQuantize": KnownFakeQuant(name="qdrop"),
}
#: 7: formats of sophgo-mq; it stores no format beside the fake quantizer
SOPHGO_FAKE_QUANTS: dict[str, KnownFakeQuant] = {
    **FAKE_QUANTS,
    "E4M3FakeQuantize": KnownFakeQuant(format="fp8_e4m3", dynamic=True),
    "E5M2FakeQuantize": KnownFakeQuant(format="fp8_e5m2"),
    "Fp16FakeQuantize": KnownFakeQuant(format="float16"),
    "BF16FakeQuantize": KnownFakeQuant(format="bfloat16"),
    "FP4FakeQuantize": KnownFakeQuant(format="fp6_e2m3", arguments=("data_type",)),
    "FPXGROUPFakeQuantize": KnownFakeQuant(name="groupwise_fp"),
    "GPTQFakeQuantize": KnownFakeQuant(name="gptq"),
    "GPTQFP4FakeQuantize": KnownFakeQuant(name="gptq"),
}
#: 7: the codebooks of FP4FakeQuantize
CODEBOOKS = {"nf4": "nf4", "af4": "af4", "fp4": "fp4_bnb", "fp4_e2m1": "fp4_e2m1", "fp6_e3m2": "fp6_e3m2",
             "fp6_e2m3": "fp6_e2m3", "nf8": "nf8"}  # fmt: skip
#: 7: chip -> target, without strategy
CHIPS = {
    name: f"sophgo_{name.lower()}"
    for name in ("BM1688", "BM1684X", "BM1690", "MARS3", "CV180X", "CV181X", "CV182X", "CV183X", "CV186X", "Academic")
}
CHIP_ALIASES = {"SG2260": "BM1690"}  # 7: its name until May 2024
STRATEGIES = ("CNN", "Transformer")
QUANTMODES = ("weight_activation", "weight_only")
