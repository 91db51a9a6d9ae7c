"""MQBench's backend NNIE: HiSilicon's logarithmic grid, which is known and not available yet."""

from __future__ import annotations

from quantwright.config.spec import FakeQuantSpec
from quantwright.targets._mqbench import backend, grid, observed

_GRID = grid().model_copy(update={"fake_quant": FakeQuantSpec(name="nnie")})

plugin = backend(
    "mqbench_nnie",
    "MQBench's preset for HiSilicon NNIE: 8-bit logarithmic grid",
    observed(_GRID),
    observed(_GRID, statistic="ema"),
)
