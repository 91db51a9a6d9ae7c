"""sophgo-mq: the dictionary of ``prepare_by_platform`` with its ``quant_dict``, and the YAML files of its examples."""

from __future__ import annotations

from quantwright.dialects import Dialect
from quantwright.dialects._sophgo_document import TOP
from quantwright.dialects._sophgo_read import TOOL, detect, read
from quantwright.dialects._sophgo_write import write

plugin = Dialect(name=TOOL, tool="sophgo-mq", detect=detect, read=read, write=write, keys=TOP)
