"""Positions: where the binary point of every tensor stands, and which points an operation reads and writes.

A power-of-two scale 2**-p is the *position* p of fixed-point hardware. Only points with one such scale, symmetric and
of a range of their own, have a position that can be moved; for every other point it is unknown (None), and rules about
it do not apply.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from quantwright.config import kinds
from quantwright.graph import ops
from quantwright.graph._optable import KIND_OF
from quantwright.numerics.qparams import QParams
from quantwright.passes import Change
from quantwright.plan.plan import ProductOf
from quantwright.prepare import PreparedModel

LAYERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR)
_PARTS = (*kinds.ACTIVATION_PART, *kinds.NORM_PART)
_TRANSPARENT = (*kinds.MOVEMENT, *kinds.PAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """Returns one operation and the points of its operands, result, weight and bias; None where there is none.

    Attributes:
        inputs: one entry per operand, in order; movement and padding between is looked through.
        output: the point that quantizes the result, possibly behind what is fused with the operation.
    """

    node: fx.Node
    kind: str
    label: str
    inputs: tuple[str | None, ...]
    output: str | None
    weight: str | None
    bias: str | None


class Positions:
    """Returns the positions of a calibrated model; ``move`` changes one, ``apply`` writes them all back.

    Attributes:
        changes: one per move, in order.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        self.prepared = prepared
        self.changes: list[Change] = []
        self._of: dict[str, int] = {}
        for name, quantizer in prepared.quantizers.items():
            own = prepared.root(name) == name and not isinstance(prepared.plan[name].relation, ProductOf)
            position = _position(quantizer.qparams) if own and quantizer.spec.is_integer else None
            if position is not None and quantizer.spec.symmetric is True and quantizer.spec.signed:
                self._of[name] = position
        self._moved: set[str] = set()
        self._followed: dict[str, QParams] = {}
        self.ops = [op for op in map(self._op, list(prepared.graph.module.graph.nodes)) if op is not None]

    def __getitem__(self, point: str | None) -> int | None:
        """Returns the position of a point, None when it has none."""
        return None if point is None else self._of.get(self.prepared.root(point))

    def bits(self, point: str) -> int:
        """Returns the width of the tensor at a point."""
        return self.prepared.quantizers[self.prepared.root(point)].spec.bits

    def move(self, point: str, position: int, by: str, op: Op, why: str) -> None:
        """Moves a position and records what it was; nothing happens when it is there already."""
        root = self.prepared.root(point)
        before = self._of[root]
        if position == before:
            return
        self._of[root] = position
        self._moved.add(root)
        self._tell(f"position of {root} {before} -> {position} ({why})", by, op, root, before, position)

    def follow(self, point: str, other: str, by: str, op: Op, why: str) -> None:
        """Gives a point the grid of another one, also where scales are no powers of two; kinds of grids must agree."""
        if self[point] is not None and self[other] is not None:
            self.move(point, self._of[self.prepared.root(other)], by, op, why)
            return
        mine, theirs = self.prepared.root(point), self.prepared.root(other)
        before, after = self._grid(mine), self._grid(theirs)
        if mine == theirs or before is None or after is None or not self._alike(mine, theirs):
            return
        if not torch.equal(before.scale, after.scale) or not torch.equal(before.zero_point, after.zero_point):
            self._followed[mine] = after
            was, now = (grid.scale.flatten()[0].item() for grid in (before, after))
            self._tell(f"scale of {mine} {was:.6g} -> {now:.6g} ({why})", by, op, mine, was, now)

    def _tell(self, text: str, by: str, op: Op, point: str, before: float, after: float) -> None:
        data = {"adjustment": by, "point": point, "before": before, "after": after}
        text = f"{by} at {op.label}: {text}"
        self.changes.append(Change(by="position_adjustment", node=op.node.name, text=text, data=data))

    def _grid(self, root: str) -> QParams | None:
        quantizer = self.prepared.quantizers[root]
        return self._followed.get(root, quantizer.qparams) if quantizer.spec.is_integer else None

    def _alike(self, one: str, two: str) -> bool:
        first, second = (self.prepared.quantizers[name].spec for name in (one, two))
        fields = ("format", "granularity", "symmetric", "narrow_range", "scale")
        return all(getattr(first, field) == getattr(second, field) for field in fields)

    def apply(self) -> None:
        """Gives every point that was moved the scale of its new position, and those that share it."""
        for name in self._moved:
            quantizer = self.prepared.quantizers[name]
            if quantizer.qparams is not None:
                scale = torch.full_like(quantizer.qparams.scale, 2.0 ** -self._of[name])
                quantizer.qparams = QParams(scale=scale, zero_point=quantizer.qparams.zero_point)
        for name, qparams in self._followed.items():
            self.prepared.quantizers[name].qparams = qparams
        self.prepared.link()

    # -- what an operation reads and writes ---------------------------------------------------------------------
    def _op(self, node: fx.Node) -> Op | None:
        if node.op != "call_function" or ops.is_quantizer(node) or not ops.is_tensor(node):
            return None
        weight, bias = ops.weight_and_bias(node)
        origins = node.meta.get("origins", ())
        return Op(
            node=node,
            kind=_kind(node),
            label=origins[0].module_path if origins and origins[0].module_path else node.name,
            inputs=tuple(self._source(operand) for operand in _operands(node, weight, bias)),
            output=self.output(node),
            weight=self._parameter(weight),
            bias=self._parameter(bias),
        )

    def _parameter(self, node: fx.Node | None) -> str | None:
        name = ops.parameter_of(node)
        return name if name in self.prepared.quantizers else None

    def _source(self, node: fx.Node) -> str | None:
        """Returns the point an operand's values are on the grid of."""
        while not ops.is_quantizer(node):
            kind = ops.kind_of(node)
            if kind not in _TRANSPARENT or not node.args or not isinstance(node.args[0], fx.Node):
                return None
            node = node.args[0]
        return str(node.meta["point"])

    def output(self, node: fx.Node) -> str | None:
        """Returns the point that quantizes the result of ``node``: its own, or that of the reader it is fused with.

        Movement, clamps and the like are fused with what they read, and a concat with what it joins.
        """
        seen: fx.Node | None = node
        while seen is not None:
            whole = next((user for user in seen.users if ops.is_quantizer(user) and not user.meta.get("edge")), None)
            if whole is not None:
                return str(whole.meta["point"])
            reader = next(iter(sorted(user for user in seen.users if user.op == "call_function")), None)
            together = ("fuse", "share", "join")
            seen = reader if reader is not None and self._handling(reader) in together else None
        return None

    def _handling(self, node: fx.Node) -> str:
        return self.prepared.target.handling(ops.kind_of(node))


def _kind(node: fx.Node) -> str:
    """Returns the kind of an operation by what it computes, also inside a module that is an activation."""
    kind = ops.kind_of(node)
    return KIND_OF.get(ops.op_name(node), kind) if kind in _PARTS else kind


def producer(node: fx.Node) -> fx.Node:
    """Returns the operation behind quantizers, movement and padding."""
    while (ops.is_quantizer(node) or ops.kind_of(node) in _TRANSPARENT) and node.args:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            break
        node = source
    return node


def readers(node: fx.Node) -> Iterator[fx.Node]:
    """Yields the operations that read ``node``, through quantizers."""
    for user in sorted(node.users):
        if ops.is_quantizer(user):
            yield from readers(user)
        else:
            yield user


def _operands(node: fx.Node, weight: fx.Node | None, bias: fx.Node | None) -> list[fx.Node]:
    """Returns the float tensors an operation reads, without its weight and bias, in order."""
    found: list[fx.Node] = []

    def visit(argument: fx.Node) -> fx.Node:
        if argument not in (weight, bias) and ops.is_float(argument) and not ops.parameter_of(argument):
            found.append(argument)
        return argument

    fx.node.map_arg((node.args, node.kwargs), visit)
    return found


def _position(qparams: QParams | None) -> int | None:
    """Returns p when there is one scale and it is 2**-p, else None."""
    if qparams is None or qparams.scale.numel() != 1 or bool(qparams.zero_point.any()):
        return None
    mantissa, exponent = math.frexp(float(qparams.scale))
    return 1 - exponent if mantissa == 0.5 else None
