"""Images: what a good one decodes to, and which error a bad one is."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from tests.support import images
from tests.support.images import PNG_KINDS, chunk, jpeg, photograph, png, png_of_rows
from vitaie.manifests.errors import ImageError
from vitaie.runtime import _images

PIXELS = photograph(0, 45, 30)
JPEG = jpeg(PIXELS, subsampling="4:4:4")
PNG = png(PIXELS, PNG_KINDS["rgb8"])


def code_of(image: Any) -> str:
    with pytest.raises(ImageError) as caught:
        _images.decode(image)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return caught.value.code


def saved(format_name: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, format_name, **options)
    return buffer.getvalue()


def with_segment(marker: int, payload: bytes) -> bytes:
    """The JPEG with one more segment, right after its start."""
    length = struct.pack(">H", len(payload) + 2)
    return JPEG[:2] + bytes([0xFF, marker]) + length + payload + JPEG[2:]


def with_chunk(kind: bytes, payload: bytes) -> bytes:
    return png(PIXELS, PNG_KINDS["rgb8"], chunk(kind, payload))


# Good images


def test_the_kinds_of_image_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PNG)  # the name says nothing
    link = tmp_path / "link"
    link.symlink_to(path)
    with Image.open(path) as opened:
        given: list[Any] = [str(path), path, link, PNG, opened, Image.fromarray(PIXELS), PIXELS]
        for image in given:
            assert np.array_equal(_images.decode(image), PIXELS)


def test_pixels_are_contiguous_uint8_and_the_callers_own() -> None:
    source = np.ascontiguousarray(PIXELS)
    pixels = _images.decode(source)
    pixels[:] = 0
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert source.any()


def test_an_array_may_have_any_strides() -> None:
    assert np.array_equal(_images.decode(PIXELS[::-2, ::-1]), PIXELS[::-2, ::-1])
    assert np.array_equal(_images.decode(np.asfortranarray(PIXELS)), PIXELS)


def test_every_kind_decodes_as_pillow_converts_it() -> None:
    count = 0
    for name, data in images.stable_corpus():
        with Image.open(BytesIO(data)) as image:
            image.info.pop("transparency", None)
            if image.mode != "I;16":  # a rule of ours, tested on its own
                assert np.array_equal(_images.decode(data), np.asarray(image.convert("RGB"))), name
                count += 1
    assert count == 143


EXIF_ROTATED = Image.Exif()
EXIF_ROTATED[0x0112] = 6

METADATA = {
    "EXIF rotation": with_segment(0xE1, b"Exif\0\0" + EXIF_ROTATED.tobytes()[6:]),
    "EXIF that is broken": with_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"),
    "MPF that is broken": with_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\2\0\0\0"),
    "ICC that is broken": with_segment(0xE2, b"ICC_PROFILE\0\1\1nonsense"),
    "Photoshop that is broken": with_segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\0"),
    "comment": with_segment(0xFE, b"\xff\xd9 not the end"),
    "junk between segments": JPEG[:2] + b"\xff\xff\xff" + JPEG[3:],
}


@pytest.mark.parametrize("name", METADATA)
def test_what_only_describes_a_jpeg_changes_nothing(name: str) -> None:
    assert np.array_equal(_images.decode(METADATA[name]), _images.decode(JPEG))


CHUNKS = {
    "iCCP that is broken": (b"iCCP", b"name\0\0nonsense"),
    "eXIf": (b"eXIf", EXIF_ROTATED.tobytes()[6:]),
    "eXIf that is broken": (b"eXIf", b"II*\0\xff"),
    "gamma": (b"gAMA", b"\0\0\0\1"),
    "gamma cut short": (b"gAMA", b"\0"),
    "transparency": (b"tRNS", b"\0\1\0\2\0\3"),
    "transparency cut short": (b"tRNS", b"\0"),
    "text": (b"tEXt", b"key\0value"),
    "text that unpacks to 100 MB": (b"zTXt", b"key\0\0" + zlib.compress(bytes(10**8), 9)),
    "animation of no frames": (b"acTL", bytes(8)),
    "animation of a million frames": (b"acTL", b"\0\x0f\x42\x40\0\0\0\0"),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_what_only_describes_a_png_changes_nothing(name: str) -> None:
    assert np.array_equal(_images.decode(with_chunk(*CHUNKS[name])), PIXELS)


def test_an_animated_png_gives_its_default_image() -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1])
    for default in (False, True):
        buffer = BytesIO()
        first.save(buffer, "PNG", save_all=True, append_images=[second], default_image=default)
        assert b"acTL" in buffer.getvalue()
        assert np.array_equal(_images.decode(buffer.getvalue()), PIXELS)


def test_16_bit_grey_is_clamped_and_other_16_bit_kinds_take_the_high_byte() -> None:
    values = np.array([[0, 1, 255, 256, 257, 65535]], ">u2")
    expected = np.array([[0, 1, 255, 255, 255, 255]], np.uint8)
    grey = png_of_rows(6, 1, PNG_KINDS["grey16"], b"\0" + values.tobytes())
    assert np.array_equal(_images.decode(grey), np.repeat(expected[:, :, None], 3, 2))
    rgb = png_of_rows(2, 1, PNG_KINDS["rgb16"], b"\0" + values.tobytes())
    assert _images.decode(rgb).tolist() == [[[0, 0, 0], [1, 1, 255]]]
    grey_alpha = png_of_rows(3, 1, PNG_KINDS["greyalpha16"], b"\0" + values.tobytes())
    assert _images.decode(grey_alpha)[0, :, 0].tolist() == [0, 0, 1]
    for mode in ("I;16", "I"):
        numbers = np.array([[0, 255, 256, 40000]], {"I;16": np.uint16, "I": np.int32}[mode])
        image = Image.fromarray(numbers)
        assert image.mode == mode
        assert _images.decode(image)[0, :, 0].tolist() == [0, 255, 255, 255]


@pytest.mark.parametrize("name", ["cmyk", "ycck", "cmyk-without-adobe"])
def test_four_component_jpegs_count_as_inverted(name: str) -> None:
    data = (images.COMMITTED_JPEGS / f"{name}.jpg").read_bytes()
    with Image.open(BytesIO(data)) as image:
        ink = np.asarray(image).astype(np.int32)  # Pillow has inverted it
    paper = 255 - ink[:, :, 3:]
    product = ink[:, :, :3] * paper + 128
    expected = np.clip(paper - ((product >> 8) + product >> 8), 0, 255)
    assert np.array_equal(_images.decode(data), expected)


@pytest.mark.parametrize("kind", ["palette1", "palette2", "palette4", "palette8"])
def test_a_palette_is_looked_up(kind: str) -> None:
    data = png(PIXELS, PNG_KINDS[kind])
    index = PIXELS[:, :, 1] >> (8 - PNG_KINDS[kind].bits)
    palette = np.array([(7 * n + 11) % 256 for n in range(768)], np.uint8).reshape(256, 3)
    assert np.array_equal(_images.decode(data), palette[index])
    transparent = png(PIXELS, PNG_KINDS[kind], chunk(b"tRNS", b"\0\x80"))
    assert np.array_equal(_images.decode(transparent), palette[index])
    assert np.array_equal(_images.decode(Image.open(BytesIO(transparent))), palette[index])


# Bad images

HUGE_TEXT = with_chunk(b"tEXt", b"key\0" + bytes(100 * 10**6))
SOF = JPEG.index(b"\xff\xc0")

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "E_IMAGE_FORMAT"),
    "text": (lambda: b"this is no image\n", "E_IMAGE_FORMAT"),
    "GIF": (lambda: saved("GIF"), "E_IMAGE_FORMAT"),
    "TIFF": (lambda: saved("TIFF"), "E_IMAGE_FORMAT"),
    "WebP": (lambda: saved("WEBP"), "E_IMAGE_FORMAT"),
    "BMP": (lambda: saved("BMP"), "E_IMAGE_FORMAT"),
    "EPS": (lambda: saved("EPS"), "E_IMAGE_FORMAT"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "E_IMAGE_FORMAT"),
    "JPEG's first two bytes": (lambda: JPEG[:2], "E_IMAGE_FORMAT"),
    "JPEG's first three bytes": (lambda: JPEG[:3], "E_IMAGE_BROKEN"),
    "JPEG without its end": (lambda: JPEG[:-2], "E_IMAGE_BROKEN"),
    "JPEG without a picture": (lambda: b"\xff\xd8\xff\xd9", "E_IMAGE_BROKEN"),
    "JPEG without a frame": (lambda: JPEG[:SOF] + JPEG[SOF + 19 :], "E_IMAGE_BROKEN"),
    "JPEG of lying segment": (lambda: with_segment(0xE1, b"")[:-300], "E_IMAGE_BROKEN"),
    "JPEG segment of length 1": (lambda: b"\xff\xd8\xff\xe1\0\1" + JPEG[2:], "E_IMAGE_BROKEN"),
    "JPEG of 12 bits": (lambda: JPEG[: SOF + 4] + b"\x0c" + JPEG[SOF + 5 :], "E_IMAGE_BROKEN"),
    "JPEG of 0x0": (lambda: JPEG[: SOF + 5] + bytes(4) + JPEG[SOF + 9 :], "E_IMAGE_BROKEN"),
    "JPEG of 65535x1": (
        lambda: JPEG[: SOF + 5] + b"\0\1\xff\xff" + JPEG[SOF + 9 :],
        "E_IMAGE_BROKEN",
    ),
    "JPEG of 60000x60000": (
        lambda: JPEG[: SOF + 5] + b"\xea\x60\xea\x60" + JPEG[SOF + 9 :],
        "E_IMAGE_TOO_LARGE",
    ),
    "PNG's signature": (lambda: PNG[:8], "E_IMAGE_BROKEN"),
    "PNG without its end": (lambda: PNG[:-12], "E_IMAGE_BROKEN"),
    "PNG without data": (lambda: PNG[:33] + chunk(b"IEND", b""), "E_IMAGE_BROKEN"),
    "PNG of 0x0": (lambda: png_of_rows(0, 0, PNG_KINDS["rgb8"], b""), "E_IMAGE_BROKEN"),
    "PNG of 30000x30000": (
        lambda: png_of_rows(30000, 30000, PNG_KINDS["rgb8"], b"\0"),
        "E_IMAGE_TOO_LARGE",
    ),
    "PNG of 2^31 rows": (
        lambda: png_of_rows(2**31 - 1, 2**31 - 1, PNG_KINDS["rgb8"], b"\0"),
        "E_IMAGE_TOO_LARGE",
    ),
    "PNG of one pixel over the limit": (
        lambda: png_of_rows(2**26 + 1, 1, PNG_KINDS["grey1"], b"\0"),
        "E_IMAGE_TOO_LARGE",
    ),
    "PNG of too few rows": (
        lambda: png_of_rows(9, 9, PNG_KINDS["rgb8"], bytes(28)),
        "E_IMAGE_BROKEN",
    ),
    "PNG of an unknown colour type": (
        lambda: png_of_rows(1, 1, images.Kind(8, 5, 1), b"\0\0"),
        "E_IMAGE_BROKEN",
    ),
    "PNG of an unknown critical chunk": (lambda: with_chunk(b"CgBI", b""), "E_IMAGE_BROKEN"),
    "PNG of two headers": (lambda: PNG[:33] + PNG[8:], "E_IMAGE_BROKEN"),
    "PNG whose header is second": (
        lambda: PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:],
        "E_IMAGE_BROKEN",
    ),
    "PNG of data in two places": (
        lambda: PNG[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + PNG[-12:],
        "E_IMAGE_BROKEN",
    ),
    "PNG of palette after data": (
        lambda: PNG[:-12] + chunk(b"PLTE", bytes(3)) + PNG[-12:],
        "E_IMAGE_BROKEN",
    ),
    "PNG palette without palette": (
        lambda: png_of_rows(1, 1, PNG_KINDS["palette8"], b"\0\0"),
        "E_IMAGE_BROKEN",
    ),
    "PNG with a 100 MB text": (lambda: HUGE_TEXT, "E_IMAGE_BROKEN"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_an_error(name: str, tmp_path: Path) -> None:
    make, code = HOSTILE[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(make())
    assert code_of(make()) == code
    assert code_of(path) == code


def test_the_pixel_limit_is_judged_before_pixels_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decoded(_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert code_of(png_of_rows(2**13, 2**13 + 1, PNG_KINDS["rgb8"], b"")) == "E_IMAGE_TOO_LARGE"
    with pytest.raises(AssertionError, match="decoded"):
        _images.decode(png_of_rows(2**13, 2**13, PNG_KINDS["rgb8"], b""))


def test_a_truncated_jpeg_is_an_error() -> None:
    for data in (JPEG, jpeg(PIXELS, progressive=True), jpeg(PIXELS, mode="L")):
        for end in range(3, len(data), 3 if len(data) > 1500 else 1):
            assert code_of(data[:end]) == "E_IMAGE_BROKEN"


def test_a_jpeg_of_endless_scans_is_an_error() -> None:
    data = jpeg(PIXELS, progressive=True)
    last = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    scan = data[last:end]
    few = data[:end] + 100 * scan + data[end:]
    assert _images.decode(few).shape == PIXELS.shape
    assert code_of(data[:end] + 1000 * scan + data[end:]) == "E_IMAGE_BROKEN"


def test_a_lossless_jpeg_is_refused_whatever_the_decoder_can() -> None:
    start = JPEG.index(b"\xff\xc0")
    assert code_of(JPEG[:start] + b"\xff\xc3" + JPEG[start + 2 :]) == "E_IMAGE_BROKEN"


def test_what_follows_the_last_row_of_a_png_is_not_unpacked() -> None:
    kind = PNG_KINDS["rgb8"]
    rows = bytes(8 * (1 + 3 * 8)) + bytes(2**26)
    data = png_of_rows(8, 8, kind, rows)
    tracemalloc.start()
    _images.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23


def test_a_truncated_png_is_an_error() -> None:
    data = png(PIXELS, PNG_KINDS["palette4"])
    for end in range(8, len(data)):
        assert code_of(data[:end]) == "E_IMAGE_BROKEN"


def test_every_bit_flip_of_a_png_is_an_error() -> None:
    data = png(PIXELS[:5, :9], PNG_KINDS["palette4"])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert code_of(bytes(flipped)) == ("E_IMAGE_FORMAT" if bit < 64 else "E_IMAGE_BROKEN")


def test_rows_that_end_early_are_an_error() -> None:
    black = np.zeros((40, 30, 3), np.uint8)
    for name, kind in PNG_KINDS.items():
        header, end = png(black, kind)[:33], chunk(b"IEND", b"")
        row = 1 + -(-30 * kind.bits * kind.samples // 8)
        palette = chunk(b"PLTE", bytes(6)) if kind.color == 3 else b""
        for rows, code in (
            (40 * row, ""),
            (40 * row - 1, "E_IMAGE_BROKEN"),
            (row, "E_IMAGE_BROKEN"),
        ):
            packed = zlib.compress(bytes(rows))
            parts = chunk(b"IDAT", packed[:5]) + chunk(b"IDAT", packed[5:])
            data = header + palette + parts + end
            if code:
                assert code_of(data) == code, name
            else:
                assert not _images.decode(data).any(), name


def test_interlaced_rows_are_all_there() -> None:
    kind = PNG_KINDS["grey8"]
    header = struct.pack(">IIBBBBB", 5, 3, kind.bits, kind.color, 0, 0, 1)
    # Rows of 5x3 by pass: 1x1, 1x1, none, 1x1, 3x1, 2x2, 5x1, each with its filter's byte.
    passes = ([0, 1], [0, 2], [0, 3], [0, 5, 6, 7], [0, 8, 9], [0, 10, 11], [0, 12, 13, 14, 15, 16])
    rows = bytes(value for line in passes for value in line)
    for short in (0, 1, 6):
        packed = chunk(b"IDAT", zlib.compress(rows[: len(rows) - short]))
        data = PNG[:8] + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")
        if short:
            assert code_of(data) == "E_IMAGE_BROKEN"
        else:
            assert _images.decode(data)[1, :, 0].tolist() == [12, 13, 14, 15, 16]


def test_random_damage_gives_pixels_or_an_image_error() -> None:
    rng = random.Random(20240601)
    refused = 0
    for number in range(600):
        data = bytearray((JPEG, PNG, jpeg(PIXELS, mode="CMYK", progressive=True))[number % 3])
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(3, len(data))] = rng.randrange(256)
        try:
            _images.decode(bytes(data))
        except ImageError:
            refused += 1
    assert 200 < refused < 600


TABLES = JPEG.index(b"\xff\xdb")
JPEG_WITHOUT_TABLES = JPEG[:TABLES] + JPEG[SOF:]
"""Its decoder gives up, which Pillow keeps to itself when truncated files are allowed."""


@pytest.mark.parametrize("allowed", [False, True])
def test_truncated_and_broken_are_errors_whatever_pillows_global_says(
    allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allowed)
    short = png_of_rows(9, 9, PNG_KINDS["rgb8"], bytes(28))
    for data in (JPEG[:-400], JPEG_WITHOUT_TABLES, short):
        assert code_of(data) == "E_IMAGE_BROKEN"
    with Image.open(BytesIO(JPEG_WITHOUT_TABLES)) as image:
        assert code_of(image) == "E_IMAGE_BROKEN"
    assert np.array_equal(_images.decode(PNG), PIXELS)
    assert allowed is ImageFile.LOAD_TRUNCATED_IMAGES


def test_pillows_global_is_as_it_was_after_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    codes: list[str] = []

    def work() -> None:
        for _ in range(50):
            _images.decode(JPEG)
            try:
                _images.decode(JPEG[:-400])
            except ImageError as error:
                codes.append(error.code)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == ["E_IMAGE_BROKEN"] * 200
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_users_limits_of_pillow_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
    assert np.array_equal(
        _images.decode(with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b"))), PIXELS
    )


def unreadable(folder: Path) -> dict[str, str | Path]:
    fifo, dangling, over = folder / "fifo", folder / "dangling", folder / "over"
    os.mkfifo(fifo)
    dangling.symlink_to("nothing")
    with open(over, "wb") as file:
        file.truncate(_images.MAX_FILE_BYTES + 1)
    return {
        "missing": folder / "missing",
        "folder": folder,
        "FIFO": fifo,
        "device": "/dev/zero",
        "dangling link": dangling,
        "file over the limit": over,
        "empty path": "",
        "NUL in the path": "a\0b",
        "path too long": "a" * 5000,
    }


def test_what_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    cases = unreadable(tmp_path)
    assert len(cases) == 9
    for name, path in cases.items():
        with pytest.raises(ImageError) as caught:
            _images.decode(path)
        assert caught.value.code == "E_IMAGE_UNREADABLE", name
        assert str(path)[:50].split("\0")[0] in str(caught.value)
        assert (caught.value.got == "a folder") == (name == "folder")


def test_a_socket_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is at most 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert code_of("socket") == "E_IMAGE_UNREADABLE"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, tmp_path / "text", Path("/dev/zero")):
        code_of(path)
    assert len(os.listdir("/proc/self/fd")) == before


BAD_ARRAYS: dict[str, NDArray[Any]] = {
    "float": PIXELS.astype(np.float32),
    "signed": PIXELS.astype(np.int8),
    "grey": PIXELS[:, :, 0],
    "alpha": np.zeros((4, 4, 4), np.uint8),
    "batch": PIXELS[None],
    "no rows": PIXELS[:0],
    "no columns": PIXELS[:, :0],
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_is_uint8_rgb(name: str) -> None:
    assert code_of(BAD_ARRAYS[name]) == "E_IMAGE_ARRAY"


def test_arrays_and_pil_images_have_the_pixel_limit_too() -> None:
    assert code_of(np.broadcast_to(np.uint8(0), (2**13, 2**13 + 1, 3))) == "E_IMAGE_TOO_LARGE"
    with Image.open(BytesIO(png_of_rows(9000, 9000, PNG_KINDS["rgb8"], b""))) as image:
        assert code_of(image) == "E_IMAGE_TOO_LARGE"


def test_a_pil_image_that_is_no_picture_is_an_error() -> None:
    assert code_of(Image.new("RGB", (0, 5))) == "E_IMAGE_BROKEN"
    assert code_of(Image.new("La", (5, 5))) == "E_IMAGE_BROKEN"


@pytest.mark.parametrize("thing", [None, 7, [PIXELS], bytearray(JPEG)])
def test_anything_else_is_not_an_image(thing: object) -> None:
    assert code_of(thing) == "E_ARGUMENT"
