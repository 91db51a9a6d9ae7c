"""What the page of one run shows: texts for the template, and the data its script draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantwright.plan.explain import explain
from quantwright.plan.plan import Decision, Plan, SameAs
from quantwright.plan.values import FUSED
from quantwright.report.record import RunRecord
from quantwright.report.run import Run
from quantwright.report.words import ROW_NAMES, agreement, decibel, number, percent, share, size, unmapped

STATES = ("quantized", "shared", "fused", "float")


def page(run: Run) -> dict[str, Any]:
    """Returns what the template writes as text."""
    record = run.record
    return {
        "title": f"{record.model} on {record.target}",
        "model": record.model,
        "target": record.target,
        "config": _file_name(record.command.get("config")),
        "dialect": record.dialect,
        "why": str(record.command.get("dialect_why") or ""),
        "version": record.versions.get("quantwright", ""),
        "tiles": list(tiles(run)),
        "accuracy": accuracy(record),
        "coverage": coverage(run.plan),
        "verdict": verdict(record),
        "messages": messages(record),
        "changes": changes(record),
        "facts": facts(record),
        "measured": bool(run.measured.get("activations")),
        "samples": run.measured.get("samples", 0),
    }


# -- summary ---------------------------------------------------------------------------------------------------------
def tiles(run: Run) -> Iterator[dict[str, str]]:
    """Yields the figures of the summary: title, value, and a line under it."""
    record = run.record
    rows = {str(row.get("name")): row for row in record.evaluation}
    last = rows.get("exported") or rows.get("simulated")
    if last is not None and last.get("top1") is not None:
        gap = 100 * (last["top1"] - rows["float"]["top1"])
        line = f"float {percent(rows['float']['top1'])}, {gap:+.2f} points"
        yield {"title": "Top-1 accuracy", "value": percent(last["top1"]), "line": line.replace("-", "−")}
    if last is not None and last.get("agreement") is not None:
        line = f"highest score on {last.get('samples')} samples"
        yield {"title": "Same answer as float", "value": percent(last["agreement"]), "line": line}
    noise = output_sqnr(record)
    if noise is not None:
        line = f"error is {share(noise)} of the signal"
        yield {"title": "Output signal to noise", "value": decibel(noise), "line": line}
    sizes = run.measured.get("size")
    if sizes and sizes["quantized_bytes"]:
        ratio = sizes["float_bytes"] / sizes["quantized_bytes"]
        line = f"float {size(sizes['float_bytes'])}, {ratio:.2f} × smaller"
        yield {"title": "Parameters", "value": size(sizes["quantized_bytes"]), "line": line}
    if record.export and record.export.get("size"):
        line = str(record.export.get("file", ""))
        yield {"title": "Exported file", "value": size(record.export["size"]), "line": line}
    yield {"title": "Weights / activations", **bits(run.plan)}
    if record.timings:
        longest = sorted(record.timings.items(), key=lambda item: -item[1])[:2]
        line = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in longest)
        yield {"title": "Time", "value": f"{sum(record.timings.values()):.1f} s", "line": line}


def output_sqnr(record: RunRecord) -> Any:
    """Returns the signal to noise ratio of the first output, float against simulated, or None.

    Units:
        decibel.
    """
    for row in record.evaluation:
        if row.get("name") == "simulated":
            return row.get("sqnr_db")
    outputs = (record.verdict or {}).get("outputs") or []
    return outputs[0].get("sqnr_float_db") if outputs else None


def bits(plan: Plan) -> dict[str, str]:
    """Returns the formats of weights and activations: the most frequent as value, all counts as line."""
    kinds: dict[str, Counter[str]] = {"weight": Counter(), "activation": Counter()}
    for decision in plan.decisions:
        role = {"weight": "weight", "input": "activation", "output": "activation"}.get(decision.point.role)
        if role is not None and not decision.why_float.startswith(FUSED):
            kinds[role][format_of(decision)] += 1
    most = [counts.most_common(1)[0][0] if counts else "-" for counts in kinds.values()]
    counts = kinds["weight"] + kinds["activation"]
    line = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"value": " / ".join(most), "line": line}


def accuracy(record: RunRecord) -> dict[str, Any]:
    """Returns head and rows of the accuracy table; no rows when there was no evaluation."""
    labelled = any(row.get("top1") is not None for row in record.evaluation)
    head = [*(["top-1", "top-5"] if labelled else []), "same as float", "SQNR", "same as simulated", "samples"]
    rows = []
    for row in record.evaluation:
        cells = [percent(row.get("top1")), percent(row.get("top5"))] if labelled else []
        cells += [percent(row.get("agreement")), decibel(row.get("sqnr_db")), percent(row.get("same_as_simulated"))]
        name = str(row.get("name"))
        rows.append({"name": ROW_NAMES.get(name, name), "cells": [*cells, str(row.get("samples", ""))]})
    return {"head": head, "rows": rows}


# -- coverage, verification, messages --------------------------------------------------------------------------------
def state(decision: Decision) -> str:
    """Returns which of ``STATES`` a decision is, as ``plan/coverage.py`` counts them."""
    if decision.spec is not None:
        return "shared" if isinstance(decision.relation, SameAs) else "quantized"
    return "fused" if decision.why_float.startswith(FUSED) else "float"


def format_of(decision: Decision) -> str:
    """Returns the format of a decision, ``float`` for what is not quantized."""
    return "float" if decision.spec is None else str(decision.spec.format)


def coverage(plan: Plan) -> dict[str, Any]:
    """Returns how many tensors are in each state, and the tensors behind every reason to stay float."""
    states = Counter(state(decision) for decision in plan.decisions)
    reasons: dict[tuple[str, str], list[str]] = {}
    for decision in plan.decisions:
        name, why = decision.point.name, decision.why_float
        if state(decision) == "float":
            reasons.setdefault(("float", why), []).append(name)
        elif state(decision) == "fused":
            reasons.setdefault(("fused", "inside operations that are computed as one"), []).append(f"{name}: {why}")
    parts = 100 / max(1, len(plan.decisions))
    return {
        "total": len(plan.decisions),
        "parts": [{"state": kind, "count": states[kind], "share": f"{parts * states[kind]:.4g}"} for kind in STATES],
        "reasons": [
            {"state": kind, "why": why, "names": names}
            for (kind, why), names in sorted(reasons.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
        ],
    }  # fmt: skip


def verdict(record: RunRecord) -> dict[str, Any] | None:
    """Returns what the verification found, in sentences; None when nothing was verified."""
    found = record.verdict
    if found is None:
        return None
    return {
        "ok": bool(found.get("ok")),
        "file": found.get("file", ""),
        "samples": found.get("samples", 0),
        "detail": agreement(found),
        "first": first_difference(found.get("first")),
        "problems": list(found.get("problems") or []),
        "notes": list(found.get("notes") or []),
        "outputs": [_output(row) for row in found.get("outputs") or []],
    }


def first_difference(first: Mapping[str, Any] | None) -> str:
    """Returns where simulation and file begin to differ, or nothing."""
    if not first:
        return ""
    at = ", ".join(map(str, first["index"]))
    return (
        f"{first['point']} [{at}] of batch {first['batch']}: simulated {number(first['simulated']):.6g}, "
        f"exported {number(first['exported']):.6g} ({number(first['lsb']):.3g} LSB)"
    )


def _output(row: Mapping[str, Any]) -> list[str]:
    def gap(which: str) -> str:
        lsb = row.get(f"max_lsb_{which}")
        return f"{number(row.get(f'max_abs_{which}')):.3g}" if lsb is None else f"{number(lsb):.3g} LSB"

    name = row.get("point") or f"output {row.get('index')}"
    same = [percent(row.get("top1_unfused")), percent(row.get("top1_fused"))]
    return [str(name), gap("unfused"), gap("fused"), *same, decibel(row.get("sqnr_float_db"))]


def messages(record: RunRecord) -> list[dict[str, str]]:
    """Returns warnings, what could not be read from the configuration, and notes; each once."""
    command = record.command
    export = record.export or {}
    found = [("warning", text) for text in record.warnings]
    found += [("not carried over", unmapped(item)) for item in command.get("unmapped") or ()]
    found += [("export", text) for text in export.get("warnings") or ()]
    found += [("configuration", text) for text in record.config_notes]
    found += [("note", text) for text in record.notes]
    found += [("data", text) for text in command.get("data_notes") or ()]
    return [{"kind": kind, "text": str(text)} for kind, text in dict.fromkeys(found)]


def changes(record: RunRecord) -> list[dict[str, Any]]:
    """Returns what passes and algorithms did, grouped by who did it, in the order it was done."""
    groups: dict[str, list[str]] = {}
    for change in record.changes:
        groups.setdefault(str(change.get("by")), []).append(str(change.get("text") or change.get("node")))
    return [{"by": by, "texts": texts} for by, texts in groups.items()]


def facts(record: RunRecord) -> list[dict[str, str]]:
    """Returns what was asked and with what it was made, and the files with their hashes."""
    asked = {
        name: str(value)
        for name, value in record.command.items()
        if name not in ("unmapped", "data_notes", "dialect_why") and value not in (None, [], "", False)
    }
    made = {"seed": str(record.seed), "device": record.device, **record.versions}
    groups = (("asked", asked), ("made with", made), ("files (SHA-256)", record.files))
    return [{"group": group, "name": name, "value": str(text)} for group, part in groups for name, text in part.items()]


# -- data of the script ----------------------------------------------------------------------------------------------
def data(run: Run) -> dict[str, Any]:
    """Returns what the script draws: points with their chains of reasons, measurements, verification."""
    return {
        **plan_data(run.plan),
        "activations": [*run.measured.get("activations", []), *_float_outputs(run)],
        "parameters": run.measured.get("parameters", []),
        "verified": (run.record.verdict or {}).get("points") or [],
    }


def _float_outputs(run: Run) -> list[dict[str, Any]]:
    """Returns a row for every output of the network that stays float, whose error verification or evaluation found."""
    if not run.measured.get("activations"):
        return []
    verdict = run.record.verdict or {}
    found = [(row, verdict.get("samples")) for row in verdict.get("outputs") or () if not row.get("point")]
    last = [decision for decision in run.plan.decisions if decision.point.role == "output"][-1:]
    alone = len(verdict.get("outputs") or ()) <= 1 and bool(last) and last[0].spec is None
    if not verdict and alone:
        simulated = [row for row in run.record.evaluation if row.get("name") == "simulated"]
        found = [({"index": 0, "sqnr_float_db": row.get("sqnr_db")}, row.get("samples")) for row in simulated]
    return [
        {
            "point": last[0].point.name if alone else f"output {row.get('index')}", "role": "output", "float": True,
            "redundant": False, "sqnr_db": row.get("sqnr_float_db"), "alone_db": None, "values": 0, "below": 0,
            "above": 0, "low": None, "high": None, "histogram": None, "grid": None, "samples": samples,
        }
        for row, samples in found
        if row.get("sqnr_float_db") is not None
    ]  # fmt: skip


def origins(plan: Plan) -> list[dict[str, Any]]:
    """Returns where settings came from: how many each place decided, of how many tensors, and how many it lost.

    A rule that stands here with nothing decided was overridden everywhere.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for decision in plan.decisions:
        for steps in decision.reasons.values():
            for step in steps:
                source, won = step.source, step is steps[-1]
                row = rows.setdefault(
                    (source.text or source.kind, source.file or ""),
                    {"text": source.text or source.kind, "kind": source.kind, "file": source.file or "",
                     "lines": set(), "decided": 0, "lost": 0, "tensors": set()},
                )  # fmt: skip
                row["lines"] |= {source.line} if source.line else set()
                row["decided" if won else "lost"] += 1
                row["tensors"] |= {decision.point.name} if won else set()
    plain = ({**row, "lines": sorted(row["lines"]), "tensors": len(row["tensors"])} for row in rows.values())
    return sorted(plain, key=lambda row: (row["kind"] in ("builtin", "target", "dialect"), row["file"], row["lines"]))


def plan_data(plan: Plan) -> dict[str, Any]:
    """Returns every decision; chains and sources, which repeat, stand once and are referred to by number."""
    sources: dict[str, int] = {}
    chains: dict[tuple[Any, ...], int] = {}
    points = []
    for decision, said in zip(plan.decisions, explain(plan), strict=True):
        chain = tuple(
            (name, tuple((_word(step.value), sources.setdefault(str(step.source), len(sources))) for step in steps))
            for name, steps in said.fields.items()
        )
        points.append({
            "name": decision.point.name,
            "role": decision.point.role,
            "format": format_of(decision),
            "state": state(decision),
            "summary": said.summary,
            "note": said.why_float or said.relation,
            "chain": chains.setdefault(chain, len(chains)),
        })  # fmt: skip
    return {"points": points, "chains": list(chains), "sources": list(sources), "origins": origins(plan)}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _file_name(value: Any) -> str:
    return Path(str(value)).name if isinstance(value, str) else ""
