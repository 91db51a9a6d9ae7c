"""sophgo-mq's chip MARS3, strategy CNN: inputs and outputs of most operations, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_mars3", "MARS3", narrow=True)
