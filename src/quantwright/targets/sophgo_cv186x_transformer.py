"""sophgo-mq's chip CV186X, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv186x_transformer", "CV186X", transformer=True, narrow=True)
