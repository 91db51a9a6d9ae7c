"""``quantwright translate CONFIG --to DIALECT``: the other tool's file, and what is lost. No torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.config.document import read_document
from quantwright.config.translate import Translation, translation
from quantwright.errors import ArtifactError, InputError
from quantwright.files import write_text


def run(options: argparse.Namespace) -> Outcome:
    """Returns the text or the file it was written to; exit code 1 when something is lost."""
    checks = preflight.Checks()
    checks.run(_require_free, options.out, options.overwrite)
    made: Any = checks.run(translation, options.config, to=options.to, dialect=options.dialect)
    checks.done()
    document = {**made.to_json(), "file": options.out}
    code = 1 if made.losses else 0
    if options.out is None:
        return Outcome(document=document, text=lambda: made.text, aside=lambda: _told(made, options.config), code=code)
    write_text(options.out, for_file(made.text, options.out))
    document.pop("text")
    return Outcome(document=document, text=lambda: _told(made, options.config, options.out), code=code)


def for_file(text: str, out: str) -> str:
    """Returns the text in the syntax of the file's ending: JSON for .json, as it is for everything else."""
    if Path(out).suffix.lower() != ".json" or text.lstrip()[:1] in ("{", "["):
        return text
    return json.dumps(read_document(text + "\n").value, indent=2, ensure_ascii=False) + "\n"


def _require_free(out: str | None, overwrite: bool) -> None:
    """Raises an error when the file to write is there already, is a folder, or has an ending nothing is written in."""
    if out is None:
        if overwrite:
            raise InputError("--overwrite has no effect without --out", where="--overwrite", fix="add --out FILE")
        return
    path = Path(out)
    if path.is_dir():
        raise InputError(f"'{out}' is a folder", where="--out", fix=f"--out {path / 'config.json'}")
    if path.suffix.lower() == ".toml":
        fix = f"--out {path.with_suffix('.yaml')}"
        raise InputError("TOML is read, not written", where="--out", allowed="YAML and JSON", fix=fix)
    if path.exists() and not overwrite:
        raise ArtifactError("the file is there already", where=out, fix="add --overwrite, or choose another --out")


def _told(made: Translation, config: str, out: str | None = None) -> str:
    """Returns how it was read, where it was written, and a table of everything that is lost."""
    lines = [f"{config}: read as {made.reading.dialect} ({made.reading.why}), written as {made.to}"]
    lines[0] += f" to {out}" if out else ""
    lines += [f"note: {note}" for note in made.reading.config.notes]
    if not made.losses:
        return "\n".join([*lines, "nothing is lost"])
    count = len(made.losses)
    from quantwright.report.tables import table

    rows = [
        (loss.role, loss.path, loss.message, loss.effect, loss.source.place or loss.source.text) for loss in made.losses
    ]
    said = "1 thing is lost" if count == 1 else f"{count} things are lost"
    shown = table(("tensors", "setting", "what", "effect", "asked for at"), rows, out=sys.stdout if out else sys.stderr)
    return "\n".join([*lines, f"{said}:", shown])
