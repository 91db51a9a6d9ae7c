"""MODEL: ``file.py:factory``, ``package.module:factory`` or a ``.pt2`` archive becomes a network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from quantwright.data import forward_parameters
from quantwright.errors import ModelError, QuantwrightError
from quantwright.graph.capture import capture_archive
from quantwright.graph.graph import Graph
from quantwright.loading import reference


def load_model(ref: str) -> nn.Module | Graph:
    """Returns the model that ``ref`` names: what the factory returns, in eval mode, or the graph of a .pt2 archive.

    Args:
        ref: ``file.py:factory``, ``package.module:factory`` (a callable without arguments that returns an nn.Module,
            or a module itself), or ``model.pt2``.

    Raises:
        ModelError: no such file, no such name, the factory fails (its file and line are named), or it returns
            something else.
    """
    if ref.endswith(".pt2"):
        return _archive(Path(ref))
    found = reference.resolve(ref, what="model", error=ModelError)
    model = reference.made(found, ref, ModelError, ready=(nn.Module, Graph))
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModelError(f"'{ref}' returns the class {model.__name__}, not a network", fix="return an instance of it")
    if not isinstance(model, (nn.Module, Graph)):
        raise ModelError(
            f"'{ref}' returns a {type(model).__name__}", allowed="a torch.nn.Module", fix="return the network itself"
        )
    return model.eval() if isinstance(model, nn.Module) else model


def input_names(model: nn.Module | Graph) -> tuple[str, ...]:
    """Returns the names of the model's inputs."""
    return model.input_names if isinstance(model, Graph) else forward_parameters(model)


def _archive(path: Path) -> Graph:
    if not path.is_file():
        raise ModelError("no such file", where=str(path), fix=reference.near_files(path))
    try:
        graph: Graph = capture_archive(path)
    except QuantwrightError:
        raise
    except Exception as error:
        raise ModelError(
            f"not a readable .pt2 archive: {reference.one_line(error)}",
            where=str(path),
            fix="write it again with torch.export.save; the file may be truncated",
        ) from error
    return graph
