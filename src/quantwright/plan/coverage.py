"""Coverage: how much of a model is quantized, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantwright.plan.plan import Plan, SameAs
from quantwright.plan.values import FUSED


def coverage(plan: Plan) -> dict[str, Any]:
    """Returns counts of tensors, as plain JSON values.

    ``quantized`` have a point of their own, ``shared`` use the QParams of another point, ``fused`` exist only inside an
    operation that is quantized as one, ``float`` stay float; ``why float`` counts the reasons, most frequent first.
    """
    shared = sum(d.spec is not None and isinstance(d.relation, SameAs) for d in plan.decisions)
    quantized = sum(d.spec is not None for d in plan.decisions) - shared
    left = [decision.why_float for decision in plan.decisions if decision.spec is None]
    reasons = Counter(why for why in left if not why.startswith(FUSED))
    return {
        "quantized": quantized,
        "shared": shared,
        "fused": len(left) - reasons.total(),
        "float": reasons.total(),
        "why float": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
    }
