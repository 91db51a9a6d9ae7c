"""sophgo-mq's chip BM1688, strategy CNN: inputs and outputs of most operations."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, four_or_eight

plugin = chip("sophgo_bm1688", "BM1688", check=four_or_eight)
