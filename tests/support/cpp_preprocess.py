"""What C++ and Python make of an image, in one form, and seeded images to compare them on."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import random
import struct
import subprocess
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support import cpp, images
from tests.support.images import JPEG_KINDS, PNG_KINDS, TRANSPARENCY, Kind, chunk
from vitaie.manifests.errors import VitaieError
from vitaie.manifests.manifest import Preprocess
from vitaie.runtime import _images, _preprocess

Answer = list[str]
"""Digests of the decoded pixels and, for each spec, of crop and tensor; codes of errors instead."""


def program(name: str) -> Path:
    """Return one of the programs that ``make cpp`` builds for tests."""
    return cpp.program(f"tests/{name}")


class Cpp:
    """The C++ preprocessing, one process for many images."""

    def __init__(self, specs: Sequence[Preprocess], *, kind: str = "bytes") -> None:
        """Start it for images given as ``bytes``, or as ``paths``."""
        command = [str(program("vitaie-preprocess-file")), kind, *map(_spec_text, specs)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Cpp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0 or error is not None

    def ask(self, item: bytes) -> None:
        """Hand an image over; it is worked on while Python goes on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % len(item) + item)
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """Return what was made of the oldest image that has no answer yet."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.endswith(b"\n"), f"it ended with {self._process.wait(60)}"
        return line.decode("ascii").split()


def _spec_text(spec: Preprocess) -> str:
    numbers = (spec.resize.size, spec.crop.size, *spec.mean, *spec.std)
    return ",".join(map(str, (spec.resize.mode, *numbers)))


def python_answer(data: bytes, specs: Sequence[Preprocess]) -> Answer:
    """Return what Python makes of an image."""
    try:
        image = _images.open_rgb(data)
    except VitaieError as error:
        return [error.code]
    answer = [_digest(np.asarray(image))]
    for spec in specs:
        try:
            crop = _preprocess.crop(image, spec)
        except VitaieError as error:
            answer.append(error.code)
        else:
            answer += [_digest(crop), _digest(_preprocess.tensor(crop, spec))]
    return answer


def _digest(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


class Comparison(NamedTuple):
    """How many images were compared, how many both refused, and what differed."""

    images: int
    refused: int
    differences: list[str]


def compare(
    corpus: Iterable[tuple[str, bytes]], specs: Sequence[Preprocess], *, codes_only: bool = False
) -> Comparison:
    """Compare the two on every image, with ``codes_only`` no more than their verdicts."""
    count = refused = 0
    differences: list[str] = []
    with Cpp(specs) as program:
        for name, data in corpus:
            program.ask(data)
            expected = python_answer(data, specs)
            actual = program.answer()
            count += 1
            refused += expected[0].startswith("E_")
            if codes_only:
                expected, actual = (_codes(answer) for answer in (expected, actual))
            if actual != expected:
                differences.append(f"{name}: {actual} is not {expected}")
    return Comparison(count, refused, differences)


def _codes(answer: Answer) -> Answer:
    return [word if word.startswith("E_") else "ok" for word in answer]


# Good images


class Encoder:
    """JPEGs that Pillow cannot write, one process for many."""

    def __init__(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [program("vitaie-encode-jpeg")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)

    def __call__(self, pixels: NDArray[np.uint8], words: Sequence[object]) -> bytes:
        """Return a file of ``pixels``, uint8 [H, W, 1, 3 or 4]; the program states the words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = " ".join(map(str, (pixels.shape[1], pixels.shape[0], *words)))
        self._process.stdin.write(line.encode() + b"\n" + pixels.tobytes())
        self._process.stdin.flush()
        return self._process.stdout.read(int(self._process.stdout.readline()))


COMPONENTS = {"grey": 1, "rgb": 3, "ycc": 3, "cmyk": 4, "ycck": 4}
SAMPLINGS = ("1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "3x2")
"""Of the first component, and of the fourth; the others have 1x1."""


def random_jpeg(rng: random.Random, encode: Encoder) -> tuple[str, bytes]:
    """Return one of every sampling, colour space, scan script and entropy coding."""
    space = rng.choice(list(COMPONENTS))
    pixels = photograph(rng)
    if COMPONENTS[space] == 1:
        pixels = pixels[:, :, :1]
    elif COMPONENTS[space] == 4:
        pixels = np.concatenate([pixels, 255 - pixels[:, ::-1, 1:2] // 2], axis=2)
    sampling = rng.choice(SAMPLINGS)
    factors = [sampling, "1x1", "1x1", sampling][: COMPONENTS[space]]
    # A MCU of all components holds at most 10 blocks; scans of one component have no such limit.
    blocks = sum(int(factor[0]) * int(factor[2]) for factor in factors)
    scans = rng.choice(["together", "progressive"] if blocks <= 10 else ["apart"])
    # Past its first 64 KiB libjpeg cannot wait for more of an arithmetic-coded file.
    coding = rng.choice(["huffman", "huffman", "arithmetic" if pixels.size < 90_000 else "huffman"])
    words = (space, rng.randrange(20, 100), scans, coding, rng.choice([0, 0, 1, 3]), *factors)
    return " ".join(map(str, words)), encode(np.ascontiguousarray(pixels), words)


def random_png(rng: random.Random) -> tuple[str, bytes]:
    """Return a PNG of any kind, half of them interlaced, with rows of every filter."""
    name, kind = rng.choice(list(PNG_KINDS.items()))
    width, height = random_size(rng, 9)
    interlaced = rng.random() < 0.5
    rows: list[bytes] = []
    for left, top, across, down in _images._ADAM7 if interlaced else ((0, 0, 1, 1),):  # pyright: ignore[reportPrivateUsage]
        columns, count = -(-(width - left) // across), -(-(height - top) // down)
        size = -(-columns * kind.bits * kind.samples // 8)
        if columns > 0:
            rows += [bytes([rng.randrange(5)]) + rng.randbytes(size) for _ in range(count)]
    extra: list[bytes] = []
    if kind.color == 3:
        extra.append(chunk(b"PLTE", rng.randbytes(3 * rng.randrange(1, 2**kind.bits + 1))))
    if kind.color in TRANSPARENCY and rng.random() < 0.3:
        extra.append(chunk(b"tRNS", TRANSPARENCY[kind.color][: 2**kind.bits]))
    packed = zlib.compress(b"".join(rows), rng.choice([0, 1]))
    data = png_of_parts(rng, (width, height), kind, int(interlaced), extra, packed)
    return f"{name} {width}x{height}{' interlaced' if interlaced else ''}", data


def png_of_parts(
    rng: random.Random,
    size: tuple[int, int],
    kind: Kind,
    interlace: int,
    extra: Sequence[bytes],
    packed: bytes,
) -> bytes:
    """Return a PNG whose compressed rows are cut into one to three chunks, maybe empty ones."""
    header = struct.pack(">IIBBBBB", *size, kind.bits, kind.color, 0, 0, interlace)
    cuts = [0, *sorted(rng.randrange(len(packed) + 1) for _ in range(rng.randrange(3))), None]
    data = [chunk(b"IDAT", packed[begin:end]) for begin, end in itertools.pairwise(cuts)]
    parts = (chunk(b"IHDR", header), *extra, *data, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def photograph(rng: random.Random) -> NDArray[np.uint8]:
    """Return one of the builder's photographs at a random size."""
    return images.photograph(rng.randrange(3), *random_size(rng, 9.5))


def random_size(rng: random.Random, octaves: float) -> tuple[int, int]:
    """Return width and height, the longer from 1 to 2**octaves and up to 4 times the other."""
    longer = int(2 ** rng.uniform(0, octaves))
    shorter = max(int(longer / rng.uniform(1, 4)), 1)
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


def photographs() -> Iterator[tuple[str, bytes]]:
    """Yield whole photographs: the builder's, and scikit-learn's two."""
    module = importlib.util.find_spec("sklearn")
    assert module is not None
    assert module.origin is not None
    theirs = Path(module.origin).parent / "datasets" / "images"
    for path in (*sorted(images.PHOTOS.glob("*.jpg")), *sorted(theirs.glob("*.jpg"))):
        yield path.name, path.read_bytes()


def good_images(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` images: JPEGs of every sort in two thirds, PNGs in one."""
    rng = random.Random(seed)
    with Encoder() as encode:
        for number in range(count):
            if number % 3 == 0:
                yield random_png(rng)
            elif number % 3 == 1:
                yield random_jpeg(rng, encode)
            else:
                name = rng.choice(list(JPEG_KINDS))
                data = images.jpeg(photograph(rng), **JPEG_KINDS[name])
                yield name, rng.choice([images.as_ycck(data), data]) if name == "cmyk" else data


# Broken images


def damaged_images(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``count`` small images with damage, of PNGs behind right CRCs too."""
    rng = random.Random(seed)
    with Encoder() as encode:
        jpegs = [random_small_jpeg(rng, encode) for _ in range(60)]
    for number in range(count):
        if number % 5 < 3:
            name, data = rng.choice(jpegs)
            yield f"{number} {name}", damage_jpeg(rng, data)
        else:
            data = random_small_png(rng)
            yield f"{number} PNG", damage_png(rng, data) if number % 25 else data


def random_small_jpeg(rng: random.Random, encode: Encoder) -> tuple[str, bytes]:
    """Return a JPEG of 45x30 pixels."""
    pixels = images.photograph(0, 45, 30)
    space, factors = rng.choice(
        [
            ("ycc", ["2x2", "1x1", "1x1"]),
            ("rgb", ["1x1"] * 3),
            ("grey", ["1x1"]),
            ("cmyk", ["1x1"] * 4),
            ("ycck", ["2x1", "1x1", "1x1", "2x1"]),
        ]
    )
    if space == "grey":
        pixels = pixels[:, :, :1]
    elif len(factors) == 4:
        pixels = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
    scans = rng.choice(["together", "together", "apart", "progressive"])
    words = (space, 80, scans, rng.choice(["huffman", "arithmetic"]), rng.choice([0, 1]), *factors)
    return " ".join(map(str, words)), encode(np.ascontiguousarray(pixels), words)


def damage_jpeg(rng: random.Random, file: bytes) -> bytes:
    """Return a JPEG with bytes changed, taken out, put in or repeated, or cut off."""
    data = bytearray(file)
    markers = (0xFF, 0xD9, 0xDA, 0x00, 0x01, 0xC0, 0xC2, 0xC8, 0xDE, 0xE0, 0xEE, 0xF0)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(3, min(len(data), 640) if rng.random() < 0.5 else len(data))
        sort = rng.random()
        if sort < 0.7:
            data[place] = rng.choice((rng.randrange(256), rng.choice(markers)))
        elif sort < 0.8:
            del data[place : place + rng.randrange(1, 30)]
        elif sort < 0.9:
            data[place:place] = rng.randbytes(rng.randrange(1, 8))
        elif sort < 0.95:
            data[place:place] = bytes([0xFF, rng.choice(markers)])
        else:
            begin = rng.randrange(len(data))
            data[place:place] = data[begin : begin + rng.randrange(60)]
        if len(data) < 8:
            break
    return bytes(data[: rng.randrange(len(data)) if rng.random() < 0.1 else None])


def random_small_png(rng: random.Random) -> bytes:
    """Return a PNG of up to 20x20 pixels, one in five black, some with more rows than it needs."""
    kind = rng.choice(list(PNG_KINDS.values()))
    width, height = rng.randrange(1, 20), rng.randrange(1, 20)
    interlace = rng.choice((0, 0, 1, 2))
    size = -(-width * kind.bits * kind.samples // 8)
    black = rng.random() < 0.2
    rows = b"".join(
        bytes(1 + size) if black else bytes([rng.randrange(5)]) + rng.randbytes(size)
        for _ in range(3 * height if interlace else height)
    )
    rows += rng.randbytes(rng.choice((0, 0, 0, 40)))
    extra = [chunk(b"PLTE", rng.randbytes(rng.randrange(3 * 2**kind.bits + 4)))]
    packed = zlib.compress(rows, rng.choice((0, 1, 9)))
    return png_of_parts(
        rng, (width, height), kind, interlace, extra if kind.color == 3 else [], packed
    )


def damage_png(rng: random.Random, file: bytes) -> bytes:
    """Return a PNG with chunks changed, cut, lengthened, doubled or left out, and right CRCs."""
    chunks: list[tuple[bytes, bytes]] = []
    position = 8
    while position < len(file):
        length = int.from_bytes(file[position : position + 4], "big")
        end = position + 8 + length
        chunks.append((file[position + 4 : position + 8], file[position + 8 : end]))
        position = end + 4
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(chunks))
        kind, content = chunks[place]
        sort = rng.random()
        if sort < 0.75 and content:
            changed = bytearray(content)
            index = rng.randrange(len(content))
            changed[index] ^= rng.choice((1 << rng.randrange(8), rng.randrange(256)))
            chunks[place] = kind, bytes(changed)
        elif sort < 0.85:
            chunks[place] = kind, content[: rng.randrange(len(content) + 1)]
        elif sort < 0.9:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[place])
        elif sort < 0.95 and len(chunks) > 1:
            del chunks[place]
        else:
            chunks[place] = kind, content + rng.randbytes(rng.randrange(5))
    return file[:8] + b"".join(chunk(*parts) for parts in chunks)


def progressive(data: bytes) -> bool:
    """Whether a JPEG may be read as progressive.

    libjpeg-turbo smooths the blocks of one whose scans do not refine everything, and its versions
    do it differently.
    """
    return any(marker in data for marker in (b"\xff\xc2", b"\xff\xca"))


def broken_ends(data: bytes, step: int) -> Iterator[tuple[str, bytes]]:
    """Yield a file cut off at every ``step``-th byte."""
    for end in range(0, len(data), step):
        yield f"{end} bytes of {len(data)}", data[:end]
