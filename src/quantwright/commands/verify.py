"""``quantwright verify OUT``: is the folder whole, and does the exported file compute what was simulated?"""

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
    if not (folder / EXPORTED).exists():
        fix = "write the folder with quantwright quantize"
        if manifest.get("capture") == "modules":
            fix = "it was made with --capture modules, which exports nothing: run.json says how it compares with float"
        raise ArtifactError(f"there is no {EXPORTED} to verify", where=str(folder), fix=fix)
    from quantwright.api import load

    prepared = load(folder)
    verdict: Any = prepared.verify(folder / EXPORTED, _batches(options, prepared.input_names))
    return Outcome(document=verdict.to_json(), text=lambda: _text(verdict.render()), code=0 if verdict.ok else 1)


def _batches(options: argparse.Namespace, parameters: tuple[str, ...]) -> Any:
    """Returns the data to compare on, None for the example that was saved."""
    if options.data is None:
        return None
    from quantwright.loading.source import load_data

    return load_data(
        options.data, batch_size=options.batch_size, images=preflight.images(options), parameters=parameters
    )


def _text(lines: Any) -> str:
    return lines if isinstance(lines, str) else "\n".join(lines)
