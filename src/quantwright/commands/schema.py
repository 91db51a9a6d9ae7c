"""``quantwright schema``: the JSON Schema of configurations, for editors."""

from __future__ import annotations

import argparse

from quantwright.commands import Outcome
from quantwright.config.schema import json_schema
from quantwright.files import write_text
from quantwright.report.record import dumps


def run(options: argparse.Namespace) -> Outcome:
    """Returns the schema, or writes it to ``--out``."""
    schema = json_schema()
    if options.out is None:
        return Outcome(document=schema, text=lambda: dumps(schema))
    write_text(options.out, dumps(schema))
    return Outcome(document={"file": options.out}, text=lambda: f"schema written to {options.out}")
