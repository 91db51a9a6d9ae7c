"""sophgo-mq's chip CV181X, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv181x_transformer", "CV181X", transformer=True, narrow=True)
