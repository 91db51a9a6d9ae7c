"""``quantwright report OUT [OUT2]``: the page of a run, or of two runs side by side, from the files they left."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantwright.commands import Outcome, preflight
from quantwright.errors import InputError
from quantwright.files import sha256, write_text
from quantwright.report import page
from quantwright.report.folder import MANIFEST, OWN, REPORT, is_ours, read_manifest
from quantwright.report.record import dumps
from quantwright.report.run import Run, read_checked, read_run

COMPARISON = "comparison.html"


def run(options: argparse.Namespace) -> Outcome:
    """Returns where the page was written; nothing is computed again, and no torch is needed."""
    folders = [Path(name) for name in (options.out, options.other) if name is not None]
    checks = preflight.Checks()
    checks.run(_require_free, options.file, folders)
    runs: list[Run] = [checks.run(read_checked, folder) for folder in folders]
    checks.done()
    if len(runs) == 2:
        file = Path(options.file or COMPARISON)
        write_text(file, page.render_comparison(*runs))
    elif options.file is not None and not _is_own_page(options.file, folders[0]):
        file = Path(options.file)
        write_text(file, page.render(runs[0]))
    else:
        file = _renew(folders[0])
    return Outcome(document={"file": str(file)}, text=lambda: f"report written to {file}")


def _is_own_page(file: str, folder: Path) -> bool:
    return Path(file).resolve() == (folder / REPORT).resolve()


def _require_free(file: str | None, folders: list[Path]) -> None:
    """Raises InputError when the page would replace a file of a run, which its manifest vouches for."""
    if file is None or (len(folders) == 1 and _is_own_page(file, folders[0])):
        return
    if Path(file).name in OWN and is_ours(Path(file).resolve().parent):
        raise InputError(f"'{file}' is a file of a run", where="--out", fix="choose another name")
    if Path(file).is_dir():
        raise InputError(f"'{file}' is a folder", where="--out", fix=f"--out {Path(file) / 'page.html'}")


def _renew(folder: Path) -> Path:
    """Returns the page inside a run's folder, written if it is not the one that this version makes, and its hash."""
    file = folder / REPORT
    text = page.render(read_run(folder))
    if not file.exists() or file.read_bytes() != text.encode("utf-8"):
        write_text(file, text)
    manifest = read_manifest(folder)
    digest = sha256(file)
    if manifest["files"].get(REPORT) != digest:
        files = dict(sorted({**manifest["files"], REPORT: digest}.items()))
        write_text(folder / MANIFEST, dumps({**manifest, "files": files}))
    return file
