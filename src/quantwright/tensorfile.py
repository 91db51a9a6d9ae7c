"""Named tensors as one safetensors file or byte string: nothing in it is executed when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from quantwright.errors import ArtifactError

_FACTS = "facts.json"  # the key of plain values that travel with the tensors


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to a file, sorted by name.

    Raises:
        ArtifactError: it cannot be written.
    """
    try:
        save_file(apart(tensors), path)
        umask = os.umask(0)
        os.umask(umask)
        path.chmod(0o666 & ~umask)  # save_file closes the file to others
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise ArtifactError(
            f"cannot write {path.name}: {text}", where=str(path.parent), fix="free some space or choose another folder"
        ) from error


def read(path: Path, fix: str) -> dict[str, Tensor]:
    """Returns the tensors of a file.

    Raises:
        ArtifactError: missing or damaged; says ``fix``.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"the file is damaged: {error}", where=str(path), fix=fix) from error
    return tensors


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the CPU, sorted by name; sharers of memory are copied: the format knows no sharing."""
    seen: set[int] = set()
    ready = {}
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != value.nbytes
        seen.add(storage.data_ptr())
        ready[name] = value.clone() if shared else value
    return ready


def with_facts(tensors: Mapping[str, Tensor], facts: Any) -> dict[str, Tensor]:
    """Returns the tensors and, as one more, plain JSON values."""
    text = json.dumps(facts, default=lambda value: value.tolist())
    return {**tensors, _FACTS: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def split_facts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """Returns the tensors and the plain values that ``with_facts`` put together."""
    rest = dict(tensors)
    return rest, json.loads(bytes(rest.pop(_FACTS).tolist()))


def to_bytes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Returns all tensors as one of bytes.

    Shapes:
        result: [B], uint8.
    """
    return torch.frombuffer(bytearray(save(apart(tensors))), dtype=torch.uint8)


def from_bytes(content: Tensor) -> dict[str, Tensor]:
    """Returns the tensors that ``to_bytes`` packed."""
    tensors: dict[str, Tensor] = load(content.numpy().tobytes())
    return tensors
