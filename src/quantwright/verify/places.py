"""Where points and outputs are: in the simulated graph, and in the ONNX file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import ArtifactError, MissingDependencyError
from quantwright.fakequant.fixed import Quantizer
from quantwright.prepare import PreparedModel
from quantwright.verify.compare import Power, Tally
from quantwright.verify.evaluate import class_axis

_KEY = "quantwright.points"  # model metadata that the ONNX exporter writes: JSON, point -> value
_BUDGET = 256 * 2**20  # bytes of point values held at once


@dataclass(slots=True)
class PointSlot:
    """Returns what is kept for one activation point while batches pass."""

    name: str
    node: str
    quantizer: Quantizer
    value: str
    all: Tally = field(default_factory=Tally)
    local: Tally = field(default_factory=Tally)
    power: Power = field(default_factory=Power)


@dataclass(slots=True)
class OutputSlot:
    """Returns what is kept for one output of the network."""

    point: str | None
    quantizer: Quantizer | None
    unfused: Tally = field(default_factory=Tally)
    fused: Tally = field(default_factory=Tally)
    floats: Power = field(default_factory=Power)
    unfused_power: Power = field(default_factory=Power)
    fused_power: Power = field(default_factory=Power)
    same: dict[str, int] = field(default_factory=dict)
    compared: int = 0

    def count_top1(self, which: str, reference: Tensor, other: Tensor) -> None:
        """Counts positions with the same highest score."""
        if reference.ndim >= 2 and reference.shape[class_axis(reference)] > 1:
            axis = class_axis(reference)
            equal = reference.argmax(axis) == other.argmax(axis)
            self.same[which] = self.same.get(which, 0) + int(equal.sum())
            if which == "float":
                self.compared += equal.numel()

    def top1(self, which: str) -> float | None:
        """Returns the fraction of positions whose highest score is the simulation's, or None without scores."""
        return self.same.get(which, 0) / self.compared if self.compared else None


def point_nodes(prepared: PreparedModel) -> dict[str, str]:
    """Returns point -> node whose value it is: the quantizer's, or the value itself where the simulation needs none."""
    nodes = list(prepared.graph.module.graph.nodes)
    names = {node.name for node in nodes}
    found = {d.point.name: d.point.tensor for d in prepared.plan.quantized() if d.redundant and d.point.tensor in names}
    for node in nodes:
        if node.op == "call_module" and node.meta.get("point"):
            found.setdefault(node.meta["point"], node.name)
    return found


def activation_points(prepared: PreparedModel, known: Mapping[str, str], where: Mapping[str, str]) -> list[PointSlot]:
    """Returns the activation points the file has, in execution order; one per node."""
    order = {node.name: index for index, node in enumerate(prepared.graph.module.graph.nodes)}
    found: dict[str, PointSlot] = {}
    for decision in prepared.plan.quantized():
        name = decision.point.name
        quantizer = prepared.quantizers.get(name) or prepared.quantizers.get(prepared.root(name))
        if decision.point.role in ("weight", "bias") or name not in known or name not in where or quantizer is None:
            continue
        found.setdefault(where[name], PointSlot(name, where[name], quantizer, known[name]))
    return sorted(found.values(), key=lambda p: order[p.node])


def sample_bytes(prepared: PreparedModel, nodes: Iterable[str]) -> int:
    """Returns the bytes that the values of these nodes take per sample, as float32."""
    wanted = set(nodes)
    shapes = [node.meta.get("shape") or () for node in prepared.graph.module.graph.nodes if node.name in wanted]
    return sum(4 * math.prod(size for size in shape[1:] if size > 0) for shape in shapes)


def network_outputs(prepared: PreparedModel, where: Mapping[str, str]) -> list[OutputSlot]:
    """Returns a slot per output tensor, with the point it is quantized at."""
    at = {node: point for point, node in where.items()}
    output = next(node for node in prepared.graph.module.graph.nodes if node.op == "output")
    slots = []
    for leaf in pytree.tree_leaves(output.args[0]):
        if isinstance(leaf, fx.Node):
            point = at.get(leaf.name)
            known = None if point is None else prepared.quantizers.get(prepared.root(point))
            slots.append(OutputSlot(point, known))
    return slots


def tensors(output: Any) -> list[Tensor]:
    """Returns every tensor of an output, in order, on the CPU."""
    return [leaf.detach().cpu() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


# -- the file ------------------------------------------------------------------------------------------------------
def load_onnx(path: Path) -> Any:
    """Returns the parsed ONNX file."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("verify needs onnx", fix='pip install "quantwright[onnx]"') from error
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ArtifactError("there is no such ONNX file", where=str(path), fix="export the model first")
    try:
        return onnx.load(str(path))
    except DecodeError as error:
        raise ArtifactError("this is no ONNX file, or it is damaged", where=str(path), fix="export it again") from error


def written_points(model: Any) -> dict[str, str]:
    """Returns point -> value as the exporter wrote it into the file's metadata; empty when it did not."""
    for entry in model.metadata_props:
        if entry.key == _KEY:
            points: dict[str, str] = json.loads(entry.value)
            return points
    return {}


def with_outputs(model: Any, names: Iterable[str]) -> bytes:
    """Returns the model with more outputs, as bytes; ``model`` stays as it is."""
    import onnx

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {value.name for value in extended.graph.output}
    typed = {value.name: value for value in extended.graph.value_info}
    for name in names:
        if name not in present:
            present.add(name)
            unknown = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            extended.graph.output.append(typed.get(name, unknown))
    data: bytes = extended.SerializeToString()
    return data


def portions(prepared: PreparedModel, batches: Iterable[Batch], bytes_per_sample: int) -> Iterator[Batch]:
    """Yields batches cut so that the values of all points fit into the budget, where the batch size may vary."""
    specs = [spec for spec in prepared.graph.inputs if spec.dtype is not None]
    free = all(spec.shape and spec.shape[0] == -1 for spec in specs)
    room = max(1, _BUDGET // max(1, bytes_per_sample))
    for batch in batches:
        if not free or batch.size <= room:
            yield batch
            continue
        for start in range(0, batch.size, room):
            yield cut(batch, start, start + room)


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Returns samples ``start`` to ``stop`` of every input."""
    cut = lambda item: item[start:stop] if isinstance(item, Tensor) else item  # noqa: E731
    args, kwargs = pytree.tree_map(cut, (batch.args, dict(batch.kwargs)))
    return Batch(args=args, kwargs=kwargs)
