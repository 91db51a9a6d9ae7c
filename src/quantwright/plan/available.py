"""Available: what a plan and its config ask for that is known and cannot be run yet (``config/known.py``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quantwright.config.availability import missing, spec_faults, step_fault
from quantwright.config.config import QuantConfig, Source, Step
from quantwright.errors import ConfigError, Problem
from quantwright.plan.chain import Reasons
from quantwright.plan.plan import Decision, Plan, decider

_SHOWN = 3  # points named in one problem
_FIX = "choose another, or set format: float32 there to leave it float; `quantwright list {}` shows what runs"


def require_available(config: QuantConfig, plan: Plan, steps: Sequence[Step]) -> None:
    """Raises ConfigError with everything that is asked for, known, and not available yet, all at once.

    Args:
        steps: the passes that run: the config's, or the target's.
    """
    problems = unavailable(config, plan, steps)
    if problems:
        raise ConfigError(problems)


def unavailable(config: QuantConfig, plan: Plan | None, steps: Sequence[Step]) -> list[Problem]:
    """Returns one problem for every name that cannot be run yet: of passes, algorithms and points of the plan."""
    found = [
        Problem(
            code="not_available",
            message=step_fault(kind, step),
            path=f"{where}[{index}]",
            file=_step_source(config, where, index).file,
            line=_step_source(config, where, index).line,
            value=step.name,
            fix=f"remove it from '{where}'; `quantwright list {kind}` shows what runs",
        )
        for kind, where, listed in (("passes", "optimize", steps), ("algorithms", "refine", config.refine))
        for index, step in enumerate(listed)
        if step.name in missing(kind)
    ]
    return [*found, *([] if plan is None else _of_points(plan.decisions))]


def _step_source(config: QuantConfig, where: str, index: int) -> Source:
    return config.default_sources.get(f"{where}[{index}]", Source(file=config.source.file))


def _of_points(decisions: Iterable[Decision]) -> list[Problem]:
    """Returns one problem for every thing that is missing and every place that asked for it, naming the points."""
    found: dict[tuple[str, str, str], tuple[Decision, list[str]]] = {}
    faults: dict[tuple[int, str, bool], list[tuple[str, str]]] = {}  # a plan repeats few specs, and keeps them alive
    for decision in decisions:
        if decision.spec is None:
            continue
        key = (id(decision.spec), decision.point.role, decision.relation is not None)
        if key not in faults:
            faults[key] = spec_faults(decision.spec, decision.point.role, decision.relation is not None)
        for field, what in faults[key]:
            asked = (field, what, _place(decision.reasons, field))
            found.setdefault(asked, (decision, []))[1].append(decision.point.name)
    return [_problem(*key, *value) for key, value in found.items()]


def _place(reasons: Reasons, field: str) -> str:
    return str(decider(reasons[field])) if field in reasons else ""


def _problem(field: str, what: str, place: str, decision: Decision, points: list[str]) -> Problem:
    shown = ", ".join(f"'{point}'" for point in points[:_SHOWN])
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    source = decider(decision.reasons[field]) if field in decision.reasons else None
    kind = {"format": "formats", "observer": "observers", "fake_quant": "fakequant"}.get(field, "observers")
    return Problem(
        code="not_available",
        message=f"{shown}{more}: {what} is known and not available yet" + (f" (from {place})" if place else ""),
        path=source.path if source is not None and source.path else f"{decision.point.role}.{field}",
        file=source.file if source is not None else None,
        line=source.line if source is not None else None,
        value=str(getattr(decision.spec, field)),
        fix=_FIX.format(kind),
    )
