"""Capture: a user's model (or a .pt2 archive) -> Graph, with every node's origin; proved to compute the same."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from quantwright.data import Batch, as_batch, forward_parameters
from quantwright.errors import CaptureError, DataError, ModelError, QuantwrightError
from quantwright.graph import failure
from quantwright.graph.build import build
from quantwright.graph.graph import Graph
from quantwright.graph.origins import ModuleNames


def capture(
    model: nn.Module,
    example: Batch | Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    name: str | None = None,
    device: torch.device | str | None = None,
) -> Graph:
    """Returns the graph of ``model`` in eval mode; the model is left as it was and shares no memory with the graph.

    The batch dimension (the first one of every tensor input) is dynamic when the model allows it; else a note says so.

    Args:
        example: inputs the model can be called with; one batch.
        name: instead of the model's class name.
        device: where the graph shall live; None: where the model is.

    Raises:
        CaptureError: the model fails on the example, cannot be exported, or the graph computes something else; names
            the user's file and line where it can.
    """
    notes: list[str] = []
    model = unwrap(model, notes)
    batch = as_batch(example, forward_parameters(model))
    if not batch.tensors():
        raise DataError("the example holds no tensor", allowed="a tensor, a tuple or a dict of tensors")
    place = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    batch = batch.to(place)
    with evaluating(model), _quiet():
        reference = reference_output(model, batch)
        graph = _proved(model, batch, reference, name or type(model).__name__)
    if all(spec.shape[:1] != (-1,) for spec in graph.inputs):
        notes.append(f"the batch size is fixed at {batch.size}: the model does not compute the same at another one")
    graph.notes[:0] = notes
    return graph if device is None else graph.to(device)


def capture_archive(path: Path | str, *, name: str | None = None, device: torch.device | str | None = None) -> Graph:
    """Returns the graph of a model saved with ``torch.export.save``.

    Raises:
        ModelError: the file is missing, truncated or no such archive.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError("no such file", where=str(file), fix="give a .pt2 archive written by torch.export.save")
    try:
        with _quiet():
            program = torch.export.load(str(file))
    except Exception as error:  # noqa: BLE001  a damaged archive fails in many ways
        raise ModelError(
            f"cannot be read as an exported program: {failure.one_line(error)}", where=str(file),
            fix="write it again with torch.export.save, with the installed torch version",
        ) from error  # fmt: skip
    with torch.no_grad(), _quiet():
        graph = build(program, name or _program_name(program, file), ModuleNames.from_stacks(program.graph), None)
    return graph if device is None else graph.to(device)


def unwrap(model: Any, notes: list[str]) -> nn.Module:
    """Returns the user's own module behind torch.compile and DataParallel."""
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "a TorchScript module cannot be captured", where=type(model).__name__,
            fix="give the nn.Module it was made from",
        )  # fmt: skip
    if not isinstance(model, nn.Module):
        raise CaptureError(f"a {type(model).__name__} is no model", allowed="a torch.nn.Module")
    inner = getattr(model, "_orig_mod", None)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = model.module
    if not isinstance(inner, nn.Module):
        return model
    notes.append(f"the wrapper {type(model).__name__} was taken off")
    return unwrap(inner, notes)


def reference_output(model: nn.Module, batch: Batch) -> Any:
    """Returns what the model returns for (a copy of) the example."""
    args, kwargs = copied(batch)
    try:
        return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, model(*args, **kwargs))
    except Exception as error:
        raise CaptureError(
            f"the model fails on the example: {failure.one_line(error)}", where=failure.user_place(error),
            fix=f"give an example that model(...) accepts; tried {_shapes(batch)}",
        ) from error  # fmt: skip


def _proved(model: nn.Module, batch: Batch, reference: Any, name: str) -> Graph:
    """Returns a graph that computes what the model does on the example and, if its batch is dynamic, at another size.

    Tried in order: a dynamic batch, non-strict then strict; then the example's own batch size.

    Raises:
        CaptureError: no mode of torch.export can capture the model, or none computes the same.
    """
    names = ModuleNames.of(model)
    first: Exception | None = None
    for dynamic, strict in ((True, False), (True, True), (False, False), (False, True)):
        try:
            program = _export(model, _resized(batch, 2) if dynamic and batch.size == 1 else batch, dynamic, strict)
        except Exception as error:  # noqa: BLE001  torch.export raises whatever the user's code raises
            first = first or error
            continue
        if dynamic and not _has_symbols(program):
            continue  # forward uses the batch size as a number
        graph = build(program, name, names, model)  # what it refuses, no other mode of export would change
        try:
            graph.check(batch.args, batch.kwargs, reference)
            if dynamic:
                other = _resized(batch, 3 if batch.size <= 2 else 2)
                graph.check(other.args, other.kwargs, reference_output(model, other))
            return graph
        except (QuantwrightError, RuntimeError, ValueError, IndexError, TypeError) as error:
            first = first or error
    assert first is not None  # the last attempt returned or failed
    if isinstance(first, QuantwrightError):
        raise first
    raise failure.capture_error(first, type(model).__name__) from first


def _export(model: nn.Module, batch: Batch, dynamic: bool, strict: bool) -> ExportedProgram:
    args, kwargs = copied(batch)
    shapes = _dynamic_batch(model, args, kwargs) if dynamic else None
    with contextlib.redirect_stderr(io.StringIO()):  # where torch.export prints the half-made graph of a failure
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=strict)


def _dynamic_batch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns torch.export's ``dynamic_shapes`` with a free first dimension for every tensor."""
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for leaf in pytree.tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor) and leaf.ndim:
            shapes[leaf] = {0: Dim.AUTO}
    return shapes.dynamic_shapes(model, args, kwargs)  # type: ignore[no-untyped-call]


def _resized(batch: Batch, size: int) -> Batch:
    """Returns the batch with another number of samples, repeated as needed (export takes a size of one as fixed)."""

    def resize(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != batch.size:
            return value
        return value[torch.arange(size, device=value.device) % batch.size]

    args, kwargs = pytree.tree_map(resize, (batch.args, dict(batch.kwargs)))
    return Batch(args=args, kwargs=kwargs)


def _has_symbols(program: ExportedProgram) -> bool:
    names = set(program.graph_signature.user_inputs)
    values = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    return any(not isinstance(size, int) for v in values if isinstance(v, Tensor) for size in v.shape)


def copied(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the inputs as fresh tensors, each its own object: a model may change them in place."""
    fresh = lambda v: v.detach().clone() if isinstance(v, Tensor) else v  # noqa: E731
    args, kwargs = pytree.tree_map(fresh, (batch.args, dict(batch.kwargs)))
    return tuple(args), kwargs


def _program_name(program: ExportedProgram, file: Path) -> str:
    """Returns the class name of the exported model as far as the archive knows it, else the file's name."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if path == "" and isinstance(kind, str):
                return kind.rpartition(".")[2]
    return file.stem


def _shapes(batch: Batch) -> str:
    return ", ".join(f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in batch.tensors())


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Yields with the model in eval mode, without gradients and fused inference kernels; restores everything after."""
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Yields with torch's export warnings and log lines held back; what matters is raised or noted."""
    logger = logging.getLogger("torch")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
