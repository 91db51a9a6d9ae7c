"""Documents of Quark for the tests: small ones, and how they are read."""

from __future__ import annotations

from typing import Any

from quantwright.config.config import QuantConfig, Unmapped
from quantwright.config.document import Document
from quantwright.dialects.quark import plugin
from quantwright.errors import ConfigError

INT8: dict[str, Any] = {
    "dtype": "int8", "is_dynamic": False, "qscheme": "per_tensor", "ch_axis": None, "group_size": None,
    "symmetric": True, "round_method": "half_even", "scale_type": "float", "observer_cls": "PerTensorMinMaxObserver",
}  # fmt: skip
CHANNEL = {**INT8, "qscheme": "per_channel", "ch_axis": 0, "observer_cls": "PerChannelMinMaxObserver"}
GROUP = {**INT8, "dtype": "int4", "qscheme": "per_group", "ch_axis": -1, "group_size": 32,
         "observer_cls": "PerGroupMinMaxObserver"}  # fmt: skip


def layer(**tensors: Any) -> dict[str, Any]:
    """Returns a QLayerConfig in which everything that is not given is null."""
    empty = dict.fromkeys(("input_tensors", "output_tensors", "weight", "bias", "target_device"))
    return {**empty, **tensors}


def document(**keys: Any) -> dict[str, Any]:
    """Returns a document in the form of 0.13 with int8 weights and inputs, and some keys replaced."""
    return {
        "global_quant_config": layer(input_tensors=INT8, weight=INT8), "exclude": [], "algo_config": None,
        "softmax_quant_spec": None, "quant_method": "quark", "layer_type_quant_config": {}, "layer_quant_config": {},
        "kv_cache_quant_config": {}, "kv_cache_post_rope": False, "quant_mode": "eager_mode", "version": "0.13", **keys,
    }  # fmt: skip


def weight(spec: Any) -> dict[str, Any]:
    """Returns a document whose weights have this spec."""
    return document(global_quant_config=layer(weight=spec))


def read(value: Any) -> tuple[QuantConfig, list[Unmapped]]:
    """Returns what the dialect reads."""
    return plugin.read(Document(value=value))


def config_of(value: Any) -> QuantConfig:
    """Returns the config alone."""
    return read(value)[0]


def refused(value: Any) -> dict[str, str]:
    """Returns path -> code of every problem; each has a fix or says what is allowed."""
    try:
        read(value)
    except ConfigError as error:
        assert all(problem.fix or problem.allowed for problem in error.problems), error
        return {problem.path: problem.code for problem in error.problems}
    return {}
