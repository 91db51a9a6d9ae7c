"""``quantwright verify OUT``: is the folder whole, and does the exported file compute what was simulated?

With ``--integer``: does the simulation compute what integers give, and does every sum fit into its accumulator?
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.errors import ArtifactError
from quantwright.report.folder import EXPORTED, check_files, read_manifest


def run(options: argparse.Namespace) -> Outcome:
    """Returns the verdict; exit code 1 when the file does not compute what was simulated."""
    preflight.look(options)
    preflight.device(options.device)
    folder = Path(options.out)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if options.integer:
        return _integer(options, folder, manifest)
    if not (folder / EXPORTED).exists():
        fix = "write the folder with quantwright quantize"
        if manifest.get("capture") == "modules":
            fix = "it was made with --capture modules, which exports nothing: run.json says how it compares with float"
        raise ArtifactError(f"there is no {EXPORTED} to verify", where=str(folder), fix=fix)
    from quantwright.api import load

    prepared = load(folder)
    verdict: Any = prepared.verify(folder / EXPORTED, batches(options, prepared.input_names))
    return Outcome(document=verdict.to_json(), text=lambda: _text(verdict.render()), code=0 if verdict.ok else 1)


def _integer(options: argparse.Namespace, folder: Path, manifest: Any) -> Outcome:
    """Returns what executing the plan on integers found; exit code 1 when something differs or overflows."""
    prepared = loaded(folder, manifest)
    from quantwright.report.terminal import progress_bar

    given = batches(options, prepared.input_names)
    file = folder / EXPORTED
    with progress_bar() as progress:
        tell = None if progress is None else lambda done: progress("execute on integers", done, None)
        report: Any = prepared.verify_integer(given, file=file if file.exists() else None, progress=tell)
    code = 0 if report.ok else 1
    return Outcome(document={"integer": report.to_json()}, text=lambda: _text(report.render()), code=code)


def loaded(folder: Path, manifest: Any) -> Any:
    """Returns the model of a folder that holds a graph.

    Raises:
        ArtifactError: it was made with capture="modules".
    """
    if manifest.get("capture") == "modules":
        raise ArtifactError(
            "the folder was made with --capture modules: there is no graph to execute on integers", where=str(folder),
            fix="quantize with --capture graph",
        )  # fmt: skip
    from quantwright.api import load

    return load(folder)


def batches(options: argparse.Namespace, parameters: tuple[str, ...]) -> Any:
    """Returns the data to compute on, None for the example that was saved."""
    if options.data is None:
        return None
    from quantwright.loading.source import load_data

    return load_data(
        options.data, batch_size=options.batch_size, images=preflight.images(options), parameters=parameters
    )


def _text(lines: Any) -> str:
    return lines if isinstance(lines, str) else "\n".join(lines)
