"""How fast scaled formats are fake-quantized, beside torch's own casts to 8-bit floats and an 8-bit integer grid.

python bench/formats.py [--elements 4194304]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from quantwright.config.spec import BASE_SPEC, Granularity, QuantSpec
from quantwright.numerics import affine
from quantwright.numerics.choose import choose_qparams
from quantwright.numerics.granularity import ends, group_view

GROUPS = Granularity(kind="per_group", axis=-1, group_size=32)
CASES: dict[str, QuantSpec] = {
    "int8": QuantSpec(format="int8"),
    "fp8_e4m3": QuantSpec(format="fp8_e4m3"),
    "fp8_e5m2": QuantSpec(format="fp8_e5m2"),
    "fp4_e2m1": QuantSpec(format="fp4_e2m1"),
    "nf4": QuantSpec(format="nf4"),
    "bfloat16": QuantSpec(format="bfloat16"),
    "fp8_e4m3 in groups of 32, e8m0": QuantSpec(format="fp8_e4m3", granularity=GROUPS, scale="e8m0"),
    "mxint8 in groups of 32, e8m0": QuantSpec(format="mxint8", granularity=GROUPS, scale="e8m0"),
    "mx9 in groups of 32, e8m0": QuantSpec(format="mx9", granularity=GROUPS, scale="e8m0"),
}


def main() -> None:
    """Prints milliseconds per case, the least of seven."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randn(args.elements // 1024, 1024)
    for name, dtype in (("e4m3fn", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        limit, scale = torch.finfo(dtype).max, float(x.abs().max()) / torch.finfo(dtype).max
        took = _least(lambda t: t.div(scale).clamp_(-limit, limit).to(dtype).float().mul_(scale), x)  # noqa: B023
        print(f"{'torch: ' + name:34} {took:8.2f} ms")
    for name, part in CASES.items():
        spec = part.over(BASE_SPEC)
        qparams = (
            choose_qparams(*ends(group_view(x, spec.granularity or Granularity())), spec) if spec.has_scale else None
        )
        took = _least(lambda t: affine.fake_quantize(t, qparams, spec), x)  # noqa: B023
        print(f"{name:34} {took:8.2f} ms")


def _least(work: Callable[[Tensor], Tensor], x: Tensor) -> float:
    times = []
    with torch.no_grad():
        for _ in range(7):
            start = time.perf_counter()
            work(x)
            times.append(time.perf_counter() - start)
    return min(times) * 1000


if __name__ == "__main__":
    main()
