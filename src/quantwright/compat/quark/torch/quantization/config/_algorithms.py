"""The algorithms of ``quark.torch.quantization.config.config``: fields and defaults of the tool (spec quark 3)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from quantwright.compat.quark.torch.quantization.config._base import ConfigBase
from quantwright.dialects._quark_names import RETIRED
from quantwright.errors import InputError, did_you_mean

Layers = list[dict[str, Any]]


@dataclass
class AlgoConfigBase(ConfigBase):
    """Returns the base of all algorithms."""


@dataclass
class PreQuantOptConfig(AlgoConfigBase):
    """Returns the base of what changes weights before they are quantized (to 0.8)."""


@dataclass
class AlgoConfig(AlgoConfigBase):
    """Returns the base of the algorithms of ``algo_config``."""


@dataclass
class SmoothQuantConfig(AlgoConfig):
    """Returns SmoothQuant: scales moved from activations to weights."""

    name: str = "smooth"
    alpha: float = 1
    scale_clamp_min: float = 1e-3
    scaling_layers: Layers = field(default_factory=list)
    model_decoder_layers: str = ""


@dataclass
class RotationConfig(AlgoConfig):
    """Returns Hadamard rotations r1 to r4."""

    scaling_layers: dict[str, Layers]
    name: str = "rotation"
    model_decoder_layers: str = "model.layers"
    r1: bool = True
    r2: bool = False
    r3: bool = False
    r4: bool = False
    rotation_size: int | None = None
    random_r1: bool = False
    random_r2: bool = False
    online_r1_rotation: bool = False
    trainable: bool = False
    train_smooth: bool = False
    smooth_positions: list[str] | None = None
    random: bool | None = None


@dataclass
class QuaRotConfig(AlgoConfig):
    """Returns QuaRot, the older name of rotations (to 0.10)."""

    scaling_layers: dict[str, Layers] = field(default_factory=dict)
    name: str = "quarot"
    r1: bool = True
    r2: bool = True
    r3: bool = True
    r4: bool = True
    rotation_size: int | None = None
    random_r1: bool = False
    random_r2: bool = False
    random: bool | None = None
    random2: bool | None = None
    online_had: bool | None = None
    optimized_rotation_path: str | None = None
    kv_cache_quant: bool | None = None
    act_quant: bool | None = None
    backbone: str = "model"
    model_decoder_layers: str = "model.layers"
    v_proj: str = "self_attn.v_proj"
    o_proj: str = "self_attn.o_proj"
    self_attn: str = "self_attn"
    mlp: str = "mlp"


@dataclass
class AutoSmoothQuantConfig(AlgoConfig):
    """Returns SmoothQuant with a searched strength."""

    name: str = "autosmoothquant"
    scaling_layers: Layers | None = None
    model_decoder_layers: str | None = None
    compute_scale_loss: str | None = "MSE"


@dataclass
class AWQConfig(AlgoConfig):
    """Returns activation-aware scaling of weights."""

    name: str = "awq"
    scaling_layers: Layers = field(default_factory=list)
    model_decoder_layers: str = ""


@dataclass
class GPTQConfig(AlgoConfig):
    """Returns GPTQ: column by column with error compensation."""

    name: str = "gptq"
    block_size: int = 128
    damp_percent: float = 0.01
    desc_act: bool = True
    static_groups: bool = True
    inside_layer_modules: list[str] = field(default_factory=list)
    model_decoder_layers: str = ""


@dataclass
class GPTAQConfig(GPTQConfig):
    """Returns GPTQ with asymmetric calibration."""

    name: str = "gptaq"
    alpha: float = 0.25


@dataclass
class QronosConfig(AlgoConfig):
    """Returns Qronos: GPTQ that corrects the past."""

    inside_layer_modules: list[str]
    model_decoder_layers: str
    name: str = "qronos"
    block_size: int = 128
    desc_act: bool = True
    static_groups: bool = True
    alpha: float = 1e-3
    beta: float = 1e4


@dataclass
class SVDQuantConfig(AlgoConfig):
    """Returns SVDQuant: a low-rank branch in float."""

    name: str = "svdquant"
    rank: int = 32
    smooth_alpha: float = 0.5


ALGORITHMS: dict[str, type[AlgoConfig]] = {
    "smooth": SmoothQuantConfig, "rotation": RotationConfig, "quarot": QuaRotConfig, "awq": AWQConfig,
    "autosmoothquant": AutoSmoothQuantConfig, "gptq": GPTQConfig, "gptaq": GPTAQConfig, "qronos": QronosConfig,
    "svdquant": SVDQuantConfig,
}  # fmt: skip


def load_quant_algo_config_from_file(file_path: str) -> AlgoConfig:
    """Returns the algorithm that a JSON file describes.

    Raises:
        InputError: the file names no algorithm. TypeError: a field that the algorithm does not have.
    """
    with Path(file_path).open(encoding="utf-8") as handle:
        return algorithm(json.load(handle), file_path)


def load_pre_optimization_config_from_file(file_path: str) -> PreQuantOptConfig:
    """Returns what ``load_quant_algo_config_from_file`` returns; optimizations became algorithms in 0.9."""
    return cast(PreQuantOptConfig, load_quant_algo_config_from_file(file_path))


def algorithm(data: dict[str, Any], where: str | None = None) -> AlgoConfig:
    """Returns the algorithm of a mapping with its ``name``.

    Raises:
        InputError: there is no such algorithm.
    """
    name = data.get("name")
    if name not in ALGORITHMS:
        fix = did_you_mean(name, ALGORITHMS) or "write the name of one of these"
        raise InputError(f"unknown algorithm name {name!r}", where=where, allowed=ALGORITHMS, fix=fix)
    return ALGORITHMS[str(name)].from_dict({key: item for key, item in data.items() if key not in RETIRED})
