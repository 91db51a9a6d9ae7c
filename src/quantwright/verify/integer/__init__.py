"""The integer machine: executes a whole plan on integers, and proves that the simulation computes the same.

``grids`` real values and stored integers; ``engines`` and ``sums`` exact sums of products; ``requantize`` back to a
grid, in the target's own form; ``exact`` the arithmetic of devices that shift; ``multiply``, ``shifts`` and
``movement`` what each operator becomes; ``build``, ``program`` and ``machine`` make and run it; ``check`` compares;
``vectors`` writes golden vectors. It shares data with the simulation (plan, QParams, target), and no arithmetic.
"""

from quantwright.verify.integer.check import check
from quantwright.verify.integer.machine import Machine
from quantwright.verify.integer.report import IntegerReport
from quantwright.verify.integer.vectors import DumpRecord, dump

__all__ = ["DumpRecord", "IntegerReport", "Machine", "check", "dump"]
