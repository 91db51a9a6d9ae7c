"""Formats: the grids a value can be rounded to.

To add one: write ``numerics/formats/<family>.py`` with ``plugin = Format(...)``: ``fake_quantize(x, spec, qparams,
arithmetic)``, ``quantize`` and ``dequantize`` for the format names of its family. ``config/spec.py`` lists the names.
"""
