"""sophgo-mq's chip CV183X, strategy Transformer: what layers and matrix products read, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv183x_transformer", "CV183X", transformer=True, narrow=True)
