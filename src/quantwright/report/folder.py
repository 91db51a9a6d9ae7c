"""The folder of a run: which files are ours and whole, whether it may be written, publishing it whole. No torch.

A new folder is filled under a temporary name beside its final one and renamed. A folder that is there already is
renamed away, replaced, and its files of other names are carried over; when it cannot be renamed (a mount point, the
current folder) the files are replaced one by one, the manifest last, so that a half-done folder is not taken for whole.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantwright.errors import ArtifactError, QuantwrightError
from quantwright.files import sha256

MANIFEST, RUN, TIMINGS, EXPORTED = "manifest.json", "run.json", "timings.json", "model.onnx"
GRAPH, PLAN = "graph.json", "plan.json"
MODEL, QPARAMS, EXTRA = "model.safetensors", "qparams.safetensors", "extra.safetensors"
NEEDED = (GRAPH, MODEL, PLAN, QPARAMS, EXTRA)  # what loading reads, beside the manifest
MEASURED, REPORT = "measured.json", "report.html"
OWN = (*NEEDED, RUN, TIMINGS, MEASURED, EXPORTED, "model.onnx.data", REPORT, MANIFEST)
FORMAT = 1  # of the folder
_FIX = "write the folder again"


def is_ours(folder: Path) -> bool:
    """Returns whether ``folder`` holds a manifest that quantwright wrote."""
    try:
        return "quantwright" in json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def require_publishable(folder: Path, *, overwrite: bool = False) -> None:
    """Raises ArtifactError when ``published`` would refuse ``folder`` or could not write there."""
    where = str(folder)
    if folder.exists() and not folder.is_dir():
        raise ArtifactError("this is a file, not a folder", where=where, fix="choose another folder")
    parent = folder.resolve()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ArtifactError(f"cannot write in '{parent}': no permission", where=where, fix="choose another folder")
    if not folder.is_dir() or overwrite or is_ours(folder):
        return
    strangers = sorted(entry.name for entry in folder.iterdir())
    if strangers:
        raise ArtifactError(
            f"the folder holds {len(strangers)} files that quantwright did not write: {', '.join(strangers[:4])}",
            where=where,
            fix="choose another folder, or overwrite (--overwrite): files of other names stay",
        )


@contextlib.contextmanager
def published(folder: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; it becomes ``folder`` when the block succeeds and vanishes when it does not.

    Raises:
        ArtifactError: ``folder`` is a file, holds strangers' files (without ``overwrite``), or cannot be written.
    """
    asked = Path(folder)
    require_publishable(asked, overwrite=overwrite)
    final = asked.resolve()
    with _writing(asked):
        in_place = final.is_dir() and _is_pinned(final)
        home = final if in_place else final.parent
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.tmp-", dir=home))
        temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        with _writing(asked):
            (_replace_files if in_place else _replace_folder)(temporary, final)
    except QuantwrightError as error:
        if error.where is not None and str(temporary) in error.where:  # nobody knows the temporary name
            error.where = error.where.replace(str(temporary), str(asked))
            error.args = (error.render(),)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def partial_folder(folder: Path | str) -> Path:
    """Returns where a job keeps its checkpoints until ``folder`` is there: beside it, with ``.partial`` to its name."""
    final = Path(folder).resolve()
    return final.with_name(f"{final.name}.partial")


def tidy(folder: Path | str) -> None:
    """Puts right what a process killed while publishing ``folder`` left behind; nobody else may be writing it now."""
    final = Path(folder).resolve()
    for aside in sorted(final.parent.glob(f".{glob.escape(final.name)}.old-*")):
        if final.exists():
            _carry_over(aside, final)
        else:
            aside.rename(final)
    for home in (final.parent, final):
        for temporary in home.glob(f".{glob.escape(final.name)}.tmp-*"):
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot write: {error.strerror or error}", where=str(folder), fix="free space or choose another folder"
        ) from error


def _is_pinned(folder: Path) -> bool:
    """Returns whether the folder must keep its place: a mount point, around the current folder, in a closed one."""
    return (
        os.path.ismount(folder) or Path.cwd().is_relative_to(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)
    )


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _replace_folder(temporary: Path, final: Path) -> None:
    """Renames ``temporary`` to ``final``; what was there is put back if that fails."""
    if not final.exists():
        temporary.rename(final)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
    final.rename(aside)  # onto an empty folder: allowed, and atomic
    try:
        temporary.rename(final)
    except BaseException:
        aside.rename(final)
        raise
    _carry_over(aside, final)


def _carry_over(aside: Path, final: Path) -> None:
    """Moves the files of other names from the old folder to the new one, and removes the old one."""
    for entry in aside.iterdir():
        if entry.name not in OWN and not (final / entry.name).exists():
            entry.rename(final / entry.name)
    shutil.rmtree(aside, ignore_errors=True)


def _replace_files(temporary: Path, final: Path) -> None:
    """Replaces our files in ``final`` one by one; without a manifest the folder is not whole, so that comes last."""
    (final / MANIFEST).unlink(missing_ok=True)
    for name in OWN:
        if not (temporary / name).exists():
            (final / name).unlink(missing_ok=True)
    for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == MANIFEST):
        os.replace(entry, final / entry.name)


def write_measured(folder: Path, measured: Mapping[str, Any]) -> None:
    """Writes what ``verify/measure.py`` found, one point per line."""
    with _writing(folder):
        parts = []
        for name, value in measured.items():
            if isinstance(value, list):
                rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in value)
                parts.append(f"{json.dumps(name)}: [\n{rows}\n]")
            else:
                parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
        (folder / MEASURED).write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the parsed JSON file.

    Raises:
        ArtifactError: missing, unreadable or truncated.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError("the file is missing", where=str(path), fix=_FIX) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the file is damaged or truncated: {error}", where=str(path), fix=_FIX) from error


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
