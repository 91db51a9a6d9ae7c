"""The grids a file has: is the scale and zero point of every point in the file what was measured?

A runtime may want a signed grid written in unsigned integers. Then all integers and the zero point are larger by half
the range, and nothing else may differ: scales are compared bit for bit, zero points but for that shift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantwright.config.spec import Granularity
from quantwright.numerics import affine
from quantwright.verify.places import PointSlot


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGrid:
    """Returns what DequantizeLinear in the file multiplies with and subtracts.

    Shapes:
        scale, zero_point: [G].
    """

    scale: np.ndarray[Any, Any]
    zero_point: np.ndarray[Any, Any]

    @property
    def unsigned(self) -> bool:
        """Returns whether the integers are stored unsigned."""
        return bool(self.zero_point.dtype.kind == "u")

    @property
    def bits(self) -> int:
        """Returns the width of the stored integers."""
        return 8 * int(self.zero_point.dtype.itemsize)


def file_grids(model: Any) -> dict[str, FileGrid]:
    """Returns value -> grid for every value of an ONNX model that DequantizeLinear makes of constants."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or not set(node.input[1:]) <= set(constants) or len(node.input) < 3:
            continue
        scale, zero = (numpy_helper.to_array(constants[name]).reshape(-1) for name in node.input[1:3])
        found[node.output[0]] = FileGrid(scale=scale, zero_point=zero)
    return found


def compare_grids(points: Iterable[PointSlot], grids: dict[str, FileGrid]) -> tuple[list[str], list[str]]:
    """Returns (problems, notes): grids of the file that are not those of the simulation, and how many are shifted."""
    problems: list[str] = []
    shifts: dict[int, int] = {}
    for point in points:
        grid = grids.get(point.value)
        if grid is None or point.quantizer.qparams is None or point.quantizer.dynamic:
            continue
        spec = point.quantizer.spec
        shift = 2 ** (grid.bits - 1) if grid.unsigned and spec.signed else 0
        if shift:
            shifts[shift] = shifts.get(shift, 0) + 1
        problems += _problems(point, grid, shift)
    return problems, [
        f"{count} points are signed in the plan and unsigned in the file: zero points are {shift} larger, scales are "
        "equal bit for bit, so every value is the same number"
        for shift, count in sorted(shifts.items())
        if not problems
    ]


def _problems(point: PointSlot, grid: FileGrid, shift: int) -> Iterator[str]:
    qparams, spec = point.quantizer.qparams, point.quantizer.spec
    assert qparams is not None  # compare_grids() looked
    _, step_G = affine.scales(qparams, spec.granularity or Granularity(), point.quantizer.arithmetic)
    scale_G = step_G.detach().cpu().float().reshape(-1).numpy()
    zero_G = qparams.zero_point.detach().cpu().reshape(-1).numpy()
    if not np.array_equal(scale_G, grid.scale.astype(np.float32)):
        yield f"{point.name} has the scale {_shown(grid.scale)} in the file and {_shown(scale_G)} in the simulation"
    if not np.array_equal(zero_G.astype(np.int64) + shift, grid.zero_point.astype(np.int64)):
        yield (
            f"{point.name} has the zero point {_shown(grid.zero_point)} in the file; {_shown(zero_G)} in the "
            f"simulation would be {_shown(zero_G.astype(np.int64) + shift)} there"
        )


def _shown(values: np.ndarray[Any, Any]) -> str:
    """Returns one number, or the first of several."""
    first = f"{values.reshape(-1)[0]:.9g}"
    return first if values.size == 1 else f"{first} ... ({values.size})"
