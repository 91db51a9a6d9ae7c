"""Algorithms: need data, or change the function: bias correction and its kind.

To add one: write ``algorithms/<name>.py`` with a docstring, a literal ``PARAMS`` (see ``registry.parameters``) and
``plugin = Algorithm(run=..., during_calibration=...)``. ``run`` works on a calibrated model, in the order of the
config's ``refine``; ``during_calibration`` returns a hook for the ones that must see every calibration batch as it
passes, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantwright.calibrate import BatchHook
from quantwright.passes import Change


def _no_hook(*_args: object, **_params: object) -> None:
    """Returns None: most algorithms need nothing during calibration."""
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Returns one algorithm.

    Attributes:
        run: ``(prepared: PreparedModel, batches: Iterable[Batch], **params) -> list[Change]``; the
            batches can be gone through several times.
        during_calibration: ``(prepared: PreparedModel, **params) -> BatchHook | None``.
        needs_data: whether ``run`` goes through the batches.
    """

    run: Callable[..., list[Change]]
    during_calibration: Callable[..., BatchHook | None] = _no_hook
    needs_data: bool = True
