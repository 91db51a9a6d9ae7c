"""param.pth: parameters the original tuned, by the numbers of its modules (``module_3.weight``)."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from quantwright.api import PreparedModel
from quantwright.compat.pytorch_nndct._messages import coded
from quantwright.compat.pytorch_nndct._names import operations
from quantwright.errors import ArtifactError, StateError

FILE = "param.pth"


def load_parameters(prepared: PreparedModel, folder: Path) -> None:
    """Sets every parameter that the file holds; all of them or, when one does not fit, none.

    Raises:
        StateError: there is no file. ArtifactError: it cannot be read, or one of its tensors is not of this model.
    """
    path = folder / FILE
    if not path.is_file():
        fix = "run fast_finetune of the original in quant_mode 'calib', or leave the call out"
        raise coded("FAST_FINETINE", StateError(f"there is no {path}", fix=fix))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # data only: nothing in it is executed
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        text = str(error).split("\n")[0]
        raise coded("FAST_FINETINE", ArtifactError(f"cannot be read: {text}", where=str(path))) from error
    owners = {f"module_{operation.number}": operation.nodes[0] for operation in operations(prepared.graph)}
    found: dict[str, Tensor] = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        module, _, leaf = str(key).rpartition(".")
        node = owners.get(module)
        part = None if node is None else {"weight": node.weight, "bias": node.bias}.get(leaf)
        if part is None or not isinstance(value, Tensor) or value.shape != prepared.graph.parameter(part.name).shape:
            fix = "use the model and configuration that were tuned"
            raise coded("FAST_FINETINE", ArtifactError(f"'{key}' does not fit this model", where=str(path), fix=fix))
        found[part.name] = value
    for name, value in found.items():
        like = prepared.graph.parameter(name)
        prepared.change_parameter(name, value.to(like.device, like.dtype))
