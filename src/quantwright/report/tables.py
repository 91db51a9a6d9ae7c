"""A table of text for a terminal or a pipe. No torch."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Sequence
from typing import TextIO

PIPED = 100_000  # columns where no terminal says how many: lines stay whole, for grep


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, out: TextIO) -> str:
    """Returns a table for the stream ``out``: as wide as its terminal, what is longer folded; in a pipe nothing is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        made.add_column(title, overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    terminal = out.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if terminal else PIPED
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, force_terminal=terminal, no_color=not terminal, highlight=False, emoji=False
    )
    console.print(made)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
