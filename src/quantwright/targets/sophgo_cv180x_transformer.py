"""sophgo-mq's chip CV180X, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv180x_transformer", "CV180X", transformer=True, narrow=True)
