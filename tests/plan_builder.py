"""Builds ModelFacts by hand, and the two networks of the recorded numbers (vai_q_pytorch.json, ``meta.models``)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantwright.config import kinds
from quantwright.plan.facts import ModelFacts, NodeFacts, Origin, ParamFacts

TYPES = {
    "conv2d": "torch.nn.modules.conv.Conv2d",
    "depthwise_conv2d": "torch.nn.modules.conv.Conv2d",
    "conv_transpose2d": "torch.nn.modules.conv.ConvTranspose2d",
    "linear": "torch.nn.modules.linear.Linear",
    "relu": "torch.nn.modules.activation.ReLU",
    "relu6": "torch.nn.modules.activation.ReLU6",
    "hardswish": "torch.nn.modules.activation.Hardswish",
    "leaky_relu": "torch.nn.modules.activation.LeakyReLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "softmax": "torch.nn.modules.activation.Softmax",
    "max_pool": "torch.nn.modules.pooling.MaxPool2d",
    "avg_pool": "torch.nn.modules.pooling.AvgPool2d",
    "adaptive_avg_pool": "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    "layer_norm": "torch.nn.modules.normalization.LayerNorm",
    "embedding": "torch.nn.modules.sparse.Embedding",
}
KEEPS = (*kinds.MOVEMENT, *kinds.POOL_MAX, "pad", "resize_nearest")


class Build:
    """Collects nodes; every method returns the node's name, and ``facts`` closes the model."""

    def __init__(self, name: str = "Model") -> None:
        self.name = name
        self.nodes: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.inputs: list[str] = []

    def input(self, name: str = "x", shape: tuple[int, ...] = (-1, 3, 8, 8)) -> str:
        self.inputs.append(name)
        origin = Origin(module_path="", module_type="", function="input", fx_name=name)
        self.nodes.append({"name": name, "kind": "input", "origins": (origin,), "shape": shape})
        return name

    def op(
        self,
        kind: str,
        *inputs: str,
        at: str = "",
        type: str | None = None,
        function: str | None = None,
        parents: tuple[tuple[str, str], ...] = (),
        aliases: tuple[str, ...] = (),
        also: tuple[Origin, ...] = (),
        **facts: Any,
    ) -> str:
        """Adds an operation; ``at`` is the path of the module that makes it ("" for a function)."""
        function = function or kind.removeprefix("depthwise_")
        name = function if not self.counts[function] else f"{function}_{self.counts[function]}"
        self.counts[function] += 1
        origin = Origin(
            module_path=at,
            module_type=(type or TYPES.get(kind, f"my.{kind.title()}")) if at else "",
            function=function,
            aten=f"aten.{function}.default",
            fx_name=at.replace(".", "_") or name,
            parents=(("", f"my.{self.name}"), *parents),
            aliases=aliases,
        )
        given = {"shape": (-1, 8, 4, 4), "keeps_grid": kind in KEEPS, **facts}
        self.nodes.append({"name": name, "kind": kind, "origins": (origin, *also), "inputs": inputs, **given})
        return name

    def layer(self, kind: str, x: str, at: str, *, bias: bool = True, out: int = 8, **more: Any) -> str:
        """Adds an operation with a weight and a bias called after its module."""
        shape = {"linear": (out, 16), "embedding": (100, out)}.get(kind, (out, 3, 3, 3))
        axis = 1 if kind.startswith("conv_transpose") else 0
        if axis:
            shape = (3, out, 3, 3)
        weight = ParamFacts(name=f"{at}.weight", shape=shape, channel_axis=axis, input_axis=1 - axis)
        params: dict[str, Any] = {"weight": weight}
        if bias:
            params["bias"] = ParamFacts(name=f"{at}.bias", shape=(out,))
        return self.op(kind, x, at=at, **{**params, **more})

    def facts(self, *outputs: str, module_paths: tuple[tuple[str, str], ...] = ()) -> ModelFacts:
        """Returns the model; ``outputs`` are read by an output node."""
        nodes = [*self.nodes, {"name": "output", "kind": "output", "origins": (), "inputs": outputs, "is_float": False}]
        users: dict[str, list[str]] = {node["name"]: [] for node in nodes}
        for node in nodes:
            for source in dict.fromkeys(node.get("inputs", ())):
                users[source].append(node["name"])
        paths = dict(module_paths)
        for node in self.nodes:
            for origin in node["origins"]:
                paths.update(origin.parents)
                if origin.module_path:
                    paths[origin.module_path] = origin.module_type
        return ModelFacts(
            name=self.name,
            nodes=tuple(NodeFacts(**node, users=tuple(users[node["name"]])) for node in nodes),
            inputs=tuple(self.inputs),
            outputs=outputs,
            module_paths=tuple(paths.items()),
        )


def net(relu: str = "relu") -> ModelFacts:
    """Returns ``Net`` after batch-norm folding; ``relu`` is what the first activation became."""
    b = Build("Net")
    x = b.input()
    folded = Origin(module_path="b1", module_type="torch.nn.modules.batchnorm.BatchNorm2d", function="batch_norm")
    c1 = b.op(relu, b.layer("conv2d", x, "c1", also=(folded,)), at="r1")
    dw = b.op("relu", b.layer("depthwise_conv2d", c1, "dw"), at="r2")
    y = b.op("hardswish", b.layer("conv2d", dw, "c2"), at="hs")
    z = b.op("cat", b.op("leaky_relu", b.op("add", c1, y), at="lr"), y)
    p = b.op("flatten", b.op("adaptive_avg_pool", z, at="p"), shape=(-1, 16))
    return b.facts(b.layer("linear", p, "fc", out=5, shape=(-1, 5)))


def chain() -> ModelFacts:
    """Returns ``Chain``."""
    b = Build("Chain")
    a = b.op("relu", b.layer("conv2d", b.input(), "a", out=6), at="ra")
    c = b.op("relu", b.layer("depthwise_conv2d", a, "b", out=6), at="rb")
    return b.facts(b.layer("conv2d", b.op("max_pool", c, at="mp"), "c", out=4))


def shift() -> ModelFacts:
    """Returns ``Shift``."""
    b = Build("Shift")
    s = b.op("sigmoid", b.layer("conv2d", b.input(), "a", out=4))
    return b.facts(b.layer("conv2d", b.op("avg_pool", s, at="ap"), "b", out=4))
