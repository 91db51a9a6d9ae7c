"""What is a weight in ``einsum``: the one operand that is a parameter, and which of its axes are which."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from quantwright.graph import ops


@dataclass(frozen=True, slots=True, kw_only=True)
class EinsumWeight:
    """Returns the parameter of a product of two tensors, and its axes of output channels and of what is summed."""

    node: fx.Node
    channel_axis: int
    input_axis: int | None


def einsum_weight(node: fx.Node) -> EinsumWeight | None:
    """Returns the weight of an ``einsum`` of one parameter and one value; None for anything else.

    Output channels are the last axis of the weight that the result has and the value has not.
    """
    if ops.op_name(node) != "einsum":
        return None
    equation, operands = str(ops.argument(node, "equation")).replace(" ", ""), ops.argument(node, "tensors")
    terms, arrow, result = equation.partition("->")
    names = terms.split(",")
    constant = [operand for operand in operands if ops.parameter_of(operand)]
    if not arrow or "." in equation or len(names) != 2 or len(constant) != 1:
        return None
    index = list(operands).index(constant[0])
    mine, theirs = names[index], names[1 - index]
    own = [axis for axis, name in enumerate(mine) if name in result and name not in theirs]
    summed = [axis for axis, name in enumerate(mine) if name in theirs and name not in result]
    return EinsumWeight(node=constant[0], channel_axis=own[-1] if own else 0, input_axis=summed[0] if summed else None)
