"""Every architecture of the zoo through the whole job: captured, quantized, exported, run in ONNX Runtime, compared.

    python bench/zoo.py [--only bert,lstm] [--timm] [--config int8] [--target generic] [--json FILE]

One line per architecture, a table of what stays float at the end; the exit status is 1 when one fails. The plain torch
networks need nothing; those of `transformers` (`pip install "quantwright[zoo]"`) and, with --timm, those of `timm` are
left out, with a word, where the package is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from quantwright.errors import CaptureError, ExportError, QuantwrightError
from quantwright.pipeline import quantize
from quantwright.report.record import RunRecord

GROUPS = {"plain": "zoo_plain", "transformers": "zoo_transformers", "timm": "zoo_timm"}
COUNTS = {"quantized": 9, "shared": 6, "fused": 5, "float": 5}  # of the coverage, with the width of the column


@dataclass(slots=True)
class Row:
    """Returns what became of one architecture.

    Attributes:
        stage: ``ok``, or where it failed: ``make``, ``capture``, ``export``, ``verify``, ``other``.
        coverage: how many points are quantized, shared, fused, float.
        sqnr_db: float against simulated, the worst output.
    """

    name: str
    group: str
    stage: str = "ok"
    message: str = ""
    dynamic: bool = True
    coverage: dict[str, int] = field(default_factory=dict)
    why_float: dict[str, int] = field(default_factory=dict)
    sqnr_db: float | None = None
    bytes: int = 0
    seconds: float = 0.0

    def line(self) -> str:
        """Returns the row for people."""
        if self.stage != "ok":
            return f"{self.name:34} FAILED in {self.stage}: {self.message}"
        sqnr = "equal" if self.sqnr_db is None else f"{self.sqnr_db:.1f}"
        counts = [self.coverage[word] for word in COUNTS]
        size = f"{self.bytes / 1024:.0f} KiB"
        return _cells(self.name, "dynamic" if self.dynamic else "fixed", counts, sqnr, size, f"{self.seconds:.1f}")


def _cells(name: str, batch: str, counts: Iterable[object], sqnr: str, size: str, seconds: str) -> str:
    columns = " ".join(f"{count:>{width}}" for count, width in zip(counts, COUNTS.values(), strict=True))
    return f"{name:34} {batch:7} {columns} {sqnr:>8} {size:>10} {seconds:>7}"


def run(name: str, group: str, config: str, target: str | None) -> Row:
    """Returns the row of one architecture after the whole job."""
    row, start, made = Row(name=name, group=group), time.perf_counter(), False
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            model, example = importlib.import_module(GROUPS[group]).make(name)
            made = True
            record = quantize(model, config, [example, example], out=Path(folder) / "out", target=target).record
        assert record is not None
        _fill(row, record)
    except QuantwrightError as error:
        row.stage = {CaptureError: "capture", ExportError: "export"}.get(type(error), "other")
        row.message = " ".join(str(error).split())
    except Exception as error:  # noqa: BLE001  one broken architecture must not end the list
        row.stage, row.message = "other" if made else "make", f"{type(error).__name__}: {error}"
    row.seconds = time.perf_counter() - start
    return row


def _fill(row: Row, record: RunRecord) -> None:
    """Fills a row from the record of a run."""
    verdict, export = dict(record.verdict or {}), dict(record.export or {})
    row.coverage = {key: value for key, value in record.coverage.items() if isinstance(value, int)}
    row.why_float = dict(record.coverage["why float"])
    row.dynamic = not any("the batch size is fixed" in note for note in record.notes)
    finite = [o["sqnr_float_db"] for o in verdict["outputs"] if isinstance(o["sqnr_float_db"], float)]
    row.sqnr_db, row.bytes = min(finite, default=None), export["size"]
    if not verdict["ok"]:
        row.stage, row.message = "verify", "; ".join(verdict["problems"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Yields while libraries keep their remarks to themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def names(groups: Iterable[str], only: str) -> list[tuple[str, str]]:
    """Returns (group, architecture) of what shall run; says what is not installed.

    Raises:
        SystemExit: --only names something that no group has.
    """
    found: list[tuple[str, str]] = []
    for group in groups:
        if group != "plain" and importlib.util.find_spec(group) is None:
            print(f"{group} is not installed: its architectures are left out")
            continue
        with _quiet():
            found += [(group, name) for name in importlib.import_module(GROUPS[group]).ARCHITECTURES]
    wanted = [word for word in only.split(",") if word]
    unknown = sorted(set(wanted) - {name for _, name in found} - {group for group, _ in found})
    if unknown:
        raise SystemExit(f"no architecture is called {', '.join(unknown)}; there are {', '.join(n for _, n in found)}")
    return [(group, name) for group, name in found if not wanted or name in wanted or group in wanted]


def summary(rows: list[Row]) -> Iterator[str]:
    """Yields the table of reasons, and how many passed."""
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(_general(row.why_float))
    if reasons:
        yield "\nwhat stays float, over all of them:"
    yield from (f"{count:7}  {why}" for why, count in reasons.most_common())
    for group in dict.fromkeys(row.group for row in rows):
        mine = [row for row in rows if row.group == group]
        yield f"{group}: {sum(row.stage == 'ok' for row in mine)} of {len(mine)}"
    passed = sum(row.stage == "ok" for row in rows)
    yield f"{passed} of {len(rows)} architectures go from quantize to a file that runs and agrees with the simulation"


def _general(reasons: dict[str, int]) -> Counter[str]:
    """Returns the counts with the names of layers left out."""
    counts: Counter[str] = Counter()
    for why, count in reasons.items():
        counts["...".join(part for index, part in enumerate(why.split("'")) if index % 2 == 0)] += count
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names or groups (plain, transformers, timm), separated by commas")
    parser.add_argument("--timm", action="store_true", help="also one model of every family of timm")
    parser.add_argument("--config", default="int8")
    parser.add_argument("--target", default=None)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    groups = [group for group in GROUPS if group != "timm" or options.timm or "timm" in options.only.split(",")]
    todo, rows = names(groups, options.only), []
    print(_cells("architecture", "batch", COUNTS, "SQNR dB", "file", "seconds"))
    for group, name in todo:
        rows.append(run(name, group, options.config, options.target))
        print(rows[-1].line(), flush=True)
    for text in summary(rows):
        print(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return int(any(row.stage != "ok" for row in rows) or not rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
