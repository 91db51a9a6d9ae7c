"""The folder of a model quantized with capture="modules": everything but the user's code, which ``load`` is given.

As ``artifacts`` says, without graph.json: model.safetensors holds the state_dict of the user's model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor, nn

from quantwright import artifacts, registry, tensorfile
from quantwright.config.config import QuantConfig
from quantwright.errors import ArtifactError, QuantwrightError
from quantwright.graph.modules import capture_modules
from quantwright.hooks import HookedModel
from quantwright.passes import Change
from quantwright.plan import plan_json
from quantwright.report.folder import (
    EXTRA,
    GRAPH,
    MANIFEST,
    MODEL,
    NEEDED,
    PLAN,
    QPARAMS,
    check_files,
    published,
    read_json,
    read_manifest,
)
from quantwright.report.record import RunRecord

_FIX = "write the folder again"
_NEEDED = tuple(name for name in NEEDED if name != GRAPH)

Model = TypeVar("Model", bound=HookedModel)


def save(
    prepared: HookedModel, folder: str | Path, record: RunRecord | None = None, *, overwrite: bool = False
) -> Path:
    """Returns the folder after writing everything that ``load`` needs beside the user's model.

    Raises:
        ArtifactError: the folder holds strangers' files (without ``overwrite``), or cannot be written.
    """
    with published(folder, overwrite=overwrite) as temporary:
        write(prepared, temporary, record)
    return Path(folder)


def write(prepared: HookedModel, folder: Path, record: RunRecord | None = None) -> RunRecord | None:
    """Returns the record, completed with file hashes, after writing into ``folder``, manifest last."""
    tree, example = artifacts.flatten_example(prepared.example)
    tensorfile.write(folder / MODEL, state_of(prepared.network))
    artifacts.write_text(folder / PLAN, json.dumps(plan_json.to_json(prepared.plan), indent=1) + "\n")
    tensorfile.write(folder / QPARAMS, artifacts.flatten_qparams(prepared))
    tensorfile.write(folder / EXTRA, example)
    return artifacts.complete(prepared, folder, record, {"example": tree, "capture": "modules"})


def load(folder: Path, model: nn.Module, *, build: Callable[..., Model]) -> Model:
    """Returns the model saved in ``folder``, made of a copy of ``model``; its outputs are bit-equal.

    Raises:
        ArtifactError: not such a folder, damaged, or of a model with other parameters or modules.
    """
    manifest = read_manifest(folder)
    if manifest.get("capture") != "modules":
        raise ArtifactError(
            "the folder holds a graph, which needs no model", where=str(folder), fix="leave out model: load(folder)"
        )
    check_files(folder, manifest, _NEEDED)
    own = copy.deepcopy(model)
    try:
        own.load_state_dict(tensorfile.read(folder / MODEL, _FIX))
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ArtifactError(
            f"the folder was made from another model: {text[:300]}", where=str(folder),
            fix="give a model of the same class and sizes",
        ) from error  # fmt: skip
    try:
        example = artifacts.restore_example(manifest["example"], tensorfile.read(folder / EXTRA, _FIX))
        plan = plan_json.from_json(read_json(folder / PLAN))
        config = QuantConfig.model_validate(manifest["config"])
        target = registry.load("targets", manifest["target"])
        changes = [Change(**change) for change in manifest["changes"]]
        make: Callable[..., Any] = build
        prepared: Model = make(capture_modules(own, example), plan, config, target, example, changes)
        artifacts.restore_qparams(prepared, tensorfile.read(folder / QPARAMS, _FIX), folder)
    except ArtifactError:
        raise
    except (QuantwrightError, KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        text = str(error).split("\n")[0]
        raise ArtifactError(
            f"files and model do not fit together: {type(error).__name__}: {text}", where=str(folder / MANIFEST),
            fix="give the model the folder was made from, or write the folder again",
        ) from error  # fmt: skip
    prepared.eval().set_mode("quantize")
    return prepared


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Returns the state_dict of the user's model.

    Raises:
        ArtifactError: it holds something else than tensors.
    """
    state = network.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise ArtifactError(
            f"the state of the model holds something else than tensors: {', '.join(strange)}",
            where=type(network).__name__, fix="save the parts yourself: state_dict() and the QParams of .quantizers",
        )  # fmt: skip
    return state
