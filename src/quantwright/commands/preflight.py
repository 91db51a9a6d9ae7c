"""The cheap checks before long work: everything wrong with the command line at once, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantwright import registry
from quantwright.commands import SeveralErrors
from quantwright.errors import DataError, InputError, ModelError, QuantwrightError
from quantwright.loading import reference
from quantwright.report.folder import require_publishable

if TYPE_CHECKING:
    from quantwright.loading.images import ImageOptions


class Checks:
    """Returns a collector: each check runs, and ``done`` raises everything that was found."""

    def __init__(self) -> None:
        self.errors: list[QuantwrightError] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Yields; an error of ours inside is kept and the next check goes on."""
        try:
            yield
        except QuantwrightError as error:
            self.errors.append(error)

    def run(self, check: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Returns what the check returns, or None when it found an error."""
        with self.part():
            return check(*args, **options)
        return None

    def done(self) -> None:
        """Raises the one error found, or all of them together."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise SeveralErrors(self.errors)


def look(options: argparse.Namespace) -> Any:
    """Returns the Reading of the configuration, or None without one, after every check without torch.

    Raises:
        InputError: everything that is wrong with config, model, data, target, folder and image options.
    """
    checks = Checks()
    config = None
    if getattr(options, "config", None) is not None:
        config = checks.run(read_config, options)
        checks.run(reference.look, options.model, what="model", error=ModelError)
        checks.run(_target, options.target)
    for data in (getattr(options, "data", None), getattr(options, "eval_data", None)):
        if data is not None:
            checks.run(reference.look, data, what="data", error=DataError)
    if options.command == "quantize":
        checks.run(require_publishable, Path(options.out), overwrite=options.overwrite)
        checks.run(_known, "exporters", options.exporter)
        checks.run(_evaluation, options)
    checks.run(image_numbers, options)
    checks.done()
    return config


def read_config(options: argparse.Namespace) -> Any:
    """Returns the Reading of the configuration, read as the command line says; the target comes later."""
    from quantwright.config import load

    return load.read_any(options.config, dialect=options.dialect)


def device(name: str) -> str:
    """Returns the name of a device that is here.

    Raises:
        InputError: torch knows no such device, or this machine has none.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}", where="--device", fix="--device cpu"
        ) from error
    return name


def images(options: argparse.Namespace) -> ImageOptions:
    """Returns the image options of the command line."""
    from quantwright.loading.images import ImageOptions

    return ImageOptions(
        resize=options.resize, crop=options.crop, mean=options.mean, std=options.std, grayscale=options.grayscale
    )


def _target(name: str | None) -> None:
    if name is not None:
        _known("targets", name)


def _known(kind: str, name: str) -> None:
    registry.parameters(kind, name)  # says what exists, and the near misses


def _evaluation(options: argparse.Namespace) -> None:
    if options.eval_data is not None and not options.eval:
        raise InputError("--eval-data has no effect without --eval", where="--eval-data", fix="add --eval")


def image_numbers(options: argparse.Namespace) -> None:
    """Raises InputError for image options that contradict each other or could have no effect."""
    given = [name for name in ("resize", "crop", "mean", "std", "grayscale") if getattr(options, name)]
    sources = [ref for ref in (getattr(options, "data", None), getattr(options, "eval_data", None)) if ref]
    if given and all(_is_no_folder(ref) for ref in sources):
        flags = ", ".join(f"--{name}" for name in given)
        raise InputError(f"{flags} has no effect: the data is not a folder of images", fix=f"leave out {flags}")
    channels = 1 if options.grayscale else 3
    for name in ("mean", "std"):
        values = getattr(options, name)
        if values and len(values) not in (1, channels):
            raise InputError(
                f"{len(values)} numbers for {channels} channels", where=f"--{name}", allowed=f"1 or {channels} numbers"
            )
    if any(value <= 0 for value in options.std):
        raise InputError("a standard deviation must be positive", where="--std")
    if options.resize and options.crop and options.crop > options.resize:
        raise InputError(
            f"a crop of {options.crop} is larger than the resized image ({options.resize})", where="--crop",
            fix=f"--resize {options.crop} or more",
        )  # fmt: skip


def _is_no_folder(ref: str) -> bool:
    """Returns whether a reference is plainly an array file or code, not a folder whose name may be mistyped."""
    return not Path(ref).is_dir() and (Path(ref).suffix in reference.ARRAYS or ":" in ref)
