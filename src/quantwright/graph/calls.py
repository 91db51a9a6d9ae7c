"""What a call of a torch function is: its plain name and its kind, in the vocabulary of ``config/kinds.py``.

For what runs eagerly: ``graph/ops.py`` answers the same for the ATen operators of a captured graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph._optable import KIND_OF
from quantwright.plan.facts import ParamFacts

_MORE = {  # Python names that are no ATen operators
    "getitem": "getitem", "T": "permute", "H": "permute", "data": "identity", "to": "identity", "float": "identity",
    "double": "identity", "half": "identity", "bfloat16": "identity", "type_as": "identity", "cpu": "identity",
    "cuda": "identity", "requires_grad": "identity",
}  # fmt: skip
_SPATIAL = {f"{prefix}{n}d": n for prefix in ("conv", "conv_transpose") for n in (1, 2, 3)}
_SAME_GRID = (*kinds.MOVEMENT, "max_pool", "adaptive_max_pool", "resize_nearest")


def plain_name(function: Any) -> str:
    """Returns ``relu`` for ``torch.relu_``, ``add`` for ``Tensor.__iadd__`` and ``T`` for the property ``Tensor.T``."""
    name = str(getattr(function, "__name__", "") or type(function).__name__)
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", ""))
    plain = name.strip("_")
    return plain[1:] if name.startswith("__i") and plain[1:] in KIND_OF else plain


def kind_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Returns the kind of a call of the torch function ``name``, ``other`` when it has none."""
    if name in _SPATIAL:
        return _conv_kind(name, args, kwargs)
    if name in ("clamp", "clip", "hardtanh", "clamp_min", "clamp_max"):
        return _clamp_kind(name, args, kwargs)
    if name in ("interpolate", "upsample"):
        return "resize_nearest" if _given(args, kwargs, 3, "mode", "nearest").startswith("nearest") else "resize"
    if name in ("max", "min") and isinstance(_given(args, kwargs, 1, "other", None), Tensor):
        return f"{name}imum"
    if name == "pad":
        return "pad"
    return KIND_OF.get(name, _MORE.get(name, kinds.OTHER))


def keeps_grid(kind: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether the call's values are a subset of its first input's (or zero)."""
    if kind == "pad":
        constant = _given(args, kwargs, 2, "mode", "constant") == "constant"
        return not constant or _given(args, kwargs, 3, "value", None) in (0, None)
    return kind in _SAME_GRID or (kind in ("max", "min") and name in ("max", "min", "amax", "amin"))


def parameter_facts(name: str, kind: str, function: str, value: Tensor, groups: int) -> ParamFacts:
    """Returns the facts of the parameter ``name`` that a call of ``function`` takes as its weight."""
    shape, rank = tuple(value.shape), value.ndim
    if kind in kinds.CONV_TRANSPOSE:
        return ParamFacts(name=name, shape=shape, channel_axis=1, input_axis=0, groups=groups)
    if kind in (*kinds.CONV, *kinds.LINEAR, *kinds.EMBEDDING):
        return ParamFacts(name=name, shape=shape, channel_axis=0, input_axis=1, groups=groups)
    if kind == "matmul" and rank > 1:  # [..., in, out]: the second factor
        return ParamFacts(name=name, shape=shape, channel_axis=rank - 1, input_axis=rank - 2)
    return ParamFacts(name=name, shape=shape)


def groups_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Returns the number of groups of a convolution, 1 for anything else."""
    return int(_given(args, kwargs, 6, "groups", 1)) if name in _SPATIAL else 1


def _given(args: Sequence[Any], kwargs: Mapping[str, Any], index: int, name: str, default: Any) -> Any:
    return args[index] if index < len(args) else kwargs.get(name, default)


def _conv_kind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if name.startswith("conv_transpose"):
        return name
    weight: Tensor = _given(args, kwargs, 1, "weight", None)
    depthwise = groups_of(name, args, kwargs) > 1 and weight.shape[1] == 1
    return f"depthwise_{name}" if depthwise else name


def _clamp_kind(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    names: tuple[str, str] = ("min", "max")
    defaults: tuple[float | None, float | None] = (None, None)
    if name == "hardtanh":
        names, defaults = ("min_val", "max_val"), (-1.0, 1.0)
    low, high = (_given(args, kwargs, i + 1, names[i], defaults[i]) for i in (0, 1))
    if name == "clamp_max":
        low, high = None, _given(args, kwargs, 1, "max", None)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return "clamp"
    return ops.clamp_kind(low, high, "hardtanh" if name == "hardtanh" else "clamp")
