"""The folder of a quantized model: written whole or not at all, read back bit for bit, nothing in it is executed.

graph.json            the optimised float network (``graph/serialize.py``)
model.safetensors     its parameters, as the algorithms left them
plan.json             what was decided (``plan/plan_json.py``)
qparams.safetensors   what was measured: ``<point>/scale``, ``<point>/zero_point``
extra.safetensors     an example input; parameters as they were before algorithms changed them
manifest.json         format version, config, changes, and the SHA-256 of every other file but timings.json
model.onnx            what the exporter wrote, when there was an export
measured.json         error, histogram and grid of every point (``verify/measure.py``), when there is a record
run.json              the record of the run; its timings are in timings.json, so that equal runs give equal files
report.html           all of this for people, when there is a record
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, fx

from quantwright import registry, tensorfile
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
from quantwright.quantized import QuantizedModel
from quantwright.report import page
from quantwright.report.folder import (
    EXTRA,
    FORMAT,
    GRAPH,
    MANIFEST,
    MODEL,
    NEEDED,
    PLAN,
    QPARAMS,
    REPORT,
    RUN,
    TIMINGS,
    check_files,
    published,
    read_json,
    read_manifest,
)
from quantwright.report.record import RunRecord, dumps, versions
from quantwright.report.run import read_run

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
    tree, example = flatten_example(_shortened(prepared))
    before = {_BEFORE + name: value for name, value in prepared.float_parameters.items()}
    write_text(folder / GRAPH, json.dumps(serialize.to_json(graph), indent=1) + "\n")
    tensorfile.write(folder / MODEL, graph.tensors())
    write_text(folder / PLAN, json.dumps(plan_json.to_json(prepared.plan), indent=1) + "\n")
    tensorfile.write(folder / QPARAMS, flatten_qparams(prepared))
    tensorfile.write(folder / EXTRA, {**example, **before})
    return complete(prepared, folder, record, {"example": tree})


def complete(
    prepared: QuantizedModel, folder: Path, record: RunRecord | None, more: Mapping[str, Any]
) -> RunRecord | None:
    """Returns the record, completed with file hashes, after writing it and, last, the manifest."""
    if record is not None:
        record = record.finish(files=hashes(folder))
        values = record.to_json()
        write_text(folder / TIMINGS, dumps(values.pop("timings")))
        write_text(folder / RUN, dumps(values))
        write_text(folder / REPORT, page.render(read_run(folder)))
    manifest = {
        "quantwright": {"format": FORMAT, "version": versions().get("quantwright", "")},
        "target": prepared.target.name,
        "config": prepared.asked.model_dump(mode="json"),
        "changes": [{"by": c.by, "node": c.node, "text": c.text, "data": c.data} for c in prepared.changes],
        **more,
        "files": hashes(folder),
    }
    write_text(folder / MANIFEST, dumps(manifest))
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
    if manifest.get("capture") == "modules":
        raise ArtifactError(
            "the folder was saved with capture='modules': there is no graph in it", where=str(home),
            fix="give the model it was made from: load(folder, model=...)",
        )  # fmt: skip
    check_files(home, manifest, NEEDED)
    extra = tensorfile.read(home / EXTRA, _FIX)
    try:
        graph = serialize.from_json(read_json(home / GRAPH), tensorfile.read(home / MODEL, _FIX))
        plan = plan_json.from_json(read_json(home / PLAN))
        config = QuantConfig.model_validate(manifest["config"])
        changes = [Change(**change) for change in manifest["changes"]]
        example = restore_example(manifest["example"], extra)
        target = registry.load("targets", manifest["target"])
        make: Callable[..., Any] = build or PreparedModel
        prepared: Model = make(graph, plan, config, target, example, changes)
        prepared.graph.flat_inputs(example.args, dict(example.kwargs))
        prepared.float_parameters = _restore_before(prepared, extra)
        restore_qparams(prepared, tensorfile.read(home / QPARAMS, _FIX), home)
    except ArtifactError:
        raise
    except (QuantwrightError, KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        text = str(error).split("\n")[0]
        raise ArtifactError(
            f"the files do not fit together: {type(error).__name__}: {text}", where=str(home), fix=_FIX
        ) from error
    prepared.eval().set_mode("quantize")
    return _moved(prepared, device) if device != "cpu" else prepared


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


def flatten_qparams(prepared: QuantizedModel) -> dict[str, Tensor]:
    """Returns ``point/scale``, ``point/zero_point`` and, where there is one, ``point/super_scale``."""
    flat: dict[str, Tensor] = {}
    for name, quantizer in prepared.quantizers.items():
        qparams = quantizer.qparams
        if qparams is not None:
            flat |= {f"{name}/{part}": value for part, value in qparams.to_dict().items()}
    return flat


def restore_qparams(prepared: QuantizedModel, flat: Mapping[str, Tensor], home: Path) -> None:
    """Gives every quantizer its QParams; raises ArtifactError for one that needs some and finds none."""
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


def flatten_example(example: Batch) -> tuple[Any, dict[str, Tensor]]:
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


def restore_example(tree: Any, tensors: Mapping[str, Tensor]) -> Batch:
    """Returns the example that ``flatten_example`` took apart."""

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


def hashes(folder: Path) -> dict[str, str]:
    """Returns file name -> SHA-256, of all that may not differ between equal runs."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in (MANIFEST, TIMINGS))
    return {path.name: sha256(path) for path in files}


def write_text(path: Path, text: str) -> None:
    """Writes a file of text; raises ArtifactError when it cannot."""
    with _writing(path):
        path.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        text = error.strerror or str(error)
        raise ArtifactError(
            f"cannot write {path.name}: {text}", where=str(path.parent), fix="free some space or choose another folder"
        ) from error
