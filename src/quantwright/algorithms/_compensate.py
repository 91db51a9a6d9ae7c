"""Rounding the columns of a weight one after the other, each error made up for by the columns still to come.

Frantar et al. 2022 (GPTQ, arXiv 2210.17323), algorithm 1, after Frantar and Alistarh 2022 (optimal brain quantization).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128  # columns whose errors are passed on to all later ones at once (section 3.3, step 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Returns the grid of every element of a weight.

    Shapes:
        scale, low, high: as the weight, [G, O, K]: float per step, the least and the greatest ``q - zero_point``.
    """

    scale: Tensor
    low: Tensor
    high: Tensor

    def nearest(self, weight: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
        """Returns the grid value next to each element of some columns."""
        scale = self.scale[..., columns]
        q = torch.round(weight / scale)
        return torch.minimum(torch.maximum(q, self.low[..., columns]), self.high[..., columns]) * scale

    def ordered(self, order_GOK: Tensor) -> Cells:
        """Returns the same with its columns in another order."""
        parts = (part.gather(2, order_GOK) for part in (self.scale, self.low, self.high))
        return Cells(**dict(zip(("scale", "low", "high"), parts, strict=True)))


def compensated(weight_GOK: Tensor, gram_GKK: Tensor, cells: Cells, damping: float) -> Tensor:
    """Returns the weight on its grid, with little error of its products; row by row never more than by rounding alone.

    Args:
        gram_GKK: the mean of x x^T over what the weight is multiplied with.
        damping: of the mean of its diagonal, what is added to the diagonal.

    Shapes:
        weight_GOK: G groups of O rows of K columns, float64; so is the result.
    """
    plain_GOK = cells.nearest(weight_GOK)
    diagonal_GK = gram_GKK.diagonal(dim1=1, dim2=2)
    if not bool((diagonal_GK.sum(1) > 0).all()):
        return plain_GOK  # nothing ever came in
    order_GK = torch.argsort(
        diagonal_GK, dim=1, descending=True, stable=True
    )  # the columns that matter most are rounded first
    order_GOK = order_GK.unsqueeze(1).expand_as(weight_GOK)
    gram = gram_GKK + torch.diag_embed(damping * diagonal_GK.mean(1, keepdim=True).expand_as(diagonal_GK))
    gram = gram.gather(1, order_GK.unsqueeze(2).expand_as(gram)).gather(2, order_GK.unsqueeze(1).expand_as(gram))
    factor, failed_G = torch.linalg.cholesky_ex(gram)
    if bool(failed_G.any()):
        return plain_GOK
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    found = _one_by_one(weight_GOK.gather(2, order_GOK), upper, cells.ordered(order_GOK))
    found_GOK = torch.empty_like(found).scatter_(2, order_GOK, found)
    better_GO1 = (error_of(weight_GOK - found_GOK, gram_GKK) < error_of(weight_GOK - plain_GOK, gram_GKK)).unsqueeze(2)
    return torch.where(better_GO1, found_GOK, plain_GOK)


def _one_by_one(left_GOK: Tensor, upper_GKK: Tensor, cells: Cells) -> Tensor:
    """Returns the columns on their grid; ``left`` is what is still to be rounded, and changed.

    Args:
        upper_GKK: the upper Cholesky factor of the inverse Gram matrix.
    """
    result = torch.empty_like(left_GOK)
    columns = left_GOK.shape[2]
    for top in range(0, columns, _BLOCK):
        end = min(top + _BLOCK, columns)
        errors = torch.empty_like(left_GOK[..., top:end])
        for k in range(top, end):
            result[..., k] = cells.nearest(left_GOK[..., k : k + 1], slice(k, k + 1)).squeeze(2)
            errors[..., k - top] = (left_GOK[..., k] - result[..., k]) / upper_GKK[:, k, k].unsqueeze(1)
            left_GOK[..., k + 1 : end] -= errors[..., k - top].unsqueeze(2) * upper_GKK[:, k, k + 1 : end].unsqueeze(1)
        left_GOK[..., end:] -= errors @ upper_GKK[:, top:end, end:]
    return result


def error_of(change_GOK: Tensor, gram_GKK: Tensor) -> Tensor:
    """Returns the mean squared error that a change of the weight makes of each row's products: [G, O]."""
    return ((change_GOK @ gram_GKK) * change_GOK).sum(2)
