"""The files of one run's folder, read back as values: what a report is made from. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantwright.errors import ArtifactError
from quantwright.plan import plan_json
from quantwright.plan.plan import Plan
from quantwright.report.folder import MEASURED, PLAN, RUN, TIMINGS, check_files, read_json, read_manifest
from quantwright.report.record import RunRecord

MEASURED_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Returns what one run left behind.

    Attributes:
        name: what people call it: the folder as they wrote it.
        measured: what ``verify/measure.py`` found; empty when the folder has none.
    """

    name: str
    record: RunRecord
    plan: Plan
    measured: Mapping[str, Any] = field(default_factory=dict)


def read_checked(folder: Path) -> Run:
    """Returns the run in a finished folder, with its timings.

    Raises:
        ArtifactError: not such a folder, no run in it, or a file is missing, of a newer format, or altered.
    """
    manifest = read_manifest(folder)
    present = [name for name in (RUN, PLAN, MEASURED) if name in (manifest.get("files") or {})]
    if RUN not in present:
        raise ArtifactError(
            f"the folder has no {RUN}: it was saved without a run", where=str(folder),
            fix="write the folder with quantwright quantize",
        )  # fmt: skip
    check_files(folder, manifest, tuple(present))
    return read_run(folder, timings=True)


def read_run(folder: Path, *, timings: bool = False) -> Run:
    """Returns the run in ``folder``, which may still be without its manifest.

    Args:
        timings: with the seconds it took, which no file that is hashed may hold.

    Raises:
        ArtifactError: a file is missing, damaged or of a newer format.
    """
    values = read_json(folder / RUN)
    if timings and (folder / TIMINGS).exists():
        values = {**values, "timings": read_json(folder / TIMINGS)}
    measured = read_json(folder / MEASURED) if (folder / MEASURED).exists() else {}
    if measured and measured.get("format") != MEASURED_FORMAT:
        raise ArtifactError(
            f"measurements of format {measured.get('format')!r} cannot be read", where=str(folder / MEASURED),
            allowed=f"format {MEASURED_FORMAT}", fix="quantize again, or use the version that wrote the folder",
        )  # fmt: skip
    record = RunRecord.from_json(values)
    plan = plan_json.from_json(read_json(folder / PLAN))
    return Run(name=str(folder), record=record, plan=plan, measured=measured)
