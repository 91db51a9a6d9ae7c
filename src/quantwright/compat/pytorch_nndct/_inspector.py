"""Inspector: which operation of a network the device would compute, as the original's report has it.

What is known is what ``plan/device`` finds in ``targets/dpu``. Limits on sizes (kernels, channels, strides) are in
AMD's compiler and are not checked; the report says so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantwright import files
from quantwright.api import decide
from quantwright.compat.pytorch_nndct._arguments import as_device, as_example, require_architecture
from quantwright.compat.pytorch_nndct._messages import note, preparing, warn
from quantwright.compat.pytorch_nndct._names import Operation, operations
from quantwright.plan.device import Placed, place

RULE = "=" * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Returns where one operation is computed: ``dpu``, ``cpu`` or ``user`` (inputs), and why not on the DPU."""

    operation: Operation
    device: str
    constraint: str = ""


class Inspector:
    """Returns an inspector for one DPU architecture.

    Args:
        name_or_fingerprint: the name of an architecture, such as ``DPUCZDX8G_ISA1_B4096``.

    Raises:
        RefusedError: a fingerprint. UnknownNameError: no such architecture; the message lists them.
    """

    def __init__(self, name_or_fingerprint: str) -> None:
        self.target = require_architecture(name_or_fingerprint)
        self.assignments: tuple[Assignment, ...] = ()

    def inspect(
        self,
        module: nn.Module,
        input_args: Any,
        device: torch.device | str = "cuda",
        output_dir: str = "quantize_result",
        verbose_level: int = 1,
        image_format: str | None = None,
    ) -> None:
        """Writes ``inspect_<target>.txt``, prints a table (0: nothing, 1: what is not on the DPU, 2: everything)."""
        note("Start to inspect model...")
        if image_format is not None:
            warn("INSPECTOR_OUTPUT_FORMAT", f"image_format '{image_format}': no picture is drawn; see the text file")
        with preparing():
            decided = decide(
                module, "vai_q_pytorch", as_example(input_args, None), target="dpu", device=as_device(device)
            )
        placed = place(decided.graph.facts(), decided.target, decided.plan)
        self.assignments = assign(operations(decided.graph), placed)
        path = Path(output_dir) / f"inspect_{self.target}.txt"
        files.write_text(path, _report(self.target, decided.graph.name, self.assignments))
        if verbose_level > 0:
            sys.stdout.write(_summary(self.assignments, everything=verbose_level > 1) + f"\nsee {path}\n")
        note("Finish inspecting.")


def assign(found: Sequence[Operation], placed: Sequence[Placed]) -> tuple[Assignment, ...]:
    """Returns where each operation is computed, in execution order, with the reasons in the original's words."""
    of_node = {item.node: item for item in placed}
    return tuple(_assign(operation, of_node[operation.nodes[0].name]) for operation in found)


def _inputs(operation: Operation) -> list[str]:
    members = {node.name for node in operation.nodes}
    return [name for node in operation.nodes for name in node.inputs if name not in members]


def _assign(operation: Operation, placed: Placed) -> Assignment:
    words = {
        "": "",
        "kind": f"{operation.type} can't be assigned to DPU.",
        "input": f"The input of {operation.type} is not on DPU.",
    }
    device = {"device": "dpu", "cpu": "cpu", "user": "user"}[placed.where]
    return Assignment(operation=operation, device=device, constraint=words.get(placed.cause, placed.reason))


def _summary(assignments: Sequence[Assignment], *, everything: bool) -> str:
    """Returns the table people see: what is not on the DPU, or everything."""
    if everything:
        rows = [(a.operation.path, a.operation.type, a.device) for a in assignments if a.device != "user"]
        return _table(("node name", "op type", "assigned device"), rows)
    rows = [(a.operation.path, a.operation.type, a.constraint) for a in assignments if a.device == "cpu"]
    if not rows:
        return "All the operators are assigned to the DPU."
    return "The operators assigned to the CPU are as follows:\n" + _table(
        ("node name", "op Type", "hardware constraints"), rows
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _report(target: str, graph: str, assignments: Sequence[Assignment]) -> str:
    """Returns the text of the report file."""
    lines = [
        f"# Written by Quantwright. Operations are assigned by their kind; sizes are not checked against {target}:",
        "# those limits are known to AMD's compiler only.",
        RULE, "target info:", RULE, target, "", RULE, "inspection summary:", RULE,
        _summary(assignments, everything=False), RULE, f"graph name: {graph}",
    ]  # fmt: skip
    paths = {node.name: a.operation.path for a in assignments for node in a.operation.nodes}
    for assignment in assignments:
        operation, node = assignment.operation, assignment.operation.nodes[0]
        readers = [paths[name] for item in operation.nodes for name in item.users if name in paths]
        lines += [
            RULE,
            f"node name: {operation.path}",
            f"input nodes: {[paths[name] for name in _inputs(operation) if name in paths]}",
            f"output nodes: {readers}",
            f"op type: {operation.type}",
            f"outputs shape: {', '.join(str(list(item.shape)) for item in operation.nodes)}",
            f"assigned device: {assignment.device}",
        ]
        if assignment.constraint:
            lines.append(f"hardware constraints: {assignment.constraint}")
        if node.origins and node.origins[0].line:
            lines.append(f"source range: {node.origins[0].line}")
    return "\n".join(lines) + "\n"
