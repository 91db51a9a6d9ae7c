"""sophgo-mq's chip BM1684X, strategy CNN: inputs and outputs of most operations."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, eight

plugin = chip("sophgo_bm1684x", "BM1684X", check=eight)
