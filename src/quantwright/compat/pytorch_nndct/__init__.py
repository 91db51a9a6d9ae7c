"""The face of vai_q_pytorch: ``pytorch_nndct`` as its scripts import it. Start reading at ``apis.py``."""

from __future__ import annotations

from quantwright.compat.pytorch_nndct.apis import Inspector, QatProcessor, dump_xmodel, load_vai_ops, torch_quantizer

__all__ = ["Inspector", "QatProcessor", "dump_xmodel", "load_vai_ops", "torch_quantizer"]
