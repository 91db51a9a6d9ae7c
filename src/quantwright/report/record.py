"""RunRecord: what one run was given, decided, changed, measured and wrote. Plain JSON values, no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from quantwright.errors import ArtifactError

FORMAT = 1
PACKAGES = ("quantwright", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Returns everything worth knowing about a run; equal runs give equal records but for ``timings``.

    Attributes:
        command: what was asked on the command line, without the name of the output folder, and under ``dialect_why``,
            ``unmapped`` and ``data_notes`` why the config was read as that dialect, what could not be read from it, and
            what was decided about the data.
        coverage: how many points are quantized, shared or float, and why.
        changes: what passes and algorithms did: by, node, text, data.
        evaluation: rows ``float``, ``simulated``, ``exported``: top1, top5, agreement, sqnr_db, samples.
        export: the exporter's record; verdict: how far simulation and exported file agree.
        files: SHA-256 in hex of every file written before this record.
    Units:
        timings: seconds.
    """

    format: int = FORMAT
    model: str = ""
    target: str = ""
    dialect: str = ""
    command: Mapping[str, Any] = field(default_factory=dict)
    config_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    coverage: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[Mapping[str, Any], ...] = ()
    evaluation: tuple[Mapping[str, Any], ...] = ()
    export: Mapping[str, Any] | None = None
    verdict: Mapping[str, Any] | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, described: Mapping[str, Any], *, seed: int = 0, device: str = "cpu") -> RunRecord:
        """Returns a record of the facts in ``described`` (keys are field names) and of what runs here.

        Raises:
            TypeError: ``described`` has a key that is no field.
        """
        return cls(seed=seed, device=device, versions=versions()).finish(**described)

    def finish(self, **updates: Any) -> RunRecord:
        """Returns the record with these fields replaced; objects with ``to_json`` become plain values."""
        known = {item.name: item for item in dataclasses.fields(self)}
        unknown = set(updates) - set(known)
        if unknown:
            raise TypeError(f"a run record has no field {', '.join(sorted(unknown))}")
        values = {name: plain(value) for name, value in updates.items()}
        tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return dataclasses.replace(self, **{**values, **tuples})

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values, every field, in the order of the class."""
        return {item.name: plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> RunRecord:
        """Returns the record that ``to_json`` described.

        Raises:
            ArtifactError: not a run record, or one of a newer format.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or not isinstance(value.get("format"), int):
            raise ArtifactError("this is not a run record", allowed="the JSON that RunRecord.to_json gives")
        if value["format"] > FORMAT:
            raise ArtifactError(
                f"the run record has format {value['format']}", allowed=f"up to {FORMAT}", fix="use a newer quantwright"
            )
        unknown = set(value) - known
        if unknown:
            raise ArtifactError(f"a run record has no field {', '.join(sorted(unknown))}", allowed=sorted(known))
        return cls().finish(**{name: item for name, item in value.items() if item is not None})


def plain(value: Any) -> Any:
    """Returns ``value`` as JSON can hold it: no NaN or infinity (they become words), no objects, string keys."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "model_dump"):  # pydantic
        return plain(value.model_dump(mode="json", exclude_none=True))
    if hasattr(value, "tolist"):  # tensors and arrays, without importing what makes them
        return plain(value.tolist())
    if isinstance(value, Iterable):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    return str(value)


def dumps(value: Any) -> str:
    """Returns ``value`` as indented JSON text that ends in a newline; the same value gives the same text."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> dict[str, str]:
    """Returns the installed versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
