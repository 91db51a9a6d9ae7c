"""Floating point, float32, float16 and bfloat16: cast there and back, round to nearest even, no scale.

Values beyond float16's range become infinite, as the cast in hardware makes them (spec vai_q_pytorch 3.7).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantwright.config.spec import FLOAT_FORMATS, QuantSpec
from quantwright.numerics.formats import Format
from quantwright.numerics.qparams import QParams

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def quantize(x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns ``x`` in the format's dtype; there are no QParams and no arithmetic to choose."""
    return x.to(_DTYPES[spec.format or ""])


def dequantize(q: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide") -> Tensor:
    """Returns ``q`` as float32."""
    return q.float()


def fake_quantize(
    x: Tensor, qparams: QParams | None, spec: QuantSpec, *, arithmetic: str = "divide", out: Tensor | None = None
) -> Tensor:
    """Returns ``x`` cast to the format and back to its own dtype; the gradient passes straight through.

    Shapes:
        x: any; the result has the same shape.
    """
    y = x.to(_DTYPES[spec.format or ""]).to(x.dtype)
    return y if out is None else out.copy_(y)


plugin = Format(
    serves=FLOAT_FORMATS.__contains__, quantize=quantize, dequantize=dequantize, fake_quantize=fake_quantize
)
