"""``quantwright run --as TOOL script.py ARG...``: runs a script of another tool unmodified, its imports redirected.

The script is executed because that is what was asked for, as ``python script.py ARG...`` would: its own folder comes
first in ``sys.path``, and arguments, working folder, output and exit code are its own.
"""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from quantwright import compat
from quantwright.errors import InputError

HIDDEN = "--nndct_"  # options that the original takes out of the script's arguments


def run(options: argparse.Namespace) -> NoReturn:
    """Ends with the script's exit code (as SystemExit): 0, what it gave to ``sys.exit``, or 1 after a traceback.

    Raises:
        InputError: no such script, or options that only the original knows. UnknownNameError: no such face.
    """
    script = Path(options.script)
    if not script.is_file():
        raise InputError("no such script", where=str(script), fix="quantwright run --as TOOL script.py ARG...")
    hidden = [word for word in options.script_arguments if word.startswith(HIDDEN)]
    if hidden:
        raise InputError(
            f"{', '.join(hidden)}: options that only the original knows", where=str(script),
            fix="leave them out; include_cle and include_bias_corr of the configuration file switch the same",
        )  # fmt: skip
    with (
        compat.redirect(options.face),
        _children(options.face),
        _started(script, options.script_arguments),
        _notes(),
    ):
        code = execute(script)
    raise SystemExit(code)


def execute(script: Path) -> int:
    """Returns the exit code of the script, as python would give it to the shell."""
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        sys.stderr.write(f"{stop.code}\n")
        return 1
    except Exception:  # noqa: BLE001  a script may raise anything; python shows it and ends with 1
        kind, error, trace = sys.exc_info()
        sys.stderr.write("".join(traceback.format_exception(kind, error, _of_script(trace, script))))
        return 1
    return 0


def _of_script(trace: TracebackType | None, script: Path) -> TracebackType | None:
    """Returns the part of a traceback that begins in the script; all of it when the script was never reached."""
    found = trace
    while found is not None and found.tb_frame.f_code.co_filename != str(script):
        found = found.tb_next
    return found or trace


@contextmanager
def _started(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Yields with ``sys.argv`` and ``sys.path`` as python sets them for a script; restores both."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextmanager
def _children(face: str) -> Iterator[None]:
    """Yields while processes that the script starts are redirected too.

    Spawned data loader workers take over ``sys.path``, other programs the environment.
    """
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory(prefix="quantwright-") as folder:
        package = Path(folder) / face
        package.mkdir()
        (package / "__init__.py").write_text(f"from quantwright.compat import install\ninstall({face!r})\n")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, *([before] if before else [])])
        sys.path.insert(0, folder)
        try:
            yield
        finally:
            sys.path.remove(folder)
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


@contextmanager
def _notes() -> Iterator[None]:
    """Yields with the notes of the faces shown, as the originals show theirs."""
    log = logging.getLogger("quantwright.compat")
    level, handler = log.level, logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
