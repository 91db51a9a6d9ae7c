"""Ctrl-C and SIGTERM around a loop whose body must not be cut in half."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Deferring:
    """Returns the handling of Ctrl-C and SIGTERM around a loop: at once, or ``later``, when a batch has been taken in.

    Where signals belong to somebody else (no main thread), it changes nothing.
    """

    def __init__(self) -> None:
        self._busy = False
        self._pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Deferring:
        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):
                    signal.signal(number, self._heard)
                    self._before[number] = handler
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._busy and self._pending is None:
            self._pending = number
        else:
            self._before[number](number, frame)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Yields while a request to end is kept for ``now``."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def now(self) -> None:
        """Does what was asked for in between."""
        if self._pending is not None:
            number, self._pending = self._pending, None
            self._before[number](number, None)
