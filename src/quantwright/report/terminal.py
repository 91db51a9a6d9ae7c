"""What a person sees in a terminal: the record of a run as text, errors, and progress bars. No torch."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quantwright.errors import QuantwrightError
from quantwright.report import words
from quantwright.report.folder import REPORT
from quantwright.report.record import RunRecord
from quantwright.report.words import ROW_NAMES, agreement, decibel, percent

Progress = Callable[[str, int, "int | None"], None]
SHOWN = 8  # warnings and notes beyond this many are counted, not listed; layers beyond it stand in the page
BAR = 24  # characters of the longest error bar


def render_run(
    record: RunRecord,
    *,
    out: str | None = None,
    measured: Mapping[str, Any] | None = None,
    color: bool = False,
    width: int | None = None,
) -> str:
    """Returns the record of a run as text: warnings, coverage, accuracy, error per layer, verdict, where the files are.

    Args:
        measured: what ``verify/measure.py`` found, for the error bars.
    """
    from rich.console import Console

    buffer = io.StringIO()
    columns = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(
        file=buffer, width=columns, force_terminal=color, no_color=not color, highlight=False, emoji=False
    )
    heading = f"{record.model} for target {record.target}"
    why = record.command.get("dialect_why")
    read = f"  (config: {record.dialect}{f', {why}' if why else ''})" if record.dialect else ""
    console.print(f"[bold]{_safe(heading)}[/]{_safe(read)}", soft_wrap=True)
    unmapped, data_notes = (record.command.get(key) or () for key in ("unmapped", "data_notes"))
    _listing(console, "warning", [*record.warnings, *map(words.unmapped, unmapped)], "yellow")
    _listing(console, "note", [*record.config_notes, *record.notes, *data_notes], "dim")
    _changes(console, record)
    _coverage(console, record.coverage)
    if record.evaluation:
        console.print(_accuracy_table(record.evaluation))
    _errors(console, (measured or {}).get("activations") or ())
    _verdict(console, record.verdict)
    _files(console, record, out)
    return buffer.getvalue().rstrip() + "\n"


def render_error(error: QuantwrightError) -> str:
    """Returns an error as a person should read it."""
    return f"error: {error}"


@contextlib.contextmanager
def progress_bar(enabled: bool | None = None) -> Iterator[Progress | None]:
    """Yields a progress callback that draws on stderr, or None when stderr is not a terminal."""
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(file=sys.stderr, force_terminal=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield advance


def _safe(text: object) -> str:
    """Returns text with rich's markup characters escaped: names such as ``conv[0]`` are no markup."""
    from rich.markup import escape

    return escape(str(text))


def _listing(console: Any, word: str, texts: list[str], style: str) -> None:
    texts = list(dict.fromkeys(texts))
    for text in texts[:SHOWN]:
        console.print(f"[{style}]{word}:[/] {_safe(text)}", soft_wrap=True)
    if len(texts) > SHOWN:
        console.print(f"[{style}]... and {len(texts) - SHOWN} more {word}s, in run.json[/]")


def _changes(console: Any, record: RunRecord) -> None:
    counts: dict[str, int] = {}
    for change in record.changes:
        counts[str(change.get("by"))] = counts.get(str(change.get("by")), 0) + 1
    if counts:
        console.print("changes: " + _safe(", ".join(f"{name} {count}" for name, count in counts.items())))


def _coverage(console: Any, coverage: Mapping[str, Any]) -> None:
    counts = [f"{name} {value}" for name, value in coverage.items() if isinstance(value, int)]
    if counts:
        console.print("tensors: " + _safe(", ".join(counts)))
    for name, reasons in coverage.items():
        if isinstance(reasons, Mapping):
            for reason, value in list(reasons.items())[:SHOWN]:
                count = value if isinstance(value, int) else len(value)
                console.print(f"  {_safe(name)}: {count} x {_safe(reason)}", soft_wrap=True)


def _accuracy_table(rows: tuple[Mapping[str, Any], ...]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    labelled = any(row.get("top1") is not None for row in rows)
    columns = ["top-1", "top-5"] if labelled else []
    for title in [*columns, "agreement", "SQNR", "as simulated", "samples"]:
        table.add_column(title, justify="right")
    for row in rows:
        cells = [percent(row.get("top1")), percent(row.get("top5"))] if labelled else []
        name = str(row.get("name"))
        table.add_row(
            ROW_NAMES.get(name, _safe(name)), *cells, percent(row.get("agreement")), decibel(row.get("sqnr_db")),
            percent(row.get("same_as_simulated")), str(row.get("samples", "")),
        )  # fmt: skip
    return table


def _errors(console: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Prints an error bar for each of the layers whose simulated value is furthest from the float one."""
    from rich.table import Table

    known = [point for point in points if not point.get("redundant")]  # moved values have the error of what was moved
    worst = sorted(known, key=lambda point: float(point["sqnr_db"]))[:SHOWN]
    if not worst or words.relative_error(worst[0]["sqnr_db"]) == 0:
        return
    longest = words.relative_error(worst[0]["sqnr_db"])
    ink = "\u2588" if _shows("\u2588") else "#"
    table = Table(box=None, pad_edge=False)
    table.add_column("error per layer, worst first", overflow="fold")
    table.add_column("of signal", justify="right")
    table.add_column("", no_wrap=True)
    for title in ("SQNR", "alone"):
        table.add_column(title, justify="right", no_wrap=True)
    for point in worst:
        db = point["sqnr_db"]
        bar = ink * round(BAR * words.relative_error(db) / longest)
        table.add_row(_safe(point["point"]), words.share(db), bar, decibel(db), decibel(point.get("alone_db")))
    console.print(table)
    if len(known) > len(worst):
        console.print(f"[dim]... and {len(known) - len(worst)} more layers, in report.html[/]")


def _shows(text: str) -> bool:
    """Returns whether standard output can show ``text``."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _verdict(console: Any, verdict: Mapping[str, Any] | None) -> None:
    """Prints whether the exported file computes what was simulated, how exactly, and what is wrong if not."""
    if verdict is None:
        return
    detail = f" ({agreement(verdict)})"
    if verdict.get("ok"):
        console.print(f"[green]verified:[/] the exported file computes what was simulated{detail}", soft_wrap=True)
    else:
        console.print(f"[red]NOT verified:[/] the exported file differs from the simulation{detail}", soft_wrap=True)
    _listing(console, "problem", list(verdict.get("problems") or []), "red")
    _listing(console, "note", list(verdict.get("notes") or []), "dim")


def _files(console: Any, record: RunRecord, out: str | None) -> None:
    if out is None:
        return
    console.print(f"files in {_safe(out)}:", soft_wrap=True)
    for name, digest in record.files.items():
        console.print(f"  {_safe(name):<22} sha256 {digest[:16]}", soft_wrap=True)
    if record.timings:
        laps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in record.timings.items())
        console.print(f"time: {laps}", soft_wrap=True)
    console.print(f"look at it: {_safe(Path(out) / REPORT)}", soft_wrap=True)
