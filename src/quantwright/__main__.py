"""``python -m quantwright``: the same as the command ``quantwright``."""

from __future__ import annotations

import sys

from quantwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
