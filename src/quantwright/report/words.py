"""Numbers and remarks as people read them, the same in terminal and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROW_NAMES = {"float": "float", "simulated": "simulated", "exported": "ONNX Runtime"}


def percent(value: Any) -> str:
    """Returns a fraction as a percentage, a dash for None."""
    return "-" if value is None else f"{100 * float(value):.2f} %"


def decibel(value: Any) -> str:
    """Returns a signal to noise ratio; ``equal`` when there is no noise, a dash for None."""
    if value is None:
        return "-"
    return "equal" if value == "inf" else f"{float(value):.1f} dB"


def relative_error(db: Any) -> float:
    """Returns the root mean square of the error over that of the signal: 10 ** (-db / 20)."""
    return float(10 ** (-float(db) / 20))


def share(db: Any) -> str:
    """Returns a signal to noise ratio as the error's share of the signal: ``3.8 %`` for 28.5 dB."""
    part = 100 * relative_error(db)
    return f"{part:.1f} %" if part >= 0.1 or part == 0 else f"{part:.2g} %"


def size(count: float) -> str:
    """Returns a number of bytes with a unit, powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def unmapped(item: Any) -> str:
    """Returns what could not be carried over from a foreign configuration, in one line."""
    if not isinstance(item, Mapping):
        return str(item)
    line = f"line {item['line']} " if item.get("line") else ""
    effect = f" ({item['effect']})" if item.get("effect") else ""
    return f"{line}{item.get('path', '')}: {item.get('message', '')}{effect}"


def number(value: Any) -> float:
    """Returns a number of a record, which says infinities and NaN in words; 0 for None."""
    return 0.0 if value is None else float(value)


def agreement(verdict: Mapping[str, Any]) -> str:
    """Returns how exactly a file computes what was simulated: as a runtime fuses it, and node by node."""
    points, outputs = list(verdict.get("points") or []), list(verdict.get("outputs") or [])
    said = []
    if outputs and all(output.get("max_abs_fused") == 0 for output in outputs):
        said.append("as ONNX Runtime fuses it, its outputs are equal bit for bit")
    equal = sum(point.get("differing") == 0 for point in points)
    if points and equal == len(points):
        said.append(f"node by node, all {equal} points are equal bit for bit")
    elif points:
        worst = max(number(point.get("local_max_lsb")) for point in points)
        said.append(f"node by node, {equal} of {len(points)} points are equal, the others within {worst:.3g} LSB")
    return "; ".join(said) or "final outputs only"
