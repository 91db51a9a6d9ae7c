"""sophgo-mq's chip MARS3, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_mars3_transformer", "MARS3", transformer=True, narrow=True)
