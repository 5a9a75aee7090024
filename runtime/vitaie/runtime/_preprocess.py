"""An image to the tensor a model takes, equal to torchvision's transforms to the last bit.

The resize is two one-axis Pillow resizes, horizontal first, because the order in which Pillow
itself takes the axes changed between its versions, and the order decides bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from vitaie.manifests.errors import ImageError
from vitaie.runtime import _images

if TYPE_CHECKING:
    from vitaie.manifests.manifest import Preprocess

_BICUBIC = PillowImage.Resampling.BICUBIC
_BICUBIC_SUPPORT = 2


@dataclass(frozen=True)
class Plan:
    """In pixels: the size an image is resized to, and where the crop starts in it."""

    width: int
    height: int
    left: int
    top: int


def preprocess(image: _images.Image, spec: Preprocess) -> NDArray[np.float32]:
    """Return what the model sees of an image, float32 [3, S, S] with S the crop's size.

    Raises:
        ImageError: As ``_images.decode``, or the image would be resized to over 2^26 pixels.
    """
    return tensor(crop(image, spec), spec)


def crop(image: _images.Image, spec: Preprocess) -> NDArray[np.uint8]:
    """Return the exact pixels the model sees of an image, uint8 RGB [S, S, 3].

    Raises:
        ImageError: As ``preprocess``.
    """
    pixels = _images.open_rgb(image)
    step = plan(pixels.width, pixels.height, spec, where=_images.describe(image))
    return np.array(_resize_and_crop(pixels, step, spec.crop.size))


def tensor(pixels: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.float32]:
    """Return uint8 pixels [S, S, 3] as float32 [3, S, S]: ``((v / 255) - mean) / std``."""
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    mean = np.array(spec.mean, np.float32).reshape(3, 1, 1)
    std = np.array(spec.std, np.float32).reshape(3, 1, 1)
    values /= np.float32(spec.scale)
    values -= mean
    values /= std
    return values


def plan(width: int, height: int, spec: Preprocess, *, where: str = "image") -> Plan:
    """Return how an image of this size is resized and cropped, rounded as torchvision (v1) does.

    Raises:
        ImageError: The resized image, or one resized along one axis only, would have more than
            2^26 pixels.
    """
    size = spec.resize.size
    if spec.resize.mode == "square":
        resized = (size, size)
    elif width <= height:
        resized = (size, int(size * height / width))
    else:
        resized = (int(size * width / height), size)
    most = max(resized[0] * resized[1], resized[0] * height, width * resized[1])
    if most > _images.MAX_PIXELS:
        raise ImageError(
            "E_IMAGE_TOO_LARGE",
            where,
            got=f"{width}x{height} pixels, resized to {resized[0]}x{resized[1]}",
        )
    left, top = (int(round((side - spec.crop.size) / 2.0)) for side in resized)
    return Plan(resized[0], resized[1], left, top)


def _resize_and_crop(image: PillowImage.Image, step: Plan, size: int) -> PillowImage.Image:
    """Resize as a whole and crop, computing few of the rows and columns that are cut off.

    A pass along one axis treats each line across it alone, so lines left out change nothing.
    The axis being resized stays whole: Pillow's coefficients depend on its full length.
    """
    width, height = image.size
    first, end = _source_rows(height, step, size)
    band = _images.cut(image, 0, first, width, end - first) if end - first < height else image
    if step.width != width:
        band = band.resize((step.width, band.height), _BICUBIC)
    band = _images.cut(band, step.left, 0, size, band.height)
    if step.height != height:
        if band.height < height:
            band, first = _images.cut(band, 0, -first, size, height), 0
        band = band.resize((size, step.height), _BICUBIC)
    return _images.cut(band, 0, step.top - first, size, size)


def _source_rows(height: int, step: Plan, size: int) -> tuple[int, int]:
    """Return the first row the crop can depend on, and the end; all rows where few are spare."""
    scale = height / step.height
    reach = _BICUBIC_SUPPORT * max(scale, 1.0) + 1
    first = max(math.floor((step.top + 0.5) * scale - reach), 0)
    end = min(math.ceil((step.top + size - 0.5) * scale + reach), height)
    # Copying the band costs about what resizing a quarter of its rows does.
    return (first, end) if end - first <= 0.75 * height else (0, height)
