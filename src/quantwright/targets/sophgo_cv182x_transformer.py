"""sophgo-mq's chip CV182X, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv182x_transformer", "CV182X", transformer=True, narrow=True)
