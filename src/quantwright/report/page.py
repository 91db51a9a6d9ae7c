"""The HTML pages: one self-contained file each, no request to anywhere. Jinja, inline style and script."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from quantwright.report import compare, view
from quantwright.report.run import Run

_WEB = Path(__file__).with_name("web")


def render(run: Run) -> str:
    """Returns the page of one run; the same files give the same text."""
    return _render("report.html.jinja", page=view.page(run), data=view.data(run))


def render_comparison(before: Run, after: Run) -> str:
    """Returns the page that puts two runs side by side."""
    return _render("compare.html.jinja", page=compare.page(before, after), data=compare.data(before, after))


def _render(template: str, **values: Any) -> str:
    return str(_environment().get_template(template).render(**values)).rstrip() + "\n"


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(_WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "ensure_ascii": False}
    made.globals["asset"] = lambda name: Markup((_WEB / name).read_text(encoding="utf-8"))  # our own files only
    return made
