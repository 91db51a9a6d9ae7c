"""quant_info.json and bias_corr.pth: what calibration found, in the original's format, written and read.

``{"param": {"Net::c1.weight": [[8, 6]]}, "output": {"Net::nndct_relu_2": [[8, 4]]}, "input": {}, ...}``: ``[bits, fix
position]`` for a DPU, ``[bits, scale, zero point, largest value]`` otherwise, lists in place of numbers per channel. A
file that the original wrote is read as well. ``graph_md5`` is left out: the original then compares the names only.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantwright import files
from quantwright.api import PreparedModel
from quantwright.compat.pytorch_nndct._messages import coded
from quantwright.compat.pytorch_nndct._names import by_node, operations
from quantwright.config import kinds
from quantwright.config.document import read_document
from quantwright.errors import ArtifactError, ConfigError, StateError
from quantwright.fakequant.fixed import Quantizer
from quantwright.numerics.qparams import QParams
from quantwright.plan.plan import SameAs

FILE, CORRECTIONS = "quant_info.json", "bias_corr.pth"
SECTIONS = ("param", "output", "input")
LAYERS = (*kinds.CONV, *kinds.CONV_TRANSPOSE, *kinds.LINEAR)  # what bias_corr.pth has an entry for
Place = tuple[str, str]  # (section, name)
_AGAIN = "run quant_mode 'calib' again with the same model and configuration, and give it data"


def write(prepared: PreparedModel, folder: Path, version: str) -> Path:
    """Returns the path of quant_info.json after writing it and, where biases were corrected, bias_corr.pth."""
    corrections = _corrections(prepared)
    info: dict[str, Any] = {section: {} for section in SECTIONS}
    dtype: dict[str, Any] = {section: {} for section in SECTIONS}
    for (section, name), quantizer in _places(prepared).items():
        if quantizer.spec.is_integer:
            info[section].setdefault(name, []).append(_entry(quantizer, _fixed_point(prepared)))
        else:
            dtype[section].setdefault(name, []).append(quantizer.spec.format)
    info |= {"fast_finetuned": False, "bias_corrected": corrections is not None, "version": version}
    if any(dtype.values()):
        info["dtype"] = dtype
    if corrections is not None:
        buffer = io.BytesIO()  # in a file of its own name, torch.save would write that name
        torch.save(corrections, buffer)
        with files.atomic_path(folder / CORRECTIONS) as temporary:
            temporary.write_bytes(buffer.getvalue())
    files.write_text(folder / FILE, _text(info))
    return folder / FILE


def _text(info: Mapping[str, Any]) -> str:
    """Returns the JSON text: one tensor per line, as the original writes it."""
    lines = []
    for key, value in info.items():
        if not isinstance(value, dict):
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
            continue
        items = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
        lines.append(f"  {json.dumps(key)}: {{\n{items}\n  }}" if items else f"  {json.dumps(key)}: {{}}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(prepared: PreparedModel, folder: Path) -> None:
    """Gives a prepared model the scales and corrected biases that a calibration left in ``folder``.

    Raises:
        StateError: there is no result of a calibration. ArtifactError: it is damaged, or of another model or
            configuration; every name that does not fit is counted and the first are shown.
    """
    path = folder / FILE
    if not path.is_file():
        raise coded(
            "NO_CALIB_RESULT",
            StateError(
                f"there is no {path}", fix="run with quant_mode 'calib' first, and call export_quant_config() there"
            ),
        )
    try:
        info = read_document(path).value
    except ConfigError as error:
        raise _mismatch(error.problems[0].message, str(path)) from error
    places = {place: q for place, q in _places(prepared).items() if q.spec.is_integer}
    _require_names(info, places, path)
    for (section, name), quantizer in places.items():
        qparams = _qparams(info[section][name], quantizer, _fixed_point(prepared), f"{path}: {name}")
        quantizer.qparams = qparams.to(prepared.graph.device)
    _read_corrections(prepared, folder)
    prepared.link()
    prepared.set_mode("quantize")


def _fixed_point(prepared: PreparedModel) -> bool:
    return prepared.target.name == "dpu"


def _places(prepared: PreparedModel) -> dict[Place, Quantizer]:
    """Returns (section, name) -> the quantizer it describes: every point with a range of its own, in order."""
    model, named = prepared.graph.name, by_node(operations(prepared.graph))
    found: dict[Place, Quantizer] = {}
    for name, quantizer in prepared.quantizers.items():
        point = quantizer.point
        if isinstance(prepared.plan[name].relation, SameAs) or quantizer.spec.scale == "derived" or quantizer.dynamic:
            continue
        if point.role in ("weight", "bias"):
            found["param", f"{model}::{point.tensor}"] = quantizer
        elif point.consumers:
            found["input", named[point.node].name] = quantizer
        else:
            found["output", named[point.tensor].name] = quantizer
    return found


def _entry(quantizer: Quantizer, fixed_point: bool) -> list[Any]:
    """Returns the numbers of one tensor."""
    qparams, bits = quantizer.qparams, quantizer.spec.bits
    if qparams is None:
        raise StateError(f"point '{quantizer.point.name}' has no QParams yet", fix="call quant_model on data first")
    if fixed_point:
        return [bits, round(-math.log2(float(qparams.scale)))]
    scale_G, zero_G = qparams.scale.double().cpu(), qparams.zero_point.cpu()
    largest_G = scale_G * (quantizer.spec.qmax - zero_G)
    return [bits, *(_plain(values_G) for values_G in (scale_G, zero_G, largest_G))]


def _plain(values_G: Tensor) -> Any:
    return values_G.item() if values_G.numel() == 1 else values_G.tolist()


def _qparams(entries: Any, quantizer: Quantizer, fixed_point: bool, where: str) -> QParams:
    """Returns the QParams an entry of the file stands for.

    Raises:
        StateError: null: the original writes it for a tensor that calibration never reached.
        ArtifactError: not such an entry, or of another width or kind of target.
    """
    entry = entries[0] if isinstance(entries, list) and entries else entries
    if entry is None or (isinstance(entry, list) and None in entry):
        raise coded("NO_CALIBRATION", StateError("this tensor was not calibrated", where=where, fix=_AGAIN))
    wanted = "[bits, fix position]" if fixed_point else "[bits, scale, zero point, largest value]"
    if not _is_entry(entry, 2 if fixed_point else 4):
        raise _mismatch(f"{entry!r} is not {wanted}, which this configuration needs", where)
    if entry[0] != quantizer.spec.bits:
        raise _mismatch(f"calibrated with {entry[0]} bits, the configuration asks for {quantizer.spec.bits}", where)
    scale_G = torch.tensor([2.0 ** -entry[1]] if fixed_point else entry[1], dtype=torch.float64).reshape(-1)
    zero_G = torch.zeros_like(scale_G) if fixed_point else torch.tensor(entry[2]).reshape(-1)
    if not bool((scale_G > 0).all()) or scale_G.shape != zero_G.shape:
        raise _mismatch(f"{entry!r} holds a scale that is not positive, or too few zero points", where)
    return QParams(scale=scale_G, zero_point=zero_G.to(torch.int32))


def _is_entry(entry: Any, length: int) -> bool:
    """Returns whether ``entry`` is a width, and then numbers or lists of numbers."""
    if not isinstance(entry, list) or len(entry) != length or not isinstance(entry[0], int):
        return False
    flat = [item for part in entry[1:] for item in (part if isinstance(part, list) and length > 2 else [part])]
    return all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in flat)


def _require_names(info: Any, places: Mapping[Place, Quantizer], path: Path) -> None:
    """Raises ArtifactError when the file does not have exactly the tensors of this model."""
    sections = {name: info.get(name) if isinstance(info, dict) else None for name in SECTIONS}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise _mismatch(f"it has no section '{name}'", str(path))
    there = {(section, name) for section, names in sections.items() for name in names or ()}
    lacking = [f"{section} {name}" for section, name in places if (section, name) not in there]
    strange = [f"{section} {name}" for section, name in sorted(there - set(places))]
    if lacking or strange:
        parts = [
            f"{len(names)} tensors {what}: {', '.join(names[:4])}" + (" ..." if len(names) > 4 else "")
            for names, what in ((lacking, "of the model are not in it"), (strange, "in it are not in the model"))
            if names
        ]
        raise _mismatch("; ".join(parts), str(path))


def _mismatch(message: str, where: str) -> ArtifactError:
    fix = "use the model, configuration and target of the calibration, or calibrate again with quant_mode 'calib'"
    return coded("CALIB_RESULT_MISMATCH", ArtifactError(message, where=where, fix=fix))


def corrects_biases(prepared: PreparedModel) -> bool:
    """Returns whether the configuration asks for bias correction."""
    return any(step.name == "bias_correction" for step in prepared.config.refine)


def _corrections(prepared: PreparedModel) -> dict[str, list[float] | None] | None:
    """Returns layer -> float bias minus corrected bias, exactly; None for layers left alone, None without correction.

    Spec vai_q_pytorch 4.7.
    """
    if not corrects_biases(prepared):
        return None
    found: dict[str, list[float] | None] = {}
    for operation in operations(prepared.graph):
        node = operation.nodes[0]
        if node.kind not in LAYERS:
            continue
        before = None if node.bias is None else prepared.float_parameters.get(node.bias.name)
        if node.bias is None or before is None:
            found[operation.name] = None
        else:
            found[operation.name] = (before.double() - prepared.graph.parameter(node.bias.name).double()).tolist()
    return found


def _read_corrections(prepared: PreparedModel, folder: Path) -> None:
    """Corrects the biases of a prepared model by what calibration found.

    Raises:
        StateError: the configuration asks for bias correction and there is no file. ArtifactError: it does not fit.
    """
    if not corrects_biases(prepared):
        return
    path = folder / CORRECTIONS
    if not path.is_file():
        raise coded("BIAS_CORRECTION", StateError(f"there is no {path}", fix=_AGAIN))
    try:
        corrections = torch.load(path, map_location="cpu", weights_only=True)  # data only: nothing in it is executed
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        text = str(error).split("\n")[0]
        raise coded("BIAS_CORRECTION", ArtifactError(f"cannot be read: {text}", where=str(path), fix=_AGAIN)) from error
    named = {operation.name: operation.nodes[0] for operation in operations(prepared.graph)}
    for name, values in corrections.items() if isinstance(corrections, dict) else ():
        if values is None:
            continue
        node = named.get(name)
        bias = None if node is None or node.bias is None else prepared.graph.parameter(node.bias.name)
        correction = torch.as_tensor(values, dtype=torch.float64)
        if node is None or node.bias is None or bias is None or bias.shape != correction.shape:
            what = f"'{name}' with {correction.numel()} values is no layer of this model"
            raise coded("BIAS_CORRECTION", ArtifactError(what, where=str(path), fix=_AGAIN))
        prepared.change_parameter(node.bias.name, (bias.double() - correction.to(bias.device)).to(bias.dtype))
