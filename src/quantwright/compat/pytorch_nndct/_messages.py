"""Errors and warnings with the codes of vai_q_pytorch, so that a search for a code leads to the same cause."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from quantwright.errors import CaptureError, ConfigError, InputError, QuantwrightError

LOG = logging.getLogger("quantwright.compat.pytorch_nndct")
_FACE = str(Path(__file__).parent)
E = TypeVar("E", bound=QuantwrightError)


class RefusedError(InputError):
    """Returns an error for a call or an argument of the original that this face does not have."""


class VaiWarning(UserWarning):
    """Returns a warning that the original would have printed, or that says where this face differs."""


def coded(code: str, error: E) -> E:
    """Returns ``error`` with the original's code in front of its message."""
    error.message = f"[QUANTIZER_TORCH_{code}] {error.message}"
    error.args = (error.render(),)
    return error


def warn(code: str, text: str) -> None:
    """Warns with the original's code; the place shown is where the user's code called the face."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_FACE):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"[VAIQ_WARN][QUANTIZER_TORCH_{code}]: {text}", VaiWarning, stacklevel=level)


def note(text: str) -> None:
    """Tells a step to the log, as the original prints it; ``quantwright run`` shows the log."""
    LOG.info("[VAIQ_NOTE]: %s", text)


@contextmanager
def preparing() -> Iterator[None]:
    """Yields; errors about the configuration or the model that leave carry the original's code."""
    try:
        yield
    except ConfigError as error:
        widths = all("bit_width" in problem.code for problem in error.problems)
        raise coded("ILLEGAL_BITWIDTH" if widths else "QUANT_CONFIG", error) from None
    except CaptureError as error:
        raise coded("PYTORCH_TRACE", error) from error.__cause__
