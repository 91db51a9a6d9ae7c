"""sophgo-mq's chip BM1690 (SG2260 until 2024), strategy CNN: inputs and outputs of most operations."""

from __future__ import annotations

from quantwright.targets._sophgo import chip, eight

plugin = chip("sophgo_bm1690", "BM1690", check=eight)
