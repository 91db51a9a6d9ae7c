"""The folder of a quantized model: written whole or not at all, read back bit for bit, nothing in it is executed.

graph.json            the optimised float network (``graph/serialize.py``)
model.safetensors     its parameters, as the algorithms left them
plan.json             what was decided (``plan/plan_json.py``)
qparams.safetensors   what was measured: ``<point>/scale``, ``<point>/zero_point``
extra.safetensors     an example input; parameters as they were before algorithms changed them
manifest.json         format version, config, changes, and the SHA-256 of every other file but timings.json
model.onnx            what the exporter wrote, when there was an export
run.json              the record of the run; its timings are in timings.json, so that equal runs give equal files
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from quantwright import registry
from quantwright.config.config import QuantConfig
from quantwright.data import Batch
from quantwright.errors import ArtifactError, QuantwrightError
from quantwright.files import sha256
from quantwright.graph import serialize
from quantwright.graph.graph import Graph
from quantwright.numerics.qparams import QParams
from quantwright.passes import Change
from quantwright.plan import plan_json
from quantwright.prepare import PreparedModel
from quantwright.report.folder import (
    EXTRA,
    GRAPH,
    MANIFEST,
    MODEL,
    NEEDED,
    PLAN,
    QPARAMS,
    RUN,
    TIMINGS,
    published,
    read_json,
)
from quantwright.report.record import RunRecord, dumps, versions

FORMAT = 1
EXAMPLE_SAMPLES = 4  # of the example batch that are kept
_EXAMPLE, _BEFORE = "example/", "before/"  # key prefixes in extra.safetensors
_FIX = "write the folder again"

Model = TypeVar("Model", bound=PreparedModel)


def save(
    prepared: PreparedModel, folder: str | Path, record: RunRecord | None = None, *, overwrite: bool = False
) -> Path:
    """Returns the folder after writing everything that ``load`` needs, and ``run.json`` when there is a record.

    Raises:
        ArtifactError: the folder holds strangers' files (without ``overwrite``), or cannot be written.
    """
    with published(folder, overwrite=overwrite) as temporary:
        write(prepared, temporary, record)
    return Path(folder)


def write(prepared: PreparedModel, folder: Path, record: RunRecord | None = None) -> RunRecord | None:
    """Returns the record, completed with file hashes, after writing into ``folder`` (see ``published``), manifest last.

    Files that are there already, such as the exported one, are taken into the manifest.
    """
    graph = without_quantizers(prepared.graph)
    tree, example = _flatten_example(_shortened(prepared))
    before = {_BEFORE + name: value for name, value in prepared.float_parameters.items()}
    _write_text(folder / GRAPH, json.dumps(serialize.to_json(graph), indent=1) + "\n")
    _write_tensors(folder / MODEL, graph.tensors())
    _write_text(folder / PLAN, json.dumps(plan_json.to_json(prepared.plan), indent=1) + "\n")
    _write_tensors(folder / QPARAMS, _flatten_qparams(prepared))
    _write_tensors(folder / EXTRA, {**example, **before})
    if record is not None:
        record = record.finish(files=_hashes(folder))
        values = record.to_json()
        _write_text(folder / TIMINGS, dumps(values.pop("timings")))
        _write_text(folder / RUN, dumps(values))
    manifest = {
        "quantwright": {"format": FORMAT, "version": versions().get("quantwright", "")},
        "target": prepared.target.name,
        "config": prepared.config.model_dump(mode="json"),
        "changes": [{"by": c.by, "node": c.node, "text": c.text, "data": c.data} for c in prepared.changes],
        "example": tree,
        "files": _hashes(folder),
    }
    _write_text(folder / MANIFEST, dumps(manifest))
    return record


def load(folder: str | Path, *, build: Callable[..., Model] | None = None, device: str = "cpu") -> Model:
    """Returns the model saved in ``folder``; its outputs are bit-equal to those of the one that was saved.

    Args:
        build: the class to make; ``prepare.PreparedModel`` when not given.

    Raises:
        ArtifactError: not such a folder, of a newer format, or a file of it is missing, truncated or altered.
    """
    home = Path(folder)
    manifest = read_manifest(home)
    check_files(home, manifest, NEEDED)
    extra = _read_tensors(home / EXTRA)
    try:
        graph = serialize.from_json(read_json(home / GRAPH), _read_tensors(home / MODEL))
        plan = plan_json.from_json(read_json(home / PLAN))
        config = QuantConfig.model_validate(manifest["config"])
        changes = [Change(**change) for change in manifest["changes"]]
        example = _restore_example(manifest["example"], extra)
        target = registry.load("targets", manifest["target"])
        make: Callable[..., Any] = build or PreparedModel
        prepared: Model = make(graph, plan, config, target, example, changes)
        prepared.graph.flat_inputs(example.args, dict(example.kwargs))
        prepared.float_parameters = _restore_before(prepared, extra)
        _restore_qparams(prepared, _read_tensors(home / QPARAMS), home)
    except ArtifactError:
        raise
    except (QuantwrightError, KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        text = str(error).split("\n")[0]
        raise ArtifactError(
            f"the files do not fit together: {type(error).__name__}: {text}", where=str(home), fix=_FIX
        ) from error
    prepared.eval().set_mode("quantize")
    return _moved(prepared, device) if device != "cpu" else prepared


def read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a folder that ``save`` wrote.

    Raises:
        ArtifactError: no such folder, not one of ours, or of a newer format.
    """
    if not folder.is_dir():
        raise ArtifactError("no such folder", where=str(folder), fix="give the --out folder of a quantize run")
    if not (folder / MANIFEST).exists():
        raise ArtifactError(
            f"this folder was not written by quantwright: it has no {MANIFEST}", where=str(folder),
            fix="give the --out folder of a quantize run",
        )  # fmt: skip
    manifest: Any = read_json(folder / MANIFEST)
    head = manifest.get("quantwright") if isinstance(manifest, dict) else None
    if not isinstance(head, dict) or not isinstance(head.get("format"), int):
        raise ArtifactError("this is not a manifest of quantwright", where=str(folder / MANIFEST), fix=_FIX)
    if head["format"] > FORMAT:
        raise ArtifactError(
            f"the folder has format {head['format']}, written by quantwright {head.get('version')}", where=str(folder),
            allowed=f"up to format {FORMAT}", fix="use a newer quantwright",
        )  # fmt: skip
    return dict(manifest)


def check_files(folder: Path, manifest: Mapping[str, Any], names: tuple[str, ...] | None = None) -> None:
    """Raises ArtifactError for the first file that is missing or differs from what was written.

    Args:
        names: which files; all of the manifest's when None.
    """
    hashes = manifest.get("files")
    if not isinstance(hashes, dict):
        raise ArtifactError("the manifest lists no files", where=str(folder / MANIFEST), fix=_FIX)
    for name in hashes if names is None else names:
        path = folder / name
        if Path(name).name != name or name not in hashes:
            raise ArtifactError(f"the manifest does not list '{name}' properly", where=str(folder / MANIFEST), fix=_FIX)
        if not path.is_file():
            raise ArtifactError("the file is missing", where=str(path), fix=_FIX)
        if sha256(path) != hashes[name]:
            raise ArtifactError("the file is truncated or was altered after it was written", where=str(path), fix=_FIX)


def without_quantizers(graph: Graph) -> Graph:
    """Returns the graph with its quantizer nodes left out; parameters are shared with ``graph``, not copied."""
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.module.graph, {}))  # names and meta stay
    nodes.set_codegen(graph.module.graph._codegen)
    for node in list(nodes.nodes):
        if node.op == "call_module" and node.meta.get("point"):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            nodes.erase_node(node)
        elif node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": torch.device("cpu")}
    return Graph(
        name=graph.name, module=fx.GraphModule(graph.module, nodes), inputs=graph.inputs, signature=graph.signature,
        notes=graph.notes, module_paths=graph.module_paths, aliases=graph.aliases,
    )  # fmt: skip


def _moved(prepared: Model, device: str) -> Model:
    prepared.graph.to(device)
    prepared.float_parameters = {name: value.to(device) for name, value in prepared.float_parameters.items()}
    prepared.example = prepared.example.to(device)
    return prepared.to(device)


def _flatten_qparams(prepared: PreparedModel) -> dict[str, Tensor]:
    """Returns ``point/scale``, ``point/zero_point`` and, where there is one, ``point/super_scale``."""
    flat: dict[str, Tensor] = {}
    for name, quantizer in prepared.quantizers.items():
        qparams = quantizer.qparams
        if qparams is not None:
            parts = {part: getattr(qparams, part) for part in ("scale", "zero_point", "super_scale")}
            flat |= {f"{name}/{part}": value for part, value in parts.items() if value is not None}
    return flat


def _restore_qparams(prepared: PreparedModel, flat: Mapping[str, Tensor], home: Path) -> None:
    for name, quantizer in prepared.quantizers.items():
        if f"{name}/scale" in flat and f"{name}/zero_point" in flat:
            quantizer.qparams = QParams(
                scale=flat[f"{name}/scale"],
                zero_point=flat[f"{name}/zero_point"],
                super_scale=flat.get(f"{name}/super_scale"),
            )
        elif not quantizer.ready:
            raise ArtifactError(f"there is no scale for point '{name}'", where=str(home / QPARAMS), fix=_FIX)


def _restore_before(prepared: PreparedModel, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the parameters as they were before algorithms changed them."""
    before = {key.removeprefix(_BEFORE): value for key, value in extra.items() if key.startswith(_BEFORE)}
    for name, value in before.items():
        if prepared.graph.parameter(name).shape != value.shape:
            raise ValueError(f"parameter '{name}' had another shape before")
    return before


def _shortened(prepared: PreparedModel) -> Batch:
    """Returns the example with a few samples only, where every input's first dimension may vary."""
    example = prepared.example
    tensors = example.tensors()
    free = all(spec.shape[:1] == (-1,) for spec in prepared.graph.inputs if spec.dtype is not None)
    if not free or not tensors or any(x.ndim == 0 or x.shape[0] != example.size for x in tensors):
        return example
    cut = lambda item: item[:EXAMPLE_SAMPLES] if isinstance(item, Tensor) else item  # noqa: E731
    args, kwargs = torch.utils._pytree.tree_map(cut, (example.args, dict(example.kwargs)))
    return Batch(args=args, kwargs=kwargs)


def _flatten_example(example: Batch) -> tuple[Any, dict[str, Tensor]]:
    """Returns the nesting of the example as JSON, and its tensors by key."""
    tensors: dict[str, Tensor] = {}

    def walk(item: Any) -> Any:
        if isinstance(item, Tensor):
            key = f"{_EXAMPLE}{len(tensors)}"
            tensors[key] = item
            return {"tensor": key}
        if isinstance(item, (tuple, list)):
            return {"tuple" if isinstance(item, tuple) else "list": [walk(part) for part in item]}
        if isinstance(item, Mapping):
            return {"dict": [[key, walk(part)] for key, part in item.items()]}
        if item is None or isinstance(item, (bool, int, float, str)):
            return {"value": item}
        raise QuantwrightError(
            f"an example input of type {type(item).__name__} cannot be saved",
            fix="use tensors, numbers, tuples and dicts",
        )

    return walk((example.args, dict(example.kwargs))), tensors


def _restore_example(tree: Any, tensors: Mapping[str, Tensor]) -> Batch:
    def walk(item: Any) -> Any:
        ((kind, content),) = item.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {key: walk(part) for key, part in content}
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(walk(part) for part in content)
        return content

    args, kwargs = walk(tree)
    return Batch(args=args, kwargs=kwargs)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (MANIFEST, TIMINGS))
    return {path.name: sha256(path) for path in files}


def _write_text(path: Path, text: str) -> None:
    with _writing(path):
        path.write_text(text, encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors; those that share memory are written apart, for the format knows no sharing."""
    seen: set[int] = set()
    ready = {}
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        apart = storage.data_ptr() in seen or storage.nbytes() != value.nbytes
        seen.add(storage.data_ptr())
        ready[name] = value.clone() if apart else value
    with _writing(path):
        save_file(ready, path)
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)  # save_file closes the file to others


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"the file is damaged: {error}", where=str(path), fix=_FIX) from error
    return tensors


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(
            f"cannot write {path.name}: {text}", where=str(path.parent), fix="free some space or choose another folder"
        ) from error
