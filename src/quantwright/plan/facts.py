"""ModelFacts: what the plan may know about a model. Names, kinds and shapes; no tensors, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Returns where a node came from in the user's code; a node that passes merged keeps several.

    ``module_path`` is the module whose call made the node: a layer of torch's, or a module with none inside. For a
    function written in the ``forward`` of a module with children it is "", and the last of ``parents`` is that module.
    It is the *first* path of a module that is reachable by several (tied modules are one identity); ``aliases`` are
    the others.
    """

    module_path: str  # "layer1.0.conv1"
    module_type: str  # "torch.nn.modules.conv.Conv2d"
    function: str  # torch function or method: "conv2d", "add", "flatten"
    aten: str = ""  # "aten.conv2d.default"
    fx_name: str = ""  # name in a torch.fx symbolic trace of the same call: "layer1_0_conv1", "add_1"
    parents: tuple[tuple[str, str], ...] = ()  # (path, type) of every enclosing module, outermost first
    aliases: tuple[str, ...] = ()
    line: str = ""  # "model.py:12"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamFacts:
    """Returns facts about a weight or bias: its name in the graph, shape, and the output- and input-channel axes."""

    name: str
    shape: tuple[int, ...]
    channel_axis: int = 0
    input_axis: int | None = None
    groups: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Returns facts about one node of the graph.

    Attributes:
        inputs: names of the nodes whose float tensors it reads, in order (parameters and constants left out).
        users: names of the nodes that read it.
        constants: other parameters and tables of the model that it reads (a position table that is added).
        masks: those of its inputs that it adds to the scores before a softmax.
        shape: output shape; the batch dimension is -1 when it is dynamic. () for nodes without one tensor output.
        is_float: whether the output is one floating-point tensor.
        params: its arguments that are no tensors, by name (``stride``, ``dim``), and what its weight says of it
            (``kernel_size``, ``in_channels``, ``out_features`` ...); plain values.
    """

    name: str
    kind: str
    origins: tuple[Origin, ...]
    inputs: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    weight: ParamFacts | None = None
    bias: ParamFacts | None = None
    constants: tuple[ParamFacts, ...] = ()
    shape: tuple[int, ...] = ()
    is_float: bool = True
    params: Mapping[str, Any] = field(default_factory=dict)
    keeps_grid: bool = False  # output values are a subset of its first input's (movement, max pool, zero pad, nearest)

    @property
    def label(self) -> str:
        """Returns how people are told about this node: module path if a module call made it, else the node name."""
        first = self.origins[0] if self.origins else None
        return first.module_path if first and first.module_path else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Returns the facts of a whole model; ``nodes`` in execution order, inputs and outputs by node name."""

    name: str
    nodes: tuple[NodeFacts, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module_paths: tuple[tuple[str, str], ...] = ()  # every (path, type) of the user's model, also those folded away
    by_name: Mapping[str, NodeFacts] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {node.name: node for node in self.nodes})

    def node(self, name: str) -> NodeFacts:
        """Returns the node called ``name``."""
        return self.by_name[name]
