"""MQBench: the dictionary of ``prepare_by_platform`` with a backend, and the YAML files of its examples."""

from __future__ import annotations

from quantwright.dialects import Dialect
from quantwright.dialects._mq_document import TOP
from quantwright.dialects._mq_read import TOOL, detect, read
from quantwright.dialects._mq_write import write

plugin = Dialect(name=TOOL, tool="MQBench", detect=detect, read=read, write=write, keys=TOP)
