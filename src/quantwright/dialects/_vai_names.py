"""Layer names of vai_q_pytorch: the generated names of its regenerated model, resolved to module paths."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_SCOPE = re.compile(r"([A-Za-z_]\w*)\[([^\[\]/]+)\]")
_NORMALIZED = re.compile(r"\w+::nndct_(\w+?)_(\d+)")

#: torch.nn modules that are one operation; a name that ends in another module is an operation *inside* that module
LEAVES = frozenset(
    {
        "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Linear", "Bilinear",
        "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d",
        "InstanceNorm3d", "RMSNorm", "ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU",
        "Mish", "Sigmoid", "Tanh", "Hardtanh", "Hardswish", "Hardsigmoid", "Softmax", "LogSoftmax", "Softplus",
        "Softsign", "MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "AdaptiveAvgPool1d",
        "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d",
        "Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle",
        "ZeroPad1d", "ZeroPad2d", "ZeroPad3d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ReflectionPad1d",
        "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "Dropout", "Dropout2d", "Dropout3d", "Flatten",
        "Unflatten", "Identity", "Embedding", "EmbeddingBag", "LSTM", "GRU", "RNN", "LSTMCell", "GRUCell",
        "QuantStub", "DeQuantStub", "Add", "Cat", "Max", "Pad", "Sum", "Clamp",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """Returns why a layer name cannot be resolved to a module, and what to write instead."""

    message: str
    fix: str


def resolve(name: str) -> str | Unresolved:
    """Returns the module path of a layer name.

    ``ResNet::ResNet/Sequential[layer1]/BasicBlock[0]/Conv2d[conv1]/input.5`` is ``layer1.0.conv1``. A plain module path
    stays. A whole comment of the regenerated file may be pasted: ``#Net::Net/Conv2d[c1]/ret.1(Net::nndct_conv2d_1)``.
    """
    text = re.sub(r"\([\w:]*\)$", "", name.strip().lstrip("#").strip())
    if _PATH.fullmatch(text):
        return text
    normalized = _NORMALIZED.fullmatch(text)
    if normalized:
        return Unresolved(
            message=f"'{name}' counts the {normalized.group(1)} operations of a graph that only the tool builds",
            fix="write the module path (such as layer1.0.conv1), or the longer name that stands before it in the "
            "comment of the tool's regenerated .py file",
        )
    graph, _, rest = text.partition("::")
    parts = [part for part in rest.split("/") if part]
    scopes = [_SCOPE.fullmatch(part) for part in parts]
    if not graph or not parts:
        fix = "write a module path (layer1.0.conv1) or a generated name (Net::Net/Conv2d[conv1]/input.2)"
        return Unresolved(message=f"'{name}' is not a layer name", fix=fix)
    modules = [scope for scope in scopes if scope]
    if not modules:
        return Unresolved(
            message=f"'{name}' is an operation in the forward of {parts[0]} itself, which has no module to find it by",
            fix="use a layer_type entry, or a native configuration with match: {function: add} or the node's name "
            "(`quantwright explain` lists them)",
        )
    last = modules[-1]
    path = ".".join(scope.group(2) for scope in modules)
    if last.group(1) not in LEAVES:
        return Unresolved(
            message=f"'{name}' is an operation inside the module '{path}' ({last.group(1)}), not a module of its own",
            fix=f"write '{path}' if everything inside that module is meant, or use a native configuration with "
            "match: {name: ...} and the node's name (`quantwright explain` lists them)",
        )
    return path
