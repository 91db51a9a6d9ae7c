"""sophgo-mq's chip BM1688, strategy Transformer: what layers and matrix products read."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, four_or_eight

plugin = chip("sophgo_bm1688_transformer", "BM1688", transformer=True, check=four_or_eight)
