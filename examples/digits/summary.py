"""Prints the accuracy of several runs side by side, from the run.json of each output folder.

``python examples/digits/summary.py out/digits-cpu out/digits-dpu``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {"float": "float", "simulated": "simulated", "exported": "ONNX Runtime"}


def percent(value: float | None) -> str:
    """Returns a fraction as a percentage, or a dash."""
    return "-" if value is None else f"{100 * value:.2f} %"


def rows(folder: Path) -> list[tuple[str, ...]]:
    """Returns a line of the table for every way of computing the network."""
    record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    lines = []
    for row in record["evaluation"]:
        sqnr = row["sqnr_db"]
        noise = f"{sqnr:.1f} dB" if isinstance(sqnr, float) else "-"
        lines.append((folder.name, NAMES[row["name"]], percent(row["top1"]), percent(row["agreement"]), noise))
    return lines


def main(folders: list[str]) -> int:
    """Prints the table and where the files are; returns 0, or 2 when no folder is named."""
    if not folders:
        print(__doc__)
        return 2
    head = ("run", "computed by", "top-1", "same answer as float", "output SQNR")
    table = [head, *(line for folder in folders for line in rows(Path(folder)))]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    print()
    for line in table:
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        print("  ".join([*left, *right]))
    print("\nthe files: " + ", ".join(f"{folder}/model.onnx" for folder in folders))
    print("the reports, for a browser: " + ", ".join(f"{folder}/report.html" for folder in folders))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
