"""sophgo-mq's chip BM1684X, strategy Transformer: what layers and matrix products read."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, eight

plugin = chip("sophgo_bm1684x_transformer", "BM1684X", transformer=True, check=eight)
