"""The face of AMD Quark: ``quark.torch`` as its scripts import it.

Start reading at ``torch/quantization/config/config.py``. The classes hold values and know the line they were made at;
``quantwright.load_config``, ``prepare`` and ``quantize`` read a ``Config`` as they read its JSON. Old names (to 0.8)
and new ones (0.13) are the same classes.
"""
