"""``quantwright check CONFIG``: all problems of a configuration at once. No torch."""

from __future__ import annotations

import argparse

from quantwright.commands import Outcome
from quantwright.config.check import check


def run(options: argparse.Namespace) -> Outcome:
    """Returns the result of the check; exit code 2 when there are problems."""
    result = check(options.config, dialect=options.dialect, sources=False)
    return Outcome(
        document=result.to_json() if options.json else None, text=result.render, code=2 if result.problems else 0
    )
