"""Images of every kind the preprocessing takes, at many sizes, made from the builder's photographs.

``stable_corpus`` is the same bytes under any Pillow: PNGs are written here, JPEGs of each kind
are committed in ``tests/data/jpeg``. ``python -m tests.support.images`` made them with Pillow
11.3, and the digests of what the preprocessing makes of all. ``encoded_corpus`` adds images
that the Pillow at hand encodes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitaie.manifests.manifest import Preprocess
from vitaie.runtime import _images, _preprocess

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "builder" / "vitaie" / "builder" / "photos"
DATA = ROOT / "tests" / "data"
COMMITTED_JPEGS = DATA / "jpeg"
DIGESTS = DATA / "preprocess_digests.json"

SIZES = (
    *((1, 1), (1, 7), (7, 1), (2, 3), (15, 16), (64, 48), (223, 225), (224, 224), (248, 248)),
    *((248, 301), (301, 248), (249, 247), (384, 384), (385, 511), (333, 500), (500, 333)),
    *((640, 427), (427, 640), (31, 400), (400, 31), (767, 1023), (1023, 767)),
)
"""Width and height: tiny, odd and even, portrait and landscape, an axis that keeps its size."""

JPEG_KINDS: dict[str, dict[str, Any]] = {
    "444": {"subsampling": "4:4:4"},
    "422": {"subsampling": "4:2:2"},
    "420": {"subsampling": "4:2:0"},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "rgb": {"keep_rgb": True},
    "restarts": {"restart_marker_rows": 1},
}


class Kind(NamedTuple):
    """A kind of PNG: bits a sample, colour type, samples a pixel."""

    bits: int
    color: int
    samples: int


PNG_KINDS = {
    "grey1": Kind(1, 0, 1),
    "grey2": Kind(2, 0, 1),
    "grey4": Kind(4, 0, 1),
    "grey8": Kind(8, 0, 1),
    "grey16": Kind(16, 0, 1),
    "rgb8": Kind(8, 2, 3),
    "rgb16": Kind(16, 2, 3),
    "palette1": Kind(1, 3, 1),
    "palette2": Kind(2, 3, 1),
    "palette4": Kind(4, 3, 1),
    "palette8": Kind(8, 3, 1),
    "greyalpha8": Kind(8, 4, 2),
    "greyalpha16": Kind(16, 4, 2),
    "rgba8": Kind(8, 6, 4),
    "rgba16": Kind(16, 6, 4),
}
TRANSPARENCY = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: bytes(range(0, 256, 3))}
"""A tRNS chunk for grey, RGB and palette."""


def spec(profile: str, resize: int, crop: int) -> Preprocess:
    """Return one of the two profiles, with a mean and std that round in float32."""
    mode = {"timm": "shorter_side", "modelzoo": "square"}[profile]
    document = {
        "profile": profile,
        "color": "rgb",
        "max_pixels": 2**26,
        "resize": {
            "mode": mode,
            "size": resize,
            "interpolation": "bicubic",
            "pass_order": "horizontal_first",
        },
        "crop": {"mode": "center", "size": crop},
        "scale": 255,
        "mean": (0.5, 0.5, 0.5) if profile == "timm" else (0.485, 0.456, 0.406),
        "std": (0.5, 0.5, 0.5) if profile == "timm" else (0.229, 0.224, 0.225),
    }
    return Preprocess.model_validate(document)


SPECS = tuple(
    spec(profile, *sizes)
    for profile, sizes in itertools.product(("timm", "modelzoo"), ((248, 224), (384, 384)))
)


def photograph(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return one of the builder's photographs, uint8 [height, width, 3], by nearest pixels."""
    path = sorted(PHOTOS.glob("*.jpg"))[number % 3]
    with Image.open(path) as image:
        pixels = np.asarray(image)
    rows = np.arange(height) * pixels.shape[0] // height
    columns = np.arange(width) * pixels.shape[1] // width
    chosen: NDArray[np.uint8] = pixels[rows[:, None], columns[None, :]]
    return chosen


def photographs(folder: Path, count: int) -> Path:
    """Write so many different pictures into class folders, c0 to c4, of the small bundle."""
    chance = np.random.default_rng(1)
    for number in range(count):
        path = folder / f"c{number % 5}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = chance.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 48)).save(path, quality=90)
    return folder


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_rows(width: int, height: int, kind: Kind, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG of filtered rows; ``extra`` chunks stand between header and data."""
    header = struct.pack(">IIBBBBB", width, height, kind.bits, kind.color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows, 1))
    parts = (chunk(b"IHDR", header), *extra, data, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png(pixels: NDArray[np.uint8], kind: Kind, *extra: bytes) -> bytes:
    """Return a PNG whose samples follow the photograph; its alpha is a gradient."""
    height, width = pixels.shape[:2]
    color = pixels if kind.color & 2 and kind.color != 3 else pixels[:, :, 1:2]
    samples = color.astype(np.uint16)
    if kind.color & 4:
        alpha = np.arange(width, dtype=np.uint16)[None, :, None] % 256
        samples = np.concatenate([samples, np.repeat(alpha, height, axis=0)], axis=2)
    flat = samples.reshape(height, width * kind.samples)
    if kind.bits == 16:
        # Grey stays near 0 to 511, so that the clamp at 255 shows; the rest fills both bytes.
        wide = flat * 2 if kind.color == 0 else flat * 256 + flat[:, ::-1]
        packed = wide.astype(">u2").view(np.uint8)
    elif kind.bits == 8:
        packed = flat.astype(np.uint8)
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[:, :, None], axis=2)[:, :, : kind.bits]
        packed = np.packbits(bits.reshape(height, -1), axis=1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1).tobytes()
    palette = chunk(b"PLTE", bytes((7 * n + 11) % 256 for n in range(3 * 2**kind.bits)))
    return png_of_rows(width, height, kind, rows, *([palette] if kind.color == 3 else []), *extra)


def jpeg(pixels: NDArray[np.uint8], *, mode: str = "RGB", **options: Any) -> bytes:
    """Return a JPEG as the Pillow at hand encodes it."""
    buffer = BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def as_ycck(cmyk: bytes) -> bytes:
    """Return a CMYK JPEG whose Adobe marker calls the same samples YCCK."""
    place = cmyk.index(b"Adobe") + 11
    return cmyk[:place] + b"\2" + cmyk[place + 1 :]


def without_adobe(cmyk: bytes) -> bytes:
    """Return a JPEG without its Adobe marker."""
    place = cmyk.index(b"\xff\xee\0\x0eAdobe")
    return cmyk[:place] + cmyk[place + 16 :]


def stable_corpus() -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the images that are the same bytes under any Pillow."""
    for path in (*sorted(PHOTOS.glob("*.jpg")), *sorted(COMMITTED_JPEGS.glob("*.jpg"))):
        yield path.name, path.read_bytes()
    number = itertools.count()
    for (name, kind), turn in itertools.product(PNG_KINDS.items(), range(7)):
        count = next(number)
        width, height = SIZES[count % len(SIZES)]
        yield f"{name}-{width}x{height}.png", png(photograph(turn, width, height), kind)
    for name, kind in PNG_KINDS.items():
        if kind.color in TRANSPARENCY:
            transparency = TRANSPARENCY[kind.color][: 2**kind.bits if kind.color == 3 else None]
            pixels = photograph(next(number), 251, 300)
            yield f"{name}-trns.png", png(pixels, kind, chunk(b"tRNS", transparency))
    for width, height in SIZES:
        yield f"rgb-{width}x{height}.png", png(photograph(2, width, height), PNG_KINDS["rgb8"])


def encoded_corpus() -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of JPEGs and PNGs, up to 4000x3000, encoded by Pillow."""
    for number, (name, turn) in enumerate(itertools.product(JPEG_KINDS, range(8))):
        width, height = SIZES[number % len(SIZES)]
        data = jpeg(photograph(turn, width, height), **JPEG_KINDS[name])
        yield f"{name}-{width}x{height}.jpg", data
    for kind, (width, height) in (
        ("420", (4000, 3000)),
        ("444", (2000, 3001)),
        ("progressive", (2500, 1501)),
        ("grey", (1999, 2999)),
        ("422", (4000, 75)),
    ):
        yield f"{kind}-{width}x{height}.jpg", jpeg(photograph(1, width, height), **JPEG_KINDS[kind])
    for turn, mode in enumerate(("RGB", "RGBA", "L", "LA", "P", "1")):
        buffer = BytesIO()
        Image.fromarray(photograph(turn, 397, 301)).convert(mode).save(buffer, "PNG")
        yield f"pillow-{mode}.png", buffer.getvalue()


def digests(data: bytes) -> list[str]:
    """Return the first 16 digits of the sha256 of an image's pixels and of its tensors."""
    stages: list[NDArray[Any]] = [_images.decode(data)]
    stages += (_preprocess.preprocess(data, spec) for spec in SPECS)
    return [hashlib.sha256(stage.tobytes()).hexdigest()[:16] for stage in stages]


def main() -> None:
    """Write the committed JPEGs, each kind once at an odd size, and the digests of all."""
    COMMITTED_JPEGS.mkdir(parents=True, exist_ok=True)
    made = {
        name: jpeg(photograph(number, 131 + 10 * number, 197 - 11 * number), **options)
        for number, (name, options) in enumerate(JPEG_KINDS.items())
    }
    made["ycck"] = as_ycck(made["cmyk"])
    made["cmyk-without-adobe"] = without_adobe(made["cmyk"])
    for name, data in made.items():
        (COMMITTED_JPEGS / f"{name}.jpg").write_bytes(data)
    lines = [f'"{name}": {json.dumps(digests(data))}' for name, data in stable_corpus()]
    DIGESTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
