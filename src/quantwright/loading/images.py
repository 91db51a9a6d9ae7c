"""A folder of images: one folder per class gives labels; resized, cropped and normalized as the options say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantwright.data import Batch
from quantwright.errors import DataError, MissingDependencyError
from quantwright.loading.reference import one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Returns how an image becomes a tensor: pixels / 255, minus mean, over std.

    Attributes:
        resize: length of the shorter side after bilinear resizing; None leaves the size.
        crop: side of the square cut from the centre; None cuts nothing.
        mean, std: per channel, or one number for all.
        grayscale: one channel instead of red, green and blue.
    """

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    grayscale: bool = False

    @property
    def channels(self) -> int:
        """Returns the number of channels."""
        return 1 if self.grayscale else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Returns the images of a folder in sorted order, with class numbers when they lie in one folder per class."""

    folder: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    options: ImageOptions

    @classmethod
    def open(cls, folder: Path, options: ImageOptions) -> ImageFolder:
        """Returns the folder after listing it.

        Raises:
            DataError: no image in it. MissingDependencyError: Pillow is not installed.
        """
        _pillow()
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _images(entry))
        if classes:
            pairs = [(file, index) for index, sub in enumerate(classes) for file in _images(sub)]
            loose = _images(folder)
            if loose:
                raise DataError(
                    f"{len(loose)} images lie beside {len(classes)} class folders: their class is unknown",
                    where=str(folder), fix="move them into a class folder",
                )  # fmt: skip
            files, labels = zip(*pairs, strict=True)
            return cls(folder=folder, files=files, labels=labels, options=options)
        files = tuple(_images(folder))
        if not files:
            raise DataError("there is no image in the folder", where=str(folder), allowed=", ".join(SUFFIXES))
        return cls(folder=folder, files=files, labels=None, options=options)

    @property
    def samples(self) -> int:
        """Returns the number of images."""
        return len(self.files)

    def batches(self, size: int) -> Iterator[Batch]:
        """Yields batches of ``size`` images; the files are read as they are needed."""
        for start in range(0, len(self.files), size):
            chosen = self.files[start : start + size]
            images = [read_image(file, self.options) for file in chosen]
            shapes = {tuple(image.shape) for image in images}
            if len(shapes) > 1:
                sizes = ", ".join(sorted(f"{shape[2]}x{shape[1]}" for shape in shapes)[:4])
                raise DataError(
                    f"images of one batch differ in size: {sizes}", where=str(self.folder),
                    fix="give --resize and --crop",
                )  # fmt: skip
            labels = None if self.labels is None else torch.tensor(self.labels[start : start + size])
            yield Batch(args=(torch.stack(images),), labels=labels)


def read_image(path: Path, options: ImageOptions) -> Tensor:
    """Returns one image as a tensor.

    Shapes:
        result: [channels, height, width], float32.

    Raises:
        DataError: unreadable, or smaller than the crop.
    """
    image_module = _pillow()
    try:
        with image_module.open(path) as opened:
            image = opened.convert("L" if options.grayscale else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"not a readable image: {one_line(error)}", where=str(path), fix="leave it out") from error
    if options.resize:
        image = _resize(image, options.resize, image_module)
    if options.crop:
        image = _crop(image, options.crop, path)
    pixels_HWC = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, options.channels)
    x_CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1).div(255.0)
    if options.mean:
        x_CHW = x_CHW - torch.tensor(options.mean).reshape(-1, 1, 1)
    if options.std:
        x_CHW = x_CHW / torch.tensor(options.std).reshape(-1, 1, 1)
    return x_CHW.contiguous()


def _resize(image: Any, side: int, image_module: Any) -> Any:
    """Returns the image with its shorter side at ``side`` and its proportions kept (the longer side rounded down)."""
    width, height = image.size
    if width <= height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    return image.resize(size, image_module.Resampling.BILINEAR)


def _crop(image: Any, side: int, path: Path) -> Any:
    width, height = image.size
    if width < side or height < side:
        raise DataError(
            f"the image is {width}x{height}, smaller than the crop of {side}", where=str(path),
            fix=f"give --resize {side} or more",
        )  # fmt: skip
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _images(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("reading images needs Pillow", fix="pip install 'quantwright[images]'") from error
    return Image
