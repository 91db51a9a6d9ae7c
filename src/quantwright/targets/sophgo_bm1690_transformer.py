"""sophgo-mq's chip BM1690 (SG2260 until 2024), strategy Transformer: what layers and matrix products read."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, eight

plugin = chip("sophgo_bm1690_transformer", "BM1690", transformer=True, check=eight)
