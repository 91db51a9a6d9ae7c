"""Writes ONNX (QuantizeLinear / DequantizeLinear), checked and run in ONNX Runtime before it gets its name.

Weights and biases are stored as integers only. Rounding that QuantizeLinear does not have becomes half-even by default
and the difference is measured; ``exact_rounding=True`` writes the rounding out as arithmetic.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import ExportError, MissingDependencyError, StateError
from quantwright.exporters._onnx_trace import Mark, marked_module, output_names, to_onnx_ir
from quantwright.files import atomic_path, sha256
from quantwright.graph.graph import Graph
from quantwright.plan.plan import Decision
from quantwright.prepare import PreparedModel
from quantwright.verify.runtime import OrtRunner

if TYPE_CHECKING:
    from quantwright.exporters._onnx_encode import Encoding

_LIMIT = 2**31 - 2**20  # bytes one protobuf file can hold, less some room
_OPSETS = (21, 22, 23)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingGap:
    """Returns how far the file's rounding is from the spec's on the example, each point fed the simulation's input.

    Units:
        max_lsb: integer steps.
    """

    points: int = 0
    values: int = 0
    differing: int = 0
    max_lsb: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRecord:
    """Returns what was written.

    Attributes:
        file: its name. size: bytes. nodes: operator -> count. weights: storage type -> {"tensors": n, "bytes": n}.
        points: point -> value that stands for it in the file.
        rounding: difference between the spec's rounding and the file's; None when there is none by construction.
        shifted: how many activation points are signed in the plan and unsigned in the file: their integers and zero
            points are 128 larger, and mean the same numbers.
        clamped: how many clamps were moved behind the rounding.
        output_gap: largest difference of an output to the simulation on the example, "unfused" and "fused".
    """

    file: str
    size: int
    sha256: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: Mapping[str, int]
    weights: Mapping[str, Mapping[str, int]]
    points: Mapping[str, str]
    shifted: int = 0
    clamped: int = 0
    exact_rounding: bool = False
    rounding: RoundingGap | None = None
    output_gap: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        plain = asdict(self)
        for name in ("inputs", "outputs", "warnings"):
            plain[name] = list(plain[name])
        return plain


def export(
    prepared: PreparedModel,
    path: Path | str,
    *,
    exact_rounding: bool = False,
    opset: int = 21,
    qdq_for_redundant: bool = True,
    keep_float_layers: bool = True,
    keep_signed: bool = False,
) -> ExportRecord:
    """Returns the record of the ONNX file it wrote; the file appears under its name only once it was proved to run.

    Args:
        exact_rounding: write rounding other than half-even as arithmetic that equals the simulation bit for bit;
            runtimes cannot fuse it into integer kernels.
        qdq_for_redundant: also write the pair where the simulation needs none because the value is on the grid
            already (data movement, max pool), so that runtimes can fuse.
        keep_float_layers: stop ONNX Runtime from quantizing the weights of layers the plan leaves float; see
            ``_onnx_guard``.
        keep_signed: write signed activations as signed integers also where the target's runtime is faster with
            unsigned ones.

    Raises:
        ExportError: something cannot be written, the checker refuses the file, or it does not run.
        StateError: the model is not calibrated.
    """
    require_packages()
    if opset not in _OPSETS:
        raise ExportError(f"opset {opset} is not supported", allowed=[str(o) for o in _OPSETS], fix="leave opset out")
    from quantwright.exporters import _onnx_clamp, _onnx_clean, _onnx_grid, _onnx_guard, _onnx_lower

    encodings = _encodings(prepared, exact_rounding, keep_signed)
    marks = _redundant_marks(prepared, encodings) if qdq_for_redundant else []
    reference = _simulate(prepared)
    names = output_names(reference)
    module = marked_module(prepared.graph, marks)
    model = to_onnx_ir(prepared.graph, module, prepared.example, names, opset)
    lowered = _onnx_lower.lower(model, encodings)
    clamped = _onnx_clamp.clamp_integers(model.graph) if prepared.target.kernels.clamp_integers else 0
    _onnx_grid.quantize_grid_values(model.graph)
    if keep_float_layers:
        _onnx_guard.guard_float_layers(model.graph)
    _onnx_guard.guard_softmax(model.graph)
    _onnx_guard.guard_float8(model.graph)
    _onnx_clean.clean(model, prepared.graph.name, lowered.stored)
    points = {point: value.name or "" for point, value in lowered.values.items()}
    _onnx_clean.write_points(model, points)
    gap, warnings = _rounding_gap(prepared, encodings, exact_rounding)
    if keep_signed and not any(prepared.target.kernels.shift(e.spec) for e in encodings.values() if e.quantizes_linear):
        warnings.append("keep_signed has no effect: no activation would have been written unsigned")
    warnings += _stored_as_values(encodings)
    output_gap, size, digest = _write(model, Path(path), prepared.example, reference)
    return ExportRecord(
        file=Path(path).name, size=size, sha256=digest, opset=opset,
        inputs=tuple(value.name for value in model.graph.inputs),
        outputs=tuple(value.name for value in model.graph.outputs),
        nodes=_count_nodes(model), weights=_count_weights(encodings), points=points,
        shifted=sum(encodings[name].shift > 0 for name in points), clamped=clamped, exact_rounding=exact_rounding,
        rounding=gap, output_gap=output_gap, warnings=tuple(warnings),
    )  # fmt: skip


def export_float(graph: Graph, path: Path | str, example: Batch, *, opset: int = 21) -> Path:
    """Returns the path of the float network as ONNX, quantizers left out; checked and run like any export."""
    require_packages()
    from quantwright.exporters import _onnx_clean

    module = marked_module(graph, points=False)
    with torch.no_grad():
        flat = graph.flat_inputs(example.args, example.kwargs)
        args, kwargs = pytree.tree_unflatten(flat, graph.signature.in_spec)
        reference = module(*args, **kwargs)
    model = to_onnx_ir(graph, module, example, output_names(reference), opset)
    _onnx_clean.clean(model, graph.name)
    _write(model, Path(path), example, reference)
    return Path(path)


def require_packages() -> None:
    """Raises MissingDependencyError with the pip line when a package of the extra ``onnx`` is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(f"ONNX export needs {', '.join(missing)}", fix='pip install "quantwright[onnx]"')


# -- what to write -------------------------------------------------------------------------------------------------
def _encodings(prepared: PreparedModel, exact: bool, keep_signed: bool) -> dict[str, Encoding]:
    """Returns the encoding of every quantized point, redundant ones with the QParams of the point they share."""
    from quantwright.exporters._onnx_encode import Encoding

    found: dict[str, Encoding] = {}
    kernels = prepared.target.kernels
    for decision in prepared.plan.quantized():
        name, spec = decision.point.name, decision.spec
        owner = prepared.quantizers.get(prepared.root(name))
        quantizer = prepared.quantizers.get(name) or owner
        if quantizer is None or spec is None:
            continue
        if not quantizer.ready:
            raise StateError(f"export: point '{name}' has no QParams yet", fix="call calibrate(batches) first")
        shares = owner is not None and owner.spec.format == spec.format and not _is_parameter(decision)
        encoding = Encoding(
            point=name, owner=owner.point.name if shares and owner is not None else name, spec=spec,
            qparams=quantizer.qparams, arithmetic=quantizer.arithmetic, exact=exact,
            clamp_integers=kernels.clamp_integers,
            parameter=prepared.graph.parameter(decision.point.tensor) if _is_parameter(decision) else None,
        )  # fmt: skip
        shift = 0 if keep_signed or not encoding.quantizes_linear else kernels.shift(spec)
        found[name] = replace(encoding, shift=shift) if shift else encoding
    return found


def _is_parameter(decision: Decision) -> bool:
    return decision.point.role in ("weight", "bias")


def _redundant_marks(prepared: PreparedModel, encodings: Mapping[str, Encoding]) -> list[Mark]:
    """Returns a mark for every point the simulation skips because its value is on the grid already."""
    return [
        Mark(point=d.point.name, node=d.point.tensor, readers=d.point.consumers)
        for d in prepared.plan.quantized()
        if d.redundant and d.point.name in encodings and encodings[d.point.name].as_pair
    ]


# -- proof ---------------------------------------------------------------------------------------------------------
def _simulate(prepared: PreparedModel) -> Any:
    """Returns the simulation's output on the example."""
    modes = {name: quantizer.mode for name, quantizer in prepared.quantizers.items()}
    try:
        prepared.set_mode("quantize")
        return prepared.run(prepared.example)
    finally:
        for name, mode in modes.items():
            prepared.quantizers[name].mode = mode


def _rounding_gap(
    prepared: PreparedModel, encodings: Mapping[str, Encoding], exact: bool
) -> tuple[RoundingGap | None, list[str]]:
    """Returns the measured difference between the spec's rounding and the file's, and a warning that states it."""
    from quantwright.exporters._onnx_encode import measured_rounding

    odd = {name: e for name, e in encodings.items() if e.parameter is None and not e.standard}
    if exact or not odd:
        return None, []
    counts: list[tuple[int, int, int]] = []
    taps: dict[str, Any] = {}
    for node in prepared.graph.module.graph.nodes:
        encoding = odd.get(node.meta.get("point", ""))
        if encoding is not None and node.op == "call_module":
            source = node.args[0].name
            taps[source] = _also(taps.get(source), lambda x, e=encoding: counts.append(measured_rounding(e, x)))
    with torch.no_grad():
        prepared.graph.run(prepared.example.args, dict(prepared.example.kwargs), taps)
    gap = RoundingGap(
        points=len(counts), values=sum(c[0] for c in counts), differing=sum(c[1] for c in counts),
        max_lsb=max((c[2] for c in counts), default=0),
    )  # fmt: skip
    return gap, [
        f"{gap.points} points {_how(odd.values())} in the simulation and divide and round half_even in the file: "
        f"on the example {gap.differing} of {gap.values} values differ, by at most {gap.max_lsb} LSB "
        "(exact_rounding avoids it)"
    ]


def _stored_as_values(encodings: Mapping[str, Encoding]) -> list[str]:
    """Returns a warning for every format whose parameters the file holds as float32 values."""
    names: dict[str, list[str]] = {}
    for name, encoding in encodings.items():
        if encoding.as_values:
            names.setdefault(encoding.spec.format or "", []).append(name)
    return [
        f"ONNX has no type for {word}: {len(points)} parameters ({points[0]} ...) are stored as float32 values on the "
        "grid, exactly those of the simulation and no smaller than before"
        for word, points in names.items()
    ]


def _how(odd: Collection[Encoding]) -> str:
    """Returns in words how points compute that QuantizeLinear does not compute."""
    modes = ", ".join(sorted({str(e.spec.rounding) for e in odd}))
    reciprocal = "multiply by 1/scale and " if any(e.arithmetic == "reciprocal" for e in odd) else ""
    return f"{reciprocal}round {modes}"


def _also(first: Any, second: Any) -> Any:
    """Returns a tap that calls both and replaces nothing."""

    def both(x: Tensor) -> None:
        if first is not None:
            first(x)
        second(x)

    return both


def _write(model: Any, path: Path, example: Batch, reference: Any) -> tuple[dict[str, float], int, str]:
    """Returns (output differences, size, SHA-256) of the file, written once it passed the checker and ran."""
    import onnx
    import onnx_ir as ir

    weight = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weight > _LIMIT:
        raise ExportError(
            f"the model has {weight / 2**30:.1f} GiB of constants; one ONNX file holds less than 2", where=str(path),
            fix="quantize more of the weights, or fewer layers per file",
        )  # fmt: skip
    proto = ir.serde.serialize_model(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the file: {error}", where=str(path), fix="report the model") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        gaps = {word: _run_once(temporary, fused, example, reference) for word, fused in _RUNS.items()}
        size, digest = temporary.stat().st_size, sha256(temporary)
    return gaps, size, digest


_RUNS = {"unfused": False, "fused": True}


def _run_once(path: Path, fused: bool, example: Batch, reference: Any) -> float:
    """Returns the largest difference to the reference; a shape or NaN/Inf the reference does not have is an error."""
    got = OrtRunner(path, fused=fused).run(example)
    want = [leaf.numpy(force=True) for leaf in pytree.tree_leaves(reference) if isinstance(leaf, Tensor)]
    worst = 0.0
    for index, (a, b) in enumerate(zip(want, got, strict=True)):
        if a.shape != b.shape:
            raise ExportError(f"output {index} has shape {b.shape} in ONNX Runtime, {a.shape} in the simulation")
        if a.dtype.kind != "f":
            continue
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)):
            raise ExportError(f"output {index} has NaN or Inf in ONNX Runtime where the simulation has none")
        gap = np.abs(a[finite].astype(np.float64) - b[finite])
        worst = max(worst, float(gap.max()) if gap.size else 0.0)
    return worst


# -- counting ------------------------------------------------------------------------------------------------------
def _count_nodes(model: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def _count_weights(encodings: Mapping[str, Encoding]) -> dict[str, dict[str, int]]:
    """Returns storage type -> how many parameters and bytes are stored in it."""
    counts: dict[str, dict[str, int]] = {}
    for encoding in encodings.values():
        if encoding.parameter is not None:
            entry = counts.setdefault(encoding.storage().name.lower(), {"tensors": 0, "bytes": 0})
            entry["tensors"] += 1
            entry["bytes"] += -(-encoding.parameter.numel() * encoding.storage().bitwidth // 8)
    return dict(sorted(counts.items()))


plugin = export
