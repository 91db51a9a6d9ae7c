"""Rounds weights so that the errors of a layer's products cancel, layer after layer, on what the layers before give.

This is GPTQ (Frantar et al. 2022, arXiv 2210.17323) on grids that stay as they are: the columns of a weight are rounded
one after the other, and those to come make up for the error. A layer with a bias needs no products of the right mean,
for the bias takes that over: then it is the covariance of the inputs that counts, and the bias moves along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.nn import functional

from quantwright.algorithms import Algorithm
from quantwright.algorithms._compensate import Cells, compensated, error_of
from quantwright.algorithms._lockstep import Values, apply_node, first_batches, last_uses
from quantwright.config.kinds import CONV, LINEAR
from quantwright.config.spec import Granularity
from quantwright.data import Batch
from quantwright.fakequant.fixed import Quantizer
from quantwright.graph import ops
from quantwright.numerics import affine
from quantwright.numerics.granularity import broadcast
from quantwright.passes import Change
from quantwright.plan.facts import NodeFacts
from quantwright.prepare import PreparedModel

PARAMS = {
    "samples": {"type": "int", "default": 256, "min": 1, "max": 1000000, "help": "samples held in memory"},
    "damping": {
        "type": "float", "default": 0.01, "min": 0.0, "max": 1.0,
        "help": "how little is trusted that inputs go together as in these samples",
    },
}  # fmt: skip


_WORK = 1 << 34  # multiplications per layer that are always fine; a layer of many columns gets ...
_PER_COLUMN = 8  # ... at least so many places for each


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Returns the first two moments of what a layer's weight is multiplied with.

    Shapes:
        gram_GKK, mean_GK: of the inputs of a row of each group, float64.
    """

    gram_GKK: Tensor
    mean_GK: Tensor


@torch.no_grad()
def run(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    samples: int = 256,
    damping: float = 0.01,
) -> list[Change]:
    """Returns what it changed of a calibrated model: weights, and biases that go with them."""
    chosen = first_batches(batches, samples)
    layers = {facts.name: facts for facts in _layers(prepared)}
    changes: list[Change] = []
    module, leaving = prepared.graph.module, last_uses(prepared.graph.module)
    flat = [prepared.graph.flat_inputs(batch.args, dict(batch.kwargs)) for batch in chosen]
    count = max(1, sum(batch.size for batch in chosen))
    values: dict[fx.Node, Values] = {}
    names = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    for node in module.graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            values[node] = [inputs[names.index(node.name)] for inputs in flat]
        elif node.op == "get_attr":
            values[node] = [prepared.graph.attribute(str(node.target))] * len(chosen)
        elif node.meta.get("point") is not None:
            values[node] = [prepared.quantizers[node.meta["point"]](value) for value in values[node.args[0]]]
        else:
            info = ops.layer_info(node) if node.name in layers else None
            if info is not None:
                changes += _round_layer(prepared, layers[node.name], info, values, count, damping)
            values[node] = apply_node(module, node, values, len(chosen))
        for done in leaving.get(node, ()):
            values.pop(done, None)
    return changes


def _layers(prepared: PreparedModel) -> list[NodeFacts]:
    """Returns the layers whose weight is theirs alone and on a fixed grid of integers."""
    nodes = [facts for facts in prepared.graph.facts().nodes if facts.weight is not None]
    users = Counter(facts.weight.name for facts in nodes if facts.weight is not None)
    found = []
    for facts in nodes:
        quantizer = prepared.quantizers.get(facts.weight.name) if facts.weight is not None else None
        if quantizer is None or users[quantizer.point.name] > 1 or facts.kind not in (*CONV, *LINEAR):
            continue
        if quantizer.spec.is_integer and not quantizer.dynamic and quantizer.qparams is not None:
            found.append(facts)
    return found


def _round_layer(
    prepared: PreparedModel, facts: NodeFacts, info: ops.LayerInfo, values: dict[fx.Node, Values], count: int,
    damping: float,
) -> list[Change]:  # fmt: skip
    """Returns the change of one layer, if it was one; what reads its parameters is computed again.

    Args:
        count: how many samples there are.
    """
    assert facts.weight is not None  # _layers() chose it
    if info.transposed or info.channel_axis != 0 or isinstance(info.padding, str) or info.spatial > 2:
        return []
    old = prepared.graph.parameter(facts.weight.name).detach()
    columns = old[0].numel()
    places = max(_PER_COLUMN * columns, _WORK // (info.groups * columns**2))
    seen = _seen(values[info.x], old, info, -(-places // count))
    shape = (info.groups, old.shape[0] // info.groups, -1)
    weight_GOK = prepared.float_parameters.get(facts.weight.name, old).double().reshape(shape)
    cells = _cells(prepared.quantizers[facts.weight.name], old, shape)
    biased = facts.bias is not None and prepared.graph.parameter(facts.bias.name).shape == old.shape[:1]
    gram_GKK = seen.gram_GKK
    if biased:
        gram_GKK = gram_GKK - seen.mean_GK.unsqueeze(2) * seen.mean_GK.unsqueeze(1)
    new_GOK = compensated(weight_GOK, gram_GKK, cells, damping)
    before = float(error_of(cells.nearest(weight_GOK) - weight_GOK, gram_GKK).sum())
    after = float(error_of(new_GOK - weight_GOK, gram_GKK).sum())
    if not after < before:
        return []
    moved = {facts.weight.name: new_GOK.reshape(old.shape).to(old.dtype)}
    if biased and facts.bias is not None:
        shift_O = ((old.double().reshape(shape) - new_GOK) @ seen.mean_GK.unsqueeze(2)).reshape(-1)
        bias = prepared.graph.parameter(facts.bias.name).detach()
        moved[facts.bias.name] = (bias.double() + shift_O).to(bias.dtype)
    for name, value in moved.items():
        prepared.change_parameter(name, value)
        _read_again(prepared, name, values)
    share = after / before
    return [
        Change(
            by="compensated_rounding",
            node=facts.name,
            text=f"weight of {facts.label} rounded with {100 * share:.0f} % of the squared error of rounding alone",
            data={"weight": facts.weight.name, "error_share": share},
        )
    ]


def _read_again(prepared: PreparedModel, name: str, values: dict[fx.Node, Values]) -> None:
    """Computes the values of a parameter and of its quantizer again."""
    for node in [node for node in values if node.op == "get_attr" and node.target == name]:
        values[node] = [prepared.graph.parameter(name)] * len(values[node])
        for reader in node.users:
            if reader in values and reader.meta.get("point") is not None:
                quantizer = prepared.quantizers[reader.meta["point"]]
                values[reader] = [quantizer(values[node][0])] * len(values[node])


def _cells(quantizer: Quantizer, weight: Tensor, shape: tuple[int, int, int]) -> Cells:
    """Returns the grid of each element of a weight."""
    spec, qparams = quantizer.spec, quantizer.qparams
    assert qparams is not None  # _layers() chose it
    g = spec.granularity or Granularity()
    scale = broadcast(affine.scales(qparams, g, quantizer.arithmetic)[1], weight.shape, g).double().expand(weight.shape)
    zero = broadcast(qparams.zero_point, weight.shape, g).double().expand(weight.shape)
    return Cells(
        scale=scale.reshape(shape), low=(spec.qmin - zero).reshape(shape), high=(spec.qmax - zero).reshape(shape)
    )


def _seen(inputs: Values, weight: Tensor, info: ops.LayerInfo, per_sample: int) -> _Seen:
    """Returns the moments of a layer's inputs, at random places of a convolution, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    columns = weight[0].numel()
    gram_GKK = torch.zeros(info.groups, columns, columns, dtype=torch.float64, device=weight.device)
    sum_GK = torch.zeros(info.groups, columns, dtype=torch.float64, device=weight.device)
    number = 0
    for x in inputs:
        x_GKP = _places(x.to(weight.dtype), weight, info, per_sample, generator)
        gram_GKK += x_GKP @ x_GKP.transpose(1, 2)
        sum_GK += x_GKP.sum(2, dtype=torch.float64)
        number += x_GKP.shape[2]
    return _Seen(gram_GKK=gram_GKK / number, mean_GK=sum_GK / number)


def _places(x: Tensor, weight: Tensor, info: ops.LayerInfo, per_sample: int, generator: torch.Generator) -> Tensor:
    """Returns what the rows of the weight are multiplied with, at up to ``per_sample`` places of every sample.

    Shapes:
        [G, K, P]: groups, columns of the weight, places.
    """
    if not info.spatial:
        rows = x.reshape(-1, x.shape[-1])
        most = max(1, per_sample * x.shape[0])
        if len(rows) > most:
            rows = rows[torch.randperm(len(rows), generator=generator)[:most].to(x.device)]
        return rows.T.unsqueeze(0)
    if info.spatial == 1:
        x, kernel = x.unsqueeze(2), (1, weight.shape[2])
    else:
        kernel = (weight.shape[2], weight.shape[3])
    padding, dilation, stride = ((fill, *own)[-2:] for fill, own in zip((0, 1, 1), _geometry(info), strict=True))
    parts = []
    for sample in torch.split(x, 1):
        unfolded = functional.unfold(sample, kernel, dilation=dilation, padding=padding, stride=stride)[0]
        places = torch.randperm(unfolded.shape[1], generator=generator)[:per_sample].to(x.device)
        parts.append(unfolded[:, places])
    return torch.cat(parts, 1).reshape(info.groups, -1, sum(part.shape[1] for part in parts))


def _geometry(info: ops.LayerInfo) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Returns (padding, dilation, stride), a number per axis."""
    assert not isinstance(info.padding, str)  # _round_layer() leaves these alone
    return info.padding, info.dilation, info.stride


plugin = Algorithm(run=run)
