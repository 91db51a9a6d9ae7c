"""``quantwright dump OUT``: golden vectors of a quantized network for those who build or test its hardware."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quantwright.commands import Outcome, preflight
from quantwright.commands.verify import batches, loaded
from quantwright.errors import InputError, did_you_mean
from quantwright.report.folder import check_files, read_manifest

FORMATS = ("npz", "vitis")


def run(options: argparse.Namespace) -> Outcome:
    """Returns what was written: integer weights, biases, and the activations of the first samples."""
    checks = preflight.Checks()
    checks.run(preflight.look, options)
    checks.run(_format, options.format)
    checks.done()
    preflight.device(options.device)
    folder = Path(options.out)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    prepared = loaded(folder, manifest)
    from quantwright.report.terminal import progress_bar

    place = (
        Path(options.folder)
        if options.folder is not None
        else folder.resolve().with_name(f"{folder.resolve().name}.dump")
    )
    with progress_bar() as progress:
        tell = None if progress is None else lambda done: progress("dump", done, None)
        record: Any = prepared.dump(
            place, batches(options, prepared.input_names), format=options.format, limit=options.limit,
            floats=options.floats, progress=tell,
        )  # fmt: skip
    return Outcome(document=record.to_json(), text=lambda: _text(record))


def _format(name: str) -> None:
    if name not in FORMATS:
        raise InputError(f"format '{name}'", where="--format", allowed=FORMATS, fix=did_you_mean(name, FORMATS))


def _text(record: Any) -> str:
    parameters = sum(tensor.role in ("weight", "bias") for tensor in record.tensors)
    return (
        f"{record.folder}: {parameters} parameters and {len(record.tensors) - parameters} activations of "
        f"{record.samples} samples in {record.batches} batches, {record.size:,} bytes of integers ({record.format}); "
        f"dump.json says what each file is"
    )
