"""The handy keys of ``user_quantize_config`` (vai_q_tensorflow2, spec 2.3): one parameter of many quantizers."""

from __future__ import annotations

from dataclasses import dataclass, field

from quantwright.dialects._tf2_params import Quantizer, Tf2Reader
from quantwright.dialects._tf2_read import Strategy

#: target type -> whose keys change it: those of activations change outputs too
GROUP = {"input": "input", "weight": "weight", "bias": "bias", "activation": "activation", "output": "activation"}
NOT_QUANTIZERS = ("input_layers", "output_layers", "ignore_layers", "layer_config", "use_fixneuron_quant")
_EVERY = ("use_framework_quant", "data_format")  # keys that every quantizer with the parameter takes


def parameter_of(key: str) -> tuple[str, str]:
    """Returns (group, parameter) of a handy key; the group is "" for what all of them take."""
    if key in _EVERY:
        return "", key
    group, _, handy = key.partition("_")
    return group, "bit_width" if handy == "bit" else handy


@dataclass(slots=True)
class Handy:
    """Returns the handy keys while they are applied.

    Attributes:
        used: keys that changed a quantizer.
    """

    reader: Tf2Reader
    strategy: Strategy
    used: set[str] = field(default_factory=set)

    def over(self, kind: str, quantizer: Quantizer) -> Quantizer:
        """Returns a quantizer with the keys of its group set, where it gives the parameter itself."""
        for key, setting in self.strategy.user.items():
            if key in NOT_QUANTIZERS or key == "activation_unsigned":
                continue
            group, name = parameter_of(key)
            if group not in ("", GROUP[kind]):
                continue
            if name not in quantizer.params:
                if quantizer.path is not None and group:
                    text = f"'{key}' does not reach this quantizer, which does not give '{name}'"
                    self.reader.note(key, quantizer.path, text)
                continue
            if name == "data_format" and quantizer.params[name].value in ("fp32", "bf16"):  # 2.2
                continue
            self.used.add(key)
            quantizer = quantizer.with_param(name, setting, word=key in self.strategy.words)
        return self._unsigned(kind, quantizer)

    def _unsigned(self, kind: str, quantizer: Quantizer) -> Quantizer:
        """Returns the quantizer of an asymmetric value unsigned: symmetric ones are so behind a ReLU only (2.3)."""
        setting = self.strategy.user.get("activation_unsigned")
        if setting is None or GROUP[kind] != "activation" or "unsigned" not in quantizer.params:
            return quantizer
        self.used.add("activation_unsigned")
        return quantizer if quantizer.get("symmetry").value else quantizer.with_param("unsigned", setting)

    def note_unused(self) -> None:
        """Notes the keys that no quantizer has."""
        for key, setting in self.strategy.user.items():
            if key not in self.used and key not in NOT_QUANTIZERS:
                text = f"no effect: no quantizer of strategy {self.strategy.name} has it"
                self.reader.note("unused", setting.path, text)
