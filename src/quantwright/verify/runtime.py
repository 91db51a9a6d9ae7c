"""OrtRunner: runs an ONNX file on batches, fused as ONNX Runtime likes it, or exactly node by node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantwright.data import Batch
from quantwright.errors import ArtifactError, DataError, ExportError, MissingDependencyError

Array = np.ndarray[Any, Any]
_DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}  # fmt: skip


class OrtRunner:
    """Returns a runner for one ONNX file.

    Attributes:
        inputs, outputs: names, in the file's order.

    Args:
        model: a path, or the bytes of a model.
        fused: let ONNX Runtime replace QuantizeLinear/DequantizeLinear around an operator by integer kernels and do
            its other rewrites; without, every node is computed as it stands in the file.
        threads: 0 lets ONNX Runtime choose.

    Raises:
        ExportError: ONNX Runtime refuses the model; with its reason.
    """

    def __init__(self, model: Path | str | bytes, *, fused: bool = True, threads: int = 0) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        levels = runtime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise ArtifactError("there is no such ONNX file", where=str(model), fix="export the model first")
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except _failures() as error:
            where = "the model" if isinstance(model, bytes) else str(model)
            raise ExportError(f"ONNX Runtime refuses the file: {_first_line(error)}", where=where) from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())
        self._types = {value.name: value.type for value in self._session.get_inputs()}

    def run(self, batch: Batch, names: Sequence[str] | None = None) -> list[Array]:
        """Returns the outputs (or the named ones) for a batch, in the order of the network's flattened output.

        Raises:
            DataError: the batch has not the inputs the file takes. ExportError: running failed.
        """
        feed = self.feed(batch)
        try:
            results: list[Array] = self._session.run(list(names) if names is not None else None, feed)
        except _failures() as error:
            raise ExportError(f"ONNX Runtime cannot run the file: {_first_line(error)}") from error
        return results

    def __call__(self, batch: Batch) -> list[Tensor]:
        """Returns the outputs as tensors."""
        return [torch.from_numpy(np.asarray(value)) for value in self.run(batch)]

    def feed(self, batch: Batch) -> dict[str, Array]:
        """Returns input name -> array: positional tensors in the file's order, keyword ones by name."""
        named = dict(_named(batch.kwargs))
        positional = [leaf for leaf in pytree.tree_leaves(batch.args) if isinstance(leaf, Tensor)]
        keyword = {name for name in self.inputs if _plain(name) in named}
        free = [name for name in self.inputs if name not in keyword]
        if len(free) != len(positional) or len(keyword) != len(named):
            given = len(positional) + len(named)
            raise DataError(
                f"the file takes {len(self.inputs)} inputs, the batch has {given}", allowed=", ".join(self.inputs),
                fix="give the inputs the model was captured with",
            )  # fmt: skip
        values = dict(zip(free, positional, strict=True)) | {name: named[_plain(name)] for name in keyword}
        return {name: self._array(name, value) for name, value in values.items()}

    def _array(self, name: str, value: Tensor) -> Array:
        array = value.detach().cpu().numpy()
        wanted = _DTYPES.get(self._types[name])
        if wanted is not None and array.dtype != wanted:
            kind = np.dtype(wanted).name
            raise DataError(f"input '{name}' is {array.dtype}", allowed=kind, fix=f"convert it: x.to(torch.{kind})")
        return array


def _plain(name: str) -> str:
    return name.removesuffix("_in")


def _named(kwargs: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for keyword inputs; nested ones are called ``name_key``, as torch.export calls them."""
    for path, leaf in pytree.tree_flatten_with_path(dict(kwargs))[0]:
        if isinstance(leaf, Tensor):
            yield "_".join(str(getattr(step, "key", getattr(step, "idx", step))) for step in path), leaf


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("this needs onnxruntime", fix='pip install "quantwright[onnx]"') from error
    return onnxruntime


def _failures() -> tuple[type[Exception], ...]:
    """Returns the exceptions ONNX Runtime raises; they share no base class of its own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "NoModel", "ModelLoaded")  # fmt: skip
    return (*(getattr(state, name) for name in names if hasattr(state, name)), RuntimeError)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
