"""``quark.torch.quantization.config``: the modules ``config`` and ``type``."""
