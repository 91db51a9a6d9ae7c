"""Writes TorchScript: the simulation traced and frozen, plain torch operators only, so that torch alone runs it.

Not a plug-in: TorchScript numbers its types by a counter of the process, so two exports are equal in what they compute
and not in their bytes, and only torch can be asked whether the file is right.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantwright.errors import ExportError
from quantwright.files import atomic_path
from quantwright.prepare import PreparedModel

_trace: Any = torch.jit.trace  # torch gives these two no types
_load: Any = torch.jit.load


class _Flat(nn.Module):
    """Returns the network with its inputs one after the other, as the user's ``forward`` names them."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__()
        self.network = prepared.simulation.portable() if prepared.simulation.applies() else prepared.network
        self._spec = prepared.graph.signature.in_spec

    def forward(self, *inputs: Any) -> Any:
        """Returns what the network returns."""
        args, kwargs = pytree.tree_unflatten(list(inputs), self._spec)
        return self.network(*args, **kwargs)


@torch.no_grad()
def export(prepared: PreparedModel, path: Path) -> torch.jit.ScriptModule:
    """Returns the TorchScript module it wrote; on the example it equals the simulation bit for bit.

    Raises:
        ExportError: torch cannot trace the network, or what was traced computes something else.
    """
    example = prepared.example
    flat = prepared.graph.flat_inputs(example.args, dict(example.kwargs))
    buffer = io.BytesIO()
    with prepared.quantizing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scales and widths are constants here: what the tracer warns of is meant
        try:
            traced = _trace(_Flat(prepared).eval(), tuple(flat), check_trace=False, strict=False)
            torch.jit.save(torch.jit.freeze(traced, optimize_numerics=False), buffer)
        except RuntimeError as error:
            text = str(error).strip().split("\n")[0]
            raise ExportError(f"torch.jit cannot trace the network: {text}", where=prepared.graph.name) from error
        script: torch.jit.ScriptModule = _load(io.BytesIO(buffer.getvalue()))
        wanted = prepared(*example.args, **example.kwargs)
        got = script(*[item.clone() if isinstance(item, Tensor) else item for item in flat])
    if not _equal(wanted, got):
        raise ExportError("the traced network computes something else than the simulation", where=prepared.graph.name)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return script


def _equal(wanted: Any, got: Any) -> bool:
    """Returns whether two (nested) outputs hold equal tensors."""
    ours, theirs = ([x for x in pytree.tree_leaves(item) if isinstance(x, Tensor)] for item in (wanted, got))
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
