"""Groups: which operations are quantized together, at which node, and which values are quantized at all.

A group is an operation (its *head*) and what is fused behind it. Spec vai_q_pytorch 4.3, for every target:

    - a ``fuse`` operation or pure data movement joins the operation it reads when that has no other reader;
    - the group is quantized once, at its *host*: its last node that is not pure data movement;
    - with ``join: output``, a group whose last node only a concat reads is quantized by that concat.

A ``share`` operation, and data movement or a grid-keeping ``fuse`` operation that joined nothing, form a sharing group:
they pass on the grid of their first input. Excluded nodes never share a group with nodes that are not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from quantwright.config import kinds
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.targets import Handling, Target


@dataclass(slots=True)
class Group:
    """Returns nodes that are quantized together.

    Attributes:
        handling: what the target does with the head; ``float`` when the head is excluded.
        members: node names in execution order, the head first.
        host: where the quantizer sits.
        cast: the output is cast to a float format, alone (spec vai_q_pytorch 3.7).
        wanted: something that computes on integers reads it.
        active: it is quantized for its own sake, whoever reads it.
        absorbed_by: the concat that quantizes it, with ``join: output``.
        result: the network returns it and nothing computes on integers with it, so the target leaves it float.
    """

    handling: Handling
    members: list[str]
    host: str
    excluded: bool = False
    cast: bool = False
    wanted: bool = False
    active: bool = False
    absorbed_by: str | None = None
    result: bool = False

    @property
    def head(self) -> str:
        """Returns the operation the group begins with."""
        return self.members[0]

    @property
    def quantized(self) -> bool:
        """Returns whether the group's value is quantized (a sharing group: whether its source should be)."""
        return self.cast or ((self.active or self.wanted) and self.absorbed_by is None and not self.result)


@dataclass(slots=True)
class Groups:
    """Returns the groups of a model, in execution order, and the group of every node."""

    facts: ModelFacts
    target: Target
    excluded: Collection[str]
    cast: Collection[str]
    included: Collection[str] = ()
    reads_float: Collection[str] = ()
    groups: list[Group] = field(default_factory=list)
    of_node: dict[str, Group] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)

    def handling(self, node: NodeFacts) -> Handling:
        """Returns what happens to a node: what the target says, unless a rule excludes or includes it."""
        if node.name in self.excluded:
            return "float"
        handling = self.target.handling(node.kind)
        placement = self.target.placement
        if node.kind in placement.layers_only and not is_torch_layer(node, placement.layer_types):
            handling = "float"
        return self.target.included if handling == "float" and node.name in self.included else handling

    def source(self, node: NodeFacts) -> Group | None:
        """Returns the group whose grid a sharing node passes on."""
        return self.of_node.get(node.inputs[0]) if node.inputs else None

    def wants(self, node: NodeFacts) -> bool:
        """Returns whether ``node`` asks for what it reads to be quantized."""
        return _wants(self, node)

    def consumers(self, group: Group) -> list[NodeFacts]:
        """Returns what computes on the group's value, in execution order, looking through sharing groups."""
        found: dict[str, NodeFacts] = {}
        waiting, seen = [group], {group.head}
        while waiting:
            current = waiting.pop()
            for name in (user for member in current.members for user in self.facts.node(member).users):
                node, its_group = self.facts.node(name), self.of_node.get(name)
                if self.handling(node) in ("compute", "consume", "join"):
                    found[name] = node
                elif its_group is not None and its_group.handling == "share" and its_group.head not in seen:
                    seen.add(its_group.head)
                    waiting.append(its_group)
        return sorted(found.values(), key=lambda node: self.order[node.name])


def form_groups(
    facts: ModelFacts,
    target: Target,
    excluded: Collection[str] = (),
    cast: Collection[str] = (),
    asked: Collection[str] = (),
    included: Collection[str] = (),
    reads_float: Collection[str] = (),
) -> Groups:
    """Returns the groups of a model, with what is decided about each.

    Args:
        excluded: nodes that rules leave float.
        cast: nodes whose output is cast to a float format; they stay alone.
        asked: nodes whose output a rule is about: it is quantized, also where the target would leave it float.
        included: nodes that rules quantize although the target leaves their kind float.
        reads_float: nodes that by a rule do not ask for what they read to be quantized.
    """
    made = Groups(facts=facts, target=target, excluded=excluded, cast=cast, included=included, reads_float=reads_float)
    made.order = {node.name: index for index, node in enumerate(facts.nodes)}
    ends = _hidden_ends(facts)
    for node in facts.nodes:
        made.readers[node.name] = len(node.users) + (node.name in ends)
    for node in facts.nodes:
        if not node.is_float or node.kind == kinds.OUTPUT:
            continue
        parent = made.of_node.get(node.inputs[0]) if node.inputs else None
        if parent is not None and _joins(made, node, parent):
            parent.members.append(node.name)
            if node.kind not in kinds.MOVEMENT or node.kind in target.placement.hosts:
                parent.host = node.name
            made.of_node[node.name] = parent
        else:
            _begin(made, node)
    _find_absorbed(made)
    _find_active(made)
    _find_wanted(made)
    _find_results(made, asked)
    return made


def _hidden_ends(facts: ModelFacts) -> set[str]:
    """Returns the network's outputs that no ``output`` node reads: being returned counts as a reader."""
    return {
        name
        for name in facts.outputs
        if not any(facts.node(user).kind == kinds.OUTPUT for user in facts.node(name).users)
    }


def _joins(made: Groups, node: NodeFacts, parent: Group) -> bool:
    """Returns whether ``node`` is quantized together with what it reads."""
    movement = node.kind in kinds.MOVEMENT and made.target.handling(node.kind) != "float"
    if not movement and made.target.handling(node.kind) != "fuse":
        return False
    if len(set(node.inputs)) != 1 or made.readers[node.inputs[0]] != 1:
        return False
    if node.name in made.cast or parent.cast or parent.handling == "share":
        return False
    if parent.excluded != (node.name in made.excluded) or not _may_follow(made, node):
        return False
    # the inputs of a concat with shared scales use the scale of its own output, not of what a clamp leaves of it
    return movement or parent.handling != "join" or made.target.join == "output"


def _may_follow(made: Groups, node: NodeFacts) -> bool:
    """Returns whether a tool that fuses ``node``'s kind fuses it with what it reads (``Placement.fuse_behind``)."""
    behind = made.target.placement.fuse_behind.get(node.kind)
    if behind is None:
        return True
    read = made.facts.node(node.inputs[0])
    placement = made.target.placement
    return read.kind in behind and (
        read.kind not in placement.layers_only or is_torch_layer(read, placement.layer_types)
    )


def is_torch_layer(node: NodeFacts, types: Collection[str] = ()) -> bool:
    """Returns whether a layer of torch's own computes a node, of one of some types: no function, no user's module."""
    kind = node.origins[0].module_type if node.origins else ""
    return kind.startswith("torch.nn.") and (not types or kind.rpartition(".")[2] in types)


def _begin(made: Groups, node: NodeFacts) -> None:
    """Begins a group with ``node``."""
    handling = made.handling(node)
    if handling == "fuse":
        alone: Handling = made.target.placement.alone.get(node.kind, "float")
        alone = made.target.included if node.name in made.included else alone
        handling = "share" if node.keeps_grid else alone
    if handling == "share" and not node.inputs:
        handling = "float"
    group = Group(
        handling=handling,
        members=[node.name],
        host=node.name,
        excluded=node.name in made.excluded,
        cast=node.name in made.cast,
    )
    made.groups.append(group)
    made.of_node[node.name] = group


def _find_absorbed(made: Groups) -> None:
    """Marks groups that a concat quantizes: it alone reads their last node (spec vai_q_pytorch 4.3)."""
    if made.target.join != "output":
        return
    for group in made.groups:
        last = made.facts.node(group.members[-1])
        if made.readers[last.name] == 1 and last.users and not group.cast:
            reader = made.facts.node(last.users[0])
            if made.handling(reader) == "join" and reader.name not in made.cast:
                group.absorbed_by = reader.name


def _find_active(made: Groups) -> None:
    """Marks groups that are quantized for their own sake, in execution order: grids are passed on."""
    for group in made.groups:
        node = made.facts.node(group.head)
        always = node.kind == kinds.INPUT and made.target.placement.inputs == "quantized" and len(node.shape) > 1
        if always or group.handling == "compute" or (group.handling == "join" and made.target.join == "output"):
            group.active = True
        elif group.handling == "share":
            source = made.source(node)
            group.active = source is not None and source.active
        elif group.handling == "join":
            group.active = any(made.of_node[name].active for name in node.inputs if name in made.of_node)


def _find_wanted(made: Groups) -> None:
    """Marks groups that something computing on integers reads, against execution order."""
    for node in reversed(made.facts.nodes):
        if _wants(made, node):
            for name in _wanted_of(made, node):
                group = made.of_node.get(name)
                if group is None or group is made.of_node.get(node.name):
                    continue
                if _can_be_wanted(made, node, group, name):
                    group.wanted = True


def _wanted_of(made: Groups, node: NodeFacts) -> list[str]:
    """Returns which operands of an operation that computes on integers are to be quantized for it (``Placement``)."""
    place = made.target.placement
    if node.name in made.included or made.handling(node) not in ("compute", "consume"):
        return list(node.inputs)
    if node.kind in place.tensors_only and len(node.inputs) < 2:
        return []
    read = {name: made.facts.node(name).kind for name in node.inputs}
    if any(kind in place.passed_over.get(node.kind, ()) for kind in read.values()):
        return []
    return [name for name in node.inputs if (read[name], node.kind) not in place.unread]


def _find_results(made: Groups, asked: Collection[str]) -> None:
    """Marks what becomes of the network's results: always quantized, always float, or float where nothing computes."""
    ends = set(made.facts.outputs)
    for group in made.groups:
        if group.members[-1] in ends and made.target.placement.results != "computed":
            group.result = made.target.placement.results == "float"
            group.active = group.active or not group.result
            continue
        kind = made.facts.node(group.head).kind
        if kind in made.target.float_results and not group.wanted and group.members[-1] in ends:
            group.result = not any(name in asked for name in group.members)


def _can_be_wanted(made: Groups, node: NodeFacts, group: Group, name: str) -> bool:
    """Returns whether a value may be quantized for its reader: no mask, no angle that the target leaves float."""
    held = group.handling == "float" and made.facts.node(group.head).kind in kinds.HELD_FLOAT
    return not held and name not in node.masks


def _wants(made: Groups, node: NodeFacts) -> bool:
    """Returns whether ``node`` reads its inputs as integers, or passes them to something that does."""
    handling, group = made.handling(node), made.of_node.get(node.name)
    if node.name in made.reads_float:
        return False
    if handling in ("compute", "consume"):
        several = made.target.placement.float_operands and len(set(node.inputs)) > 1
        return made.target.quantize_before_compute and not several
    if node.name in made.cast:
        return False
    if handling == "join":
        return made.target.join == "output" or (group is not None and (group.active or group.wanted))
    return group is not None and group.handling == "share" and group.wanted
