"""Quantizers: the modules that sit at quantization points and apply QParams in forward.

To add one: write ``fakequant/<name>.py`` with ``plugin = YourQuantizer``, an nn.Module with ``point``, ``spec``,
``qparams``, ``mode`` and ``forward(x)``.
"""
