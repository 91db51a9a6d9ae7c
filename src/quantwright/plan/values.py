"""Values: what every activation gets: one point per group, at its host, and scales that are shared.

For the value of a group, in this order:

    cast        its own output spec is a narrower float format: a point of its own, whatever it is fused with
    share       the grid of the first input, through SameAs; redundant when the values cannot leave that grid
    quantized   the group computes on integers, or something that does reads it
    float       with the reason

The spec comes from role ``output`` and rules that match any node of the group. A value produced in float (and an input
of the network) takes role ``input``: of rules that match every operation that computes on it (what only some ask for is
an edge of theirs), and, in rule order, role ``output`` of rules that match the producer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quantwright.config import kinds
from quantwright.config.config import Match
from quantwright.config.spec import QuantSpec
from quantwright.plan.chain import Chained, Steps
from quantwright.plan.context import Context, fill_axis, float_format
from quantwright.plan.facts import NodeFacts
from quantwright.plan.groups import Group
from quantwright.plan.plan import Decision, Point, SameAs
from quantwright.plan.sign import Signs

GRID_FIELDS = ("format", "granularity", "symmetric", "narrow_range", "scale", "rounding", "min_scale")
FUSED = "computed together with"  # how the reason begins of a value that exists only inside what is quantized


@dataclass(slots=True)
class Values:
    """Returns the decisions about activations; call ``prepare`` once, then ``output`` in execution order."""

    context: Context
    _specs: dict[str, Chained] = field(default_factory=dict)  # head of a group -> its spec
    _bound: dict[str, tuple[str, str]] = field(default_factory=dict)  # head of a group -> (head it follows, why)
    _names: dict[str, str] = field(default_factory=dict)  # node -> name of the point of its value
    _signs: Signs = field(init=False)

    def __post_init__(self) -> None:
        self._signs = Signs(target=self.context.target, chains=self.context.chains, facts=self.context.facts)

    def prepare(self) -> None:
        """Works out the spec of every group and which groups follow a concat."""
        for group in self.context.groups.groups:
            if group.quantized and (group.cast or group.handling != "share"):
                self._specs[group.head] = self._spec(group)
        self._bind_joins()
        self._bind_shares()

    # -- specs --------------------------------------------------------------------------------------------------
    def _spec(self, group: Group) -> Chained:
        """Returns the spec of a group that is quantized."""
        context = self.context
        own = context.rules(*group.members)
        if group.handling in ("compute", "consume", "join") or group.cast:
            steps = context.chains.steps(own, "output")
            self._note_disagreement(group, [number for number, _ in steps])
            chained = context.ends.chain(context.chains, "output", steps, self._ending(group))
        else:
            steps = self._input_steps(group, own)
            chained = context.ends.chain(context.chains, "input", steps, self._ending(group))
        chained = self._signs.choose(group.head, group.host, chained)
        return self._axis(chained, context.facts.node(group.host))

    def _ending(self, group: Group) -> list[str]:
        """Returns the names of what computes on a group's value, where the target makes a difference for the ends."""
        return [node.name for node in self.context.groups.consumers(group)] if self.context.ends.layers else []

    def _input_steps(self, group: Group, own: Sequence[int]) -> Steps:
        """Returns the steps of a value produced in float: rules on all its consumers, and rules on its producer."""
        context = self.context
        consumers = [set(context.rules(node.name)) for node in context.groups.consumers(group)]
        common = set.intersection(*consumers) if consumers else set()
        found: list[tuple[int, str]] = []
        for number in sorted({*common, *own}):
            rule = context.config.rules[number]
            if number in common and rule.input is not None:
                found.append((number, "input"))
            if number in own and rule.output is not None and not group.excluded:
                found.append((number, "output"))
        return tuple(found)  # type: ignore[arg-type]  # both words are roles

    def _axis(self, chained: Chained, node: NodeFacts) -> Chained:
        granularity, rank = chained.spec.granularity, len(node.shape)
        if granularity is not None and granularity.kind == "per_channel" and granularity.axis is None and 0 < rank < 2:
            single = granularity.model_copy(update={"kind": "per_tensor"})
            return self.context.chains.set(chained, "granularity", single, "a value without a channel axis")
        return fill_axis(self.context.chains, chained, "output", 1, "the channel axis of an activation")

    def _note_disagreement(self, group: Group, numbers: Sequence[int]) -> None:
        """Notes two rules of the same kind that match different nodes of a group and set a field differently."""
        if len(group.members) < 2 or len(numbers) < 2:
            return
        rules, of_node, last = self.context.config.rules, self.context.matches.of_node, numbers[-1]
        beside = {n for name in group.members if last in of_node.get(name, ()) for n in of_node[name]}
        for number in numbers:
            if number in beside or not _same_kind(rules[number].match, rules[last].match):
                continue
            if _differ(rules[number].output, rules[last].output):
                self.context.note(
                    f"'{self.context.labels[group.host]}' and what it is fused with are quantized once; "
                    f"{self.context.rule_text(number)} and {self.context.rule_text(last)} disagree, the later one wins"
                )

    # -- shared scales ------------------------------------------------------------------------------------------
    def _bind_joins(self) -> None:
        """Binds the inputs of every concat with shared scales to its output, unless they are bound already."""
        if self.context.target.join != "shared":
            return
        for group in self.context.groups.groups:
            if group.handling != "join" or group.head not in self._specs or group.cast:
                continue
            for name in dict.fromkeys(self.context.facts.node(group.head).inputs):
                self._bind(name, group)

    def _bind(self, name: str, join: Group) -> None:
        root = self._root(name)
        if root is None or root.head not in self._specs or root.head in self._bound or root.head == join.head:
            return
        label = self.context.labels[join.host]
        followed = self._specs[join.head]
        self._specs[root.head] = self._signs.follow(root.head, self._specs[root.head], followed, label)
        mine, theirs = self._specs[root.head].spec, followed.spec
        if not mine.has_scale or any(getattr(mine, name) != getattr(theirs, name) for name in GRID_FIELDS):
            if mine.has_scale and theirs.has_scale:
                self.context.note(
                    f"'{self.context.labels[root.host]}' has another spec than '{label}', which concatenates it: "
                    f"it keeps its own scale"
                )
            return
        self._bound[root.head] = (join.head, f"concatenated by '{label}'")

    def _bind_shares(self) -> None:
        """Binds outputs to the grid of another output of the same place, where rules say so (``Rule.share``)."""
        for number, pairs in self.context.matches.shares.items():
            for name, other in pairs:
                mine, theirs = self._root(name), self._root(other)
                if mine is None or theirs is None or {mine.head, theirs.head} - self._specs.keys():
                    continue
                if mine.head in (theirs.head, self._followed(theirs.head)) or mine.head in self._bound:
                    continue
                self._bound[mine.head] = (theirs.head, f"shared by {self.context.rule_text(number)}")
                self.context.shared.add((number, name))

    def _root(self, name: str) -> Group | None:
        """Returns the group whose grid a value is on, looking through sharing groups."""
        group = self.context.groups.of_node.get(name)
        while group is not None and group.handling == "share" and not group.cast:
            group = self.context.groups.source(self.context.facts.node(group.head))
        return group

    def _followed(self, head: str) -> str:
        while head in self._bound:
            head = self._bound[head][0]
        return head

    # -- decisions ----------------------------------------------------------------------------------------------
    def output(self, node: NodeFacts) -> None:
        """Decides the value a node produces."""
        context, group = self.context, self.context.groups.of_node.get(node.name)
        if group is None:
            return
        point = Point(
            name=self.point_name(node.name),
            role="input" if node.kind == kinds.INPUT else "output",
            node=node.name,
            tensor=node.name,
        )
        if group.handling == "share" and not group.cast:
            decision = self._shared(node, point, context.of_value.get(node.inputs[0]))
        elif node.name == group.host:
            decision = self._host(group, point)
        elif context.groups.order[node.name] > context.groups.order[group.host]:
            decision = self._shared(node, point, context.of_value.get(group.host))
        else:
            decision = context.leave_float(point, self._why_inside(group))
        context.of_value[node.name] = decision

    def _host(self, group: Group, point: Point) -> Decision:
        context = self.context
        chained = self._specs.get(group.head)
        if chained is None:
            return context.leave_float(point, self._why_float(group))
        why = float_format(chained)
        if why:
            return context.leave_float(point, why, chained)
        if group.handling not in ("compute", "consume", "join") and not group.cast:
            readers = self._asking(group)
            point = Point(name=point.name, role="input", node=point.node, tensor=point.tensor, consumers=readers)
        if group.head in self._bound:
            follows, why = self._bound[group.head]
            root = self._specs[self._followed(group.head)]
            host = context.groups.of_node[follows].host
            return context.quantize(point, root, SameAs(point=self.point_name(host), why=why))
        shape = context.facts.node(group.host).shape or None
        context.legality.check(point.name, chained, point.role, context.facts.node(group.head).kind, shape)
        return context.quantize(point, chained)

    def _asking(self, group: Group) -> tuple[str, ...]:
        """Returns which readers of a value computed in float read it quantized; () for all of them."""
        context = self.context
        users = [context.facts.node(name) for name in context.facts.node(group.host).users]
        if not context.target.placement.float_readers or context.facts.node(group.head).kind == kinds.INPUT:
            return ()
        asking = [node.name for node in users if context.groups.wants(node)]
        return tuple(asking) if len(asking) < len(users) else ()

    def _shared(self, node: NodeFacts, point: Point, source: Decision | None) -> Decision:
        """Returns the decision about a value that is on the grid of another one."""
        context = self.context
        if source is None or source.spec is None:
            name = context.labels.get(source.point.tensor, "") if source is not None else ""
            return context.leave_float(
                point, f"passes on '{name}', which stays float" if name else "passes on a constant"
            )
        granularity = source.spec.granularity
        several = granularity is not None and granularity.kind != "per_tensor" and source.spec.has_scale
        if several and node.kind in kinds.MOVEMENT:
            why = f"on the grid of '{source.point.name}' already, whose scales ({granularity}) do not move along"
            return context.leave_float(point, why)
        chained = Chained(spec=source.spec, reasons=source.reasons)
        relation = SameAs(point=source.point.name, why=f"{node.kind} passes on the grid of its input")
        moved = node.kind in kinds.MOVEMENT
        return context.quantize(point, chained, relation, redundant=node.keeps_grid or moved)

    # -- reasons ------------------------------------------------------------------------------------------------
    def _why_inside(self, group: Group) -> str:
        chained = self._specs.get(group.head)
        if chained is None:
            return self._why_float(group)
        why = float_format(chained)
        if why:
            return why
        return f"{FUSED} '{self.context.labels[group.host]}' and quantized once, there"

    def _why_float(self, group: Group) -> str:
        context, head = self.context, self.context.facts.node(group.head)
        if group.absorbed_by is not None:
            return f"{FUSED} '{context.labels[group.absorbed_by]}', which alone reads it and quantizes what it joins"
        if group.excluded:
            return context.why_excluded(head.name)
        if group.result:
            return "a result of the network, and nothing computes on integers with it"
        if head.kind == kinds.INPUT:
            return "no operation that is quantized reads this input"
        if head.kind == kinds.CONSTANT:
            return "a constant that no quantized operation reads"
        if group.handling == "join":
            return "joins values that are float"
        if group.handling in ("compute", "consume"):
            return "nothing reads it as integers"
        if context.target.handling(head.kind) == "fuse":
            return f"{head.kind} follows nothing it could be quantized with, and no quantized operation reads it"
        return context.why_kind(head) + ("" if group.wanted else "; no quantized operation reads it")

    def point_name(self, name: str) -> str:
        """Returns the name of the point of a node's value."""
        if name not in self._names:
            label, kind, group = self.context.labels[name], self.context.facts.node(name).kind, self.context.groups
            readers = group.consumers(group.of_node[name]) if kind == kinds.UNSEEN and name in group.of_node else []
            if readers:  # nothing can stand behind it: it is quantized where it is read
                label = self.context.labels[readers[0].name]
            suffix = "input" if kind == kinds.INPUT or readers else "output"
            self._names[name] = self.context.unique(f"{label}:{suffix}")
        return self._names[name]


def _same_kind(one: Match, two: Match) -> bool:
    """Returns whether two matches are equally specific: both by name, both by type, or both by function."""
    return (one.name is None, one.type is None) == (two.name is None, two.type is None)


def _differ(one: QuantSpec | None, two: QuantSpec | None) -> bool:
    """Returns whether two partial specs set a field to different values."""
    if one is None or two is None:
        return False
    return any(getattr(one, name) != getattr(two, name) for name in set(one.fields_set()) & set(two.fields_set()))
