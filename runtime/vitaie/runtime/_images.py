"""Any of the four kinds of image, to RGB pixels that no version or setting of Pillow changes.

Pillow sees only the parts of a file that pixels depend on. Text, EXIF, ICC profiles, animation
and thumbnails never reach its parsers, so they cannot break, slow or colour the answer, and
nothing has to be silenced or unpacked for them.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from typing import Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from vitaie.manifests.errors import ImageError

Image = Union[str, "os.PathLike[str]", bytes, PillowImage.Image, NDArray[np.uint8]]
"""A path, the bytes of a JPEG or PNG file, a PIL image, or a uint8 RGB array [H, W, 3]."""

MAX_PIXELS = 2**26
MAX_FILE_BYTES = 2**29
MAX_TEXT_BYTES = 2**24
"""A PNG's text chunk may be this long; it is skipped, never unpacked."""

_READABLE = "Give the path of a JPEG or PNG file that may be read."
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError),
    *(struct.error, zlib.error),
)
"""What Pillow and zlib raise on bad data, as found; MemoryError is the machine's and passes."""


def decode(image: Image) -> NDArray[np.uint8]:
    """Return an image's pixels, uint8 RGB [H, W, 3], C-contiguous.

    Raises:
        ImageError: The image cannot be read, is neither JPEG nor PNG, is broken, or has more
            than 2^26 pixels.
    """
    return np.array(open_rgb(image))


def open_rgb(image: Image) -> PillowImage.Image:
    """Return an image as a loaded PIL image of mode RGB, which may be the caller's own.

    EXIF rotation, alpha and transparency are ignored; an animated PNG gives its default image.
    Four-component JPEGs count as inverted. 16-bit grey is clamped to 255; of other 16-bit
    samples the high byte is taken.

    Raises:
        ImageError: As ``decode``.
    """
    where = describe(image)
    if isinstance(image, PillowImage.Image):
        return _load(image, where)
    if isinstance(image, np.ndarray):
        return _from_array(image, where)
    if isinstance(image, bytes):
        return _from_bytes(image, where)
    try:
        path = os.fspath(image)
    except TypeError as error:
        expected = "a path, bytes, a PIL image or a uint8 array [H, W, 3]"
        got = type(image).__name__
        raise ImageError("E_ARGUMENT", where, expected=expected, got=got) from error
    return _from_bytes(read_file(path, where), where)


def describe(image: Image) -> str:
    """Return what an error calls an image: its path, or its kind."""
    if isinstance(image, bytes):
        return "image bytes"
    if isinstance(image, PillowImage.Image):
        return "PIL image"
    if isinstance(image, np.ndarray):
        return "image array"
    try:
        return os.fspath(image)
    except TypeError:
        return "image"


def cut(
    image: PillowImage.Image, left: int, top: int, width: int, height: int
) -> PillowImage.Image:
    """Return a rectangle of an image; ``Image.crop`` would obey the user's MAX_IMAGE_PIXELS."""
    rectangle = PillowImage.new(image.mode, (width, height), None)
    rectangle.paste(image, (-left, -top))
    return rectangle


def read_file(path: str, where: str) -> bytes:
    """Return the bytes of a regular file; a FIFO or device is refused without waiting for it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else None
                raise ImageError(
                    "E_IMAGE_UNREADABLE", where, expected="a regular file", got=kind, hint=_READABLE
                )
            _check_file_size(status.st_size, where)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError("E_IMAGE_UNREADABLE", where, got=reason, hint=_READABLE) from error


def _check_file_size(size: int, where: str) -> None:
    if size > MAX_FILE_BYTES:
        raise ImageError(
            "E_IMAGE_UNREADABLE",
            where,
            expected=f"at most {MAX_FILE_BYTES} bytes",
            got=size,
            hint="Save it again, smaller.",
        )


def _from_array(array: NDArray[np.uint8], where: str) -> PillowImage.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError("E_IMAGE_ARRAY", where, got=f"{array.dtype} {list(array.shape)}")
    _check_pixels(array.shape[1], array.shape[0], where)
    return PillowImage.fromarray(array)


def _from_bytes(data: bytes, where: str) -> PillowImage.Image:
    _check_file_size(len(data), where)
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _load(JpegImageFile(BytesIO(_jpeg_essentials(data, where))), where)
        if data.startswith(_PNG_SIGNATURE):
            essentials = _png_essentials(data, where)
            image = PngImageFile(BytesIO(essentials))
            pixels = _load(image, where)
            _check_png_rows(image, essentials, where)
            return pixels
    except _DECODER_ERRORS as error:
        raise _broken(where, error) from error
    got = f"bytes {data[:8].hex(' ')}" if data else "no bytes"
    hint = "Save it as JPEG or PNG; what counts is its bytes, not its name."
    raise ImageError("E_IMAGE_FORMAT", where, got=got, hint=hint)


def _load(image: PillowImage.Image, where: str) -> PillowImage.Image:
    """Decode and convert; the size is known, and judged, before."""
    _check_pixels(image.width, image.height, where)
    try:
        with _truncated_is_an_error():
            image.getpixel((0, 0))  # the first touch decodes the whole file
        return _to_rgb(image)
    except _DECODER_ERRORS as error:
        raise _broken(where, error) from error


def _check_pixels(width: int, height: int, where: str) -> None:
    if width < 1 or height < 1:
        raise ImageError("E_IMAGE_BROKEN", where, got=f"{width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError("E_IMAGE_TOO_LARGE", where, got=f"{width}x{height} pixels")


def _to_rgb(image: PillowImage.Image) -> PillowImage.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image), 0, 255).astype(np.uint8)
        return PillowImage.fromarray(grey).convert("RGB")
    if "transparency" in image.info:  # Pillow would warn that it is lost
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _broken(where: str, got: object) -> ImageError:
    return ImageError("E_IMAGE_BROKEN", where, got=got)


_loading = 0
_truncated_allowed = False
_switch = threading.Lock()


@contextmanager
def _truncated_is_an_error() -> Generator[None, None, None]:
    """Hold Pillow's global LOAD_TRUNCATED_IMAGES off until the last image of ours is loaded."""
    global _loading, _truncated_allowed
    with _switch:
        if _loading == 0:
            _truncated_allowed = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _loading += 1
    try:
        yield
    finally:
        with _switch:
            _loading -= 1
            if _loading == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _truncated_allowed


_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff])")
_JPEG_BARE = frozenset([0x01, *range(0xD0, 0xD9)])
"""TEM, RST0 to RST7 and SOI: markers without a length."""
_JPEG_METADATA = frozenset([*range(0xE1, 0xEE), 0xEF, 0xFE])
"""APP1 to APP13, APP15 and comments. APP0 (JFIF) and APP14 (Adobe) name the colour space."""
_JPEG_LOSSLESS = 0xC3
"""SOF3, which only some releases of libjpeg-turbo decode: one file must mean one picture."""
_MAX_SCANS = 1000
"""Of a progressive file: a scan of a few bytes costs a pass over the whole picture."""


def _jpeg_essentials(data: bytes, where: str) -> bytes:
    """Return a JPEG without the segments that only describe it; one without its end is broken."""
    kept = [memoryview(data)[:2]]
    position = 2
    while True:
        marker = _JPEG_MARKER.search(data, position)
        if marker is None:
            raise _broken(where, "no end of image")
        start, position, code = marker.start(), marker.end(), data[marker.end() - 1]
        if code == 0xDA:
            break
        if code == _JPEG_LOSSLESS:
            raise _broken(where, "a lossless JPEG")
        if code not in _JPEG_BARE:
            length = int.from_bytes(data[position : position + 2], "big")
            position += length
            if length < 2 or position > len(data) or code == 0xD9:
                raise _broken(where, f"marker FF{code:02X} at byte {start}")
        if code not in _JPEG_METADATA:
            kept.append(memoryview(data)[start:position])
    if data.rfind(b"\xff\xd9", position) < 0:
        raise _broken(where, "no end of image")
    if data.count(b"\xff\xda", start) > _MAX_SCANS:
        raise _broken(where, f"more than {_MAX_SCANS} scans")
    kept.append(memoryview(data)[start:])
    return b"".join(kept)


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_ESSENTIAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_PALETTE = 3
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of each interlace pass: first column and row, step between columns and rows."""


def _png_essentials(data: bytes, where: str) -> bytes:
    """Return a PNG's critical chunks, each with the right CRC, from IHDR to IEND."""
    kept = [memoryview(data)[:8]]
    kinds: list[bytes] = []
    previous = b""
    position = 8
    while previous != b"IEND":
        start = position
        length = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        position = start + 12 + length
        if position > len(data):
            raise _broken(where, f"chunk {kind!r} at byte {start} is cut off")
        if kind in _PNG_ESSENTIAL:
            chunk = memoryview(data)[start:position]
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise _broken(where, f"chunk {kind!r} at byte {start} has a wrong CRC")
            if kind in kinds and not kind == previous == b"IDAT":
                raise _broken(where, f"chunk {kind!r} at byte {start} stands twice")
            if (kind == b"IHDR") != (start == 8) or (kind == b"PLTE" and b"IDAT" in kinds):
                raise _broken(where, f"chunk {kind!r} at byte {start} is out of order")
            kept.append(chunk)
            kinds.append(kind)
        elif not kind[:1].islower() or (kind in _PNG_TEXT and length > MAX_TEXT_BYTES):
            raise _broken(where, f"chunk {kind!r} of {length} bytes at byte {start}")
        previous = kind
    if data[25] == _PNG_PALETTE and b"PLTE" not in kinds:
        raise _broken(where, "a palette image without its palette")
    return b"".join(kept)


def _check_png_rows(image: PngImageFile, essentials: bytes, where: str) -> None:
    """Refuse compressed rows that end early, for which Pillow leaves black ones without a word.

    Counting them takes as long as decoding, so it is done only where it can have happened:
    the last row is all zeros, or the image is interlaced.
    """
    width, height, bits, color, interlaced = struct.unpack_from(">IIBBxxB", essentials, 16)
    last_row = cut(image, 0, height - 1, width, 1)
    if not interlaced and last_row.tobytes().strip(b"\0"):
        return
    missing = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            missing += rows * (1 + -(-columns * bits * _PNG_SAMPLES[color] // 8))
    stream = zlib.decompressobj()
    position = 8
    while missing > 0 and position < len(essentials):
        length = int.from_bytes(essentials[position : position + 4], "big")
        if essentials[position + 4 : position + 8] == b"IDAT":
            packed = essentials[position + 8 : position + 8 + length]
            while packed and missing > 0:
                missing -= len(stream.decompress(packed, 2**20))
                packed = stream.unconsumed_tail
        position += 12 + length
    if missing > 0 and missing > len(stream.flush()):  # which unpacks all that is left
        raise _broken(where, f"{missing} bytes of rows are missing")
