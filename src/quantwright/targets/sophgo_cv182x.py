"""sophgo-mq's chip CV182X, strategy CNN: inputs and outputs of most operations, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv182x", "CV182X", narrow=True)
