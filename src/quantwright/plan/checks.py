"""Checks: what the engine or the target cannot do, for every decided point, all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from quantwright.config.consistency import conflicts
from quantwright.config.spec import QuantSpec, Role
from quantwright.errors import Problem
from quantwright.plan.chain import Chained
from quantwright.targets import Target

_SHOWN = 3  # points named in one problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Returns one thing that cannot be done: a stable code, the field at fault, what is wrong and what can be done."""

    code: str
    field: str
    message: str
    fix: str


@dataclass(slots=True)
class Legality:
    """Returns a collector of faults: one problem per fault and place that asked for it, naming the points.

    Call ``check`` for every point that has a grid of its own, then ``problems``.
    """

    target: Target
    _faults: dict[tuple[int, Role, str], tuple[QuantSpec, tuple[Fault, ...]]] = field(default_factory=dict)
    _found: dict[tuple[Fault, Role, str], tuple[Chained, list[str]]] = field(default_factory=dict)

    def check(self, point: str, chained: Chained, role: Role, kind: str, shape: tuple[int, ...] | None = None) -> None:
        """Collects what is wrong with the spec of one point; ``kind`` is the operation it belongs to.

        Args:
            shape: of the tensor, when it is known.
        """
        key = (id(chained.spec), role, kind)  # specs hold dicts and have no hash; the cache keeps them alive
        if key not in self._faults:
            self._faults[key] = (chained.spec, tuple(self._all(chained.spec, role, kind)))
        axis = axis_fault(chained, shape) if shape is not None else None
        for fault in (*self._faults[key][1], *((axis,) if axis else ())):
            place = str(chained.why(fault.field)) if fault.field in chained.reasons else ""
            self._found.setdefault((fault, role, place), (chained, []))[1].append(point)

    def _all(self, spec: QuantSpec, role: Role, kind: str) -> Iterable[Fault]:
        yield from engine_faults(spec, role)
        for check in self.target.checks:
            message = check(spec, role, kind)
            if message:
                wrong, _, fix = message.partition("; ")
                name = field_of(message)
                yield Fault(
                    code=f"target_{self.target.name}_{name or 'spec'}",
                    field=name,
                    message=f"target {self.target.name}: {wrong}",
                    fix=fix or "choose another target",
                )

    def problems(self) -> list[Problem]:
        """Returns one problem per fault, role and place, in the order they were found."""
        return [_problem(*key, *found) for key, found in self._found.items()]


def engine_faults(spec: QuantSpec, role: Role) -> list[Fault]:
    """Returns what the engine cannot do with a complete spec, whatever the target.

    Settings without effect are no faults here: in a complete spec they are inherited, not asked for.
    """
    found = [
        Fault(code=conflict.code, field=conflict.field, message=conflict.message, fix=conflict.fix)
        for conflict in conflicts(spec, role)
        if conflict.code != "no_effect"
    ]
    exact = spec.observer is not None and spec.observer.params.get("histogram") == "exact"
    if spec.is_integer and exact and spec.symmetric is False:
        message = "an exact histogram counts |x|, which says nothing about an asymmetric range"
        fix = "use histogram: streaming, symmetric: true, or observer minmax"
        found.append(Fault(code="exact_asymmetric", field="observer", message=message, fix=fix))
    return found


def axis_fault(chained: Chained, shape: tuple[int, ...]) -> Fault | None:
    """Returns what is wrong with the granularity's axis for a tensor of ``shape``, or None."""
    granularity = chained.spec.granularity
    if granularity is None or granularity.axis is None or -len(shape) <= granularity.axis < len(shape):
        return None
    return Fault(
        code="axis",
        field="granularity",
        message=f"{granularity} names an axis that a tensor of {len(shape)} axes does not have",
        fix=f"choose an axis from 0 to {len(shape) - 1}, or per_tensor" if shape else "use per_tensor",
    )


def field_of(message: str) -> str:
    """Returns the spec field a check's message is about: the first of its words that is one, or ""."""
    for word in message.replace(":", " ").replace("'", " ").split():
        if word in QuantSpec.model_fields:
            return word
    return ""


def _problem(fault: Fault, role: Role, place: str, chained: Chained, points: list[str]) -> Problem:
    """Returns the problem of one fault, with the losing value and where it came from."""
    shown = ", ".join(f"'{point}'" for point in points[:_SHOWN])
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    source = chained.why(fault.field) if fault.field in chained.reasons else None
    value = getattr(chained.spec, fault.field, None) if fault.field else None
    origin = f" ({role}.{fault.field} = {value}, from {place})" if place else ""
    return Problem(
        code=fault.code,
        message=f"{shown}{more}: {fault.message}{origin}",
        path=source.path if source is not None and source.path else f"{role}.{fault.field}".rstrip("."),
        file=source.file if source is not None else None,
        line=source.line if source is not None else None,
        value=value if isinstance(value, (str, int, float, bool)) else (None if value is None else str(value)),
        fix=fault.fix,
    )
