"""Goldens: a few real photographs and every stage they must pass through, kept in the bundle.

Decoders, resamplers and engines may differ between machines; the digests of the stages say
which of them does.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image

from vitaie.manifests.digests import sha256
from vitaie.manifests.errors import ImageError
from vitaie.runtime import _images, _preprocess

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitaie.manifests.manifest import Preprocess

PHOTOS = Path(__file__).parent / "photos"
"""The photographs that ship with the builder; ``credits.toml`` there says whose they are."""

_SUFFIX = {"JPEG": ".jpg", "PNG": ".source.png"}


class Golden(NamedTuple):
    """One photograph, preprocessed.

    ``data`` is the file as it was given, ``pixels`` uint8 [H, W, 3], ``crop`` uint8 [S, S, 3],
    ``tensor`` float32 [3, S, S].
    """

    stem: str
    suffix: str
    data: bytes
    pixels: NDArray[np.uint8]
    crop: NDArray[np.uint8]
    tensor: NDArray[np.float32]
    credit: str

    @property
    def source(self) -> str:
        """Its path in the bundle."""
        return f"golden/{self.stem}{self.suffix}"

    @property
    def crop_path(self) -> str:
        """The path of the exact crop the model sees, as PNG."""
        return f"golden/{self.stem}.png"

    @property
    def logits_path(self) -> str:
        """The path of its logits, as .npy."""
        return f"golden/{self.stem}.npy"

    def fields(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """Return the manifest's entry, given the golden's logits, float32 [classes]."""
        first, second = (int(index) for index in np.argsort(-logits, kind="stable")[:2])
        height, width = self.pixels.shape[:2]
        return {
            "source": self.source,
            "crop": self.crop_path,
            "logits": self.logits_path,
            "width": width,
            "height": height,
            "decoded_sha256": sha256(self.pixels.tobytes()),
            "crop_sha256": sha256(self.crop.tobytes()),
            "tensor_sha256": sha256(self.tensor.tobytes()),
            "logits_sha256": sha256(logits.tobytes()),
            "top1": first,
            "top2": second,
            "margin": float(logits[first]) - float(logits[second]),
            "credit": self.credit,
        }


def read_goldens(files: Sequence[Path], spec: Preprocess) -> list[Golden]:
    """Read and preprocess the photographs named, or those that ship with the builder.

    Raises:
        ImageError: One is not an image that the preprocessing takes.
    """
    if files:
        credited = [(path, f"{path.name}, given to the builder") for path in files]
    else:
        rows = tomllib.loads((PHOTOS / "credits.toml").read_text(encoding="utf-8"))["photo"]
        credited = [(PHOTOS / row["file"], str(row["credit"])) for row in rows]
    return [
        _read_golden(f"{index:02d}", path, credit, spec)
        for index, (path, credit) in enumerate(credited)
    ]


def _read_golden(stem: str, path: Path, credit: str, spec: Preprocess) -> Golden:
    data = _images.read_file(str(path), str(path))
    try:
        pixels = _images.decode(data)
        crop = _preprocess.crop(pixels, spec)
    except ImageError as error:  # the bytes have no name; the file has
        raise error.at(path) from None
    with PIL.Image.open(io.BytesIO(data)) as image:
        suffix = _SUFFIX["PNG" if image.format == "PNG" else "JPEG"]
    return Golden(stem, suffix, data, pixels, crop, _preprocess.tensor(crop, spec), credit)


def encode_png(crop: NDArray[np.uint8]) -> bytes:
    """Return uint8 [S, S, 3] as PNG bytes."""
    stream = io.BytesIO()
    PIL.Image.fromarray(crop).save(stream, "PNG")
    return stream.getvalue()


def encode_npy(logits: NDArray[np.float32]) -> bytes:
    """Return float32 [classes] as .npy bytes."""
    stream = io.BytesIO()
    np.save(stream, logits.astype("<f4", copy=False), allow_pickle=False)
    return stream.getvalue()
