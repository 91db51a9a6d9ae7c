"""sophgo-mq's chip CV183X, strategy CNN: inputs and outputs of most operations, weights without -128."""

from __future__ import annotations

from quantwright.targets._sophgo import chip

plugin = chip("sophgo_cv183x", "CV183X", narrow=True)
